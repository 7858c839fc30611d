"""What the Python API costs: importing it, and a search by it over a direct one, in this process and of a service.

    python benchmarks/python_api.py [--data FOLDER] [--documents 5183] [--queries 200] [--rounds 3] [--json FILE]

Import times are of whole processes, less those of an empty one in the same round. Searches take turns as in
``query.py``; "direct" is ``search.search`` over a snapshot, "httpx" a bare request to the same server whose answer's
JSON is read, so that what the client does with it can be told from what the service takes.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, open_or_make, queries, served
from figures import Figure, at_most, interleaved, report
from query import ask_all

import embedsvc
from embedsvc.encoding import encoder_for
from embedsvc.search import Query, search

PROGRAMS = {
    "nothing": "pass",
    "import embedsvc": "import embedsvc",
    "import embedsvc, connect": "import embedsvc; embedsvc.connect('http://localhost:1').open('x')",
}


def main() -> None:
    given = arguments(__doc__, documents=5183, queries=200, rounds=3, collections=True)
    asked = queries(given.data)[: given.queries]
    figures = imports(given.rounds * 5)
    with tempfile.TemporaryDirectory() as scratch, asyncio.Runner() as loop:
        data_dir = given.collections or Path(scratch)
        collection = open_or_make(data_dir, given.data, given.documents)
        encoder = encoder_for(collection.contract, collection.settings)
        settings = {"data_dir": data_dir, "runtime": "onnx"}
        here = embedsvc.open("scifact", **settings)
        here_async = embedsvc.open_async("scifact", **settings)
        with served(data_dir) as (http, _), embedsvc.connect(str(http.base_url)) as service:
            there = service.open("scifact")
            away = embedsvc.connect_async(str(http.base_url))
            there_async = away.open("scifact")
            contestants = {
                "direct": lambda text: search(collection.snapshot(), encoder, Query(text)),
                "embedded": here.search,
                "embedded, async": lambda text: loop.run(here_async.search(text)),
                "httpx": lambda text: http.post("/v1/collections/scifact/search", json={"query": text}).json(),
                "remote": there.search,
                "remote, async": lambda text: loop.run(there_async.search(text)),
            }
            times = {name: statistics.median(took) for name, took in ask_all(contestants, asked, given.rounds).items()}
            loop.run(away.close())
    figures += [Figure(f"search, {name}: p50", took, "ms") for name, took in times.items()]
    for name, most in (("embedded", 1.0), ("embedded, async", 1.0), ("remote", 5.0), ("remote, async", 5.0)):
        figures.append(at_most(f"search, {name}: p50 over direct", times[name] - times["direct"], most, "ms"))
    report(figures, given.json, queries=len(asked), rounds=given.rounds, documents=given.documents)


def imports(rounds: int) -> list[Figure]:
    """Milliseconds of importing, over a process that imports nothing."""

    def running(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True)

    seconds = interleaved({name: lambda code=code: running(code) for name, code in PROGRAMS.items()}, rounds)
    over = {
        name: statistics.median(a - b for a, b in zip(took, seconds["nothing"], strict=True)) * 1000
        for name, took in seconds.items()
    }
    return [
        at_most("import embedsvc", over["import embedsvc"], 100, "ms"),
        Figure("import embedsvc; connect", over["import embedsvc, connect"], "ms"),
    ]


if __name__ == "__main__":
    main()
