"""What reranking takes, with and without a time budget: 1,000 passages of 512 tokens, made up, by a cross-encoder as
large as all-MiniLM-L6-v2.

    python benchmarks/rerank.py [--reranker FOLDER] [--json FILE]

Without ``--reranker`` it is made of that model's own weights: its scores say nothing, its times what another of that
size takes. Told are milliseconds until the answer, and the memory that the process has more at the most.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from figures import Figure, report

from embedsvc.config import Settings, load_settings
from embedsvc.encoding.cross_encoder import load_cross_encoder
from embedsvc.encoding.models import resolve_model
from embedsvc.search import Rerank
from embedsvc.search.reranking import relevance

QUERY = "How do I restart the service after a power failure?"
WORDS = [*QUERY.lower().split(), "passage", "answer", "of", "before", "cluster", "node", "disk", "memory"]
ASKED = ((1, None), (200, 20), (1000, 20), (1000, 500), (50, None), (1000, None))
"""Passages, and the budget in milliseconds; the first only warms up."""
_STATUS = Path("/proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--reranker", type=Path, metavar="FOLDER", help="a cross-encoder")
    given = parser.parse_args()
    settings = load_settings({})
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.reranker or made_up(Path(scratch), settings)
        encoder = load_cross_encoder(replace(settings, model=str(folder), dtype="fp32"))
        chosen = random.Random(0)
        texts = [" ".join(chosen.choices(WORDS, k=510)) for _ in range(1000)]
        figures: list[Figure] = []
        for count, budget in ASKED:
            name = f"{count:,} passages, " + ("no budget" if budget is None else f"budget {budget} ms")
            seconds, more, late = measured(Rerank(encoder, count, budget), texts[:count])
            figures.append(Figure(f"{name}{', late' if late else ''}", 1000 * seconds, "ms"))
            figures.append(Figure(f"{name}: memory", more, "MB more"))
    report(figures[2:], given.json)


def made_up(folder: Path, settings: Settings) -> Path:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = resolve_model("all-MiniLM-L6-v2", settings.cache).transformer
    AutoModelForSequenceClassification.from_pretrained(source, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def measured(wanted: Rerank, texts: list[str]) -> tuple[float, float, bool]:
    """Seconds, MB, and whether the time was up before the end."""
    before = most = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    late = relevance(wanted, QUERY, texts, started) is None
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return seconds, most - before, late


def resident() -> float:
    """MB of this process that are in memory."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
