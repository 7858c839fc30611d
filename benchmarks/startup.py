"""Whole processes, from start to exit: ``embedsvc --help`` and a one-shot ``embedsvc search`` on a warm cache.

python benchmarks/startup.py [--data FOLDER] [--documents 5183] [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, open_or_make
from figures import at_most, interleaved, report

PROGRAM = [sys.executable, "-m", "embedsvc"]


def main() -> None:
    given = arguments(__doc__, documents=5183, rounds=7, collections=True)
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = given.collections or Path(scratch)
        open_or_make(data_dir, given.data, given.documents)
        asking = [*PROGRAM, "search", "do vitamins help", "-c", "scifact", "--data-dir", str(data_dir), "--json"]

        def ask() -> None:
            run(asking)

        ask()
        seconds = interleaved({"help": lambda: run([*PROGRAM, "--help"]), "search": ask}, given.rounds)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    figures = [
        at_most("embedsvc --help, whole process", middle["help"], 0.3, "s"),
        at_most("embedsvc search, whole process, hybrid", middle["search"], 1.5, "s"),
    ]
    report(figures, given.json, seconds=seconds)


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
