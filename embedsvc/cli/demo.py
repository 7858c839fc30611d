"""``embedsvc demo``: from nothing to a cited answer, over the same road as everybody's documents."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from embedsvc.cli.stdlib import stdlib_documents
from embedsvc.config import Settings
from embedsvc.errors import EmbedsvcError
from embedsvc.ingest import ingest_items, open_or_create
from embedsvc.readers import FieldChoice

_NAME = "python-stdlib"
_QUESTION = "How do I run a function periodically, or after a delay?"
_START_SECONDS = 60


def run(settings: Settings, *, port_is_asked: bool, stay: bool | None) -> None:
    """Index, serve, ask once, print. ``stay`` keeps the server running; None: where stdin is a terminal."""
    console = Console(soft_wrap=True, highlight=False)
    started = time.monotonic()
    console.print("Preparing all-MiniLM-L6-v2 (the first time, its export takes about ten seconds) …")
    collection, encoder = open_or_create(_NAME, settings, frozenset())
    documents = list(stdlib_documents())
    console.print(f"Indexing the docstrings of {len(documents)} standard library modules into {settings.data_dir} …")
    done = tokens = 0
    with console.status("encoding") as status:
        for outcome in ingest_items(collection, encoder, documents, FieldChoice()):
            done += 1
            tokens += outcome.tokens
            told = f"{done} of {len(documents)} modules, {tokens:,} tokens"
            status.update(told)
            if not console.is_terminal and done % 100 == 0:
                console.print(told)
    passages = collection.store().count()
    console.print(f"{passages:,} passages, ready after {time.monotonic() - started:.1f} s.\n")
    port = settings.port if port_is_asked or _is_free(settings) else 0
    with _server(settings, port or _any_free_port(settings)) as url:
        answer = _ask(url)
        console.print(f"[bold]{_QUESTION}[/bold]")
        for rank, hit in enumerate(answer["hits"], 1):
            console.print(f"\n{rank}. {hit['heading']}   [cyan]{hit['uri']} [{hit['start']}:{hit['end']}][/cyan]")
            console.print("   " + " ".join(hit["text"].split())[:300] + " …", markup=False)
        console.print(f"\nAnswered in {answer['took_ms']:.1f} ms by {url}/v1/collections/{_NAME}/search")
        where = f"--data-dir {settings.data_dir}"
        console.print(f"From the terminal: {sys.argv[0]} search 'parse a date' -c {_NAME} {where}")
        if sys.stdin.isatty() if stay is None else stay:
            console.print(f"In a browser: [bold]{url}[/bold]   API documentation: [bold]{url}/docs[/bold]")
            console.print("The server goes on until Ctrl-C.")
            signal.pause()
        else:
            console.print(
                f"In a browser: {sys.argv[0]} serve {where}, then [bold]http://{settings.host}:{settings.port}[/bold]"
            )


def _ask(url: str) -> Any:
    request = urllib.request.Request(
        f"{url}/v1/collections/{_NAME}/search",
        json.dumps({"query": _QUESTION, "k": 3}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def _is_free(settings: Settings) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError:
            return False
    return True


def _any_free_port(settings: Settings) -> int:
    with socket.socket() as probe:
        probe.bind((settings.host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _server(settings: Settings, port: int) -> Iterator[str]:
    """A real ``embedsvc serve`` in a process of its own, ready; stopped on leaving."""
    url = f"http://{settings.host}:{port}"
    command = [sys.executable, "-m", "embedsvc", "serve", "--host", settings.host, "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--data-dir", str(settings.data_dir)], env={**os.environ, "EMBEDSVC_LOG_LEVEL": "warning"}
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise EmbedsvcError(f"The server did not get ready at {url}; what it printed above says why.")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
