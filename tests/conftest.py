from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import embedsvc.encoding.exports as exports
from embedsvc.config import Settings
from embedsvc.encoding import Encoder, load_encoder
from embedsvc.ingest import ingest_paths, open_or_create
from embedsvc.readers import FieldChoice
from tests.fakes import WORDS, FakeEncoder

settings.register_profile(
    "embedsvc",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("embedsvc")

LIBRARY = {
    "power.md": "# Power\n\nAfter a power failure the service restarts by itself.\n\n## By hand\n\n"
    "Run the restart command as the administrator.\n",
    "garden.txt": "Tomatoes want sun and water. Prune the apple trees in winter.\n",
    "notes/astronomy.txt": "Jupiter is the largest planet. Its moons were seen by Galileo.\n",
    "papers.jsonl": '{"_id": "p1", "title": "Bones", "text": "Vitamin D deficiency weakens bones.", "year": 2011}\n'
    '{"_id": "p2", "title": "Hearts", "text": "Olive oil is good for the heart.", "year": 2020}\n',
}
"""Files of the collection ``library``, by path."""


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the caller's settings, or writes into the checkout's data directory."""
    for name in [name for name in os.environ if name.startswith("EMBEDSVC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EMBEDSVC_DATA_DIR", str(tmp_path / "default-data"))


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The default model as the command line runs it: int8 on onnx."""
    return load_encoder(Settings(runtime="onnx", dtype="int8", threads=2))


@pytest.fixture
def exports_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_in_process(monkeypatch)  # the test's own: another's patches would be undone in the wrong order


def torch_in_process(patched: pytest.MonkeyPatch) -> None:
    """Exports and reference vectors are made in this process: importing torch in another takes longer than all else."""
    from embedsvc.encoding import contract, export

    work = {export.__name__: export.main, contract.__name__: contract._reference_vectors}

    def run_module(module: str, argument: str, task: str) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as the program itself does
            return json.dumps(work[module](json.loads(argument)))

    patched.setattr(exports, "run_module", run_module)
    patched.setattr(contract, "run_module", run_module)


@pytest.fixture
def fake() -> FakeEncoder:
    return FakeEncoder(WORDS)


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    """Settings with an empty data directory and a lock that nobody waits for."""
    return Settings(data_dir=tmp_path / "data", lock_timeout=0.0, runtime="onnx", threads=2)


@pytest.fixture(scope="session")
def _library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    write_tree(root / "files", LIBRARY)
    settings = Settings(data_dir=root / "data", runtime="onnx", threads=2)
    collection, encoder = open_or_create("library", settings, frozenset())
    for outcome in ingest_paths(collection, encoder, [root / "files"], fields=FieldChoice(), max_file_mb=1):
        assert outcome.status == "indexed", outcome
    return root


@pytest.fixture
def library(_library: Path, tmp_path: Path) -> Path:
    """A data directory of its own with the indexed collection ``library``."""
    return Path(shutil.copytree(_library / "data", tmp_path / "library-data"))


@pytest.fixture
def library_files(_library: Path) -> Path:
    return _library / "files"


def skip_unless_root() -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root becomes another user")


@contextmanager
def normal_user() -> Iterator[None]:
    """Another user, who may not come to ``tmp_path``, nor perhaps to modules that are not imported yet."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
    return folder
