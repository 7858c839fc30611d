"""The encoder: token ids (or texts) in, unit vectors out, on whichever runtime was chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from embedsvc.config import Settings
from embedsvc.encoding.batches import pad
from embedsvc.encoding.canaries import CANARY_TEXTS, agrees
from embedsvc.encoding.choices import Dtype, RuntimeName, recorded
from embedsvc.encoding.exports import ensure_export
from embedsvc.encoding.models import Model, resolve_model
from embedsvc.encoding.onnx_runtime import OnnxRuntime
from embedsvc.encoding.openvino_runtime import OpenVinoRuntime, openvino_installed
from embedsvc.encoding.scheduler import Scheduler, Ticket
from embedsvc.encoding.tokens import Ids, Kind, Tokens, load_tokens
from embedsvc.encoding.torch_runtime import TorchRuntime, runs_on_cuda
from embedsvc.encoding.windows import Windows, fit
from embedsvc.errors import ModelError, ParityError, QueryTooLong, UsageError
from embedsvc.records import Contract

log = logging.getLogger(__name__)

OnOverflow = Literal["error", "split", "truncate"]
Vectors = npt.NDArray[np.float32]


class Runtime(Protocol):
    """What executes the model. ``parallel`` batches may run at once, of ``budget`` padded tokens at best."""

    dimension: int
    parallel: int
    budget: int

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
    """A loaded model. Build it with :func:`load_encoder`; safe to use from several threads at once.

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
                    which = f"The {kind}" if len(token_ids) == 1 else f"Text {at}"
                    raise QueryTooLong(
                        f"{which} has {len(ids)} tokens; {self.model.name} takes {room} besides special tokens "
                        "and prompt. Shorten it, or ask for on_overflow=split or truncate."
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
        room = self.max_length - self.reserved("passage")
        texts = [ids[:room] for ids in self.tokens.of_texts(CANARY_TEXTS)]
        return np.concatenate([self._run([whole]) for whole in self._whole(texts, "passage")])


def _run(runtime: Runtime, pad_id: int, name: str, texts: Sequence[Ids]) -> Vectors:
    return _finite(runtime.run(*pad(texts, pad_id)), name)


def _finite(vectors: Vectors, name: str) -> Vectors:
    if not np.isfinite(vectors).all():
        raise ModelError(
            f"{name} gave a vector with NaN or infinity. Its weights are damaged, or too large for this dtype: fetch "
            "the model again or use --dtype fp32."
        )
    return vectors


def load_encoder(settings: Settings) -> Encoder:
    """The encoder that ``settings`` ask for: model, runtime, dtype, threads, batch_tokens, cache_dir.

    The first use of a model on the onnx runtime exports it (about ten seconds, in a subprocess); later ones load it.

    Raises:
        ModelError: the model is missing, damaged, not the pinned one, or cannot be exported.
        UsageError: a dtype that the runtime does not have.
        MissingDependency: the runtime asked for is not installed.
    """
    model = resolve_model(settings.model, settings.cache)
    if model.labels:
        raise ModelError(
            f"{model.name} is a cross-encoder: it scores pairs of texts and gives no vectors. Use it as a reranker, "
            "and another model to embed with."
        )
    tokens = load_tokens(model)
    on_cuda = runs_on_cuda(settings.runtime)
    candidates = candidates_for(settings)
    if chosen := recorded(model, settings.cache):
        # The sort is stable: what was chosen comes first, the others stay in their order.
        candidates.sort(key=lambda candidate: candidate != (chosen.runtime, chosen.dtype))
    for position, (name, dtype) in enumerate(candidates):
        try:
            runtime, weight_bytes = _load_runtime(model, tokens, name, dtype, on_cuda, settings)
            break
        except ParityError as error:
            if position + 1 == len(candidates):
                raise
            log.warning("%s Going on with %s on %s.", error, candidates[position + 1][1], candidates[position + 1][0])
    return Encoder(
        model=model,
        runtime_name=name,
        dtype=dtype,
        tokens=tokens,
        runtime=runtime,
        batch_tokens=settings.batch_tokens or runtime.budget,
        weight_bytes=weight_bytes,
    )


def _load_runtime(
    model: Model, tokens: Tokens, name: RuntimeName, dtype: Dtype, on_cuda: bool, settings: Settings
) -> tuple[Runtime, int]:
    """The runtime, and the bytes of its weights."""
    if name == "onnx":
        export = ensure_export(model, dtype, settings.cache)
        runtime = OnnxRuntime(export.file, export.dimension, settings.encoder_threads)
        return runtime, export.file.stat().st_size
    if name == "openvino":
        export = ensure_export(model, "fp32", settings.cache)
        openvino = OpenVinoRuntime(export.file, export.dimension, settings.encoder_threads, dtype)
        _compare(openvino, OnnxRuntime(export.file, export.dimension, 1), model, tokens, dtype)
        return openvino, export.file.stat().st_size
    size = sum(file.stat().st_size for file in model.transformer.glob("*.safetensors"))
    return TorchRuntime(model, dtype, "cuda" if on_cuda else "cpu"), size


def _compare(openvino: Runtime, onnx: Runtime, model: Model, tokens: Tokens, dtype: Dtype) -> None:
    """The export was compared with sentence-transformers on onnxruntime; so OpenVINO is, with that, at every load.

    Raises:
        ParityError: the canary texts' vectors do not agree.
    """
    room = model.max_length - tokens.reserved("passage")
    texts = [
        np.concatenate([tokens.before["passage"], ids[:room], tokens.after]) for ids in tokens.of_texts(CANARY_TEXTS)
    ]
    batch = pad(texts, tokens.pad_id)
    cosines = (openvino.run(*batch) * onnx.run(*batch)).sum(axis=1)
    if not agrees(dtype, cosines.min(), cosines.mean()):
        raise ParityError(
            f"{model.name} on openvino in {dtype} does not agree with sentence-transformers on this machine (cosine "
            f"min {cosines.min():.5f}, mean {cosines.mean():.5f}). Use --runtime onnx."
        )


def candidates_for(settings: Settings) -> list[tuple[RuntimeName, Dtype]]:
    """Runtimes and dtypes to try, best first by rule of thumb: those that ``settings`` leave open.

    Raises:
        UsageError: the runtime asked for has no such dtype.
    """
    on_cuda = runs_on_cuda(settings.runtime)
    known: dict[RuntimeName, tuple[Dtype, ...]] = {
        "onnx": ("int8", "fp32"),
        "openvino": ("int8-g64", "fp32"),
        "torch": ("fp16", "bf16", "fp32") if on_cuda else ("fp32",),
    }
    # OpenVINO last, for it is the choice of `models add` only.
    order: tuple[RuntimeName, ...] = ("torch",) if on_cuda else ("onnx", "torch")
    if not on_cuda and openvino_installed():
        order = (*order, "openvino")
    runtimes = order if settings.runtime == "auto" else (settings.runtime,)
    every = [(runtime, dtype) for runtime in runtimes for dtype in known[runtime]]
    candidates = [(runtime, dtype) for runtime, dtype in every if settings.dtype in ("auto", dtype)]
    if not candidates:
        place = " on CUDA" if on_cuda else " on the CPU" if runtimes[0] == "torch" else ""
        raise UsageError(
            f"The {runtimes[0]} runtime{place} has no dtype {settings.dtype}; choose one of "
            f"{', '.join(known[runtimes[0]])}."
        )
    return candidates
