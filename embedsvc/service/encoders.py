"""The encoders that requests share, each loaded once, and the probe that tells whether the default one answers."""

from __future__ import annotations

import logging
import threading

import numpy as np

from embedsvc.config import Settings
from embedsvc.encoding import Encoder, check_contract, encoder_for, load_encoder
from embedsvc.encoding.canaries import CANARY_TEXTS
from embedsvc.encoding.contract import LEAST_CANARY_COSINE
from embedsvc.errors import EmbedsvcError, ModelError
from embedsvc.records import Contract
from embedsvc.service.problems import NotReady

log = logging.getLogger(__name__)


class Encoders:
    """Encoders by (model, dtype), each loaded once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[tuple[str, str], Encoder] = {}
        self._default: Encoder | None = None
        self._failure: EmbedsvcError | None = None
        self._loading = threading.Lock()

    def default(self) -> Encoder:
        """The encoder that the settings name."""
        if self._default is None:
            with self._loading:
                if self._default is None:
                    try:
                        encoder = load_encoder(self._settings)
                    except EmbedsvcError as error:
                        self._failure = error
                        raise
                    self._default = self._loaded.setdefault((encoder.model.name, encoder.dtype), encoder)
        return self._default

    def load(self, settings: Settings) -> Encoder:
        """The encoder that ``settings`` name: the default one where they name the same. It stays loaded."""
        own = self._settings
        if (settings.model, settings.runtime, settings.dtype) == (own.model, own.runtime, own.dtype):
            return self.default()
        with self._loading:
            encoder = load_encoder(settings)
            key = (encoder.model.name, encoder.dtype)
            if key not in self._loaded or self._loaded[key].model != encoder.model:
                self._loaded[key] = encoder
            return self._loaded[key]

    def warm(self) -> None:
        """Loads the default encoder and encodes once; a failure is logged, and kept for the readiness probe."""
        try:
            _ = self.default().contract
        except Exception as error:
            log.error("The default encoder cannot be loaded: %s", error)

    def of(self, contract: Contract) -> Encoder:
        """The encoder that made a collection, checked against its contract."""
        key = (contract.model, contract.dtype)
        if key not in self._loaded:
            with self._loading:
                if key not in self._loaded:
                    self._loaded[key] = encoder_for(contract, self._settings)
        check_contract(self._loaded[key], contract)
        return self._loaded[key]

    def probe(self) -> Encoder:
        """The default encoder, once a canary text gave the vector that it must; never waits for loading.

        Raises:
            NotReady: it is not loaded (the reason is told), or computes something else.
        """
        encoder = self._default
        if encoder is None:
            if self._failure is not None and not self._loading.locked():
                threading.Thread(target=self.warm, name="warm", daemon=True).start()
            raise NotReady(str(self._failure or "The model is being loaded. Ask again in a few seconds."))
        try:
            vector = encoder.encode_texts(CANARY_TEXTS[1:2], kind="passage", on_overflow="truncate").vectors[0]
        except ModelError as error:
            raise NotReady(str(error)) from error
        cosine = float(np.dot(vector, encoder.contract.canary_vectors[1]))
        if not cosine >= LEAST_CANARY_COSINE[encoder.dtype]:
            raise NotReady(f"The encoder gives a canary text another vector than before (cosine {cosine:.4f}).")
        return encoder
