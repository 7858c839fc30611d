"""What the documentation shows in Python, run as it stands there. ``make check`` looks at its types."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedsvc.config import Settings
from tests.conftest import write_tree
from tests.examples import examples
from tests.server import server

DOCS = Path(__file__).parent.parent / "docs"
HANDBOOK = {
    "refunds.md": "# Refunds\n\nMoney is paid back within 14 days of a return.\n",
    "travel.md": "# Travel\n\nThe office books trains.\n",
    "empty.txt": "",
}


def test_the_examples_of_the_python_api_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "handbook", HANDBOOK)
    monkeypatch.setenv("EMBEDSVC_CACHE_DIR", str(Settings().cache))  # exported models, which are slow to make
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EMBEDSVC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EMBEDSVC_RUNTIME", "onnx")
    monkeypatch.chdir(tmp_path)
    program = examples(DOCS / "python.md")
    assert program.count("http://localhost:8080") == 2
    with server(tmp_path / "data") as running:
        exec(compile(program.replace("http://localhost:8080", running.url), "docs/python.md", "exec"), {})
    said = capsys.readouterr().out
    assert "Money is paid back" in said
    assert "[1] file://" in said
    assert "empty.txt" in said
    assert "['handbook'] A lost badge is reported at the front desk." in said
    assert "metadata.year >" in said
