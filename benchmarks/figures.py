"""The figures of a benchmark: what was asked for, what was measured, how times are compared. Of the package it needs
only what tells the processor's name."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedsvc.encoding.machine import processor


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the issue's table: what was asked for, and what was measured. ``ok`` None: nothing was asked."""

    name: str
    value: float
    unit: str
    ask: str = ""
    ok: bool | None = None


def at_least(name: str, value: float, least: float, unit: str = "") -> Figure:
    return Figure(name, value, unit, f">= {least:g}", value >= least)


def at_most(name: str, value: float, most: float, unit: str = "") -> Figure:
    return Figure(name, value, unit, f"<= {most:g}", value <= most)


def report(figures: Sequence[Figure], file: Path | None, **context: Any) -> None:
    """Prints the figures; with ``file`` also writes them with the command, the machine and ``context``."""
    for figure in figures:
        verdict = "" if figure.ok is None else f"asked {figure.ask}: {'met' if figure.ok else 'MISSED'}"
        print(f"{figure.name:<58} {figure.value:>10,.5g} {figure.unit:<12} {verdict}".rstrip(), flush=True)
    if file is not None:
        machine = {"cpu": processor(), "cores": len(os.sched_getaffinity(0)), "load_1m": round(os.getloadavg()[0], 2)}
        record = {
            "command": " ".join(["python", *sys.argv]),
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine,
            **context,
            "figures": [asdict(figure) for figure in figures],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def interleaved(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contestant in every round. All take part in each round, so a busy spell hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over rounds of the quotient within each round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def resident_mb(pid: int | str = "self") -> float:
    """Resident memory of a process in MB (10**6 bytes; Linux)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6
