"""The vector index on a GPU against the same index on all cores: queries/s at equal recall, and build time.

    python benchmarks/gpu_index.py [--size 10000000] [--rounds 5] [--json FILE] [--vectors FILE]

Vectors as those of benchmarks/index.py: above about 210,000 they are made up. The CPU's index is that of the default
plan with all the memory it wants; each kind on the card is used with the least effort that finds as many of the same
questions. Queries come 1,024 at a time. Prints a line and ends where FAISS sees no card.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import vectors as made
from common import Figure, at_least, interleaved, ratio, report
from index import Floats, batches, exact, recall

from embedsvc.vectors import Goal, build, gpu, has_card
from embedsvc.vectors.cards import Cards
from embedsvc.vectors.owner import CAGRA8, FLAT16, IVFPQ8

K = 10
BATCH = 1024
TARGET = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000_000, help="vectors (default 10,000,000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vectors", type=Path, help="an .npy made by benchmarks/vectors.py")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    if not has_card():
        print("skipped: no card")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # also where the CPU had to build
    real = made.load(given.vectors)
    held = np.zeros(len(real), bool)
    held[50 :: len(real) // BATCH] = True
    queries, real = np.ascontiguousarray(real[held][:BATCH]), real[~held]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "vectors.npy"
        base = np.lib.format.open_memmap(file, "w+", np.float32, (given.size, real.shape[1]))
        at = 0
        for block in made.more(real, given.size):
            base[at : at + len(block)] = block
            at += len(block)
        base.flush()
        # Only what is measured goes onto the card.
        with closing(Cards()) as cards, mock.patch.object(gpu, "_ASKED", sys.maxsize):
            figures = measure(np.load(file, mmap_mode="r"), queries, given.rounds, Path(scratch), cards)
    report(figures, given.json, size=given.size, real=min(given.size, len(real)), queries=len(queries))


def measure(base: Floats, queries: Floats, rounds: int, scratch: Path, cards: Cards) -> list[Figure]:
    truth = exact(queries, base)
    there = gpu.OnCards(cards)
    segments, seconds = {}, {}
    for name, builder in (("CPU", None), ("GPU", there)):
        with mock.patch.object(gpu, "on_cards", lambda builder=builder: builder):
            started = time.perf_counter()
            goal = Goal(TARGET, memory=10**12)
            segments[name] = build(batches(base), len(base), base.shape[1], goal, scratch)
            seconds[name] = time.perf_counter() - started
    segment = segments["CPU"]
    figures = [Figure(f"{name}: build", spent, "s") for name, spent in seconds.items()]
    figures += [
        at_least("build on the card over that on the CPU", seconds["CPU"] / seconds["GPU"], 1.0, "x"),
        *(
            Figure(f"built on the {name}, on the CPU: recall@10", recall(each.search(queries, K, None)[1], truth), "")
            for name, each in segments.items()
        ),
    ]
    spent = interleaved(
        {name: lambda each=each: each.search(queries, K, None) for name, each in segments.items()}, rounds
    )  # type: ignore[misc]
    figures += [
        Figure(f"built on the {name}, on the CPU: queries/s", BATCH / min(spent[name]), "1/s") for name in spent
    ]
    for kind in (FLAT16, CAGRA8, IVFPQ8):
        started = time.perf_counter()
        there.put(segment, [kind])
        took = time.perf_counter() - started
        if not there.holds(segment):
            print(f"{kind.name}: not on this card")
            continue
        found = recall(there.search(segment, queries, K, None)[1], truth)
        both = {
            "CPU": lambda: segment.search(queries, K, None),
            "card": lambda: there.search(segment, queries, K, None),
        }
        spent = interleaved(both, rounds)
        figures += [
            Figure(f"{kind.name}: put on the card and measured", took, "s"),
            at_least(f"{kind.name}: recall@10", found, TARGET),
            Figure(f"{kind.name}: queries/s, {BATCH:,} at a time", BATCH / min(spent["card"]), "1/s"),
            at_least(f"{kind.name} over all cores", ratio(spent["CPU"], spent["card"]), 1.0, "x"),
        ]
        there.drop(segment.name)
    return figures


if __name__ == "__main__":
    main()
