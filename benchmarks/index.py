"""The vector index over real vectors: speed at equal recall against hnswlib, memory, build time, filters, honesty.

    python benchmarks/index.py [--size 1000000] [--rounds 3] [--json FILE] [--vectors FILE]

Vectors are those of benchmarks/vectors.py, windows of 48 tokens; above their number (about 210,000), points between
neighbours in the text, with noise: not real, and the output says so. 2,000 windows are held out as queries.
The peer is hnswlib (M 16, ef_construction 200), built and asked on all cores in the same run; contestants take turns, a
ratio is the median of the ratios within each round. Both are compared with the least effort that finds .96 of these
queries, and with that of the index as built (measured with harder stand-ins) and what finds as much in hnswlib.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import numpy.typing as npt
import vectors as made
from figures import Figure, at_least, at_most, interleaved, percentile, ratio, report

from embedsvc.vectors import Goal, VectorIndex, build, of_segment, plan
from embedsvc.vectors.filtering import fitted
from embedsvc.vectors.kinds import KINDS
from embedsvc.vectors.measuring import stand_ins
from embedsvc.vectors.segment import Segment

Floats = npt.NDArray[np.float32]
RowIds = npt.NDArray[np.int64]

K = 10
HELD_OUT = 2000
SINGLE = 500
SELECTIVITIES = (0.5, 0.1, 0.01, 0.001, 0.0001)
TARGET = 0.96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1_000_000, help="vectors (default 1,000,000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vectors", type=Path, help="an .npy made by benchmarks/vectors.py")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--no-peer", action="store_true", help="without hnswlib, which needs 2 KB per vector")
    given = parser.parse_args()
    queries, real = held_out(made.load(given.vectors))
    print(
        f"{given.size:,} vectors, of which {min(given.size, len(real)):,} real ones; {len(queries):,} held-out queries"
    )
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "vectors.npy"
        base = np.lib.format.open_memmap(file, "w+", np.float32, (given.size, real.shape[1]))
        at = 0
        for block in made.more(real, given.size):
            base[at : at + len(block)] = block
            at += len(block)
        base.flush()
        base = np.load(file, mmap_mode="r")
        figures = measure(base, queries, given.rounds, Path(scratch), peer=not given.no_peer)
    report(figures, given.json, size=given.size, real=min(given.size, len(real)), queries=len(queries))


def held_out(real: Floats) -> tuple[Floats, Floats]:
    """Queries (2000, dimension), and the vectors that are left to be indexed."""
    held = np.zeros(len(real), bool)
    held[50 :: len(real) // HELD_OUT] = True
    return np.ascontiguousarray(real[held][:HELD_OUT]), real[~held]


def batches(base: Floats) -> Iterator[tuple[RowIds, Floats]]:
    for start in range(0, len(base), 50_000):
        block = base[start : start + 50_000]
        yield np.arange(start, start + len(block)), block


def exact(queries: Floats, base: Floats, k: int = K) -> Floats:
    """The scores (queries, k) of the exact answers, by numpy, some rows at a time."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(base), 20_000):
        scores = np.concatenate([best, queries @ base[start : start + 20_000].T], axis=1)
        best = -np.partition(-scores, k - 1, axis=1)[:, :k]
    return np.sort(best, axis=1)[:, ::-1]


def recall(found: Floats, truth: Floats) -> float:
    return float((found >= truth[:, -1:] - 1e-6).sum(axis=1).clip(max=truth.shape[1]).mean() / truth.shape[1])


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def single(search: Callable[[Floats], object], queries: Floats) -> list[float]:
    """Milliseconds of each query, one after the other."""
    return [1000 * timed(lambda query=query: search(query)) for query in queries]  # type: ignore[misc]


