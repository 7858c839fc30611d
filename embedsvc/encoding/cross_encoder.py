"""The cross-encoder: pairs of texts in, a logit for each label out. It reads both texts at once and so ranks better
than the cosine of two vectors, at the price of a whole run for every pair."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from embedsvc.config import Dtype, OnOverflow, RuntimeName, Settings
from embedsvc.encoding.batches import pad
from embedsvc.encoding.exports import ensure_export
from embedsvc.encoding.models import Model, resolve_model
from embedsvc.encoding.onnx_runtime import OnnxRuntime
from embedsvc.encoding.scheduler import Scheduler, Ticket
from embedsvc.encoding.tokens import Ids, load_tokenizer
from embedsvc.encoding.torch_runtime import TorchPairRuntime, runs_on_cuda
from embedsvc.errors import ModelError, ParityError, QueryTooLong, UsageError
from embedsvc.records import without_surrogates

log = logging.getLogger(__name__)

Pair = tuple[str, str | None]
"""The second may be missing: then the first is classified alone."""
Logits = npt.NDArray[np.float32]

_SECOND = 30
"""A pair is one array of int32 in the queue: the bit above all token ids says that a token is of the second text."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Tokenised pairs, special tokens in place; per pair its tokens and those of the last text that were cut off."""

    token_ids: list[Ids]
    token_counts: tuple[int, ...]
    cut_tokens: tuple[int, ...]


@dataclass(frozen=True)
class CrossEncoder:
    """A loaded cross-encoder. Build it with :func:`load_cross_encoder`; safe to use from several threads at once."""

    model: Model
    runtime_name: RuntimeName
    dtype: Dtype
    tokenizer: Tokenizer
    runtime: OnnxRuntime | TorchPairRuntime
    batch_tokens: int
    weight_bytes: int
    pad_id: int
    _scheduler: Scheduler = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # As in Encoder: not a method of this object.
        run = partial(_run, self.runtime, self.pad_id, f"{self.model.name} ({self.runtime_name}, {self.dtype})")
        scheduler = Scheduler(run, len(self.labels), self.runtime.parallel, self.batch_tokens)
        object.__setattr__(self, "_scheduler", scheduler)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the logits stand for, in their order."""
        return self.model.labels

    def prepare(self, pairs: Sequence[Pair], *, on_overflow: OnOverflow = "error") -> Pairs:
        """Tokenises. A pair longer than the window is refused (``error``) or its last text cut (``truncate``).

        Raises:
            QueryTooLong: a pair does not fit, or its first text alone fills the window.
            UsageError: something in ``pairs`` is not a string; or ``split``, which scores do not allow.
        """
        if on_overflow == "split":
            raise UsageError("A pair of texts cannot be split: its score is no mean. Ask for error or truncate.")
        for at, pair in enumerate(pairs):
            if not isinstance(pair[0], str) or not isinstance(pair[1], str | None):
                raise UsageError(f"Pair {at} is not made of strings.")
        valid = [tuple(without_surrogates(text) for text in pair if text is not None) for pair in pairs]
        encodings = self.tokenizer.encode_batch([pair if len(pair) == 2 else pair[0] for pair in valid])
        packed, cut = [], []
        for at, encoding in enumerate(encodings):
            ids = np.array(encoding.ids, np.int32) | (np.array(encoding.type_ids, np.int32) << _SECOND)
            excess = max(0, len(ids) - self.model.max_length)
            last = max((text for text in encoding.sequence_ids if text is not None), default=0)
            second = [place for place, text in enumerate(encoding.sequence_ids) if text == last]
            if excess and (on_overflow == "error" or excess >= len(second)):
                fact = (
                    f"Pair {at} has {len(ids)} tokens, {len(second)} of them the last text's; {self.model.name} "
                    f"takes {self.model.max_length}"
                )
                if excess < len(second):
                    raise QueryTooLong(f"{fact}.", "ask for on_overflow=truncate")
                raise QueryTooLong(f"{fact}, and the first text, which is never cut, leaves no room.", None)
            packed.append(np.delete(ids, second[len(second) - excess :]) if excess else ids)
            cut.append(excess)
        return Pairs(packed, tuple(map(len, packed)), tuple(cut))

    def submit(self, token_ids: Sequence[Ids], *, limit: int | None) -> Ticket:
        """Puts prepared pairs in the queue; the ticket's future gives their logits, float32 ``(pairs, labels)``.

        Raises:
            Overloaded: more than ``limit`` tokens would be waiting.
        """
        return self._scheduler.submit(token_ids, limit=limit)

    def logits(self, pairs: Sequence[Pair], *, on_overflow: OnOverflow = "error") -> Logits:
        """Float32 ``(pairs, labels)``, in the order given.

        Raises:
            QueryTooLong, UsageError: as :meth:`prepare`. ModelError: the model failed.
        """
        return self._scheduler.encode(self.prepare(pairs, on_overflow=on_overflow).token_ids)


def _run(runtime: OnnxRuntime | TorchPairRuntime, pad_id: int, name: str, packed: Sequence[Ids]) -> Logits:
    ids, mask = pad([each & ~(1 << _SECOND) for each in packed], pad_id)
    types, _ = pad([each >> _SECOND for each in packed], 0)
    rows = runtime.run(ids, mask, types)
    if not np.isfinite(rows).all():
        raise ModelError(
            f"{name} gave a score that is NaN or infinity. Its weights are damaged: fetch the model again."
        )
    return rows


def probabilities(logits: Logits) -> Logits:
    """The sigmoid of a single logit, else the softmax over the labels; shape as given."""
    if logits.shape[1] == 1:
        sigmoid: Logits = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
        return sigmoid
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax: Logits = powers / powers.sum(axis=1, keepdims=True)
    return softmax


def load_cross_encoder(settings: Settings) -> CrossEncoder:
    """The cross-encoder in ``settings.model``, in fp32: on onnx (also where the setting says openvino) if it can be
    exported, else on torch.

    Raises:
        ModelError: the model is missing, damaged, or embeds texts.
        UsageError: a dtype other than fp32.
    """
    model = resolve_model(settings.model, settings.cache)
    if not model.labels:
        raise ModelError(
            f"{model.name} gives vectors, not scores of pairs. As a reranker, name a cross-encoder: a folder whose "
            "config.json has an architecture …ForSequenceClassification."
        )
    if settings.dtype not in ("auto", "fp32"):
        raise UsageError(f"A cross-encoder runs in fp32, not in {settings.dtype}.")
    tokenizer, pad_id = load_tokenizer(model)
    on_cuda = runs_on_cuda(settings.runtime)
    runtime: OnnxRuntime | TorchPairRuntime | None = None
    name: RuntimeName = "torch"
    if settings.runtime != "torch" and not on_cuda:
        try:
            export = ensure_export(model, "fp32", settings.cache)
            runtime, name = OnnxRuntime(export.file, len(model.labels), settings.encoder_threads), "onnx"
        except ParityError as error:
            if settings.runtime != "auto":
                raise
            log.warning("%s Going on with fp32 on torch.", error)
    if runtime is None:
        runtime = TorchPairRuntime(model, "cuda" if on_cuda else "cpu")
    return CrossEncoder(
        model=model,
        runtime_name=name,
        dtype="fp32",
        tokenizer=tokenizer,
        runtime=runtime,
        batch_tokens=settings.batch_tokens or runtime.budget,
        weight_bytes=sum(file.stat().st_size for file in model.transformer.glob("*.safetensors")),
        pad_id=pad_id,
    )
