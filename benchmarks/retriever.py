"""What a search through LangChain costs over a direct one, in this process and of a service.

    python benchmarks/retriever.py [--data FOLDER] [--documents 5183] [--queries 200] [--rounds 3] [--json FILE]

Searches take turns as in ``query.py``, by tens: "here" and "remote" are those of the Python API, which the retrievers
stand on, and "here" is what is called direct; "async" ones are awaited. On a busy machine, compare p10.

"By itself" is processor time of a retriever that has its documents ready, called right after a search, as in life: the
search has driven LangChain's code and asyncio's out of the processor's caches, from which they take less than half
of that. "asyncio by itself": of a coroutine that returns at once, which is in all that is awaited.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, open_or_make, queries, served
from figures import Figure, at_most, percentile, report
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from query import ask_all, rotated

import embedsvc
from embedsvc.integrations.langchain import EmbedsvcRetriever


class Ready(BaseRetriever):
    """A retriever of LangChain that answers at once."""

    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
        return self.documents

    async def _aget_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
        return self.documents


async def nothing() -> None: ...


def after_a_search(call: Callable[[], object], collection: embedsvc.Collection, asked: list[str]) -> float:
    """Milliseconds of processor time that ``call`` takes."""
    times = []
    for at in range(200):
        collection.search(rotated(asked[at % len(asked)], at))
        started = time.process_time()
        call()
        times.append((time.process_time() - started) * 1000)
    return statistics.median(times)


def main() -> None:
    given = arguments(__doc__, documents=5183, queries=200, rounds=3, collections=True)
    asked = queries(given.data)[: given.queries]
    with tempfile.TemporaryDirectory() as scratch, asyncio.Runner() as loop:
        data_dir = given.collections or Path(scratch)
        open_or_make(data_dir, given.data, given.documents)
        here = embedsvc.open("scifact", data_dir=data_dir, runtime="onnx")
        with served(data_dir) as (http, _), embedsvc.connect(str(http.base_url)) as service:
            there = service.open("scifact")
            away = embedsvc.connect_async(str(http.base_url))
            here_async = embedsvc.open_async("scifact", data_dir=data_dir, runtime="onnx")
            by_here = EmbedsvcRetriever(collection=here, k=10)
            by_there = EmbedsvcRetriever(collection=there, async_collection=away.open("scifact"), k=10)
            contestants = {
                "here": here.search,
                "here, async": lambda text: loop.run(here_async.search(text)),
                "LangChain, here": by_here.invoke,
                "LangChain, here, async": lambda text: loop.run(by_here.ainvoke(text)),
                "remote": there.search,
                "LangChain, remote": by_there.invoke,
                "LangChain, remote, async": lambda text: loop.run(by_there.ainvoke(text)),
            }
            times = ask_all(contestants, asked, given.rounds, block=10)
            loop.run(away.close())
        ready = Ready(documents=by_here.invoke(asked[0]))
        alone = {
            name: after_a_search(call, here, asked)
            for name, call in {
                "asyncio by itself": lambda: loop.run(nothing()),
                "LangChain by itself": lambda: ready.invoke("a query"),
                "LangChain by itself, async": lambda: loop.run(ready.ainvoke("a query")),
            }.items()
        }
    middle = {name: statistics.median(took) for name, took in times.items()}
    quick = {name: percentile(took, 0.1) for name, took in times.items()}
    figures = []
    for name, took in middle.items():
        figures += [Figure(f"search, {name}: p50", took, "ms"), Figure(f"search, {name}: p10", quick[name], "ms")]
    for name, direct, most in (
        ("LangChain, here", "here", 1.0),
        ("LangChain, here, async", "here, async", 1.0),
        ("LangChain, remote", "here", 5.0),
        ("LangChain, remote, async", "here, async", 5.0),
    ):
        figures += [
            at_most(f"search, {name}: p50 over {direct}", middle[name] - middle[direct], most, "ms"),
            Figure(f"search, {name}: p10 over {direct}", quick[name] - quick[direct], "ms"),
        ]
    figures += [Figure(f"{name}, after a search", took, "ms") for name, took in alone.items()]
    report(figures, given.json, queries=len(asked), rounds=given.rounds, documents=given.documents)


if __name__ == "__main__":
    main()
