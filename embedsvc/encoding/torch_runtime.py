"""The ``torch`` runtime: the model's own modules as sentence-transformers loads them. GPU default and reference."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedsvc.encoding.models import Model
from embedsvc.errors import MissingDependency, ModelError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.float32]

_TORCH_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def cuda_available() -> bool:
    """Whether torch could use an NVIDIA GPU. Without a device file the answer is no, and torch is not imported."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return False
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def runs_on_cuda(runtime: str) -> bool:
    """Whether the setting ``runtime`` means torch on a GPU here."""
    return runtime in ("auto", "torch") and cuda_available()


def load_sentence_transformer(model: Model, device: str, **options: Any) -> SentenceTransformer:
    """sentence-transformers' own object for ``model``; ``options`` go to ``from_pretrained``.

    Raises:
        MissingDependency: sentence-transformers is not installed.
        ModelError: it cannot load the model.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise MissingDependency(f"The torch runtime needs sentence-transformers ({error}). Install it.") from error
    # Loading weights would draw one on the user's terminal, and log lines are for what the user should know.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    try:
        return SentenceTransformer(
            str(model.folder),
            device=device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, **options},
        ).eval()
    except Exception as error:  # anything from transformers, safetensors, torch
        raise ModelError(f"{model.name}: sentence-transformers cannot load it: {error}") from error


class _Card:
    """What both runtimes do for the sake of a GPU. ``device`` is ``cuda`` or ``cpu``."""

    def __init__(self, name: str, device: str) -> None:
        self._name = name
        self._device = device
        self._local = threading.local()
        self.most_tokens: float = float("inf")
        """Padded tokens that were found to fit into memory."""

    def budget(self, width: int, intermediate: int) -> int:
        """Padded tokens of a batch: on a card as many as keep it busy and fit its memory, on the CPU what stays in the
        cache."""
        import torch

        if self._device == "cpu":
            return 256
        return tokens_within(torch.cuda.mem_get_info()[0] // 2, width, intermediate)

    def stream(self) -> AbstractContextManager[Any]:
        """A CUDA stream for each thread, so that one batch is copied while another computes."""
        import torch

        if self._device == "cpu":
            return contextlib.nullcontext()
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream: AbstractContextManager[Any] = torch.cuda.stream(self._local.stream)
        return stream

    def moved(self, array: npt.NDArray[np.int64]) -> torch.Tensor:
        """On the device. From pinned memory the copy does not hold up this thread."""
        import torch

        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device == "cuda" else tensor

    def run(self, compute: Callable[..., Rows], *arrays: npt.NDArray[np.int64]) -> Rows:
        """``compute`` of ``arrays``, each ``(rows, tokens)``, the first of them ids. A batch that the card's memory
        cannot hold is halved until it can be, and later batches keep to what could.

        Raises:
            ModelError: one text alone is too much for the card's memory, or torch failed.
        """
        import torch

        ids, rows = arrays[0], len(arrays[0])
        if rows == 1 or ids.size <= self.most_tokens:
            try:
                with torch.inference_mode(), self.stream():
                    return compute(*arrays)
            except torch.OutOfMemoryError as error:
                if rows == 1:
                    raise ModelError(
                        f"{self._name}: a text of {ids.shape[1]} tokens does not fit into the memory of the GPU. Free "
                        "some, use smaller windows, or --runtime onnx."
                    ) from error
                self.most_tokens = min(self.most_tokens, ids.size // 2)
                log.warning("out of GPU memory at %d tokens; going on with %d at once", ids.size, self.most_tokens)
            except Exception as error:
                raise ModelError(f"{self._name}: torch failed on a batch of shape {ids.shape}: {error}") from error
            torch.cuda.empty_cache()
        half = rows // 2
        halves = ([array[:half] for array in arrays], [array[half:] for array in arrays])
        return np.concatenate([self.run(compute, *each) for each in halves])


class TorchRuntime:
    """Runs batches of token ids through the model's modules, on CUDA where present, else on the CPU.

    Attention is PyTorch's scaled_dot_product_attention, which picks the flash kernel where the card and the mask allow.
    """

    def __init__(self, model: Model, dtype: str, device: str) -> None:
        import torch

        self.device = device
        self._card = _Card(model.name, device)
        self._model = load_sentence_transformer(model, device).to(getattr(torch, _TORCH_DTYPES[dtype]))
        dimension = self._model.get_embedding_dimension()
        if dimension is None:
            raise ModelError(f"{model.name}: its modules do not say how many dimensions a vector has.")
        self.dimension = dimension
        # transformers' BigBird goes over to full attention at the first short batch, and would stay there.
        transformer: Any = self._model[0]
        kind = getattr(transformer.auto_model, "attention_type", None)
        self._reset = (lambda: transformer.auto_model.set_attention_type(kind)) if kind == "block_sparse" else None
        # So no other batch may run meanwhile, not even the scheduler's one more.
        self._alone: AbstractContextManager[Any] = contextlib.nullcontext() if self._reset is None else threading.Lock()
        # On the CPU torch spreads one batch over all cores by itself. On a card, one batch is padded and copied while
        # another computes.
        self.parallel = 2 if device == "cuda" and self._reset is None else 1
        self.budget = self._card.budget(*_widths(transformer.auto_model.config))

    def run(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Unit vectors, float32 ``(rows, dimension)``, of padded ids and their mask, both ``(rows, tokens)``.

        Raises:
            ModelError: as :meth:`_Card.run`.
        """
        return self._card.run(self._vectors, ids, mask)

    def run_tokens(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The transformer's own output for every token, float32 ``(rows, tokens, width)``."""
        return self._card.run(self._token_vectors, ids, mask)

    def _vectors(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Rows:
        import torch

        pooled = self._features(ids, mask)["sentence_embedding"].float()
        vectors: Rows = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return vectors

    def _token_vectors(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Rows:
        vectors: Rows = self._features(ids, mask)["token_embeddings"].float().cpu().numpy()
        return vectors

    def _features(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> dict[str, Any]:
        with self._alone:
            if self._reset is not None:
                self._reset()
            inputs = {"input_ids": self._card.moved(ids), "attention_mask": self._card.moved(mask)}
            found: dict[str, Any] = self._model(inputs)
        return found


def _widths(config: Any) -> tuple[int, int]:
    """Of the hidden layers and of the feed-forward layer."""
    return config.hidden_size, getattr(config, "intermediate_size", 4 * config.hidden_size)


def tokens_within(memory: int, width: int, intermediate: int) -> int:
    """Padded tokens of a batch whose activations take no more than ``memory`` bytes: in 16 bits, about twelve arrays of
    the hidden width and two of the feed-forward layer's are alive at once. Between 1,024 and 65,536: more than that
    keeps no card busier."""
    return int(min(65_536, max(1_024, memory // (2 * (12 * width + 2 * intermediate)))))


class TorchPairRuntime:
    """A cross-encoder as transformers loads it: pairs of texts to logits."""

    parallel = 1

    def __init__(self, model: Model, device: str, **options: Any) -> None:
        """``options`` go to ``from_pretrained``. Raises ModelError where transformers cannot load the model."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self.classifier: Any = AutoModelForSequenceClassification.from_pretrained(
                model.transformer, local_files_only=True, use_safetensors=True, trust_remote_code=False, **options
            )
            tokenizer: Any = AutoTokenizer.from_pretrained(model.transformer, local_files_only=True)
        except Exception as error:  # anything from transformers, safetensors, torch
            raise ModelError(f"{model.name}: transformers cannot load it: {error}") from error
        self.device = device
        self._card = _Card(model.name, device)
        self.classifier.eval().to(device)
        self.dimension = len(model.labels)
        self.budget = self._card.budget(*_widths(self.classifier.config))
        # Which of the two texts a token is of: only for a model whose own tokenizer tells it.
        self.has_types = "token_type_ids" in tokenizer.model_input_names

    def run(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], types: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits, float32 ``(rows, labels)``; all inputs ``(rows, tokens)``.

        Raises:
            ModelError: as :meth:`_Card.run`.
        """
        given = (ids, mask) if types is None or not self.has_types else (ids, mask, types)
        return self._card.run(self._logits, *given)

    def _logits(self, *given: npt.NDArray[np.int64]) -> Rows:
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: self._card.moved(array) for name, array in zip(names, given, strict=False)}
        logits: Rows = self.classifier(**inputs).logits.float().cpu().numpy()
        return logits
