"""Fuzzes the readers and the chunker with atheris, each target in a process of its own.

    python fuzz/run.py [TARGET …] [--seconds 1800] [--seeds FOLDER] [--limit 20] [--work FOLDER] [--json FILE]

A finding is an exception that is no ReadError, a crash, more than ``limit`` seconds or 2 GB for one input. The input is
left in ``work``; to see it again: ``python fuzz/run.py TARGET --input FILE``. Edges are those of our own code: what the
parsers below it are made of, atheris does not see.

What each target has had by now is added up in ``--json FILE``, over runs: inputs, seconds, of the CPU too (at a low
priority that is less), findings, and the CPU seconds of its slowest input.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--seeds", type=Path, default=Path("../shared/data/formats"))
    parser.add_argument("--limit", type=int, default=20, help="seconds for one input")
    parser.add_argument("--work", type=Path, help="where corpora and findings are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="adds what was done to FILE")
    parser.add_argument("--input", type=Path, help="runs the target on this file only")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args()
    if given.one:
        fuzz(given.targets[0], rest)
    from fuzz.targets import TARGETS, seeds

    if given.input:
        TARGETS[given.targets[0]](given.input.read_bytes())
        return 0
    work = given.work or Path(tempfile.mkdtemp(prefix="embedsvc-fuzz-"))
    failed = 0
    for target in given.targets or TARGETS:
        corpus = work / target / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(seeds(target, given.seeds)):
            (corpus / f"seed-{number}").write_bytes(data)
        flags = [
            f"-max_total_time={given.seconds}",
            f"-timeout={given.limit}",
            "-rss_limit_mb=2000",
            "-max_len=200000",
            f"-artifact_prefix={work / target}/",
        ]
        command = [sys.executable, __file__, "--one", target, *flags, str(corpus)]
        log = work / target / "log"
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        with log.open("w") as said:
            code = subprocess.run(command, stdout=said, stderr=said, check=False).returncode
        text = log.read_text(errors="replace")
        runs = [int(done or so_far) for done, so_far in re.findall(r"Done (\d+) runs|^#(\d+)\s", text, re.M)]
        covered = [int(edges) for edges in re.findall(r"\bcov: (\d+)", text)]
        slowest = max(map(float, re.findall(r"^slowest so far: ([\d.]+)", text, re.M)), default=0.0)
        found = sorted(file.name for file in (work / target).glob("*-*") if file.is_file())
        verdict = "nothing" if code == 0 else f"exit code {code}: {', '.join(found)} (see {log})"
        counts = f"{max(runs, default=0):>9} runs  {max(covered, default=0):>6} edges  slowest {slowest:.2f} s"
        print(f"{target:<14} {counts}  {verdict}", flush=True)
        failed += code != 0
        if given.json:
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            had = {
                "inputs": max(runs, default=0),
                "seconds": round(time.monotonic() - started),
                "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
                "findings": int(code != 0),
            }
            add(given.json, target, had, slowest)
    return 1 if failed else 0


def add(file: Path, target: str, had: dict[str, int], slowest: float) -> None:
    record: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    before = record.get(target, {})
    sums = {name: before.get(name, 0) + value for name, value in had.items()}
    record[target] = {**sums, "slowest_cpu_seconds": max(slowest, before.get("slowest_cpu_seconds", 0.0))}
    file.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n")


def _readers() -> list[str]:
    folder = Path(__file__).parents[1] / "embedsvc" / "readers"
    return [f"embedsvc.readers.{file.stem}" for file in folder.glob("*.py") if file.stem != "__init__"]


def fuzz(target: str, flags: list[str]) -> None:
    """In this process, until the time is over or something is found; does not return."""
    import logging

    import atheris

    # All at once, for a reader that is imported only when it is needed would be seen from outside.
    with atheris.instrument_imports(include=["embedsvc.readers", "embedsvc.chunking"], enable_loader_override=False):
        for name in [*_readers(), "embedsvc.chunking"]:
            importlib.import_module(name)
    from fuzz.targets import TARGETS

    slowest = 0.0

    def timed(data: bytes) -> None:
        nonlocal slowest
        started = time.process_time()
        TARGETS[target](data)
        if (took := time.process_time() - started) > slowest:
            slowest = took
            print(f"slowest so far: {took:.3f}", file=sys.stderr, flush=True)

    logging.disable(logging.CRITICAL)
    atheris.Setup([sys.argv[0], *flags], timed)
    atheris.Fuzz()
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
