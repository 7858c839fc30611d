"""Rewrites of the exported graph: what they change, and that the vectors stay."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from embedsvc.encoding.export import MODEL_FILE, _embedder, _export
from embedsvc.encoding.graphs import (
    fuse_attention,
    mask_where_padded,
    quantize,
    sensitive_products,
    smooth,
    weight_products,
)
from embedsvc.encoding.models import resolve_model
from embedsvc.encoding.onnx_runtime import OnnxRuntime
from tests.tiny_models import make_bert

LAYERS, HEADS, WIDTH = 2, 2, 32


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT as torch exports it."""
    root = tmp_path_factory.mktemp("graphs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as the exporting program itself does
        _export(_embedder(resolve_model(str(make_bert(root / "m")), root / "c")), root / MODEL_FILE)
    return root / MODEL_FILE


@pytest.fixture(scope="module")
def fused(exported: Path) -> onnx.ModelProto:
    return fuse_attention(exported, HEADS, WIDTH)


def batch(*lengths: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 50, (len(lengths), max(lengths)))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return ids * mask, mask


def run(graph: onnx.ModelProto, folder: Path, *batches: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    onnx.save(graph, folder / "run.onnx")
    runtime = OnnxRuntime(folder / "run.onnx", WIDTH, 1)
    return np.concatenate([runtime.run(*each) for each in batches])


WHOLE, PADDED = batch(9, 9, 9), batch(12, 3, 7)


def test_fused_attention_masks_only_what_is_padded(exported: Path, fused: onnx.ModelProto, tmp_path: Path) -> None:
    plain = onnx.load(exported)
    expected = run(plain, tmp_path, WHOLE, PADDED)
    graph = mask_where_padded(fused)
    assert np.abs(run(graph, tmp_path, WHOLE, PADDED) - expected).max() < 1e-5
    conditions = [node for node in graph.graph.node if node.op_type == "If" and node.name.endswith("_masked")]
    assert len(conditions) == LAYERS
    for node in conditions:
        branches = {attribute.name: attribute.g.node[0] for attribute in node.attribute}
        assert list(branches["else_branch"].input[:4]) == list(branches["then_branch"].input)
        assert branches["else_branch"].input[-1] != ""
        assert len(branches["else_branch"].input) > 4
    assert len(graph.graph.node) < len(plain.graph.node) / 1.5


def test_the_mask_counts(fused: onnx.ModelProto, tmp_path: Path) -> None:
    ids, mask = PADDED
    graph = mask_where_padded(fused)
    alone = [(ids[row : row + 1, :length], mask[row : row + 1, :length]) for row, length in enumerate((12, 3, 7))]
    assert np.abs(run(graph, tmp_path, PADDED) - run(graph, tmp_path, *alone)).max() < 1e-5
    assert np.abs(run(graph, tmp_path, (ids, np.ones_like(mask))) - run(graph, tmp_path, PADDED)).max() > 1e-3


def test_smoothing_changes_no_vector(fused: onnx.ModelProto, tmp_path: Path) -> None:
    smoothed = smooth(fused, [WHOLE, PADDED])
    expected = run(mask_where_padded(fused), tmp_path, WHOLE, PADDED)
    assert np.abs(run(mask_where_padded(smoothed), tmp_path, WHOLE, PADDED) - expected).max() < 1e-5
    # Query, key and value share what enters them, so four places for the six products of each layer.
    assert sum(node.name.endswith("_smooth") for node in smoothed.graph.node) == 4 * LAYERS


def test_smoothing_tames_an_outlier(fused: onnx.ModelProto, tmp_path: Path) -> None:
    """One channel of the embeddings' norm a hundred times as large, its weights as much smaller: the same vectors, but
    not for int8 without smoothing."""
    wild = type(fused)()
    wild.CopyFrom(fused)
    norm = next(w for w in wild.graph.initializer if w.name.endswith("embeddings.LayerNorm.weight"))
    scale = onnx.numpy_helper.to_array(norm).copy()
    scale[3] *= 100
    norm.CopyFrom(onnx.numpy_helper.from_array(scale, norm.name))
    expected = run(mask_where_padded(wild), tmp_path, WHOLE, PADDED)

    def loss(graph: onnx.ModelProto) -> float:
        vectors = run(mask_where_padded(quantize(graph, [], tmp_path / "q.onnx")), tmp_path, WHOLE, PADDED)
        return float(1 - (vectors * expected).sum(axis=1).mean())

    assert loss(smooth(wild, [WHOLE, PADDED])) < loss(wild) / 2


def test_int8_weights_leave_room_for_a_sum_in_16_bits(fused: onnx.ModelProto, tmp_path: Path) -> None:
    """A processor without VNNI adds two products of 8 bits and a weight in 16 bits."""
    graph = quantize(fused, [], tmp_path / "q.onnx")
    weights = [
        w for w in map(onnx.numpy_helper.to_array, graph.graph.initializer) if w.dtype == np.int8 and w.ndim == 2
    ]
    assert len(weights) == 6 * LAYERS
    pairs = [np.abs(w.astype(int)).reshape(-1, 2, w.shape[1]).sum(axis=1).max() for w in weights]
    assert 255 * max(pairs) < 2**15
    assert max(np.abs(w).max() for w in weights) > 60


def test_spared_products_stay_fp32(fused: onnx.ModelProto, tmp_path: Path) -> None:
    sensitive = sensitive_products(fused)
    assert len(sensitive) == LAYERS
    graph = quantize(fused, sensitive[:1], tmp_path / "q.onnx")
    assert [node.name for node in weight_products(graph)] == sensitive[:1]
    assert len(weight_products(quantize(fused, [], tmp_path / "q.onnx"))) == 0
