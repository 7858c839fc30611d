"""The ``torch`` runtime: the model's own modules as sentence-transformers loads them. GPU default and reference."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedsvc.encoding.models import Model
from embedsvc.errors import MissingDependency, ModelError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def cuda_available() -> bool:
    """Whether torch could use an NVIDIA GPU. Without a device file the answer is no, and torch is not imported."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return False
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


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


class TorchRuntime:
    """Runs batches of token ids through the model's modules, on CUDA where present, else on the CPU."""

    parallel = 1  # torch spreads one batch over all cores by itself

    def __init__(self, model: Model, dtype: str, device: str) -> None:
        self._device = device
        self._model = load_sentence_transformer(model, device)
        if dtype == "fp16":
            self._model = self._model.half()
        dimension = self._model.get_embedding_dimension()
        if dimension is None:
            raise ModelError(f"{model.name}: its modules do not say how many dimensions a vector has.")
        self.dimension = dimension
        # transformers' BigBird goes over to full attention at the first short batch, and would stay there.
        transformer: Any = self._model[0]
        kind = getattr(transformer.auto_model, "attention_type", None)
        self._reset = (lambda: transformer.auto_model.set_attention_type(kind)) if kind == "block_sparse" else None

    def run(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Unit vectors, float32 ``(rows, dimension)``, of padded ids and their mask, both ``(rows, tokens)``."""
        import torch

        with torch.inference_mode():
            pooled = self._features(ids, mask)["sentence_embedding"].float()
            vectors: npt.NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return vectors

    def run_tokens(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The transformer's own output for every token, float32 ``(rows, tokens, width)``."""
        import torch

        with torch.inference_mode():
            tokens: npt.NDArray[np.float32] = self._features(ids, mask)["token_embeddings"].float().cpu().numpy()
        return tokens

    def _features(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> dict[str, Any]:
        import torch

        if self._reset is not None:
            self._reset()
        given = {"input_ids": ids, "attention_mask": mask}
        features = {name: torch.from_numpy(value).to(self._device) for name, value in given.items()}
        found: dict[str, Any] = self._model(features)
        return found


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
        self._device = device
        self.classifier.eval().to(device)
        self.dimension = len(model.labels)
        # Which of the two texts a token is of: only for a model whose own tokenizer tells it.
        self.has_types = "token_type_ids" in tokenizer.model_input_names

    def run(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], types: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits, float32 ``(rows, labels)``; all inputs ``(rows, tokens)``."""
        import torch

        features = {"input_ids": ids, "attention_mask": mask}
        if types is not None and self.has_types:
            features["token_type_ids"] = types
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(value).to(self._device) for name, value in features.items()}
            logits: npt.NDArray[np.float32] = self.classifier(**inputs).logits.float().cpu().numpy()
        return logits
