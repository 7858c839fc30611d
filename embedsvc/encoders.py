"""The encoders that requests share, each loaded once, and the probe that tells whether the default one answers."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from embedsvc.config import Settings, listed
from embedsvc.encoding import Encoder, check_contract, encoder_for, load_encoder
from embedsvc.encoding.canaries import CANARY_TEXTS
from embedsvc.encoding.contract import LEAST_CANARY_COSINE, first_difference
from embedsvc.encoding.cross_encoder import CrossEncoder, load_cross_encoder
from embedsvc.errors import ModelError, NotFound, NotReady
from embedsvc.records import Contract

log = logging.getLogger(__name__)

_Key = tuple[str, str]
_E = TypeVar("_E", Encoder, CrossEncoder)
_PREFIX = "sentence-transformers/"


class Encoders:
    """Encoders and cross-encoders by (model, dtype), each loaded once and kept while the weights of all fit
    ``model_memory_mb``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # The one unused for longest comes first.
        self._loaded: OrderedDict[_Key, Encoder | CrossEncoder] = OrderedDict()
        self._default: Encoder | None = None
        self._failure: Exception | None = None
        self._loading = threading.Lock()
        self._order = threading.Lock()
        self._served = _served(settings.model, *listed(settings.models))
        self._rerankers = _served(*listed(settings.rerankers))
        self._keys: dict[str, _Key] = {}
        self.on_unload: list[Callable[[Encoder | CrossEncoder], None]] = []
        """Called with an encoder that was dropped, so that others let go of it."""

    def default(self) -> Encoder:
        """The encoder that the settings name."""
        if self._default is None:
            with self._loading:
                if self._default is None:
                    try:
                        encoder = load_encoder(self._settings)
                    except Exception as error:
                        self._failure = error
                        raise
                    self._default = self._keep(encoder)
        return self._default

    def names(self) -> list[str]:
        """The models that requests may name to embed with, the default one first."""
        return _short_names(self._served)

    def reranker_names(self) -> list[str]:
        """The cross-encoders that requests may name, the default one first."""
        return _short_names(self._rerankers)

    def reranker_model(self, name: str | None) -> str:
        """What the settings call the served cross-encoder ``name``; None: the first.

        Raises:
            NotFound: no such cross-encoder is served.
        """
        models = list(self._rerankers.values())
        if not models:
            raise NotFound("No reranker is served here. Start the service with EMBEDSVC_RERANKERS=FOLDER.")
        model = models[0] if name is None else self._rerankers.get(name.removeprefix(_PREFIX))
        if model is None:
            raise NotFound(f"The reranker {name!r} is not served here. Served: {', '.join(self.reranker_names())}.")
        return model

    def loaded_reranker(self, model: str) -> CrossEncoder | None:
        """The cross-encoder that the settings call ``model``, if it is loaded."""
        return self._kept(model, CrossEncoder)

    def reranker(self, model: str) -> CrossEncoder:
        """The cross-encoder that the settings call ``model``, loaded where it is not.

        Raises:
            ModelError: it cannot be loaded.
        """
        settings = replace(self._settings, model=model, dtype="fp32")
        return self._loaded_once(model, CrossEncoder, lambda: load_cross_encoder(settings))

    def loaded(self, name: str) -> Encoder | None:
        """The encoder of the served model ``name``, if it is loaded.

        Raises:
            NotFound: no such model is served.
        """
        model = self._model(name)
        if model == self._settings.model:
            return self._default
        return self._kept(model, Encoder)

    def named(self, name: str) -> Encoder:
        """The encoder of the served model ``name``, loaded where it is not.

        Raises:
            NotFound: no such model is served. ModelError: it cannot be loaded.
        """
        model = self._model(name)
        if model == self._settings.model:
            return self.default()
        return self._loaded_once(model, Encoder, lambda: load_encoder(replace(self._settings, model=model)))

    def _model(self, name: str) -> str:
        model = self._served.get(name.removeprefix(_PREFIX))
        if model is None:
            raise NotFound(f"The model {name!r} is not served here. Served: {', '.join(self.names())}.")
        return model

    def load(self, settings: Settings) -> Encoder:
        """The encoder that ``settings`` name: the default one where they name the same."""
        own = self._settings
        if (settings.model, settings.runtime, settings.dtype) == (own.model, own.runtime, own.dtype):
            return self.default()
        with self._loading:
            return self._keep(load_encoder(settings))

    def _kept(self, model: str, kind: type[_E]) -> _E | None:
        """What is loaded of what the settings call ``model``."""
        known = self._loaded.get(self._keys[model]) if model in self._keys else None
        if not isinstance(known, kind):
            return None
        self.touch(known)
        return known

    def _loaded_once(self, model: str, kind: type[_E], load: Callable[[], _E]) -> _E:
        encoder = self._kept(model, kind)
        if encoder is None:
            with self._loading:
                encoder = self._kept(model, kind)  # somebody else may have loaded it meanwhile
                if encoder is None:
                    encoder = self._keep(load())
                    self._keys[model] = _key(encoder)
        return encoder

    def _keep(self, encoder: _E) -> _E:
        """Keeps ``encoder``, or has the same one kept already; unloads others where the weights become too many."""
        key = _key(encoder)
        dropped = []
        with self._order:
            known = self._loaded.get(key)
            if isinstance(known, type(encoder)) and known.model == encoder.model:
                self._loaded.move_to_end(key)
                return known
            self._loaded[key] = encoder
            self._loaded.move_to_end(key)
            budget = self._settings.model_memory_mb * 1_000_000
            for old in list(self._loaded.values())[:-1]:
                if sum(each.weight_bytes for each in self._loaded.values()) <= budget:
                    break
                if old is not self._default:
                    dropped.append(self._loaded.pop(_key(old)))
        for old in dropped:
            log.info("unloaded %s (%s): the loaded models' weights exceed model_memory_mb", old.model.name, old.dtype)
            for told in list(self.on_unload):  # who is told, or closed meanwhile, may leave the list
                told(old)
        return encoder

    def touch(self, encoder: _E) -> None:
        """Notes that it is in use: one that was dropped while somebody held it counts again."""
        with self._order:
            known = _key(encoder) in self._loaded
            if known:
                self._loaded.move_to_end(_key(encoder))
        if not known:
            self._keep(encoder)

    def warm(self) -> None:
        """Loads the default encoder and encodes once; a failure is logged, and kept for the readiness probe."""
        try:
            _ = self.default().contract
        except Exception as error:
            log.error("The default encoder cannot be loaded: %s", error)

    def of(self, contract: Contract) -> Encoder:
        """The encoder that made a collection, checked against its contract."""
        encoder = self._that_made(contract)
        if encoder is None:
            with self._loading:
                encoder = self._that_made(contract) or self._keep(encoder_for(contract, self._settings))
        check_contract(encoder, contract)
        self.touch(encoder)
        return encoder

    def _that_made(self, contract: Contract) -> Encoder | None:
        encoders = (each for each in list(self._loaded.values()) if isinstance(each, Encoder))
        return next((each for each in encoders if first_difference(each.contract, contract) is None), None)

    async def probe(self) -> Encoder:
        """The default encoder, once a canary text gave the vector that it must; never waits for loading, nor for a
        thread.

        Raises:
            NotReady: it is not loaded (the reason is told), or computes something else.
        """
        encoder = self._default
        if encoder is None:
            if self._failure is not None and not self._loading.locked():
                threading.Thread(target=self.warm, name="warm", daemon=True).start()
            raise NotReady(str(self._failure or "The model is being loaded. Ask again in a few seconds."))
        try:
            canary = encoder.prepare(encoder.tokens.of_texts(CANARY_TEXTS[1:2]), kind="passage", on_overflow="truncate")
            vector = (await asyncio.wrap_future(encoder.submit(canary.token_ids, kind="passage").future))[0]
        except ModelError as error:
            raise NotReady(str(error)) from error
        cosine = float(np.dot(vector, encoder.contract.canary_vectors[1]))
        if not cosine >= LEAST_CANARY_COSINE[encoder.dtype]:
            raise NotReady(f"The encoder gives a canary text another vector than before (cosine {cosine:.4f}).")
        return encoder


def _key(encoder: Encoder | CrossEncoder) -> _Key:
    return encoder.model.name, encoder.dtype


def _short_names(served: dict[str, str]) -> list[str]:
    """One name for each model: the last part of its folder, where that means no other."""
    names = {}
    for model in served.values():
        last = Path(model).name
        names[model] = last if served.get(last) == model else model
    return list(names.values())


def _served(*models: str) -> dict[str, str]:
    """What requests may call a model → what the settings call it. A folder may also be called by its last part."""
    served: dict[str, str] = {}
    for model in models:
        folder = Path(model).expanduser()
        for name in (model.removeprefix(_PREFIX), folder.name, *([str(folder.resolve())] if folder.is_dir() else [])):
            served.setdefault(name, model)
    return served
