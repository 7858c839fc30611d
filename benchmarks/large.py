"""A large collection as a server has it: build, opening, memory, one query after the other, recall.

    python benchmarks/large.py [--size 10000000] [--memory-mb 1500] [--folder FOLDER] [--json FILE]

Passages of one word each, with the vectors of benchmarks/index.py (real ones, then points between neighbours in the
text with noise). The collection is left in --folder, if given, and used again where it is there already. Needs 3.2 KB
of disk per passage. The queries are windows that were held out; they go to a real server over HTTP, as vectors, one by
one.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import vectors as made
from common import served
from figures import Figure, at_least, at_most, percentile, report
from index import exact, held_out, recall

from embedsvc.collection import Collection
from embedsvc.config import Settings, load_settings
from embedsvc.encoding import load_encoder
from embedsvc.records import Chunking
from embedsvc.storage.store import passage_schema
from embedsvc.vectors import VectorIndex, raised, save_efforts, with_segments

Floats = npt.NDArray[np.float32]

NAME, PER_DOCUMENT, PER_COMMIT, QUERIES = "large", 1000, 200_000, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000_000)
    parser.add_argument("--memory-mb", type=int, default=1500)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    queries, real = held_out(made.load())
    others, queries = queries[1::2], queries[:: len(queries) // QUERIES][:QUERIES]
    with tempfile.TemporaryDirectory() as scratch:
        settings = load_settings({"data_dir": given.folder or Path(scratch), "index_memory_mb": given.memory_mb})
        figures = []
        if not (settings.data_dir / NAME).is_dir():
            figures += fill(settings, real, given.size)
        truth = exact_of(settings, queries)
        figures += serve(settings, queries, truth, "as built")
        figures += learn(settings, others)
        figures += serve(settings, queries, truth, "measured with 1,000 other queries")
        report(figures, given.json, size=given.size, queries=len(queries))


def exact_of(settings: Settings, queries: Floats) -> Floats:
    """The scores (queries, 10) of the exact answers by numpy, from the vectors in the store."""
    best = np.full((len(queries), 10), -np.inf, np.float32)
    for _, block in Collection.open(NAME, settings).store().vector_batches():
        best = -np.sort(-np.concatenate([best, exact(queries, block)], axis=1), axis=1)[:, :10]
    return best


def tables(real: Floats, size: int) -> Iterator[pa.Table]:
    schema = passage_schema(real.shape[1])
    at = 0
    for block in made.more(real, size, PER_COMMIT):
        numbers = np.arange(at, at + len(block))
        ordinal = numbers % PER_DOCUMENT
        names = pa.array(numbers).cast(pa.string())
        documents = pa.array(numbers // PER_DOCUMENT).cast(pa.string())
        columns: dict[str, pa.Array] = {
            "id": names,
            "document_id": documents,
            "uri": documents,
            "title": documents,
            "document_hash": documents,
            "ordinal": pa.array(ordinal, pa.int32()),
            "start": pa.array(ordinal * 9),
            "end": pa.array(ordinal * 9 + 8),
            "tokens": pa.array(np.full(len(block), 48), pa.int32()),
            "gap": pa.array([""] * len(block)),
            "text": names,
            "text_hash": pa.array(numbers),
            "metadata": pa.nulls(len(block), pa.json_()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), real.shape[1]),
        }
        columns |= {field.name: pa.nulls(len(block), field.type) for field in schema if field.name not in columns}
        yield pa.table([columns[name] for name in schema.names], schema=schema)
        at += len(block)


def fill(settings: Settings, real: Floats, size: int) -> list[Figure]:
    encoder = load_encoder(settings)
    collection = Collection.create(NAME, encoder.contract, Chunking(48, 24), settings)
    store, started = collection.store(), time.perf_counter()
    for rows in tables(real, size):
        store = store.replace(rows, rows["document_id"].unique().to_pylist())
        print(f"{store.count():,} passages after {time.perf_counter() - started:,.0f} s", flush=True)
    store.maintain()
    stored, started = time.perf_counter() - started, time.perf_counter()
    index = collection.snapshot().index
    seconds = time.perf_counter() - started
    print(f"{index.kind}, {index.recall}", flush=True)
    return [
        Figure("store: passages in, text index made", stored, "s"),
        Figure(f"vector index ({index.kind}): build", seconds, "s"),
        Figure("the same: peak memory of that process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, "GB"),
        at_most("the same: what it says it keeps in memory", index.bytes_resident / 1e9, 1.6, "GB"),
        Figure(
            "the same: recall@10 as it says", index.recall.mean, f"{index.recall.low:.3f} to {index.recall.high:.3f}"
        ),
    ]


def learn(settings: Settings, asked: Floats) -> list[Figure]:
    """Raises the index's effort to what ``asked`` (m, dimension) need, as live queries do, and saves it."""
    index = Collection.open(NAME, settings).snapshot().index
    assert isinstance(index, VectorIndex)
    started = time.perf_counter()
    index = with_segments(index, raised(index, settings.target_recall, asked))
    save_efforts(index, settings.data_dir / NAME / "faiss")
    effort = index.parts[0].segment.effort
    return [
        Figure("effort raised by real queries", time.perf_counter() - started, f"s, to {effort.depth}, {effort.widen}"),
        Figure("the same: recall@10 as it says", index.recall.mean, f"{index.recall.low:.3f}-{index.recall.high:.3f}"),
    ]


def memory(process: int) -> dict[str, float]:
    """GB of a process: ``anonymous`` is its own, ``file`` are pages of files, which the system takes back at need."""
    status = Path(f"/proc/{process}/status").read_text("ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {name: int(fields[key].split()[0]) / 1e6 for name, key in (("anonymous", "RssAnon"), ("file", "RssFile"))}


def serve(settings: Settings, queries: Floats, truth: Floats, state: str) -> list[Figure]:
    os.environ["EMBEDSVC_INDEX_MEMORY_MB"] = str(settings.index_memory_mb)
    with served(settings.data_dir) as (client, process):
        before = memory(process)

        def ask(query: Floats) -> tuple[float, list[float]]:
            started = time.perf_counter()
            body = {"vector": query.tolist(), "k": 10, "mode": "dense"}
            answer = client.post(f"/v1/collections/{NAME}/search", json=body).raise_for_status().json()
            return 1000 * (time.perf_counter() - started), [hit["score"] for hit in answer["hits"]]

        first, _ = ask(queries[0])
        answers = [ask(query) for query in queries]
        again = [ask(query) for query in queries]
        after = memory(process)
    scores = np.array([(found + [-1.0] * 10)[:10] for _, found in answers], np.float32)
    return [
        at_most("server: first query, which opens the collection", first / 1000, 3, "s"),
        at_least(f"{state}: recall@10 of held-out queries over HTTP", recall(scores, truth), 0.95),
        at_most(f"{state}: one query over HTTP, p50", percentile([ms for ms, _ in answers], 0.5), 20, "ms"),
        Figure("the same, p99", percentile([ms for ms, _ in answers], 0.99), "ms"),
        Figure("the same queries again, p50", percentile([ms for ms, _ in again], 0.5), "ms"),
        Figure("server: its own memory before", before["anonymous"], "GB"),
        at_most("server: its own memory after", after["anonymous"], 1.6, "GB"),
        Figure("server: pages of files that it has mapped, after", after["file"], "GB"),
    ]


if __name__ == "__main__":
    main()
