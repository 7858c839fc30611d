"""Of the blocks of README.md and docs/*.md and the commands in their tables: what test runs each, or why none does. Of
commands in running text: only that the programs, targets and options that they name exist.

That a test runs what the page shows, to the letter, is the test's own to see to, by reading the page: here is seen only
that it is there, in a file that names the page."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.core import TyperGroup
from typer.main import get_command

from embedsvc.cli.commands import app
from tests.snippets import ROOT, Snippet, snippets

SHELL = "tests/test_docs_shell.py::"
TABLES = f"{SHELL}test_the_commands_of_tables_work"
DOCKER = "tests/test_container.py::test_what_docker_is_told_fits_dockerfile_and_compose"
AGENTS = "tests/test_docs.py::test_the_examples_and_settings_of_agents_work"
INSTALL = "tests/test_snippets.py::test_what_pip_is_asked_for_is_there"
RUN_BY = {
    ("README.md", "Your documents", "shell"): f"{SHELL}test_the_commands_of_readmes_first_page_do_what_it_says",
    ("README.md", "Commands", "table embedsvc"): TABLES,
    ("README.md", "Commands", "table pip"): INSTALL,
    ("README.md", "Where your app is", "table pip"): INSTALL,
    ("README.md", "Where your app is", "table embedsvc"): AGENTS,
    ("README.md", "Where your app is", "table docker"): DOCKER,
    (
        "docs/cli.md",
        "*",
        "console",
    ): "tests/test_command_line.py::test_the_page_of_all_commands_is_that_of_this_version",
    ("docs/indexes.md", "The vector index", "shell"): f"{SHELL}test_the_vector_index_is_planned_and_shown",
    ("docs/integrations.md", "*", "python"): "tests/test_docs.py::test_the_examples_of_the_integrations_run",
    ("docs/mcp.md", "*", "json"): AGENTS,
    ("docs/mcp.md", "*", "python"): AGENTS,
    ("docs/mcp.md", "*", "shell"): "tests/test_docs.py::test_claude_starts_what_it_is_told_to_add",
    ("docs/models.md", "Models", "shell"): f"{SHELL}test_a_model_is_measured_packed_and_unpacked",
    ("docs/openai.md", "*", "python"): "tests/test_docs.py::test_the_examples_of_openais_client_run",
    ("docs/openai.md", "What is as there, and what is not", "table embedsvc"): TABLES,
    ("docs/operations.md", "What is where", "files"): f"{SHELL}test_a_damaged_collection_is_repaired",
    ("docs/operations.md", "Verify", "shell"): f"{SHELL}test_a_collection_is_kept_in_order",
    ("docs/operations.md", "Delete documents", "shell"): f"{SHELL}test_a_collection_is_kept_in_order",
    ("docs/operations.md", "Snapshots", "shell"): f"{SHELL}test_a_collection_is_kept_in_order",
    ("docs/operations.md", "Duplicates", "shell"): f"{SHELL}test_a_collection_is_kept_in_order",
    ("docs/operations.md", "Backup", "shell"): f"{SHELL}test_a_collection_is_kept_in_order",
    ("docs/operations.md", "Compact", "shell"): f"{SHELL}test_a_collection_is_kept_in_order",
    ("docs/operations.md", "Repair", "shell"): f"{SHELL}test_a_damaged_collection_is_repaired",
    ("docs/operations.md", "Migration to another model", "shell"): f"{SHELL}test_a_collection_moves_to_another_model",
    ("docs/operations.md", "Container", "shell"): DOCKER,
    ("docs/operations.md", "At 3 a.m.", "table grep"): f"{SHELL}test_the_bytes_of_a_text_are_looked_for",
    ("docs/python.md", "*", "python"): "tests/test_docs.py::test_the_examples_of_the_python_api_run",
    ("docs/search.md", "Fusion", "shell"): f"{SHELL}test_a_fusion_is_chosen",
    ("docs/search.md", "*", "table embedsvc"): TABLES,
}
"""By page, section and kind; of commands in tables also by program. ``*``: any section."""

NOT_RUN = {
    ("README.md", "embedsvc", "shell"): "make demo installs 2 GB from a package index; that make knows it is tested",
    ("README.md", "Development", "shell"): "make test runs this test, make check the linters, make bench takes an hour",
    (
        "docs/architecture.md",
        "What is stored",
        "files",
    ): "what is stored, with names in place of variables: no commands",
    ("docs/performance.md", "Ingestion: can it be left alone?", "table make"): "kills and faults for half an hour",
    ("docs/performance.md", "Ingestion: can it be left alone?", "table python"): "a trace of system calls, by strace",
    ("docs/performance.md", "Speed", "table python"): "benchmarks of many minutes, of data sets, some on a GPU",
    ("docs/performance.md", "Speed", "table embedsvc"): "names what was timed; others run it",
}
"""The same, with the reason. That these programs, targets and options exist is tested below."""


def key(snippet: Snippet) -> tuple[str, str, str]:
    kind = f"table {snippet.program}" if snippet.kind == "table" else snippet.kind
    anywhere = (snippet.page, "*", kind)
    return anywhere if anywhere in RUN_BY else (snippet.page, snippet.section, kind)


def test_every_block_and_command_of_a_table_has_a_test_or_a_reason() -> None:
    found = {key(each): each for each in snippets() if each.kind != "prose"}
    told = RUN_BY.keys() | NOT_RUN.keys()
    new = {f"{each.page}:{each.line} {at[2]} in {each.section!r}" for at, each in found.items() if at not in told}
    assert new == set(), "run these by a test and name it in RUN_BY, or say why not in NOT_RUN"
    assert told - found.keys() == set(), "these are in the docs no more"
    assert not RUN_BY.keys() & NOT_RUN.keys()


def test_tests_that_run_snippets_are_there_and_name_their_page() -> None:
    for (page, _, _), name in RUN_BY.items():
        file, _, function = name.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert function in {each.name for each in ast.parse(text).body if isinstance(each, ast.FunctionDef)}, name
        names = page in text or Path(page).name in text or "in snippets()" in text
        assert names, f"{file} does not name {page}"


def named(program: str) -> list[str]:
    """Commands of a program, in whatever place, without those of the page that is made from the program itself."""
    return sorted({each.text for each in snippets() if each.program == program and each.page != "docs/cli.md"})


@pytest.mark.parametrize("line", named("embedsvc"))
def test_commands_and_options_that_are_named_exist(line: str) -> None:
    command = get_command(app)
    words = shlex.split(re.sub(r"^(\S+=\S+ )*|[\[\]…|]", "", line))
    if words[1:3] == ["index", "plan"]:
        words[1:3] = ["index plan"]
    known = {"--help", "--install-completion"}
    for word in words[1:]:
        if isinstance(command, TyperGroup) and word in command.commands:
            command = command.commands[word]
            known |= {option for each in command.params for option in each.opts + each.secondary_opts}
        elif word.startswith("-") and word != "-":
            assert word in known, f"{word} in: {line}"


@pytest.mark.parametrize("line", named("python"))
def test_programs_and_their_options_exist(line: str) -> None:
    _, program, *arguments = shlex.split(line)
    if program == "-m":
        program = arguments.pop(0).replace(".", "/") + ".py"
    text = (ROOT / program).read_text(encoding="utf-8")
    for option in [each for each in arguments if each.startswith("--")]:
        used = rf"given\.{option[2:].replace('-', '_')}\b|\"{option}\""
        assert re.search(used, text), f"{option} in: {line}"


def test_targets_of_make_exist() -> None:
    for line in named("make"):
        done = subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"


def test_what_pip_is_asked_for_is_there() -> None:
    """All install from the checkout, with its constraints, extras that it has. What those of the integrations need
    besides is found by pip itself, without an index to ask, in the environment of the tests: it has those extras."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    in_tests = []
    for each in snippets():
        if each.program != "pip":
            continue
        told = shlex.split(each.text)
        assert told[:4] == ["pip", "install", "-c", "constraints.txt"], each
        assert told[4:-1] in ([], ["-e"]), each
        assert told[-1].startswith(".["), each
        requirement = Requirement(told[-1].replace(".", "embedsvc", 1))
        assert requirement.extras <= extras.keys(), each
        if each.page in ("docs/integrations.md", "docs/mcp.md"):
            in_tests.append(str(requirement))
    assert len(in_tests) >= 4
    told = [sys.executable, "-m", "pip", "install", "--no-index", "--dry-run", "-c", "constraints.txt", *in_tests]
    done = subprocess.run(told, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout
