"""The curves of docs/indexes.md: recall against speed of each kind of index, and which queries tell the truth about it.

    python benchmarks/curves.py [--size 180000] [--rounds 3] [--json FILE] [--images FOLDER] [--vectors FILE]

Vectors and held-out queries are those of benchmarks/index.py. Contestants take turns; a point's speed is its best
round.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import numpy.typing as npt
import vectors as made
from figures import interleaved
from index import K, batches, exact, held_out, hnswlib_graph, recall, recall_of

from embedsvc.vectors import Goal, build, plan
from embedsvc.vectors.kinds import Effort
from embedsvc.vectors.measuring import stand_ins
from embedsvc.vectors.segment import Segment

Floats = npt.NDArray[np.float32]
Curves = dict[str, list[dict[str, float]]]

DEPTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
SHOWN = 0.85


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=180_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--images", type=Path, metavar="FOLDER")
    parser.add_argument("--vectors", type=Path)
    given = parser.parse_args()
    queries, real = held_out(made.load(given.vectors))
    base = np.concatenate(list(made.more(real, given.size)))
    with tempfile.TemporaryDirectory() as scratch:
        segments = built(base, Path(scratch))
        found = {
            "speed": speeds(base, queries, segments, given.rounds),
            "queries": by_queries(base, queries, segments["hnsw8"]),
        }
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps({"size": given.size, **found}, indent=1) + "\n", encoding="utf-8")
    if given.images:
        given.images.mkdir(parents=True, exist_ok=True)
        draw(found["speed"], "queries/s on two cores", "rate", given.images / "index-speed.svg", log=True)
        draw(found["queries"], "efSearch", "depth", given.images / "index-queries.svg", log=False)


def built(base: Floats, folder: Path) -> dict[str, Segment]:
    graph = Goal(memory=10**12)
    compact = Goal(memory=int(plan(len(base), base.shape[1], graph).memory) - 1)
    made = [build(batches(base), len(base), base.shape[1], goal, folder) for goal in (graph, compact)]
    return {segment.kind: segment for segment in made}


def speeds(base: Floats, queries: Floats, segments: dict[str, Segment], rounds: int) -> Curves:
    """Of each contestant and depth: recall@10 of ``queries`` (m, dimension), and how many a second, asked together."""
    truth = exact(queries, base)
    graph, _ = hnswlib_graph(base)
    curves: Curves = {}
    contestants: dict[str, Callable[[], object]] = {}

    def point(name: str, depth: int, share: float, ask: Callable[[], object]) -> None:
        curves.setdefault(name, []).append({"depth": depth, "recall": share})
        contestants[f"{name}/{depth}"] = ask

    for kind, segment in segments.items():
        for depth in DEPTHS:
            effort = replace(segment.effort, depth=depth)
            share = recall(segment.search(queries, K, None, effort)[1], truth)
            point(kind, depth, share, lambda segment=segment, effort=effort: segment.search(queries, K, None, effort))  # type: ignore[misc]

    def ask(depth: int) -> object:
        graph.set_ef(depth)
        return graph.knn_query(queries, K)

    for depth in DEPTHS:
        graph.set_ef(depth)
        point("hnswlib (M 16)", depth, recall_of(graph, queries, base, truth), lambda depth=depth: ask(depth))  # type: ignore[misc]
    for name, times in interleaved(contestants, rounds).items():
        kind, _, depth_text = name.rpartition("/")
        for each in curves[kind]:
            if each["depth"] == int(depth_text):
                each["rate"] = len(queries) / min(times)
    return curves


def by_queries(base: Floats, queries: Floats, segment: Segment) -> Curves:
    """Recall@10 of a graph, by depth, as different queries tell it."""
    rows = base[:: len(base) // 2000][:2000]
    kinds = {
        "windows that were held out": queries,
        "stand-ins": stand_ins(base, segment.kind, len(base), 2000, seed=5),
        "rows of the index": rows,
    }
    curves: Curves = {}
    for name, asked in kinds.items():
        itself = name == "rows of the index"  # every row finds itself: it is left out on both sides
        truth = exact(asked, base, K + itself)[:, itself:]
        for depth in DEPTHS:
            found = segment.search(asked, K + itself, None, Effort(depth, segment.effort.widen))[1][:, itself:]
            curves.setdefault(name, []).append({"depth": depth, "recall": recall(found, truth)})
    return curves


def draw(curves: Curves, label: str, key: str, file: Path, *, log: bool) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "curves"  # the same file for the same figures
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for (name, points), marker in zip(curves.items(), "os^", strict=False):
        shown = [each for each in points if each["recall"] >= SHOWN]
        x, y = [each["recall"] for each in shown], [each[key] for each in shown]
        axes.plot(*((x, y) if log else (y, x)), marker=marker, label=name)
    if log:
        axes.set_yscale("log")
    axes.set_xlabel("recall@10" if log else label)
    axes.set_ylabel(label if log else "recall@10")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    metadata: dict[str, Any] = {"Date": None}
    figure.savefig(file, metadata=metadata, bbox_inches="tight")


if __name__ == "__main__":
    main()
