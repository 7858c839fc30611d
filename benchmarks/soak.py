"""Resident memory of a server under mixed requests: does it stay flat?

    python benchmarks/soak.py [--minutes 30] [--data FOLDER] [--json FILE]

Four clients send texts of 1 to 512 tokens, 1 to 16 at once, and queries to a collection. Memory is read every 5
seconds. The first sixth of the time is warm-up; the figure compares the median of the sixth after it with that of the
last sixth.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import httpx
from common import arguments, documents, open_or_make, queries, served
from figures import Figure, at_most, report, resident_mb

MODEL = "all-MiniLM-L6-v2"


def main() -> None:
    given = arguments(__doc__, collections=True, minutes=30)
    words = " ".join(document.text for document in documents(given.data, 200)).split()
    texts = queries(given.data)
    memory: list[float] = []
    counts = [0] * 4
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = given.collections or Path(scratch)
        open_or_make(data_dir, given.data, 5183)
        with served(data_dir) as (client, pid):
            end = time.monotonic() + 60 * given.minutes
            threads = [
                threading.Thread(target=send, args=(str(client.base_url), words, texts, end, counts, number))
                for number in range(len(counts))
            ]
            for thread in threads:
                thread.start()
            while time.monotonic() < end:
                memory.append(resident_mb(pid))
                time.sleep(5)
            for thread in threads:
                thread.join()
    sixth = max(1, len(memory) // 6)
    early, late = statistics.median(memory[sixth : 2 * sixth]), statistics.median(memory[-sixth:])
    figures = [
        Figure("requests answered", sum(counts), ""),
        Figure("resident memory after the warm-up", early, "MB"),
        Figure("resident memory at the end", late, "MB"),
        Figure("highest", max(memory), "MB"),
        at_most("growth after the warm-up", 100 * (late / early - 1), 3, "%"),
    ]
    report(figures, given.json, minutes=given.minutes)


def send(url: str, words: list[str], texts: list[str], end: float, counts: list[int], number: int) -> None:
    chance = random.Random(number)
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        while time.monotonic() < end:
            if chance.random() < 0.3:
                path, body = "/v1/collections/scifact/search", {"query": chance.choice(texts)}
            else:
                starts = [chance.randrange(len(words) - 400) for _ in range(chance.randint(1, 16))]
                several = [" ".join(words[start : start + chance.randint(1, 400)]) for start in starts]
                path = "/v1/embeddings"
                body = {"model": MODEL, "input": several, "on_overflow": chance.choice(["split", "truncate"])}
            client.post(path, json=body).raise_for_status()
            counts[number] += 1


if __name__ == "__main__":
    main()
