"""Runs the benchmarks of the issue's table one after the other and prints what was asked and what was measured.

    python benchmarks/all.py [--data FOLDER] [--results FOLDER]

Every benchmark also leaves its figures in ``--results`` (``benchmarks/results``). Takes about half an hour on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("quality", "ingest", "query", "startup")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/scifact"), metavar="FOLDER")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER")
    given = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in NAMES:
            command = [sys.executable, str(HERE / f"{name}.py"), "--data", str(given.data)]
            command += ["--json", str(given.results / f"{name}.json")]
            if name in ("query", "startup"):  # one collection serves both
                command += ["--collections", scratch]
            print(f"$ {' '.join(command)}", flush=True)
            failed += [name] * (subprocess.run(command, check=False).returncode != 0)
    table(given.results)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def table(results: Path) -> None:
    """The figures that something was asked of."""
    print(f"\n{'what':<58} {'asked':>14} {'got':>10}")
    for name in NAMES:
        file = results / f"{name}.json"
        for figure in json.loads(file.read_text(encoding="utf-8"))["figures"] if file.is_file() else ():
            if figure["ok"] is not None:
                verdict = "" if figure["ok"] else "MISSED"
                print(f"{figure['name']:<58} {figure['ask']:>14} {figure['value']:>10,.4g} {figure['unit']} {verdict}")


if __name__ == "__main__":
    main()
