"""What README.md shows in a shell, run as it stands there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedsvc.config import Settings
from tests.conftest import write_tree
from tests.data_readers import make_pdf
from tests.server import server, until

CACHE = Settings().cache  # of exported models, which are slow to make; before HOME is another
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
FILES = {
    "papers/aspirin.txt": "Aspirin thins the blood.\n",
    "notes/today.md": "# Today\n\nBuy bread.\n",
    "notes/run.log": "started\n",
}


def lines_of(section: str) -> list[str]:
    """The commands of a section, each on one line, without the remarks behind them."""
    text = re.split(r"^## ", README, flags=re.MULTILINE)
    (found,) = [each for each in text if each.startswith(f"{section}\n")]
    shown = "\n".join(re.findall(r"^    (.*)$", found, re.MULTILINE)).replace("\\\n", " ")
    return [re.sub(r"\s+# .*$", "", line) for line in shown.splitlines()]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_tree(tmp_path, FILES)
    statins = make_pdf(["The side effects of statins are muscle pain and, rarely, diabetes."], title="Statins")
    (tmp_path / "papers" / "statins-2023.pdf").write_bytes(statins)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EMBEDSVC_CACHE_DIR", str(CACHE))
    monkeypatch.setenv("EMBEDSVC_DATA_DIR", str(tmp_path / "indexes"))
    monkeypatch.setenv("EMBEDSVC_RUNTIME", "onnx")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return {"shell": True, "executable": "/bin/bash", "cwd": tmp_path, "text": True, "stdout": subprocess.PIPE}


def test_the_commands_of_the_first_page_do_what_it_says(shell: dict[str, Any], tmp_path: Path) -> None:
    activate, papers, notes, pages, search, filtered, serve, curl = lines_of("Your documents")
    # The environment is this one; there is no network; the server is the fixture below.
    assert (activate, serve) == (". .venv/bin/activate", "embedsvc serve")
    assert pages.startswith("embedsvc index https://")

    subprocess.run(papers, check=True, **shell)
    with subprocess.Popen(f"exec {notes}", **shell) as watching:
        until(lambda: (tmp_path / "indexes" / "notes" / "passages.lance").is_dir())
        watching.send_signal(signal.SIGINT)
    kept = subprocess.run("embedsvc collections show notes --json", check=True, **shell).stdout
    assert json.loads(kept)["documents"] <= 1, "*.log is left out"
    assert "muscle pain" in subprocess.run(search, check=True, **shell).stdout
    found = json.loads(subprocess.run(filtered, check=True, **shell).stdout)
    assert [hit["title"] for hit in found["hits"]] == ["Statins"]
    with server(tmp_path / "indexes") as running:
        asked = curl.replace("localhost:8080", running.url)
        answer = json.loads(subprocess.run(asked, check=True, **shell).stdout)
    assert answer["hits"][0]["title"] == "Statins"
