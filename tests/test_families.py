"""Every family of models on every runtime, against sentence-transformers; on tiny models with random weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import embedsvc.encoding.contract as contract
import embedsvc.encoding.exports as exports
import embedsvc.encoding.loading as loading
import embedsvc.encoding.openvino_runtime as openvino_runtime
from embedsvc.config import Settings
from embedsvc.encoding import Encoder, encoder_for, load_encoder
from embedsvc.encoding.models import POOLINGS, read_model
from embedsvc.encoding.tokens import load_tokens
from embedsvc.errors import MissingDependency, ModelError, ParityError
from tests.tiny_models import FAMILIES, WIDTH, make_model, write

pytestmark = pytest.mark.usefixtures("exports_in_process")

TEXTS = [
    "why",
    "how do i restart the service after a power failure?",
    "",
    "vitamin d, query (passage) 42: a",
    "the service: restart",
]
LONG = "restart the power service, vitamin d why do i query a failure. " * 40
"""About 520 tokens, more than the usual window and than two of Longformer's."""
LONG_WINDOWS = {"longformer", "big_bird"}
NOT_ON_ONNX = {"longformer", "big_bird"}
NOT_IN_INT8 = {"deberta-v2", *NOT_ON_ONNX}
"""Families whose tiny model misses parity: its relative positions go through products that int8 makes too coarse."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@cache
def folder_of(root: Path, family: str) -> Path:
    return make_model(root / family, family)


def load(root: Path, folder: Path, runtime: str, dtype: str) -> Encoder:
    settings = Settings(model=str(folder), cache_dir=root / "cache", threads=2)
    return load_encoder(replace(settings, runtime=runtime, dtype=dtype))  # type: ignore[arg-type]


def reference(folder: Path, texts: Sequence[str], **options: Any) -> np.ndarray:
    """One text at a time, with the model loaded anew for each: so it depends on nothing else."""
    from sentence_transformers import SentenceTransformer

    rows = []
    for text in texts:
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        model.max_seq_length = read_model(folder, folder.parent / "hashes").max_length
        rows.append(model.encode([text], normalize_embeddings=True, show_progress_bar=False, **options)[0])
    return np.array(rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch"])
def test_fp32_equals_sentence_transformers(root: Path, family: str, runtime: str) -> None:
    folder = folder_of(root, family)
    texts = [*TEXTS, LONG] if family in LONG_WINDOWS else TEXTS
    if family in NOT_ON_ONNX and runtime != "torch":
        with pytest.raises(ParityError, match=r"cannot run on onnxruntime: its graph .*Use --runtime torch"):
            load(root, folder, runtime, "fp32")
        return
    encoder = load(root, folder, runtime, "fp32")
    ours = encoder.encode_texts(texts, kind="passage").vectors
    assert np.abs(ours - reference(folder, texts)).max() < 1e-4
    # The texts are told apart, so that a fault would show.
    assert (ours @ ours.T - np.eye(len(texts))).max() < 0.99


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"longformer"}))  # refused as BigBird is, but slowly
def test_int8_agrees_or_is_refused(root: Path, family: str) -> None:
    folder = folder_of(root, family)
    if family in NOT_IN_INT8:
        with pytest.raises(ParityError, match=r"does not agree|cannot run on onnxruntime"):
            load(root, folder, "onnx", "int8")
        return
    vectors = load(root, folder, "onnx", "int8").encode_texts(TEXTS, kind="passage").vectors
    assert (vectors * reference(folder, TEXTS)).sum(axis=1).mean() > 0.99


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_int8_with_weights_in_a_file_of_their_own(root: Path, tmp_path: Path, family: str) -> None:
    """As all models of real size have them. MPNet's attention is not fused."""
    folder = make_model(tmp_path / "m", family, max_position_embeddings=9002)
    encoder = load(tmp_path, folder, "onnx", "int8")
    vectors = encoder.encode_texts(TEXTS, kind="passage").vectors
    assert (vectors * reference(folder, TEXTS)).sum(axis=1).mean() > 0.99
    (export,) = (tmp_path / "cache" / "models").glob("*-int8")
    assert {file.name for file in export.iterdir()} == {"manifest.json", "model.onnx", "model.onnx.data"}
    assert encoder.weight_bytes > 9000 * WIDTH * 4


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NOT_ON_ONNX))
def test_int8_on_openvino(root: Path, family: str) -> None:
    encoder = load(root, folder_of(root, family), "openvino", "int8-g64")
    vectors = encoder.encode_texts(TEXTS, kind="passage").vectors
    cosines = (vectors * reference(folder_of(root, family), TEXTS)).sum(axis=1)
    assert cosines.mean() > 0.99
    assert cosines.min() < 1 - 1e-7  # it is not fp32 by another name
    # A collection made with it goes on with it, whatever the setting.
    assert encoder_for(encoder.contract, Settings(cache_dir=root / "cache")).runtime_name == "openvino"
    ids = encoder.tokens.of_texts(TEXTS[:1])[0]
    assert encoder.token_vectors(ids, kind="passage").shape == (len(ids) + encoder.reserved("passage"), WIDTH)


