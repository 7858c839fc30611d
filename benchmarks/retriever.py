"""What a search through LangChain costs over a direct one, in this process and of a service.

    python benchmarks/retriever.py [--data FOLDER] [--documents 5183] [--queries 200] [--rounds 3] [--json FILE]

Searches take turns as in ``query.py``: "direct" is ``search.search`` over a snapshot, "embedded" and "remote" are those
of the Python API, which the retrievers stand on. "LangChain by itself" is processor time of a retriever whose
collection has its answer ready: it does not depend on what else the machine does.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, open_or_make, queries, served
from figures import Figure, at_most, report
from query import ask_all

import embedsvc
from embedsvc.encoding import encoder_for
from embedsvc.integrations.langchain import EmbedsvcRetriever
from embedsvc.search import Query, search


class Ready(embedsvc.Collection):
    """A collection that answers at once."""

    def __init__(self, answer: embedsvc.Answer) -> None:
        self._answer = answer

    def search(self, query: object, **options: object) -> embedsvc.Answer:
        return self._answer


def by_itself(answer: embedsvc.Answer, times: int = 500) -> float:
    """Milliseconds of processor time that a call through LangChain takes besides the search."""
    retriever = EmbedsvcRetriever(collection=Ready(answer), k=10)
    retriever.invoke("warm")
    started = time.process_time()
    for _ in range(times):
        retriever.invoke("a query")
    return (time.process_time() - started) * 1000 / times


def main() -> None:
    given = arguments(__doc__, documents=5183, queries=200, rounds=3, collections=True)
    asked = queries(given.data)[: given.queries]
    with tempfile.TemporaryDirectory() as scratch, asyncio.Runner() as loop:
        data_dir = given.collections or Path(scratch)
        collection = open_or_make(data_dir, given.data, given.documents)
        encoder = encoder_for(collection.contract, collection.settings)
        here = embedsvc.open("scifact", data_dir=data_dir, runtime="onnx")
        with served(data_dir) as (http, _), embedsvc.connect(str(http.base_url)) as service:
            there = service.open("scifact")
            away = embedsvc.connect_async(str(http.base_url))
            by_here = EmbedsvcRetriever(collection=here, k=10)
            by_there = EmbedsvcRetriever(collection=there, async_collection=away.open("scifact"), k=10)
            contestants = {
                "direct": lambda text: search(collection.snapshot(), encoder, Query(text)),
                "embedded": here.search,
                "LangChain, embedded": by_here.invoke,
                "LangChain, embedded, async": lambda text: loop.run(by_here.ainvoke(text)),
                "remote": there.search,
                "LangChain, remote": by_there.invoke,
                "LangChain, remote, async": lambda text: loop.run(by_there.ainvoke(text)),
            }
            times = {name: statistics.median(took) for name, took in ask_all(contestants, asked, given.rounds).items()}
            loop.run(away.close())
        alone = by_itself(here.search(asked[0]))
    figures = [Figure(f"search, {name}: p50", took, "ms") for name, took in times.items()]
    for name, plain, most in (
        ("LangChain, embedded", "embedded", 1.0),
        ("LangChain, embedded, async", "embedded", 1.0),
        ("LangChain, remote", "remote", 5.0),
        ("LangChain, remote, async", "remote", 5.0),
    ):
        figures.append(at_most(f"search, {name}: p50 over direct", times[name] - times["direct"], most, "ms"))
        figures.append(Figure(f"search, {name}: p50 over {plain}", times[name] - times[plain], "ms"))
    figures.append(Figure("LangChain by itself, 10 hits", alone, "ms"))
    report(figures, given.json, queries=len(asked), rounds=given.rounds, documents=given.documents)


if __name__ == "__main__":
    main()
