"""What the container is made from: that its files say what docs/operations.md promises, and that what is left out of
its environment is not missed. ``benchmarks/container.py`` makes the environment and serves from it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from embedsvc.config import Settings
from embedsvc.encoding import Encoder
from embedsvc.encoding.packing import pack, unpack

ROOT = Path(__file__).parent.parent


def stages() -> dict[str, list[dict[str, Any]]]:
    """Instructions by the name of their stage, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in DockerfileParser(path=str(ROOT / "Dockerfile")).structure:
        if each["instruction"] == "FROM":
            found[each["value"].split()[-1]] = []
        elif each["instruction"] != "COMMENT":
            list(found.values())[-1].append(each)
    return found


def values(stage: list[dict[str, Any]], instruction: str) -> list[str]:
    return [each["value"] for each in stage if each["instruction"] == instruction]


def test_the_image_that_is_built_by_default_is_the_small_one() -> None:
    found = stages()
    assert list(found)[-1] == "cpu"
    for name in ("cpu", "gpu"):
        assert not values(found[name], "RUN"), "nothing is installed in the stage that runs"
        assert all(value.startswith("--from=build") for value in values(found[name], "COPY"))
        (user,) = values(found[name], "USER")
        assert user.isdigit(), "a number: an orchestrator can tell that it is not root"
        assert int(user) > 0
    assert values(found["base"], "HEALTHCHECK")
    assert values(found["base"], "VOLUME") == ["/data"]
    assert json.loads(values(found["base"], "ENTRYPOINT")[0]) == ["/opt/embedsvc/bin/embedsvc"]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    for value in values(stages()["source"], "COPY"):
        *sources, _ = value.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source in kept, source


def test_the_health_check_is_a_program() -> None:
    (check,) = values(stages()["base"], "HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    compile(command[-1], "HEALTHCHECK", "exec")
    assert "/readyz" in command[-1]


def test_compose_runs_it_locked_down_and_prometheus_finds_it() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    service = compose["services"]["embedsvc"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]
    assert all(port.startswith("127.0.0.1:") for each in compose["services"].values() for port in each["ports"])
    scraped = yaml.safe_load((ROOT / "container" / "prometheus.yml").read_text(encoding="utf-8"))
    assert scraped["scrape_configs"][0]["static_configs"] == [{"targets": ["embedsvc:8080"]}]


@pytest.fixture(scope="module")
def requirements() -> ModuleType:
    spec = importlib.util.spec_from_file_location("requirements", ROOT / "container" / "requirements.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_installed_leaves_out_torch_and_all_that_comes_with_it(requirements: ModuleType) -> None:
    names = requirements.closure().keys()
    assert {"onnxruntime", "pylance", "faiss-cpu", "fastapi", "uvicorn", "tokenizers"} <= names
    assert not {"torch", "transformers", "sentence-transformers", "scipy", "onnx", "sympy", "pytest"} & names


SERVING = """
import sys
for name in {missing}:
    sys.modules[name] = None
import embedsvc.service.app, embedsvc.cli.commands
import embedsvc
docs = embedsvc.open("c", data_dir="data", cache_dir="cache", runtime="onnx")
docs.add([{{"title": "Bones", "text": "Vitamin D deficiency weakens bones."}}])
print(docs.search("vitamins", mode="hybrid").hits[0].title)
"""


def test_nothing_that_is_left_out_is_missed(encoder: Encoder, requirements: ModuleType, tmp_path: Path) -> None:
    pack(encoder.model, Settings().cache, tmp_path / "model.pack", weights=False)
    unpack(tmp_path / "model.pack", tmp_path / "cache")
    left_out = requirements.ONLY_FOR_EXPORTS | requirements.ONLY_FOR_EVALUATION | requirements.NEVER_LOADED
    missing = sorted({name.replace("-", "_") for name in left_out} | {"transformers", "scipy", "sklearn", "hf_xet"})
    done = subprocess.run(
        [sys.executable, "-c", SERVING.format(missing=missing)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "Bones\n", done.stderr
