"""The notebooks, run cell by cell in this process: no kernel has to be installed, or started."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from embedsvc.config import Settings

ROOT = Path(__file__).parent.parent
NOTEBOOKS = {file.name: file for file in sorted((ROOT / "notebooks").glob("*.ipynb"))}


class Expected(NamedTuple):
    """What a notebook prints, among other things, and how many figures it shows."""

    printed: tuple[str, ...]
    figures: int


EXPECTED = {
    "evaluate.ipynb": Expected(("hybrid   nDCG@10", "14 queries:"), 2),
    "explore.ipynb": Expected(("Onion soup · ", "Models [0:", "documents alike: Models = Copy of Models"), 3),
    "quickstart.ipynb": Expected(("[1] ", "“Move a collection to another model", "of cli.md"), 2),
    "rag.ipynb": Expected(("[7] is no source", "it answers meanwhile. [1]", "cli.md, characters"), 0),
}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the documentation and nothing else, where notebooks share a collection of it, as a reader's do."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "docs", root / "docs", ignore=shutil.ignore_patterns("images"))
    (root / "notebooks").mkdir()
    return root


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(
    name: str, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    shown: list[int] = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.extend(pyplot.get_fignums()) or pyplot.close("all"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(checkout / "notebooks")
    monkeypatch.setenv("EMBEDSVC_CACHE_DIR", str(Settings().cache))  # exported models, which are slow to make
    monkeypatch.setenv("EMBEDSVC_DATA_DIR", str(checkout / "notebooks" / "indexes"))
    monkeypatch.setenv("EMBEDSVC_RUNTIME", "onnx")
    cells = json.loads(NOTEBOOKS[name].read_text(encoding="utf-8"))["cells"]
    assert "pip install -c constraints.txt" in "".join(cells[0]["source"]), "the first cell says what it needs"
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code"), "commit it without outputs"
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}: {cell['id']}", "exec"), names)
    said = capsys.readouterr().out
    expected = EXPECTED[name]
    for printed in expected.printed:
        assert printed in said
    assert len(shown) == expected.figures
