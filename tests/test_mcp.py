"""The tools for agents, asked by the official MCP client: over standard input and output, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

import embedsvc.cli.mcp
from embedsvc.agents.shelves import OfLibrary
from embedsvc.agents.tools import TOOLS
from embedsvc.config import Settings, load_settings
from embedsvc.errors import NotFound, Overloaded
from embedsvc.records import PassageSpan, WholeText
from embedsvc.search.hits import Answer
from embedsvc.service import create_app
from embedsvc.storage.store import TABLE
from tests.server import Server, server, until

RESTART = "After a power failure, start the store first and the service second."
LONG = "".join(f"Paragraph {number} is about the number {number * 7}.\n\n" for number in range(1500))
KEY = "sesame"
Connect = Callable[[], Any]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mcp") / "indexes"


@pytest.fixture(scope="module")
def running(data_dir: Path) -> Iterator[Server]:
    with server(data_dir, api_keys=KEY) as started:
        started.http.headers["authorization"] = f"Bearer {KEY}"
        add(
            started,
            "handbook",
            {
                "id": "ops/restart",
                "uri": "kb/restart.md",
                "title": "Restart",
                "text": RESTART,
                "metadata": {"year": 2024},
            },
            {"id": "a:1-2:b", "uri": "https://example.com/bread", "text": "Bread needs flour, water and salt."},
        )
        add(started, "numbers", {"id": "long", "uri": "long.txt", "text": LONG})
        yield started


def add(running: Server, name: str, *documents: dict[str, Any]) -> None:
    job = running.http.post(f"/v1/collections/{name}/documents", json={"documents": documents}).json()
    until(lambda: running.http.get(f"/v1/jobs/{job['job']}").json()["status"] == "done")


def command(*arguments: str) -> StdioServerParameters:
    root = str(Path(__file__).parent.parent)
    return StdioServerParameters(
        command=sys.executable, args=["-m", "embedsvc", "mcp", *arguments], env={"PYTHONPATH": root}
    )


@asynccontextmanager
async def over_http(running: Server, key: str) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=60) as keyed,
        Client(streamable_http_client(f"{running.url}/mcp", http_client=keyed)) as client,
    ):
        yield client


@pytest.fixture(params=["http", "stdio", "stdio of the service"])
def connect(request: pytest.FixtureRequest, running: Server, data_dir: Path) -> Connect:
    def client() -> Any:
        if request.param == "http":
            return over_http(running, KEY)
        if request.param == "stdio":
            return Client(command("--data-dir", str(data_dir), "--public-url", "http://kb.example/"))
        return Client(command("--url", running.url, "--api-key", KEY))

    return client


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """What the tool gives: told twice, and the same both times."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    (content,) = result.content
    assert content.type == "text"
    assert json.loads(content.text) == result.structured_content
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)


def test_what_is_found_can_be_fetched(connect: Connect, running: Server) -> None:
    async def work() -> None:
        async with connect() as client:
            described = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert described.keys() == {"search", "fetch", "list_collections"}
            for tool in described.values():
                assert tool.annotations.read_only_hint
                assert tool.output_schema["type"] == "object"
            assert described["search"].input_schema["required"] == ["query"]

            there = await call(client, "list_collections")
            assert [(each["name"], each["documents"]) for each in there["collections"]] == [
                ("handbook", 2),
                ("numbers", 1),
            ]

            found = (await call(client, "search", query="what to do after a power failure?"))["results"]
            best = found[0]
            assert (best["title"], best["text"]) == ("Restart", RESTART)
            assert best["url"].endswith("/?c=handbook&doc=ops%2Frestart&start=0&end=68")
            assert best["url"].startswith(("http://kb.example/?", running.url))
            assert any(each["id"].startswith("numbers:") for each in found)  # of every collection

            document = await call(client, "fetch", id=best["id"])
            assert (document["id"], document["text"], document["url"]) == (best["id"], RESTART, best["url"])
            assert document["metadata"]["document"] == {"year": 2024}
            assert document["metadata"]["cited"] == {"start": 0, "end": 68}

            (bread,) = (await call(client, "search", query="bread", collection="handbook", k=1))["results"]
            assert bread["url"] == "https://example.com/bread"
            assert (await call(client, "fetch", id=bread["id"]))["text"].startswith("Bread needs")

            assert "no collection 'nowhere'" in await refused(client, "search", query="x", collection="nowhere")
            assert "not empty" in await refused(client, "search", query=" ")
            assert "ask for 1 to 50" in await refused(client, "search", query="x", k=51)
            assert "no id" in await refused(client, "fetch", id="nonsense")
            gone = await refused(client, "fetch", id="handbook:0-1:gone")
            assert "no document 'gone'" in gone
            assert "from the results of search" in gone
            long = await refused(client, "search", query="restart " * 2000)
            assert long.endswith("Ask again with a shorter query.")
            assert "on_overflow" not in long
            assert "no argument 'limit'; it takes query, collection, k" in await refused(
                client, "search", query="x", limit=3
            )
            nothing = await call(client, "search", query="?!")
            assert nothing["results"] == []
            assert [said.partition(" only")[0] for said in nothing["warnings"]] == ["The query is of punctuation"]
            with pytest.raises(MCPError, match="no tool 'delete'"):
                await client.call_tool("delete", {})

    run(work())


