"""What the container is made from: that its files say what docs/operations.md promises, and that what is left out of
its environment is not missed. ``benchmarks/container.py`` makes the environment and serves from it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from embedsvc.config import PREFIX, Settings
from embedsvc.encoding import Encoder
from embedsvc.encoding.packing import pack, unpack
from tests.snippets import snippets

ROOT = Path(__file__).parent.parent
KNOWN = {f"{PREFIX}{field.name.upper()}" for field in fields(Settings)}
"""Variables that the service reads."""


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


def environment(*names: str) -> dict[str, str]:
    """The variables that stages set."""
    lines = " ".join(value for name in names for value in values(stages()[name], "ENV"))
    return dict(re.findall(r"(\w+)=(\S+)", lines))


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_variables_of_the_image_are_settings(target: str) -> None:
    own = {name for name in environment("base", target) if name.startswith(PREFIX)}
    assert {"EMBEDSVC_DATA_DIR", "EMBEDSVC_PORT", "EMBEDSVC_CACHE_DIR"} <= own <= KNOWN


# -- what the docs tell docker to do: no engine does it here -----------------------------------------------------------

STAND_IN = """#!{python}
import json, sys
with open({told!r}, "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
"""


@pytest.fixture
def told_to_docker(tmp_path: Path) -> list[list[str]]:
    """What a ``docker`` that only writes it down is told by the lines of the docs, and by those in the files' heads."""
    lines = [each.text for each in snippets() if each.program == "docker"]
    for name in ("Dockerfile", "compose.yaml"):
        lines += re.findall(r"^# (docker .*?)(?:  .*|: .*)?$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) >= 8
    program, told = tmp_path / "docker", tmp_path / "told"
    program.write_text(STAND_IN.format(python=sys.executable, told=str(told)), encoding="utf-8")
    program.chmod(0o755)
    for line in lines:
        subprocess.run(["/bin/bash", "-c", line], cwd=ROOT, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    return [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]


def options(verb: str, given: list[str]) -> argparse.Namespace:
    """Those that these lines may use of ``docker build`` and ``docker run``."""
    parser = argparse.ArgumentParser(verb, exit_on_error=False)
    if verb == "build":
        parser.add_argument("-t", dest="tag", required=True)
        parser.add_argument("--target", default="cpu")
        parser.add_argument("context")
    else:
        for flag in ("--read-only", "--rm"):
            parser.add_argument(flag, action="store_true")
        parser.add_argument("--tmpfs", action="append", default=[])
        parser.add_argument("-v", dest="volumes", action="append", default=[])
        parser.add_argument("-p", dest="ports", action="append", default=[])
        parser.add_argument("-e", dest="environment", action="append", default=[])
        parser.add_argument("image")
        parser.add_argument("command", nargs="*")
    return parser.parse_args(given)


def test_what_docker_is_told_fits_dockerfile_and_compose(told_to_docker: list[list[str]]) -> None:
    base, named = stages()["base"], stages()
    (volume,), (port,) = values(base, "VOLUME"), values(base, "EXPOSE")
    assert environment("base")["EMBEDSVC_DATA_DIR"] == volume
    assert environment("base")["EMBEDSVC_PORT"] == port
    (home,) = re.findall(r"--home-dir (\S+)", " ".join(values(base, "RUN")))
    (user,) = {value for name in ("cpu", "gpu") for value in values(named[name], "USER")}
    assert f"--uid {user} " in " ".join(values(base, "RUN"))
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert f"user {user}" in page

    built = [options("build", given) for verb, *given in told_to_docker if verb == "build"]
    for each in built:
        assert each.target in named
        assert (ROOT / each.context / "Dockerfile").is_file()
    assert {each.target for each in built} == {"cpu", "gpu"}
    ran = [options("run", given) for verb, *given in told_to_docker if verb == "run"]
    for given in ran:
        assert given.read_only
        assert given.image in {each.tag for each in built}
        assert [mounted.split(":")[1] for mounted in given.volumes] == [volume]
        assert [published.split(":")[-2:] for published in given.ports] == [[port, port]]
        assert given.tmpfs == [home]
        assert {name.partition("=")[0] for name in given.environment} <= KNOWN
    composed = [given for verb, *given in told_to_docker if verb == "compose"]
    assert composed
    assert all(given == ["up"] for given in composed)
    assert len(built) + len(ran) + len(composed) == len(told_to_docker)

    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    service, prometheus = compose["services"]["embedsvc"], compose["services"]["prometheus"]
    assert service["build"] == "."
    assert service["image"] in {each.tag for each in built}
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert [mounted.split(":")[1] for mounted in service["volumes"]] == [volume]
    assert service["tmpfs"] == [home]
    assert service["environment"].keys() <= KNOWN
    assert set(prometheus["depends_on"]) <= compose["services"].keys()
    for mounted in (*service["volumes"], *prometheus["volumes"]):
        source = mounted.split(":")[0]
        assert (ROOT / source).is_file() if source.startswith(".") else source in compose["volumes"]
    (shown,) = set(re.findall(r"Prometheus at http://localhost:(\d+)", page))
    assert prometheus["ports"] == [f"127.0.0.1:{shown}:{shown}"]


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


def test_all_that_it_needs_by_its_metadata_is_installed(requirements: ModuleType) -> None:
    names = requirements.closure().keys()
    assert "cryptography" in names, "mcp needs pyjwt[crypto]"
    asked = [("embedsvc", "cpu"), ("embedsvc", "mcp"), *((name, "") for name in ("embedsvc", *names))]
    for name, extra in asked:  # which grows by the extras that are met
        for each in map(Requirement, distribution(name).requires or ()):
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(each.name)
                assert needed in names | requirements.LEFT_OUT, f"{name}[{extra}] needs {needed}"
                asked += ((needed, more) for more in each.extras if (needed, more) not in asked)


SERVING = """
import sys
for name in {missing}:
    sys.modules[name] = None
import embedsvc.service.app, embedsvc.cli.commands, embedsvc.agents.server
import embedsvc
docs = embedsvc.open("c", data_dir="data", cache_dir="cache", runtime="onnx")
docs.add([{{"title": "Bones", "text": "Vitamin D deficiency weakens bones."}}])
print(docs.search("vitamins", mode="hybrid").hits[0].title)
"""


def test_nothing_that_is_left_out_is_missed(encoder: Encoder, requirements: ModuleType, tmp_path: Path) -> None:
    pack(encoder.model, Settings().cache, tmp_path / "model.pack", weights=False)
    unpack(tmp_path / "model.pack", tmp_path / "cache")
    there = {*requirements.closure(), "embedsvc"}
    missing = sorted(
        module for module, whose in packages_distributions().items() if not there & set(map(canonicalize_name, whose))
    )
    assert {"torch", "transformers", "sentence_transformers", "onnx", "pytest"} <= set(missing)
    done = subprocess.run(
        [sys.executable, "-c", SERVING.format(missing=missing)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "Bones\n", done.stderr
