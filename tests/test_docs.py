"""What the documentation shows in Python, run as it stands there. ``make check`` looks at its types."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

import embedsvc
from embedsvc.config import Settings
from embedsvc.service import create_app
from embedsvc.service.problems import COHERE_ROUTES, TEI_ROUTES, speaks_openai
from tests.conftest import write_tree
from tests.examples import examples, examples_apart
from tests.server import Server, server, until
from tests.snippets import commands, snippets

DOCS = Path(__file__).parent.parent / "docs"
HANDBOOK = {
    "refunds.md": "# Refunds\n\nMoney is paid back within 14 days of a return.\n",
    "travel.md": "# Travel\n\nThe office books trains.\n",
    "empty.txt": "",
}


@pytest.fixture
def handbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home with a handbook, and a data directory."""
    write_tree(tmp_path / "handbook", HANDBOOK)
    monkeypatch.setenv("EMBEDSVC_CACHE_DIR", str(Settings().cache))  # exported models, which are slow to make
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EMBEDSVC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EMBEDSVC_RUNTIME", "onnx")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("handbook")
def test_the_examples_of_the_python_api_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_the_table_of_routes_is_that_of_the_service(here: Settings) -> None:
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    section = page.partition("\n## Over REST\n")[2].partition("\n## ")[0]
    rows = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))
    named = re.findall(r"`([A-Z]+) ([^`]+)`", rows)
    told = [(method, path.replace("…", "/v1/collections/{name}")) for method, path in named]
    routes = create_app(here).openapi()["paths"]
    others = {path for path in routes if speaks_openai(path) or path in TEI_ROUTES | COHERE_ROUTES}
    own = [(method.upper(), path) for path, methods in routes.items() for method in methods if path not in others]
    assert sorted(told) == sorted(own)


def test_the_examples_of_openais_client_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "handbook", {name: text for name, text in HANDBOOK.items() if text})
    monkeypatch.chdir(tmp_path)
    with server(tmp_path / "data") as running:
        program = examples(DOCS / "openai.md").replace("http://localhost:8080", running.url)
        exec(compile(program, "docs/openai.md", "exec"), {})
    said = capsys.readouterr().out
    assert "completed None" in said
    assert "refunds.md: # Refunds\n\nMoney is paid back" in said
    assert "2 of 2" in said
    assert "{'team': 'support', 'year': 2024.0}" in said


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A service with the handbook's page on refunds, and its data folder, for tests that only ask."""
    data = tmp_path_factory.mktemp("agents") / "data"
    with server(data) as running:
        document = {"id": "refunds", "text": HANDBOOK["refunds.md"], "title": "Refunds"}
        running.http.post("/v1/collections/handbook/documents", json={"documents": [document]})
        until(lambda: running.http.get("/v1/collections/handbook").json()["documents"])
        yield running, str(data)


def test_the_examples_and_settings_of_agents_work(
    serving: tuple[Server, str], capsys: pytest.CaptureFixture[str]
) -> None:
    running, data = serving
    text = (DOCS / "mcp.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    (shortest,) = [each.text for each in snippets("README.md", "table") if each.text.startswith("embedsvc mcp")]
    command, *arguments = shortest.split()
    blocks.append(json.dumps({"mcpServers": {"documents": {"command": command, "args": arguments}}}))

    async def tools(at: Client) -> list[str]:
        async with at as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    for block in blocks:
        here = block.replace("http://localhost:8080", running.url).replace("/srv/indexes", data)
        (servers,) = json.loads(here).values()
        (settings,) = servers.values()
        at: str | StdioServerParameters = settings.get("url", "")
        if not at:
            assert settings["command"] == "embedsvc"
            environment = {"PYTHONPATH": str(DOCS.parent), **settings.get("env", {})}
            arguments = ["-m", "embedsvc", *settings["args"]]
            at = StdioServerParameters(command=sys.executable, args=arguments, env=environment)
        assert asyncio.run(tools(Client(at))) == ["search", "fetch", "list_collections"]
    program = examples(DOCS / "mcp.md").replace("http://localhost:8080", running.url)
    exec(compile(program, "docs/mcp.md", "exec"), {})
    said = capsys.readouterr().out
    assert f"Refunds {running.url}/?c=handbook&doc=refunds&start=0" in said
    assert "Money is paid back" in said


@pytest.mark.usefixtures("handbook")
def test_the_examples_of_the_integrations_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    for extra in ("langchain_core", "haystack", "llama_index.core"):
        pytest.importorskip(extra)
    embedsvc.open("handbook").index(tmp_path / "handbook")
    program = examples_apart(DOCS / "integrations.md")
    assert program.count("http://localhost:8080") == 2
    sections: dict[str, Any] = {}
    with server(tmp_path / "data") as running:
        exec(compile(program.replace("http://localhost:8080", running.url), "docs/integrations.md", "exec"), sections)
        for at in range(3):
            sections[f"section_{at}"]()
    said = capsys.readouterr().out
    assert "handbook/refunds.md 0 # Refunds" in said
    assert "The office books trains." in said
    assert said.count("Bees make honey.") == 2
    assert "'legs': 6" in said


CLAUDE = """#!{python}
import argparse, json, sys
parser = argparse.ArgumentParser("claude mcp add")  # as Claude Code takes it: options before the name
parser.add_argument("--transport", choices=["stdio", "http", "sse"], default="stdio")
parser.add_argument("name")
parser.add_argument("command_or_url")
parser.add_argument("arguments", nargs=argparse.REMAINDER)
assert sys.argv[1:3] == ["mcp", "add"]
print(json.dumps(vars(parser.parse_args(sys.argv[3:]))))
"""


def test_claude_starts_what_it_is_told_to_add(serving: tuple[Server, str], tmp_path: Path) -> None:
    """A ``claude`` that says what it understood, and the official client, which starts exactly that and asks it."""
    running, data = serving
    stand_in = tmp_path / "claude"
    stand_in.write_text(CLAUDE.format(python=sys.executable), encoding="utf-8")
    stand_in.chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin"

    async def found(at: Client) -> str:
        async with at as client:
            answer = await client.call_tool("search", {"query": "how do refunds work?"})
            return str(answer.structured_content["results"][0]["text"])

    lines = commands("docs/mcp.md")
    assert len(lines) == 2
    for line in lines:
        here = line.replace("http://localhost:8080", running.url).replace("/srv/indexes", data)
        done = subprocess.run(["/bin/bash", "-c", here], env={"PATH": path}, capture_output=True, check=True)
        told = json.loads(done.stdout)
        at: str | StdioServerParameters = told["command_or_url"]
        if told["transport"] == "stdio":
            environment = {"PATH": path, "PYTHONPATH": str(DOCS.parent)}
            at = StdioServerParameters(command=at, args=told["arguments"], env=environment)
        assert "Money is paid back" in asyncio.run(found(Client(at)))
