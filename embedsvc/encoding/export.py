"""The export program, ``python -m embedsvc.encoding.export TASK`` (TASK is JSON): safetensors to ONNX with torch.

Runs in a process of its own, so that the serving process never loads torch. Writes ``model.onnx``, and beside it the
large weights, into a given folder and prints the figures of its self check as JSON; fails where the graph disagrees
with sentence-transformers.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedsvc.encoding.batches import pad, plan
from embedsvc.encoding.canaries import CANARY_TEXTS, agrees, canary_ids
from embedsvc.encoding.graphs import Batch, fuse_attention, mask_where_padded, quantize, sensitive_products, smooth
from embedsvc.encoding.models import Model
from embedsvc.encoding.onnx_runtime import OnnxRuntime
from embedsvc.encoding.tokens import Tokens, load_tokenizer, load_tokens
from embedsvc.encoding.torch_runtime import TorchPairRuntime, TorchRuntime, load_sentence_transformer
from embedsvc.errors import ModelError

if TYPE_CHECKING:
    import torch

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
"""What is larger than ``_LARGE`` bytes: it is mapped into memory, once for all sessions and processes that use it."""
_LARGE = 1 << 20
OPSET = 17
# The self check's longest text: every position of the usual window of 512, and longer than the 704 tokens from which on
# BigBird's attention becomes sparse.
_PROBE_TOKENS = 1024
# It gives the smaller graph: on 2 cores int8 ran 1.4 times as fast as from SDPA's (which adds NaN guards), fp32 1.2
# times; and it is the one whose attention onnxruntime's optimiser recognises.
_EAGER = {"attn_implementation": "eager"}


def main(task: dict[str, Any]) -> dict[str, Any]:
    """Export as ``task`` (see :func:`task_of`) says; returns dimension, parity figures and library versions.

    Whether the parity is good enough is for the caller to judge.
    """
    import onnxruntime
    import torch
    import transformers

    model = Model(**{**task["model"], **{key: Path(task["model"][key]) for key in ("folder", "transformer")}})
    dtype, out = task["dtype"], Path(task["out"])
    file = out / MODEL_FILE
    reference: Any = TorchPairRuntime(model, "cpu", **_EAGER) if model.labels else TorchRuntime(model, "fp32", "cpu")
    probes: Sequence[Batch] = _pair_probes(model) if model.labels else _probes(load_tokens(model), model)
    expected = [reference.run(*probe) for probe in probes]
    if not all(np.isfinite(rows).all() for rows in expected):
        raise ModelError(
            f"{model.name} gives vectors with NaN or infinity, also in sentence-transformers: its weights are damaged. "
            "Fetch the model again."
        )

    def parity(graph: Any) -> dict[str, float]:
        """How ``graph``, written as it will run, agrees with sentence-transformers: cosines of vectors; of a
        cross-encoder, the one cosine of all its logits."""
        _save(mask_where_padded(graph), file)
        runtime = OnnxRuntime(file, reference.dimension, 1)
        found, wanted = np.concatenate([runtime.run(*probe) for probe in probes]), np.concatenate(expected)
        if model.labels:
            found, wanted = (rows.reshape(1, -1) / np.linalg.norm(rows) for rows in (found, wanted))
        cosines = (found * wanted).sum(axis=1)
        return {"min_cosine": float(cosines.min()), "mean_cosine": float(cosines.mean())}

    spared, refusal = 0, None
    agreement = {"min_cosine": 0.0, "mean_cosine": 0.0}
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        try:
            traced = _classifier(reference) if model.labels else _embedder(model)
            plain, fused = _export(traced, Path(scratch) / MODEL_FILE)
            graph, agreement = fused, parity(fused)
            if not agrees("fp32", **agreement):
                graph, agreement = plain, parity(plain)
            if not agrees("fp32", **agreement):
                refusal = f"its graph gives other vectors (least cosine {agreement['min_cosine']:.4f})."
        except (MemoryError, OSError):
            raise
        except Exception as error:  # whatever torch's exporter, onnx or onnxruntime cannot do with this architecture
            refusal = f"its graph cannot be made or run ({' '.join(str(error).split())[:200]})."
        if dtype == "int8" and refusal is None:
            graph = smooth(graph, probes)
            sensitive = sensitive_products(graph)
            for spared in range(len(sensitive) + 1):
                agreement = parity(quantize(graph, sensitive[:spared], Path(scratch) / "int8.onnx"))
                if agrees(dtype, **agreement):
                    break
    if refusal is not None:
        for written in (file, out / WEIGHTS_FILE):
            written.unlink(missing_ok=True)
    libraries = {"torch": torch, "transformers": transformers, "onnxruntime": onnxruntime}
    return {
        "dimension": reference.dimension,
        "parity": agreement,
        "refusal": refusal,
        "products_in_fp32": spared,
        "versions": {name: str(library.__version__) for name, library in libraries.items()},
    }


def _save(graph: Any, file: Path) -> None:
    import onnx

    weights = file.with_name(WEIGHTS_FILE)
    weights.unlink(missing_ok=True)  # else it would be appended to
    written = type(graph)()
    written.CopyFrom(graph)  # its large weights become references to the file
    onnx.save(written, file, save_as_external_data=True, location=weights.name, size_threshold=_LARGE)


def task_of(model: Model, dtype: str, out: Path) -> str:
    """The program's argument."""
    return json.dumps({"model": asdict(model), "dtype": dtype, "out": out}, default=str)