def test_openvino_that_computes_something_else_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = openvino_runtime.OpenVinoRuntime.run
    monkeypatch.setattr(openvino_runtime.OpenVinoRuntime, "run", lambda *inputs: np.roll(run(*inputs), 1, axis=1))
    with pytest.raises(ParityError, match=r"on openvino in fp32 does not agree .*Use another --dtype or --runtime"):
        load(root, folder_of(root, "bert"), "openvino", "fp32")


def test_openvino_is_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependency, match=r"pip install 'embedsvc\[openvino\]'"):
        load(root, folder_of(root, "bert"), "openvino", "fp32")


@pytest.mark.parametrize(
    ("family", "runtime", "dtype"),
    [("bert", "onnx", "int8"), ("deberta-v2", "onnx", "fp32"), ("big_bird", "torch", "fp32")],
)
def test_auto_goes_on_with_what_can_run_it(
    root: Path, family: str, runtime: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(root, folder_of(root, family), "auto", "auto")
    assert (encoder.runtime_name, encoder.dtype) == (runtime, dtype)
    # What was found out is kept: nothing is exported again. And a collection's contract finds the same road.
    monkeypatch.setattr(exports, "run_module", None)
    settings = Settings(cache_dir=root / "cache")
    again = encoder_for(encoder.contract, settings)
    assert (again.runtime_name, again.dtype) == (runtime, dtype)
    contract.check_contract(again, encoder.contract)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings(root: Path, tmp_path: Path, pooling: str) -> None:
    folder = make_model(tmp_path / "m", "bert", pooling=pooling)
    expected = reference(folder, TEXTS)
    for runtime in ("onnx", "torch"):
        encoder = load(tmp_path, folder, runtime, "fp32")
        assert encoder.contract.pooling == pooling
        assert np.abs(encoder.encode_texts(TEXTS, kind="passage").vectors - expected).max() < 1e-4


def test_a_plain_transformers_folder_has_mean_pooling(root: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "roberta")
    expected = reference(folder, TEXTS)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    assert (
        np.abs(load(tmp_path, folder, "onnx", "fp32").encode_texts(TEXTS, kind="passage").vectors - expected).max()
        < 1e-4
    )


def test_a_dense_module(root: Path, tmp_path: Path) -> None:
    """As in LaBSE and distiluse."""
    folder = make_model(tmp_path / "m", "bert", normalize=False)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    write(folder / "modules.json", modules)
    activation = "torch.nn.modules.activation.Tanh"
    write(
        folder / "2_Dense" / "config.json",
        {"in_features": WIDTH, "out_features": 8, "bias": True, "activation_function": activation},
    )
    torch.manual_seed(1)
    weights = {"linear.weight": torch.randn(8, WIDTH).numpy(), "linear.bias": torch.randn(8).numpy()}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    encoder = load(tmp_path, folder, "onnx", "fp32")
    assert encoder.dimension == 8
    assert np.abs(encoder.encode_texts(TEXTS, kind="passage").vectors - reference(folder, TEXTS)).max() < 1e-4
    save_file({name: 2 * value for name, value in weights.items()}, folder / "2_Dense" / "model.safetensors")
    assert load(tmp_path, folder, "torch", "fp32").contract.weights_hash != encoder.contract.weights_hash


@pytest.mark.parametrize(
    ("prompts", "query", "passage"),
    [
        ({"query": "query: ", "document": "passage: "}, "query: ", "passage: "),  # E5 as sentence-transformers saves it
        ({"query": "query: ", "passage": "passage: "}, "query: ", "passage: "),
        ({"query": "represent this: "}, "represent this: ", ""),  # BGE
    ],
)
def test_prompts(root: Path, tmp_path: Path, prompts: dict[str, str], query: str, passage: str) -> None:
    folder = make_model(tmp_path / "m", "bert", pooling="cls", prompts=prompts)
    encoder = load(tmp_path, folder, "torch", "fp32")
    for kind, prompt in (("query", query), ("passage", passage)):
        ours = encoder.encode_texts(TEXTS, kind=kind).vectors  # type: ignore[arg-type]
        assert np.abs(ours - reference(folder, TEXTS, prompt=prompt)).max() < 1e-4


def test_sixteen_bits_are_used_only_if_their_vectors_agree(root: Path, tmp_path: Path) -> None:
    """Numbers that fp16 does not have, and bf16 has."""
    folder = make_model(tmp_path / "m", "bert")
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.weight"] *= 1e6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model = read_model(folder, tmp_path)
    settings, tokens = Settings(cache_dir=tmp_path), load_tokens(model)
    loading._load_runtime(model, tokens, "torch", "bf16", False, settings)
    with pytest.raises(ParityError, match=r"on torch in fp16 does not agree .*Use another --dtype or --runtime"):
        loading._load_runtime(model, tokens, "torch", "fp16", False, settings)


# -- bad models --------------------------------------------------------------------------------------------------------


def test_the_tokenizer_of_another_model(root: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "bert")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"more{number}": 1000 + number for number in range(9)}
    write(folder / "tokenizer.json", tokenizer)
    with pytest.raises(ModelError, match="the tokenizer of another model"):
        load(tmp_path, folder, "onnx", "fp32")


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_weights_that_are_not_numbers(root: Path, tmp_path: Path, runtime: str) -> None:
    folder = make_model(tmp_path / "m", "bert")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"][:] = np.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"NaN or infinity.*damaged"):
        load(tmp_path, folder, runtime, "fp32").encode_texts(["why"], kind="query")
