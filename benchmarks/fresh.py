"""Searches while passages are added and the index is folded in the background, against searches of an idle collection.

    python benchmarks/fresh.py [--size 180000] [--rate 500] [--seconds 60] [--json FILE]

A collection of real vectors (benchmarks/vectors.py) in a Lance store with fsync. One thread asks (dense) the
newest snapshot, one query after the other; first nothing else happens, then another adds ``rate`` passages a second, in
commits of a tenth of a second's, so that at 500 a second the index is folded every 16 seconds. Last, the whole index is
built anew for a higher recall, while searches go on with the old one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import numpy.typing as npt
import vectors as made
from figures import Figure, at_most, percentile, report

from embedsvc.collection import Collection, EncodedDocument
from embedsvc.config import Settings
from embedsvc.encoding import Encoder, load_encoder
from embedsvc.records import Chunking, Passage, make_document
from embedsvc.search import Query, search
from embedsvc.search.selection import Selection

Floats = npt.NDArray[np.float32]

WORDS = "a window of forty-eight tokens "
PER_DOCUMENT = 10
ALL = Selection(duplicates="keep")
"""All passages have the same text: as one hit each search would look for more and more of them."""
TOKENS = np.arange(3, dtype=np.int32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=180_000)
    parser.add_argument("--rate", type=int, default=500, help="passages added per second")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    vectors = made.load()
    queries = [f"how are windows of {number} tokens encoded?" for number in range(1000)]
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(data_dir=Path(scratch), runtime="onnx")
        encoder = load_encoder(settings)
        collection = Collection.create("c", encoder.contract, Chunking(64, 8), settings)
        started = time.perf_counter()
        with collection.writer() as writer:
            for at in range(0, given.size, 20_000):
                writer.replace(documents(at, vectors[at : min(at + 20_000, given.size)]))
        figures = [Figure("filling the collection, index included", time.perf_counter() - started, "s")]
        index = collection.snapshot().index
        print(f"{len(index):,} vectors, segments of {', '.join(f'{len(part):,}' for part in index.parts)}", flush=True)
        idle = asked(collection, encoder, queries, threading.Event(), given.seconds / 3)
        done = threading.Event()
        adding = threading.Thread(target=add, args=(collection, given.size, vectors, given.rate, given.seconds, done))
        adding.start()
        busy = asked(collection, encoder, queries, done, 10 * given.seconds)
        adding.join()
        after = collection.snapshot().index
        print(f"{len(after):,} vectors, segments of {', '.join(f'{len(part):,}' for part in after.parts)}", flush=True)
        done = threading.Event()
        building = threading.Thread(target=rebuild, args=(settings, done))
        building.start()
        meanwhile = asked(collection, encoder, queries, done, 10 * given.seconds)
        building.join()
    figures += [
        Figure("idle: p50", percentile(idle, 0.5), "ms"),
        Figure("idle: p99", percentile(idle, 0.99), "ms"),
        Figure("while adding and folding: p50", percentile(busy, 0.5), "ms"),
        Figure("while adding and folding: p99", percentile(busy, 0.99), "ms"),
        Figure("passages added per second", (len(after) - len(index)) / given.seconds, "1/s"),
        Figure("while the index is built anew: p50", percentile(meanwhile, 0.5), "ms"),
        Figure("while the index is built anew: p99", percentile(meanwhile, 0.99), "ms"),
        at_most("p99 while adding over idle p99", percentile(busy, 0.99) / percentile(idle, 0.99), 3, "x"),
        at_most("p99 while built anew over idle p99", percentile(meanwhile, 0.99) / percentile(idle, 0.99), 3, "x"),
    ]
    report(figures, given.json, size=given.size, queries=len(busy), queries_while_built=len(meanwhile))


def documents(first: int, vectors: Floats) -> list[EncodedDocument]:
    """Documents of ten passages each, with these vectors."""
    text = WORDS * PER_DOCUMENT
    size = len(WORDS)
    made_of = []
    for at in range(0, len(vectors), PER_DOCUMENT):
        some = vectors[at : at + PER_DOCUMENT]
        name = f"d{(first + at) // PER_DOCUMENT}"
        passages = [Passage(place, place * size, (place + 1) * size - 1, TOKENS) for place in range(len(some))]
        made_of.append((make_document(f"memory:{name}", text, id=name), passages, some))
    return made_of


def add(collection: Collection, first: int, vectors: Floats, rate: int, seconds: int, done: threading.Event) -> None:
    step = max(PER_DOCUMENT, rate // 10)
    try:
        with collection.writer() as writer:
            started = time.perf_counter()
            for turn in range(seconds * rate // step):
                time.sleep(max(0, started + turn * step / rate - time.perf_counter()))
                at = (turn * step) % (len(vectors) - step)
                writer.replace(documents(first + turn * step, vectors[at : at + step]))
    finally:
        done.set()


def rebuild(settings: Settings, done: threading.Event) -> None:
    try:
        collection = Collection.open("c", replace(settings, target_recall=settings.target_recall + 0.01))
        before = {part.segment.name for part in collection.snapshot().index.parts}
        collection.upkeep.fold()
        after = collection.snapshot().index.parts
        if before & {part.segment.name for part in after}:
            raise RuntimeError("a part of the index was not built anew")
    finally:
        done.set()


def asked(
    collection: Collection, encoder: Encoder, queries: list[str], done: threading.Event, seconds: float
) -> list[float]:
    """Milliseconds of each search until ``done``, or for ``seconds``."""
    times = []
    end = time.perf_counter() + seconds
    while not done.is_set() and time.perf_counter() < end:
        query = queries[len(times) % len(queries)]
        started = time.perf_counter()
        search(collection.snapshot(), encoder, Query(query, mode="dense", selection=ALL))
        times.append(1000 * (time.perf_counter() - started))
        time.sleep(0.002)
    return times


if __name__ == "__main__":
    main()