@dataclass(frozen=True, slots=True)
class _Traced:
    """A module that torch's exporter can follow, the names of what goes in and comes out, and its configuration."""

    module: torch.nn.Module
    inputs: tuple[str, ...]
    outputs: dict[str, dict[int, str]]
    """With their dynamic axes."""
    config: Any


def _export(traced: _Traced, file: Path) -> tuple[Any, Any]:
    """The fp32 graph (batch and length dynamic), and the same with fused attention, where its attention is of that
    kind. Written to ``file`` on the way."""
    import onnx
    import torch

    pad_id = getattr(traced.config, "pad_token_id", None)
    ids = torch.full((2, 8), pad_id or 0, dtype=torch.int64)
    ids[0] = torch.arange(5, 13)
    ids[1, :5] = torch.arange(5, 10)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    with torch.inference_mode():
        torch.onnx.export(
            traced.module,
            (ids, mask, torch.zeros_like(ids))[: len(traced.inputs)],
            str(file),
            input_names=list(traced.inputs),
            output_names=list(traced.outputs),
            dynamic_axes={name: {0: "rows", 1: "tokens"} for name in traced.inputs} | traced.outputs,
            opset_version=OPSET,
            # The torch.export-based exporter would need onnxscript, and gains nothing here.
            dynamo=False,
        )
    return onnx.load(file), fuse_attention(file, traced.config.num_attention_heads, traced.config.hidden_size)


def _embedder(model: Model) -> _Traced:
    """Ids and mask → unit vectors, and the transformer's own output for each token.

    Token types are not an input: for a single text they are all zero, which is what the models assume without them.
    """
    import torch

    modules = load_sentence_transformer(model, "cpu", **_EAGER)
    transformer: Any = modules[0]

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer.auto_model
            self.rest = torch.nn.ModuleList(list(modules)[1:])

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            features = {"token_embeddings": hidden, "attention_mask": attention_mask}
            for module in self.rest:
                features = module(features)
            return torch.nn.functional.normalize(features["sentence_embedding"], dim=1), hidden

    outputs = {"vectors": {0: "rows"}, "tokens": {0: "rows", 1: "tokens"}}
    return _Traced(Graph().eval(), ("input_ids", "attention_mask"), outputs, transformer.auto_model.config)


def _classifier(runtime: TorchPairRuntime) -> _Traced:
    """Ids, mask and, where the model has them, token types → logits."""
    import torch

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = runtime.classifier

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(**dict(zip(names, inputs, strict=True))).logits
            return logits

    names = ("input_ids", "attention_mask", *(["token_type_ids"] if runtime.has_types else []))
    return _Traced(Graph().eval(), names, {"logits": {0: "rows"}}, runtime.classifier.config)


def _probes(tokens: Tokens, model: Model) -> list[Batch]:
    """The canaries and one text as long as the window: each alone, and all in padded batches of two shapes."""
    texts = canary_ids(tokens, model.max_length)
    window = min(model.max_length, _PROBE_TOKENS) - tokens.reserved("passage")
    longest = np.resize(np.concatenate(tokens.of_texts(CANARY_TEXTS)), window)
    probes = [*texts, np.concatenate([tokens.before["passage"], longest, tokens.after])]
    batches = plan([len(probe) for probe in probes], 4 * max(map(len, texts)))
    return [pad([probes[position] for position in batch], tokens.pad_id) for batch in batches]


def _pair_probes(model: Model) -> list[Batch]:
    """The canaries in pairs, as one padded batch; ids, mask and types."""
    tokenizer, pad_id = load_tokenizer(model)
    encodings = tokenizer.encode_batch(list(zip(CANARY_TEXTS, [*CANARY_TEXTS[1:], ""], strict=True)))
    fitting = [encoding for encoding in encodings if len(encoding.ids) <= model.max_length]
    ids, mask = pad([np.array(encoding.ids, dtype=np.int32) for encoding in fitting], pad_id)
    types, _ = pad([np.array(encoding.type_ids, dtype=np.int32) for encoding in fitting], 0)
    return [(ids, mask, types)]


if __name__ == "__main__":
    # Tracing warns about Python branches on shapes; whether the graph generalises is what the self check measures.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        print(json.dumps(main(json.loads(sys.argv[1]))))
    except ModelError as error:
        sys.exit(str(error))
