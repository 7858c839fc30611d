"""The encoder: token ids (or texts) in, unit vectors out, on whichever runtime was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from embedsvc.config import Dtype, OnOverflow, RuntimeName
from embedsvc.encoding.batches import pad
from embedsvc.encoding.canaries import canary_ids
from embedsvc.encoding.models import Model
from embedsvc.encoding.scheduler import Scheduler, Ticket
from embedsvc.encoding.tokens import Ids, Kind, Tokens
from embedsvc.encoding.windows import Windows, fit
from embedsvc.errors import ModelError, QueryTooLong, UsageError
from embedsvc.records import Contract

Vectors = npt.NDArray[np.float32]


class Runtime(Protocol):
    """What executes the model on ``device`` (``cpu`` or ``cuda``). ``parallel`` batches may run at once, of ``budget``
    padded tokens at best."""

    dimension: int
    parallel: int
    budget: int
    device: str

    def run(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Vectors: ...

    def run_tokens(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Vectors: ...


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Vectors ``(texts, dimension)``; per text the tokens encoded (special tokens and prompt counted) and the tokens
    that were cut off."""

    vectors: Vectors
    token_counts: tuple[int, ...]
    cut_tokens: tuple[int, ...]


@dataclass(frozen=True)
class Encoder:
    """A loaded model. Build it with :func:`.loading.load_encoder`; safe to use from several threads at once.

    Vectors have unit length. In fp32 a vector does not depend on what it is encoded with. In int8 that of a short text
    (up to half of ``batch_tokens``) does, slightly: activations are quantised with one scale per batch.
    """

    model: Model
    runtime_name: RuntimeName
    dtype: Dtype
    tokens: Tokens
    runtime: Runtime
    batch_tokens: int
    weight_bytes: int
    _run: Callable[[Sequence[Ids]], Vectors] = field(init=False, repr=False)
    _scheduler: Scheduler = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Not a method of this object: a cycle would keep an unloaded model in memory until it is collected.
        run = partial(_run, self.runtime, self.tokens.pad_id, f"{self.model.name} ({self.runtime_name}, {self.dtype})")
        scheduler = Scheduler(run, self.runtime.dimension, self.runtime.parallel, self.batch_tokens)
        object.__setattr__(self, "_run", run)
        object.__setattr__(self, "_scheduler", scheduler)

    @property
    def dimension(self) -> int:
        return self.runtime.dimension

    @property
    def max_length(self) -> int:
        """Tokens that fit one window, special tokens and prompt counted."""
        return self.model.max_length

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, truncation and padding off: what a chunker needs, together with :meth:`reserved`."""
        return self.tokens.tokenizer

    def reserved(self, kind: Kind) -> int:
        """Tokens of the window taken by special tokens and the prompt."""
        return self.tokens.reserved(kind)

    def encode(self, token_ids: Sequence[Ids], *, kind: Kind) -> Vectors:
        """Unit vectors, float32 ``(len(token_ids), dimension)``, in the order given.

        ``token_ids`` are the texts' own tokens: special tokens and the prompt of ``kind`` are added here. A text
        without tokens is allowed. Texts of other callers may share a batch with them (:mod:`.scheduler`).

        Raises:
            UsageError: a text does not fit the window. Nothing is ever cut here.
            ModelError: the model gave numbers that are not finite, or failed.
        """
        return self._scheduler.encode(self._whole(token_ids, kind), keep=kind == "query")

    def submit(self, token_ids: Sequence[Ids], *, kind: Kind, limit: int | None = None) -> Ticket:
        """As :meth:`encode`, without waiting: the ticket's future gives the vectors, or the ModelError.

        Raises:
            UsageError: as :meth:`encode`.
            Overloaded: more than ``limit`` tokens of requests with a limit would be waiting.
        """
        return self._scheduler.submit(self._whole(token_ids, kind), keep=kind == "query", limit=limit)

    def close(self) -> None:
        """Ends what waits, and whatever comes later, with a CancelledError; batches that run are finished."""
        self._scheduler.close()

    def _whole(self, token_ids: Sequence[Ids], kind: Kind) -> list[Ids]:
        """With special tokens and prompt."""
        before, after = self.tokens.before[kind], self.tokens.after
        room = self.max_length - self.reserved(kind)
        for at, ids in enumerate(token_ids):
            if len(ids) > room:
                raise UsageError(
                    f"Text {at} has {len(ids) + self.reserved(kind)} tokens with its special tokens and prompt; "
                    f"{self.model.name} takes {self.max_length}. Split it into passages of at most {room} tokens."
                )
        return [np.concatenate([before, ids, after]) for ids in token_ids]

    def token_vectors(self, token_ids: Ids, *, kind: Kind) -> Vectors:
        """What the transformer makes of every token of one text, special tokens and prompt included, before pooling:
        float32 ``(tokens, width)``, not of unit length.

        Raises:
            UsageError, ModelError: as :meth:`encode`.
        """
        ids, mask = pad(self._whole([token_ids], kind), self.tokens.pad_id)
        vectors: Vectors = self.runtime.run_tokens(ids, mask)[0]
        return _finite(vectors, self.model.name)

    def prepare(
        self, token_ids: Sequence[Ids], *, kind: Kind, on_overflow: OnOverflow = "error", keep_end: bool = False
    ) -> Windows:
        """Brings texts, as their own tokens, into the model's window. ``keep_end``: what is cut is the beginning.

        Raises:
            QueryTooLong: a text does not fit and ``on_overflow`` is ``error``.
        """
        room = self.max_length - self.reserved(kind)
        if on_overflow == "error":
            for at, ids in enumerate(token_ids):
                if len(ids) > room:
                    one = "query" if kind == "query" else "text"
                    which = f"The {one}" if len(token_ids) == 1 else f"{one.capitalize()} {at}"
                    raise QueryTooLong(
                        f"{which} has {len(ids)} tokens; {self.model.name} takes {room} besides special tokens and "
                        "prompt.",
                        "ask for on_overflow=split or truncate",
                    )
        return fit(token_ids, room, self.reserved(kind), split=on_overflow == "split", keep_end=keep_end)

    def encode_texts(self, texts: Sequence[str], *, kind: Kind, on_overflow: OnOverflow = "error") -> EncodedTexts:
        """Tokenise and encode. A text longer than the window is refused (``error``), cut and counted (``truncate``), or
        encoded in several windows whose mean is its vector (``split``).

        Raises:
            QueryTooLong: a text does not fit and ``on_overflow`` is ``error``.
            UsageError: something in ``texts`` is not a string.
            ModelError: as :meth:`encode`.
        """
        windows = self.prepare(self.tokens.of_texts(texts), kind=kind, on_overflow=on_overflow)
        vectors = windows.combine(self.encode(windows.token_ids, kind=kind))
        return EncodedTexts(vectors, windows.token_counts, windows.cut_tokens)

    @cached_property
    def contract(self) -> Contract:
        """The embedding contract, with this encoder's canary vectors (about 10 ms, once)."""
        model = self.model
        return Contract(
            model=model.name,
            weights_hash=model.weights_hash,
            tokenizer_hash=model.tokenizer_hash,
            pooling=model.pooling,
            normalize=model.normalize,
            query_prompt=model.query_prompt,
            passage_prompt=model.passage_prompt,
            dimension=self.dimension,
            dtype=self.dtype,
            max_length=self.max_length,
            canary_vectors=tuple(tuple(row) for row in self._canary_vectors().tolist()),
        )

    def _canary_vectors(self) -> Vectors:
        # One at a time, and not through the queue: in int8 a batch mate would change them.
        return np.concatenate([self._run([ids]) for ids in canary_ids(self.tokens, self.max_length)])


def _run(runtime: Runtime, pad_id: int, name: str, texts: Sequence[Ids]) -> Vectors:
    return _finite(runtime.run(*pad(texts, pad_id)), name)


def _finite(vectors: Vectors, name: str) -> Vectors:
    if not np.isfinite(vectors).all():
        raise ModelError(
            f"{name} gave a vector with NaN or infinity. Its weights are damaged, or too large for this dtype: fetch "
            "the model again or use --dtype fp32."
        )
    return vectors
