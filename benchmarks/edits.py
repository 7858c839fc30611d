"""What the text index costs after one of many texts was edited, a hundred, a tenth; and after a tenth was deleted.

    python benchmarks/edits.py [--size 60000] [--json FILE]

Texts of 300 made-up words, as many as ``--size``, one to a document, in a store without fsync; nothing is encoded.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from figures import Figure, percentile, report

from embedsvc.records import Chunking, Contract, Passage, make_document
from embedsvc.storage import Store, passage_table

PER_COMMIT, WORDS, VOCABULARY, DIMENSION = 2000, 300, 20_000, 8
SYLLABLES = [consonant + vowel for consonant in "bcdfghklmnprstvz" for vowel in "aeiou"]
CONTRACT = Contract("none", "", "", "mean", True, "", "", DIMENSION, "fp32", 512, ((1.0,) + (0.0,) * (DIMENSION - 1),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=60_000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        Store.create(Path(scratch) / "c", CONTRACT, Chunking(512, 0), "os")
        store = Store.open(Path(scratch) / "c", "os")
        for at in range(0, given.size, PER_COMMIT):
            store = put(store, range(at, min(at + PER_COMMIT, given.size)), random)
        store = store.maintain()
        figures = [Figure("BM25, p50", searched(store, random), "ms")]
        for count in (1, 1, 100, given.size // 10):
            chosen = random.choice(given.size, count, replace=False).tolist()
            store = put(store, chosen, random)
            store, spent = timed(store.maintain)
            figures += [*told(f"{count:,} replaced", spent), Figure("BM25, p50", searched(store, random), "ms")]
        gone = [str(id) for id in random.choice(given.size, given.size // 10, replace=False)]
        store, spent = timed(store.replace(passage_table([], DIMENSION), gone).maintain)
        figures += [*told(f"{len(gone):,} deleted", spent), Figure("BM25, p50", searched(store, random), "ms")]
    report(figures, given.json, size=given.size)


def put(store: Store, ids: Iterable[int], random: np.random.Generator) -> Store:
    vector = np.eye(1, DIMENSION, dtype=np.float32)
    made = [make_document(f"made:{id}", some_words(random, WORDS), id=str(id)) for id in ids]
    whole = [(each, [Passage(0, 0, len(each.text), np.zeros(1, np.int32))], vector) for each in made]
    return store.replace(passage_table(whole, DIMENSION), [each.id for each in made])


def some_words(random: np.random.Generator, count: int) -> str:
    """The frequent ones often, as in languages."""
    numbers = (VOCABULARY ** random.random(count)).astype(int).tolist()
    return " ".join(SYLLABLES[at % 80] + SYLLABLES[at // 80 % 80] + SYLLABLES[at // 6400] for at in numbers)


def timed(work: Callable[[], Store]) -> tuple[Store, tuple[float, float]]:
    """What it returns, the seconds of CPU that it took and the most memory of the process by then, in MB."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    done = work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done, (seconds, (after.ru_maxrss - before.ru_maxrss) / 1e3)


def told(what: str, spent: tuple[float, float]) -> list[Figure]:
    seconds, memory = spent
    return [
        Figure(f"{what}: maintenance, CPU", seconds, "s"),
        Figure("the same: peak above the highest before", memory, "MB"),
    ]


def searched(store: Store, random: np.random.Generator) -> float:
    """Milliseconds of a query of three words."""
    times = []
    for _ in range(60):
        query, started = some_words(random, 3), time.perf_counter()
        store.lexical(query, 100)
        times.append(1000 * (time.perf_counter() - started))
    return percentile(times, 0.5)


if __name__ == "__main__":
    main()