def test_a_client_that_leaves_in_mid_call_harms_nobody(running: Server, data_dir: Path) -> None:
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "search", "arguments": {"query": "x"}},
    }
    sent = json.dumps(body).encode()
    host, port = running.url.removeprefix("http://").split(":")
    for part in (sent, sent[:20]):
        with socket.create_connection((host, int(port))) as line:
            head = (
                f"POST /mcp HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {KEY}\r\n"
                f"content-type: application/json\r\n"
                f"accept: application/json, text/event-stream\r\ncontent-length: {len(sent)}\r\n\r\n"
            )
            line.sendall(head.encode() + part)

    async def work() -> None:
        async with over_http(running, KEY) as client:
            calling = asyncio.create_task(client.call_tool("search", {"query": "power failure"}))
            await asyncio.sleep(0)
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            assert (await call(client, "search", query="power failure"))["results"]

    run(work())
    assert running.http.get("/readyz").status_code == 200
    assert not [line for line in running.log if "Traceback" in line]

    process = subprocess.Popen(
        [sys.executable, "-m", "embedsvc", "mcp", "--data-dir", str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    _, said = process.communicate(sent + b"\n", timeout=60)  # asks, and is gone
    assert process.returncode == 0, said
    assert b"Traceback" not in said


def test_only_the_collections_that_were_named_are_shown(running: Server, data_dir: Path) -> None:
    async def work() -> None:
        async with Client(command("--data-dir", str(data_dir), "-c", "numbers")) as client:
            there = await call(client, "list_collections")
            assert [each["name"] for each in there["collections"]] == ["numbers"]
            assert "There are: numbers" in await refused(client, "search", query="x", collection="handbook")
            assert "no collection 'handbook'" in await refused(client, "fetch", id="handbook:0-68:ops/restart")
            (found,) = (await call(client, "search", query="Paragraph 1203", k=1))["results"]
            assert found["url"] == ""  # nobody said where

    run(work())


def test_a_damaged_collection_does_not_hide_the_others(tmp_path: Path, running: Server, data_dir: Path) -> None:
    (tmp_path / "broken" / TABLE).mkdir(parents=True)

    async def work() -> None:
        async with Client(command("--data-dir", str(tmp_path))) as client:
            assert "broken" in await refused(client, "search", query="Paragraph 7")
            shutil.copytree(data_dir / "numbers", tmp_path / "numbers")
            found = await call(client, "search", query="Paragraph 7")
            assert found["results"]
            (problem,) = found["not_searched"]
            assert "broken" in problem
            broken, _ = (await call(client, "list_collections"))["collections"]
            assert "cannot be read" in broken["error"]
            shutil.rmtree(tmp_path / "broken")
            shutil.rmtree(tmp_path / "numbers")
            assert "no collections here yet" in await refused(client, "search", query="x")

    run(work())


def test_a_wrong_key_and_a_service_that_is_down_are_told_to_the_agent(running: Server) -> None:
    async def work(url: str, key: str) -> str:
        async with Client(command("--url", url, "--api-key", key)) as client:
            return await refused(client, "search", query="x")

    assert "none of this service's" in run(work(running.url, "wrong"))
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    assert "cannot be reached" in run(work(f"http://127.0.0.1:{port}", KEY))
    answer = running.http.post("/mcp", json={}, headers={"authorization": "Bearer wrong"})
    assert answer.status_code == 401

    async def over(key: str) -> None:
        async with over_http(running, key) as client:
            await client.list_tools()

    with pytest.raises(ExceptionGroup) as raised:
        run(over("wrong"))
    told = raised.value
    while isinstance(told, ExceptionGroup):
        (told,) = told.exceptions
    assert "The key in the header Authorization is none of this service's" in str(told)


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 405),
        ("POST", {"origin": "https://evil.example"}, 403),
        ("POST", {"host": "evil.example"}, 403),
        ("POST", {"content-type": "text/plain"}, 400),
    ],
)
def test_what_browsers_may_be_made_to_send_is_refused(
    running: Server, method: str, headers: dict[str, str], status: int
) -> None:
    answer = running.http.request(method, "/mcp", headers={"content-type": "application/json"} | headers, content=b"{}")
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["handbok"], "There is no collection 'handbok' in {data}. Did you mean 'handbook'?"),
        ([], "There are no collections in {data} yet"),
        (["handbook"], ""),
    ],
)
def test_what_is_not_there_is_said_at_the_start_and_served_when_it_comes(
    names: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if names:
        (tmp_path / "handbook" / "passages.lance").mkdir(parents=True)
    served: list[OfLibrary] = []
    monkeypatch.setattr("embedsvc.agents.server.serve_stdio", lambda shelf, url: served.append(shelf))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    embedsvc.cli.mcp.serve(Settings(data_dir=tmp_path), names, None, None)
    assert list(served[0].only) == names
    told = capsys.readouterr()
    assert told.out == ""
    assert says.format(data=tmp_path) in told.err
    assert bool(told.err) == bool(says)


def test_without_the_sdk_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "mcp_types.py").write_text("raise ModuleNotFoundError(name='mcp_types')")
    done = subprocess.run(
        [sys.executable, "-m", "embedsvc", "mcp"],
        cwd=Path(__file__).parent.parent,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'embedsvc[mcp]'" in done.stderr


@pytest.mark.parametrize(
    ("error", "status"), [(ModuleNotFoundError("mcp_types"), 503), (ZeroDivisionError("secret"), 500)]
)
def test_a_service_whose_sdk_fails_goes_on_and_ends(
    error: Exception, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("embedsvc.service.mcp._door", fail)
    monkeypatch.setattr("embedsvc.encoders.Encoders.warm", lambda self: None)
    ended: list[bool] = []
    app = create_app(load_settings({"data_dir": str(tmp_path), "runtime": "onnx"}), lambda: ended.append(True))

    async def work() -> None:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
        ):
            for _ in range(2):
                answer = await http.post("/mcp", json={})
                assert (answer.status_code, "secret" in answer.text) == (status, False)
                assert (await http.get("/v1/collections")).status_code == 200

    asyncio.run(work())
    assert ended == [True], "jobs were stopped, and threads ended"


# -- parts of long documents, without a server -----------------------------------------------------------------------


class _Fake:
    """A shelf with one document."""

    def __init__(self, text: str, uri: str = "long.txt") -> None:
        self.text, self.uri = text, uri

    async def names(self) -> list[str]:
        return ["numbers"]

    async def get(self, name: str, id: str) -> WholeText:
        if id != "long":
            raise NotFound(id)
        spans = range(0, len(self.text), 1000)
        passages = tuple(PassageSpan(f"long:{at}", at, min(at + 1000, len(self.text)), None, None) for at in spans)
        return WholeText("long", self.uri, "", {}, self.text, passages)


def fetched(shelf: Any, id: str) -> dict[str, Any]:
    fetch = next(tool for tool in TOOLS if tool.name == "fetch")
    given: dict[str, Any] = run(fetch.call(shelf, "", {"id": id}))  # type: ignore[arg-type]
    return given


def test_a_long_document_comes_in_parts_that_make_it_up() -> None:
    pieces, id = [], "numbers:long"
    while id:
        part = fetched(_Fake(LONG), id)
        assert len(part["text"]) <= 20_000
        assert part["text"] == LONG[part["metadata"]["start"] : part["metadata"]["end"]]
        pieces.append(part["text"])
        id = part["metadata"].get("next", "")
    assert "".join(pieces) == LONG
    assert len(pieces) == -(-len(LONG) // 20_000)


def test_of_a_long_document_what_is_around_the_place_is_fetched() -> None:
    part = fetched(_Fake(LONG), "numbers:30100-30500:long")
    about = part["metadata"]
    assert about["start"] < 30100 < 30500 < about["end"]
    assert (about["start"] % 1000, about["end"] % 1000) == (0, 0)  # where passages begin and end
    assert about["cited"] == {"start": 30100, "end": 30500}
    whole = fetched(_Fake(LONG), f"numbers:0-{len(LONG)}:long")
    assert whole["text"] == LONG  # a hit is never cut


class _Warned:
    """A shelf of two collections, of which one does not understand."""

    async def names(self) -> list[str]:
        return ["one", "two"]

    async def search(self, name: str, query: str, k: int, *, in_passing: bool) -> Answer:
        warnings = ("Cut.", "Foreign.") if name == "two" else ("Cut.",)
        return Answer(query, name, 1, "hybrid", 0.0, (), warnings=warnings)


class _Failing(_Warned):
    async def search(self, name: str, query: str, k: int, *, in_passing: bool) -> Answer:
        if name == "two":
            raise Overloaded("512 searches", 1)
        return await super().search(name, query, k, in_passing=in_passing)


def test_collections_that_were_not_searched_are_named() -> None:
    search = next(tool for tool in TOOLS if tool.name == "search")
    (told,) = run(search.call(_Failing(), "", {"query": "x"}))["not_searched"]  # type: ignore[arg-type]
    assert told.startswith("two: 512 searches are waiting")


def test_warnings_of_some_collections_name_them() -> None:
    search = next(tool for tool in TOOLS if tool.name == "search")
    found = run(search.call(_Warned(), "", {"query": "x"}))  # type: ignore[arg-type]
    assert found == {"results": [], "warnings": ["Cut.", "two: Foreign."]}


class _Busy:
    """A shelf of 200 collections that counts how many are searched at a time."""

    now = most = 0
    in_passing = False

    async def names(self) -> list[str]:
        return [f"c{number:03}" for number in range(200)]

    async def search(self, name: str, query: str, k: int, *, in_passing: bool) -> Answer:
        self.in_passing = in_passing
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return Answer(query, name, 1, "hybrid", 0.0, (), warnings=(f"of {name}",))


def test_many_collections_are_searched_few_at_a_time() -> None:
    shelf = _Busy()
    search = next(tool for tool in TOOLS if tool.name == "search")
    found = run(search.call(shelf, "", {"query": "x"}))  # type: ignore[arg-type]
    assert len(found["warnings"]) == 200
    assert (shelf.most, shelf.in_passing) == (8, True)
    shelf.most = 0
    run(search.call(shelf, "", {"query": "x", "collection": "c007"}))  # type: ignore[arg-type]
    assert (shelf.most, shelf.in_passing) == (1, False)


def test_what_has_no_title_is_called_by_its_uri_or_how_it_begins() -> None:
    assert fetched(_Fake("Bees make honey."), "numbers:long")["title"] == "long.txt"
    for text, title in (("Bees\nmake honey.", "Bees make honey."), ("e" * 99, "e" * 60)):
        assert fetched(_Fake(text, "urn:embedsvc:long"), "numbers:long")["title"] == title


def test_a_place_that_is_not_there_any_more() -> None:
    part = fetched(_Fake("Short by now."), "numbers:30100-30500:long")
    assert part["text"] == "Short by now."
    assert "has changed" in part["metadata"]["note"]
