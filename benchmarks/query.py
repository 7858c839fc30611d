"""One query at a time over SciFact's 5,183 passages: in process, over HTTP, and a peer; and the server's memory.

    python benchmarks/query.py [--data FOLDER] [--documents 5183] [--queries 300] [--rounds 3] [--json FILE]

"of ten" are ten queries of one request, encoded together, and the same one by one; per query.
The contestants take turns in blocks of 100 queries; p50 and p99 are over all queries of all rounds, so a busy spell of
the machine hits all of them. The server is a process of its own, ``python -m embedsvc serve``.
The peer is sentence-transformers (fp32) with faiss.IndexFlatIP in process: dense only, and it returns no text.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from common import WINDOW, arguments, documents, open_or_make, queries, served
from figures import Figure, at_most, percentile, report, resident_mb

from embedsvc.collection import Collection
from embedsvc.encoding import Encoder, encoder_for
from embedsvc.search import Mode, Query, search
from embedsvc.search.pipeline import search_all

MODES: tuple[Mode, ...] = ("hybrid", "dense", "lexical")
PEER = "sentence-transformers + faiss.IndexFlatIP, in process"


def main() -> None:
    given = arguments(__doc__, documents=5183, queries=300, rounds=3, collections=True)
    asked = queries(given.data)[: given.queries]
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = given.collections or Path(scratch)
        collection = open_or_make(data_dir, given.data, given.documents)
        encoder = encoder_for(collection.contract, collection.settings)

        def in_process(mode: Mode) -> Callable[[str], object]:
            return lambda text: search(collection.snapshot(), encoder, Query(text, mode=mode))

        contestants = {f"{mode}, in process": in_process(mode) for mode in MODES}
        contestants[PEER] = peer(str(encoder.model.folder), given.data, given.documents)
        with served(data_dir) as (client, pid):

            def over_http(text: str) -> None:
                answer = client.post("/v1/collections/scifact/search", json={"query": text})
                answer.raise_for_status()

            contestants["hybrid, over HTTP"] = over_http
            times = ask_all(contestants, asked, given.rounds)
            memory = resident_mb(pid)
        several = of_ten(collection, encoder, asked)
    asks = {"hybrid, in process": 5.0, "hybrid, over HTTP": 8.0}
    figures: list[Figure] = []
    for name, milliseconds in times.items():
        middle = statistics.median(milliseconds)
        figures.append(
            at_most(f"{name}: p50", middle, asks[name], "ms") if name in asks else Figure(f"{name}: p50", middle, "ms")
        )
        figures.append(Figure(f"{name}: p99", percentile(milliseconds, 0.99), "ms"))
    figures += [Figure(f"hybrid, in process, of ten {name}: per query", took, "ms") for name, took in several.items()]
    figures.append(
        Figure(
            "peer's p50 over hybrid's, in process",
            statistics.median(times[PEER]) / statistics.median(times["hybrid, in process"]),
            "x",
        )
    )
    figures.append(at_most("server memory after the queries", memory, 500, "MB"))
    report(figures, given.json, queries=len(asked), rounds=given.rounds, documents=given.documents)


def ask_all(
    contestants: dict[str, Callable[[str], object]], asked: list[str], rounds: int, block: int = 100
) -> dict[str, list[float]]:
    """Milliseconds of every answer, by contestant. Each asks 20 queries first that do not count, and each is first in
    its turn, of ``block`` queries: what the machine does besides, or the one before, is not always the same one's
    burden."""
    for turn, ask in enumerate(contestants.values()):
        for text in asked[:20]:
            ask(rotated(text, turn))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    # In blocks: contestants that take turns query by query would find each other's data in the CPU's cache.
    for start in range(0, rounds * len(asked), block):
        first = start // block % len(contestants)
        order = list(enumerate(contestants.items()))
        for turn, (name, ask) in order[first:] + order[:first]:
            for at in range(start, min(start + block, rounds * len(asked))):
                text = rotated(asked[at % len(asked)], 1 + turn + len(contestants) * (at // len(asked)))
                started = time.perf_counter()
                ask(text)
                times[name].append((time.perf_counter() - started) * 1000)
    return times


def of_ten(collection: Collection, encoder: Encoder, asked: list[str]) -> dict[str, float]:
    """Milliseconds per query, the median of 30 requests; in turns."""

    def one_by_one(queries: list[Query]) -> None:
        for query in queries:
            search(collection.snapshot(), encoder, query)

    ways = {
        "one by one": one_by_one,
        "together": lambda queries: search_all(collection.snapshot(), encoder, queries),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for at in range(30):
        for turn, (name, ask) in enumerate(ways.items()):
            # Of each, words in an order that has not been asked before.
            texts = [asked[(10 * at + place) % len(asked)] for place in range(10)]
            queries = [Query(f"{rotated(text, 3)} {2 * at + turn}") for text in texts]
            started = time.perf_counter()
            ask(queries)
            times[name].append((time.perf_counter() - started) * 100)
    return {name: statistics.median(took) for name, took in times.items()}


def rotated(text: str, by: int) -> str:
    """The same words, beginning with another: the encoder keeps vectors of recent queries, but knows none of these."""
    words = text.split()
    by %= len(words)
    return " ".join(words[by:] + words[:by])


def peer(model: str, data: Path, count: int) -> Callable[[str], object]:
    """What one writes without a service. The passages' vectors are random: only the time of a query is measured."""
    import faiss
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(model, device="cpu", local_files_only=True)
    reference.max_seq_length = WINDOW
    rows = sum(1 for _ in documents(data, count))
    vectors = np.random.default_rng(0).standard_normal((rows, 384)).astype(np.float32)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda text: index.search(
        reference.encode([text], convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False), 10
    )


if __name__ == "__main__":
    main()
