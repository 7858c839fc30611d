"""The export program, ``python -m embedsvc.encoding.export TASK`` (TASK is JSON): safetensors to ONNX with torch.

Runs in a process of its own, so that the serving process never loads torch. Writes ``model.onnx`` into a given folder
and prints the figures of its self check as JSON; fails where the graph disagrees with sentence-transformers.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedsvc.encoding.batches import pad, plan
from embedsvc.encoding.canaries import CANARY_TEXTS, agrees
from embedsvc.encoding.models import Model
from embedsvc.encoding.onnx_runtime import OnnxRuntime
from embedsvc.encoding.tokens import Ids, Tokens, load_tokens
from embedsvc.encoding.torch_runtime import TorchRuntime, load_sentence_transformer
from embedsvc.errors import ModelError

if TYPE_CHECKING:
    import torch

MODEL_FILE = "model.onnx"
OPSET = 17
# The self check's longest text; enough to meet every position of the usual window of 512.
_PROBE_TOKENS = 512


def main(task: dict[str, Any]) -> dict[str, Any]:
    """Export as ``task`` (see :func:`task_of`) says; returns dimension, parity figures and library versions.

    Whether the parity is good enough is for the caller to judge.
    """
    import onnxruntime
    import torch
    import transformers

    model = Model(**{**task["model"], **{key: Path(task["model"][key]) for key in ("folder", "transformer")}})
    dtype, out = task["dtype"], Path(task["out"])
    reference = TorchRuntime(model, "fp32", "cpu")
    tokens = load_tokens(model)

    def parity() -> dict[str, float]:
        cosines = _compare(OnnxRuntime(out / MODEL_FILE, reference.dimension, 1), reference, tokens, model)
        return {"min_cosine": float(cosines.min()), "mean_cosine": float(cosines.mean())}

    spared = 0
    if dtype == "fp32":
        _export(model, out / MODEL_FILE)
        found = parity()
    else:
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            plain = Path(scratch) / MODEL_FILE
            _export(model, plain)
            sensitive = _sensitive_products(plain)
            for spared in range(len(sensitive) + 1):
                _quantize(plain, out / MODEL_FILE, sensitive[:spared])
                found = parity()
                if agrees(dtype, **found):
                    break
    libraries = {"torch": torch, "transformers": transformers, "onnxruntime": onnxruntime}
    return {
        "dimension": reference.dimension,
        "parity": found,
        "products_in_fp32": spared,
        "versions": {name: str(library.__version__) for name, library in libraries.items()},
    }


def task_of(model: Model, dtype: str, out: Path) -> str:
    """The program's argument."""
    return json.dumps({"model": asdict(model), "dtype": dtype, "out": out}, default=str)


def _export(model: Model, file: Path) -> None:
    """Write the fp32 graph: transformer, pooling, L2 normalisation; batch and length dynamic.

    Token types are not an input: for a single text they are all zero, which is what the models assume without them.
    """
    import torch

    # The eager attention gives the smaller graph: on 2 cores int8 ran 1.4 times as fast as from SDPA's (which adds
    # NaN guards), fp32 1.2 times. onnxruntime fuses what it can by itself.
    transformer: Any = load_sentence_transformer(model, "cpu", attn_implementation="eager")[0]
    ids = torch.full((2, 8), model.pad_id or 0, dtype=torch.int64)
    ids[0] = torch.arange(5, 13)
    ids[1, :5] = torch.arange(5, 10)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    with torch.inference_mode():
        torch.onnx.export(
            _graph_of(transformer.auto_model, model.pooling),
            (ids, mask),
            str(file),
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_axes={
                "input_ids": {0: "rows", 1: "tokens"},
                "attention_mask": {0: "rows", 1: "tokens"},
                "vectors": {0: "rows"},
            },
            opset_version=OPSET,
            # The torch.export-based exporter would need onnxscript, and gains nothing here.
            dynamo=False,
        )


def _graph_of(transformer: torch.nn.Module, pooling: str) -> torch.nn.Module:
    import torch

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            if pooling == "cls":
                pooled = hidden[:, 0]
            else:
                kept = attention_mask.unsqueeze(-1).to(hidden.dtype)
                pooled = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(pooled, dim=1)

    return Graph().eval()


def _sensitive_products(file: Path) -> list[str]:
    """Names of the products that int8 harms most, worst first: each layer's second feed-forward product, in order.

    Their inputs have the widest outliers, the earlier the layer the more. In an encoder layer only they have a weight
    with more rows than columns.
    """
    import onnx

    graph = onnx.load(file).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) == 2]
    return [node.name for node in products if shapes[node.input[1]][0] > shapes[node.input[1]][1]]


def _quantize(source: Path, target: Path, spared: list[str]) -> None:
    """Dynamic int8 of the weight products, per output channel; embeddings, softmax and norms stay fp32.

    So do the products ``spared``, and :func:`main` spares no more of them than parity on this machine asks for: for
    all-MiniLM-L6-v2 with VNNI it is one, which lifts the mean cosine on the canary texts from .9896 to .9917.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=spared,
    )


def _compare(runtime: OnnxRuntime, reference: TorchRuntime, tokens: Tokens, model: Model) -> npt.NDArray[np.float32]:
    """Cosine per probe text: the canaries and one text as long as the window, in padded batches of two shapes."""
    room = min(model.max_length, _PROBE_TOKENS) - tokens.reserved("passage")
    texts = tokens.of_texts(CANARY_TEXTS)
    longest = np.resize(np.concatenate(texts), room)
    probes: list[Ids] = [
        np.concatenate([tokens.before["passage"], text[:room], tokens.after]) for text in (*texts, longest)
    ]
    cosines = []
    for batch in plan([len(probe) for probe in probes], 4 * max(map(len, texts))):
        ids, mask = pad([probes[position] for position in batch], tokens.pad_id)
        cosines.append((runtime.run(ids, mask) * reference.run(ids, mask)).sum(axis=1))
    return np.concatenate(cosines)


if __name__ == "__main__":
    # Tracing warns about Python branches on shapes; whether the graph generalises is what the self check measures.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        print(json.dumps(main(json.loads(sys.argv[1]))))
    except ModelError as error:
        sys.exit(str(error))
