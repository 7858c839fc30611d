"""What holds of the command line as a whole: its page, its settings, what the shell completes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from embedsvc.cli.commands import app
from embedsvc.config import memory_bytes

ROOT = Path(__file__).parent.parent
EMBEDSVC, TYPER = (str(Path(sys.executable).with_name(name)) for name in ("embedsvc", "typer"))


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EMBEDSVC, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def commands(group: TyperGroup, before: str = "") -> Iterator[tuple[str, object]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def test_the_page_of_all_commands_is_that_of_this_version() -> None:
    told = subprocess.run(
        [TYPER, "embedsvc.cli.commands", "utils", "docs", "--name", "embedsvc", "--title", "Command line"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.strip() == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").strip(), "run: make docs"


def test_every_command_prints_json_but_those_that_stay() -> None:
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    without = {name for name, command in commands(root) if "json" not in {each.name for each in command.params}}  # type: ignore[attr-defined]
    assert without == {"serve", "mcp", "demo"}


def test_where_each_setting_comes_from_is_told(tmp_path: Path) -> None:
    (tmp_path / "embedsvc.toml").write_text('overlap = 32\nport = 9\nocr = "off"\n', encoding="utf-8")
    told = run(
        "config", "show", "--data-dir", "here", "--json", cwd=tmp_path, EMBEDSVC_PORT="10", EMBEDSVC_API_KEYS="s3cret,b"
    )
    settings = {row["name"]: (row["value"], row["from"]) for row in json.loads(told.stdout)["settings"]}
    file = str(tmp_path / "embedsvc.toml")
    assert settings["data_dir"] == ("here", "flag")
    assert settings["port"] == (10, "EMBEDSVC_PORT")
    assert (settings["overlap"], settings["ocr"]) == ((32, file), ("off", file))
    assert settings["chunk_tokens"] == (512, "default")
    assert settings["api_keys"] == ("(2 hidden)", "EMBEDSVC_API_KEYS")
    shown = run("config", "show", cwd=tmp_path, EMBEDSVC_API_KEYS="s3cret,b", COLUMNS="200")
    assert "EMBEDSVC_API_KEYS" in shown.stdout
    half = memory_bytes() // 2_000_000
    assert f"0 (half of the memory: {half:,} MB)" in shown.stdout
    assert "half of" not in run("config", "show", cwd=tmp_path, EMBEDSVC_INDEX_MEMORY_MB="500", COLUMNS="200").stdout
    assert "s3cret" not in told.stdout + shown.stdout


@pytest.mark.parametrize(
    ("toml", "said"),
    [("chunk_token = 3", "did you mean 'chunk_tokens'?"), ("port = 'x'", "port is 'x'"), ("port", "TOML")],
)
def test_a_settings_file_that_is_wrong_is_said_to_be(tmp_path: Path, toml: str, said: str) -> None:
    (tmp_path / "embedsvc.toml").write_text(toml, encoding="utf-8")
    told = run("config", "show", cwd=tmp_path)
    assert (told.returncode, told.stdout) == (2, "")
    assert said in told.stderr
    assert "embedsvc.toml" in told.stderr


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("embedsvc collections show ", ["library"]),
        ("embedsvc search question -c lib", ["library"]),
        ("embedsvc documents delete x", []),
        ("embedsvc coll", ["collections"]),
        ("embedsvc config s", ["show"]),
    ],
)
def test_the_shell_completes_commands_and_collections(library: Path, line: str, found: list[str]) -> None:
    told = run(
        cwd=library,
        EMBEDSVC_DATA_DIR=str(library),
        _EMBEDSVC_COMPLETE="complete_bash",
        COMP_WORDS=line,
        COMP_CWORD=str(len(line.split(" ")) - 1),
    )
    assert told.stdout.split() == found


def test_plan_is_a_command_of_index(tmp_path: Path) -> None:
    assert "index plan" in run("--help", cwd=tmp_path).stdout
    assert json.loads(run("index", "plan", "--passages", "1000", "--json", cwd=tmp_path).stdout)["kind"] == "flat"


def test_the_exit_code_stands_where_work_in_the_background_is_given_up(tmp_path: Path) -> None:
    """A process that was stopped in mid-import, while its index was being built, said that all went well."""
    program = (
        "import sys, threading\n"
        "from embedsvc.cli import main\n"
        "from embedsvc.vectors import background\n"
        "background._PARTING_SECONDS = 0.01\n"
        "begun = threading.Event()\n"
        "work = lambda: begun.set() or threading.Event().wait(60)\n"
        "background.Background('endless').submit(work)\n"
        "begun.wait(60)\n"
        "sys.argv = ['embedsvc', *sys.argv[1:]]\n"
        "main()\n"
    )
    for arguments, code in ((["collections", "show", "none"], 2), (["--version"], 0)):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