def measure(base: Floats, queries: Floats, rounds: int, scratch: Path, *, peer: bool) -> list[Figure]:
    truth = exact(queries, base)
    dimension = base.shape[1]
    figures: list[Figure] = []
    indexes: dict[str, VectorIndex] = {}
    seconds: dict[str, float] = {}
    default = plan(len(base), dimension, Goal(memory=10**12))
    compact = replace(Goal(TARGET), memory=int(default.memory) - 1)
    for name, goal in (("default", Goal(TARGET, memory=10**12)), ("compact", compact)):
        started = time.perf_counter()
        segment = build(batches(base), len(base), dimension, goal, scratch)
        seconds[name] = time.perf_counter() - started
        index = indexes[name] = of_segment(segment, 1)
        found = recall(index.search_many(queries, K)[1], truth)
        label = f"{name} ({index.kind}, depth {segment.effort.depth})"
        figures += [
            at_least(f"{label}: recall@10 of held-out queries", found, TARGET - 0.01),
            at_most(
                f"{name}: resident bytes per vector", index.bytes_per_vector, {"default": 660, "compact": 130}[name]
            ),
            Figure(f"{name}: build", seconds[name], "s"),
        ]
        said, asked = index.recall, stand_ins(base, index.kind, len(base), 2000, seed=99)
        found = recall(index.search_many(asked, K)[1], exact(asked, base))
        inside = said.low <= found <= said.high
        figures += [
            Figure(f"{name}: recall@10 as the index says", said.mean, f"{said.low:.3f} to {said.high:.3f}"),
            Figure(f"{name}: the same by numpy, of 2,000 other stand-ins", found, "", "within that", inside),
        ]
        report(figures[-5:], None)
    contestants: dict[str, Callable[[], object]] = {
        name: lambda index=index: index.search_many(queries, K)  # type: ignore[misc]
        for name, index in indexes.items()
    }
    spent = interleaved(contestants, rounds)
    for name, times in spent.items():
        rate = len(queries) / min(times)
        figures.append(
            at_least(f"{name}: queries/s together", rate, 1000, "1/s")
            if name == "compact"
            else Figure(f"{name}: queries/s together", rate, "1/s")
        )
    if peer:
        graph, seconds["hnswlib"] = hnswlib_graph(base)
        figures += [
            Figure("hnswlib: build", seconds["hnswlib"], "s"),
            at_most("default: build over hnswlib's", seconds["default"] / seconds["hnswlib"], 1.0, "x"),
            at_most("compact: build over hnswlib's", seconds["compact"] / seconds["hnswlib"], 0.4, "x"),
            *against(graph, indexes["default"].parts[0].segment, base, queries, truth, rounds),
        ]
    for name, index in indexes.items():
        times = single(lambda query, index=index: index.search(query, K), queries[:SINGLE])  # type: ignore[misc]
        figures.append(
            at_most(f"{name}: one query, p50", percentile(times, 0.5), {"default": 1, "compact": 20}[name], "ms")
        )
        figures.append(Figure(f"{name}: one query, p99", percentile(times, 0.99), "ms"))
    for name, index in indexes.items():
        figures += filters(name, index, base, queries[:200])
    return figures


def against(graph, segment: Segment, base: Floats, queries: Floats, truth: Floats, rounds: int) -> list[Figure]:  # type: ignore[no-untyped-def]
    """The segment over hnswlib's ``graph``, with the least effort that reaches the target, and with its own."""
    efforts = KINDS[segment.kind].efforts(segment.codes)
    reaching = (each for each in efforts if recall(segment.search(queries, K, None, each)[1], truth) >= TARGET)
    figures = []
    for what, effort, asked in (
        (f"effort for {TARGET}", next(reaching), 1.4),
        ("effort as built", segment.effort, None),
    ):
        ours = recall(segment.search(queries, K, None, effort)[1], truth)
        for depth in range(16, 400, 4):
            graph.set_ef(depth)
            its = recall_of(graph, queries, base, truth)
            if its >= ours:
                break
        spent = interleaved(
            {
                "ours": lambda effort=effort: segment.search(queries, K, None, effort),
                "hnswlib": lambda: graph.knn_query(queries, K),
            },  # type: ignore[misc]
            2 * rounds,
        )
        figures += [
            Figure(f"{what}: depth {effort.depth}, recall@10", ours, ""),
            Figure(f"{what}: hnswlib, ef {depth}, recall@10", its, ""),
            Figure(f"{what}: queries/s together", len(queries) / min(spent["ours"]), "1/s"),
            Figure(f"{what}: hnswlib, queries/s together", len(queries) / min(spent["hnswlib"]), "1/s"),
        ]
        over = ratio(spent["hnswlib"], spent["ours"])
        name = f"{what}: default over hnswlib at equal recall, queries/s"
        figures.append(Figure(name, over, "x") if asked is None else at_least(name, over, asked, "x"))
    return figures


def filters(name: str, index: VectorIndex, base: Floats, queries: Floats) -> list[Figure]:
    """Of a random share of the rows: recall, and the time of a query over that without a filter, in turn."""
    figures = []
    rng = np.random.default_rng(5)
    for share in SELECTIVITIES:
        rows = np.flatnonzero(rng.random(len(base)) < share)
        among = index.among(rows)
        none = np.empty((0, base.shape[1]), np.float32)
        among = replace(among, parts=(fitted(index.parts[0].segment, among.parts[0], 0.95, none, 10**9),))
        truth = exact(queries, base[rows], min(K, len(rows)))
        found = np.stack([index.search(query, truth.shape[1], among)[1] for query in queries])
        spent = interleaved(
            {
                "all": lambda: [index.search(query, K) for query in queries],
                "some": lambda among=among: [index.search(query, K, among) for query in queries],
            },
            3,
        )
        what = f"{name}, filter that passes {100 * share:g} %"
        figures += [
            at_least(f"{what}: recall@10", recall(found, truth), 0.95),
            at_most(f"{what}: time over unfiltered", ratio(spent["some"], spent["all"]), 4, "x"),
        ]
    return figures


def hnswlib_graph(base: Floats):  # type: ignore[no-untyped-def]
    import hnswlib

    graph = hnswlib.Index("ip", base.shape[1])
    graph.init_index(len(base), ef_construction=200, M=16)
    started = time.perf_counter()
    for rows, block in batches(base):
        graph.add_items(block, rows)
    return graph, time.perf_counter() - started


def recall_of(graph, queries: Floats, base: Floats, truth: Floats) -> float:  # type: ignore[no-untyped-def]
    rows = graph.knn_query(queries, K)[0].astype(np.int64)
    return recall(np.matmul(base[rows], queries[:, :, None])[..., 0], truth)


if __name__ == "__main__":
    main()
