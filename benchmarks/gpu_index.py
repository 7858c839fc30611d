"""The vector index on a GPU against the same index on all cores: queries/s at equal recall, and build time.

    python benchmarks/gpu_index.py [--size 10000000] [--card-only] [--rounds 5] [--json FILE] [--vectors FILE]

Vectors as those of benchmarks/index.py: above about 210,000 they are made up. On the CPU it is the graph that the plan
chooses with all the memory it wants. Efforts are chosen with other held-out windows than those that are asked then, and
each kind on the card gets the least effort that finds as many of these as the CPU's index does. Queries come 1,024 at a
time, eight times in a row, from one caller and from four at once. --card-only: the CPU's index gets its graph from the
card, where the cores would take too long. Prints a line and ends where FAISS sees no card.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import vectors as made
from figures import Figure, at_least, interleaved, ratio, report
from index import Floats, recall

from embedsvc.vectors import gpu, has_card
from embedsvc.vectors.cards import Cards
from embedsvc.vectors.faiss_module import faiss_module
from embedsvc.vectors.kinds import HNSW8, Effort, build_hnsw, carry_on
from embedsvc.vectors.measuring import Questions, recall_of, tuned
from embedsvc.vectors.owner import CAGRA16, FLAT16, IVFPQ8, CardKind
from embedsvc.vectors.recall import EXACT
from embedsvc.vectors.segment import Segment

K = 10
BATCH = 1024
CALLERS = 4
TIMES = 8
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
    held[50 :: len(real) // ((CALLERS + 1) * BATCH)] = True
    *queries, others = (np.ascontiguousarray(real[held][at :: CALLERS + 1][:BATCH]) for at in range(CALLERS + 1))
    real = real[~held]
    figures: list[Figure] = []

    def add(*some: Figure) -> None:
        figures.extend(some)
        report(list(some), None)
        if given.json:
            facts = {"size": given.size, "real": min(given.size, len(real)), "cores": os.cpu_count()}
            with Path(os.devnull).open("w") as nowhere, mock.patch.object(sys, "stdout", nowhere):
                report(figures, given.json, queries=BATCH, **facts)  # each time: a lease may end in between

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
    queries: Sequence[Floats],
    others: Floats,
    rounds: int,
    there: gpu.OnCards,
    on_cpu: bool,
    add: Callable[..., None],
) -> None:
    bare = Segment("segment", "flat", np.arange(len(base)), None, 1, base, None, Effort(0, 1), EXACT, 0.0)
    both = exact(bare, np.concatenate([queries[0], others]))
    truth, asked = both[:BATCH], [Questions(others, both[BATCH:], None)]
    logging.getLogger("gpu_index").info("exact answers known")
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
        found = recall(segment.search(queries[0], K, None)[1], truth)
        cpu = min(interleaved({"": calls(queries[:1], lambda some, of=segment: of.search(some, K, None))}, rounds)[""])
        add(
            Figure(f"graph of the {name}: made", seconds[name], "s"),
            Figure(f"graph of the {name}, depth {segment.effort.depth}, on the CPU: recall@10", found, ""),
            Figure(f"graph of the {name}, on the CPU: queries/s, {BATCH:,} at a time", TIMES * BATCH / cpu, "1/s"),
        )
    if on_cpu:
        add(at_least("made on the CPU over made on the card", seconds["CPU"] / seconds["card"], 1.0, "x"))
    segment = segments.get("CPU", segments["card"])
    with mock.patch.object(gpu, "questions", return_value=asked[0]):
        for kind in (FLAT16, CAGRA16, IVFPQ8):
            of_kind(kind, segment, queries, truth, rounds, there, add)


def exact(segment: Segment, queries: Floats) -> Floats:
    """The scores (queries, k) of the exact answers: twice as many by a card's products of 32 bits, scored as all is."""
    faiss, at, block = faiss_module(), [], 1_000_000
    resources, scores = faiss.StandardGpuResources(), []
    for start in range(0, len(segment), block):
        part = segment.vectors[start : start + block]
        found = faiss.knn_gpu(resources, queries, part, 2 * K, metric=faiss.METRIC_INNER_PRODUCT)
        scores.append(found[0])
        at.append(found[1] + start)
    every = np.concatenate(scores, axis=1)
    best = np.argpartition(-every, 2 * K - 1, axis=1)[:, : 2 * K]
    return segment.ranked(queries, np.take_along_axis(np.concatenate(at, axis=1), best, 1), K)[1]


def calls(queries: Sequence[Floats], search: Callable[[Floats], object]) -> Callable[[], object]:
    """A caller for each of ``queries`` (m, dimension), all at once, each ``TIMES`` in a row."""
    pool = ThreadPoolExecutor(len(queries))

    def one(some: Floats) -> None:
        for _ in range(TIMES):
            search(some)

    return lambda: list(pool.map(one, queries))


def of_kind(
    kind: CardKind,
    segment: Segment,
    queries: Sequence[Floats],
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
    key = gpu._key(segment)
    effort = there._places[key].effort
    count = K * effort.widen
    about = {"do": "search", "segment": key, "depth": effort.depth, "count": count}
    found = recall(there.search(segment, queries[0], K, None)[1], truth)
    ready = [kind.asked(some) for some in queries[:1]]
    ways = {
        "CPU": lambda some: segment.search(some, K, None),
        "card": lambda some: there.search(segment, some, K, None),
    }
    spent = interleaved(
        {way: calls(queries[:1], search) for way, search in ways.items()}
        | {f"{way}, {CALLERS}": calls(queries, search) for way, search in ways.items()}
        | {"candidates": calls(ready, lambda some: there._cards.ask(some, **about).result())},
        rounds,
    )
    cpu = [min(one, many / CALLERS) for one, many in zip(spent["CPU"], spent[f"CPU, {CALLERS}"], strict=True)]
    many = [seconds / CALLERS for seconds in spent[f"card, {CALLERS}"]]
    add(
        Figure(f"{kind.name}: put on the card, its effort chosen", took, "s"),
        at_least(f"{kind.name}, depth {effort.depth}, {count} candidates: recall@10", found, TARGET),
        Figure("all cores, best of one and four callers: queries/s", TIMES * BATCH / min(cpu), "1/s"),
        Figure(f"{kind.name}: queries/s, {BATCH:,} at a time", TIMES * BATCH / min(spent["card"]), "1/s"),
        Figure(f"{kind.name}: queries/s, {CALLERS} callers with {BATCH:,} each", TIMES * BATCH / min(many), "1/s"),
        Figure(f"{kind.name}: candidates alone", TIMES * BATCH / min(spent["candidates"]), "1/s"),
        at_least(f"{kind.name} over all cores", ratio(cpu, spent["card"]), 10.0, "x"),
        at_least(f"{kind.name} over all cores, {CALLERS} callers", ratio(cpu, many), 10.0, "x"),
    )
    there.drop(key)


if __name__ == "__main__":
    main()
