"""The vector index on a GPU against the same index on all cores: queries/s at equal recall, and build time.

    python benchmarks/gpu_index.py [--size 10000000] [--card-only] [--rounds 5] [--json FILE] [--vectors FILE]

Vectors as those of benchmarks/index.py: above about 210,000 they are made up. On the CPU it is the graph that the plan
chooses with all the memory it wants. Efforts are chosen with other held-out windows than those that are asked then, and
each kind on the card gets the least effort that finds as many of these as the CPU's index does. Queries come 1,024 at a
time. --card-only: the CPU's index gets its graph from the card, where the cores would take too long. Prints a line and
ends where FAISS sees no card.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import vectors as made
from figures import Figure, at_least, interleaved, ratio, report
from index import Floats, exact, recall

from embedsvc.vectors import gpu, has_card
from embedsvc.vectors.cards import Cards
from embedsvc.vectors.kinds import HNSW8, Effort, build_hnsw, carry_on
from embedsvc.vectors.measuring import questions, recall_of, tuned
from embedsvc.vectors.owner import CAGRA16, FLAT16, IVFPQ8, CardKind
from embedsvc.vectors.recall import EXACT
from embedsvc.vectors.segment import Segment

K = 10
BATCH = 1024
TARGET = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000_000, help="vectors (default 10,000,000)")
    parser.add_argument("--card-only", action="store_true", help="no build on the CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vectors", type=Path, help="an .npy made by benchmarks/vectors.py")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    if not has_card():
        print("skipped: no card")
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")  # also where the CPU had to build
    real = made.load(given.vectors)
    held = np.zeros(len(real), bool)
    held[50 :: len(real) // (2 * BATCH)] = True
    queries, others, real = real[held][: 2 * BATCH : 2], real[held][1 : 2 * BATCH : 2], real[~held]
    queries, others = np.ascontiguousarray(queries), np.ascontiguousarray(others)
    figures: list[Figure] = []

    def add(*some: Figure) -> None:
        figures.extend(some)
        report(list(some), None)
        if given.json:
            facts = {"size": given.size, "real": min(given.size, len(real)), "cores": os.cpu_count()}
            with Path(os.devnull).open("w") as nowhere, mock.patch.object(sys, "stdout", nowhere):
                report(figures, given.json, queries=len(queries), **facts)  # each time: a lease may end in between

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "vectors.npy"
        with file.open("wb") as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": (given.size, real.shape[1])}
            np.lib.format.write_array_header_1_0(stream, header)
            for block in made.more(real, given.size):
                stream.write(block.tobytes())
        base = np.load(file, mmap_mode="r")
        log = logging.getLogger("gpu_index")
        log.info("vectors written")
        # Only what is measured goes onto the card, and what is measured there is measured with all cores.
        with (
            closing(Cards()) as cards,
            mock.patch.object(gpu, "_ASKED", sys.maxsize),
            mock.patch.object(gpu, "gently", nullcontext),
            mock.patch.object(gpu, "_cpu_seconds", return_value=math.inf),  # what is slower is measured too
        ):
            measure(base, queries, others, given.rounds, gpu.OnCards(cards), not given.card_only, add)


def measure(
    base: Floats,
    queries: Floats,
    others: Floats,
    rounds: int,
    there: gpu.OnCards,
    on_cpu: bool,
    add: Callable[..., None],
) -> None:
    truth = exact(queries, base)
    ids = np.arange(len(base))
    logging.getLogger("gpu_index").info("exact answers known")
    bare = Segment("segment", "flat", ids, None, 1, base, None, Effort(0, 1), EXACT, 0.0)
    asked = [questions(bare, others)]
    segments, seconds = {}, {}
    for name in ("CPU", "card") if on_cpu else ("card",):
        started = time.perf_counter()
        codes = build_hnsw(base, carry_on) if name == "CPU" else there.build(base, carry_on)
        seconds[name] = time.perf_counter() - started
        made_of = replace(bare, kind=HNSW8.name, codes=codes)
        deepest = HNSW8.efforts(codes)[-1]
        segment = tuned(made_of, TARGET, asked) or replace(
            made_of, effort=deepest, recall=recall_of(made_of, deepest, asked)
        )
        segments[name] = segment
        found = recall(segment.search(queries, K, None)[1], truth)
        cpu = min(interleaved({"": lambda segment=segment: segment.search(queries, K, None)}, rounds)[""])
        add(
            Figure(f"graph of the {name}: made", seconds[name], "s"),
            Figure(f"graph of the {name}, depth {segment.effort.depth}, on the CPU: recall@10", found, ""),
            Figure(f"graph of the {name}, on the CPU: queries/s, {BATCH:,} at a time", BATCH / cpu, "1/s"),
        )
    if on_cpu:
        add(at_least("made on the CPU over made on the card", seconds["CPU"] / seconds["card"], 1.0, "x"))
    segment = segments.get("CPU", segments["card"])
    with mock.patch.object(gpu, "questions", return_value=asked[0]):
        for kind in (FLAT16, CAGRA16, IVFPQ8):
            of_kind(kind, segment, queries, truth, rounds, there, add)


def of_kind(
    kind: CardKind,
    segment: Segment,
    queries: Floats,
    truth: Floats,
    rounds: int,
    there: gpu.OnCards,
    add: Callable[..., None],
) -> None:
    started = time.perf_counter()
    there.put(segment, [kind])
    took = time.perf_counter() - started
    if not there.holds(segment):
        print(f"{kind.name}: not on this card")
        return
    effort = there._places[segment.name].effort
    count = K * effort.widen
    about = {"do": "search", "segment": segment.name, "depth": effort.depth, "count": count}
    found = recall(there.search(segment, queries, K, None)[1], truth)
    spent = interleaved(
        {
            "CPU": lambda: segment.search(queries, K, None),
            "card": lambda: there.search(segment, queries, K, None),
            "candidates": lambda: there._cards.ask(queries, **about).result(),
        },
        rounds,
    )
    add(
        Figure(f"{kind.name}: put on the card, its effort chosen", took, "s"),
        at_least(f"{kind.name}, depth {effort.depth}, {count} candidates: recall@10", found, TARGET),
        Figure(f"{kind.name}: queries/s, {BATCH:,} at a time", BATCH / min(spent["card"]), "1/s"),
        Figure(f"{kind.name}: candidates alone", BATCH / min(spent["candidates"]), "1/s"),
        at_least(f"{kind.name} over all cores", ratio(spent["CPU"], spent["card"]), 10.0, "x"),
    )
    there.drop(segment.name)


if __name__ == "__main__":
    main()
