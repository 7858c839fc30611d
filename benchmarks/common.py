"""What the benchmarks share: their arguments, the SciFact folder, a collection of it, and the printing of figures."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import httpx

from embedsvc.collection import Collection, collection_names
from embedsvc.config import load_settings
from embedsvc.encoding import load_encoder
from embedsvc.encoding.machine import processor
from embedsvc.ingest import ingest_items
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking, Document, make_document

SCIFACT = Path("../shared/data/scifact")
WINDOW = 256
"""Tokens of a document that its vector sees, special tokens counted: as in the published figures."""


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


def arguments(
    description: str | None, *, collections: bool = False, texts: Sequence[str] = (), **numbers: int
) -> argparse.Namespace:
    """``--json FILE``, ``--data FOLDER``, a flag for each of ``texts``, and an integer flag for each of ``numbers``
    (its default).

    ``collections``: also ``--collections FOLDER``. Exits with a line to say so where the data are absent.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--data", type=Path, default=SCIFACT, metavar="FOLDER", help=f"BEIR folder ({SCIFACT})")
    if collections:
        parser.add_argument("--collections", type=Path, metavar="FOLDER", help="keep the collection here, or use it")
    for name in texts:
        parser.add_argument(f"--{name}")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"(default {default})")
    parsed = parser.parse_args()
    if not (parsed.data / "corpus.jsonl").is_file():
        print(f"skipped: there is no {parsed.data / 'corpus.jsonl'}; name a BEIR folder with --data")
        sys.exit(0)
    return parsed


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


# -- timing ----------------------------------------------------------------------------------------------------------


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


# -- data ------------------------------------------------------------------------------------------------------------


def documents(data: Path, count: int | None = None) -> Iterator[Document]:
    """The first ``count`` documents of a BEIR folder, title in front."""
    with (data / "corpus.jsonl").open(encoding="utf-8") as lines:
        for line in itertools.islice(lines, count):
            record = json.loads(line)
            text = f"{record['title']} {record['text']}".strip()
            yield make_document(f"scifact:{record['_id']}", text, id=record["_id"], title=record["title"])


def queries(data: Path) -> list[str]:
    """Texts of the queries that the test split judges, in file order."""
    judged = {line.split("\t")[0] for line in (data / "qrels" / "test.tsv").read_text("utf-8").splitlines()}
    with (data / "queries.jsonl").open(encoding="utf-8") as lines:
        return [record["text"] for record in map(json.loads, lines) if record["_id"] in judged]


def open_or_make(data_dir: Path, data: Path, count: int) -> Collection:
    """The collection ``scifact`` in ``data_dir``; made of the first ``count`` documents where it is not there yet."""
    settings = load_settings({"data_dir": data_dir, "runtime": "onnx"})
    if "scifact" in collection_names(data_dir):
        return Collection.open("scifact", settings)
    encoder = load_encoder(settings)
    collection = Collection.create("scifact", encoder.contract, Chunking(WINDOW, whole=True), settings)
    for outcome in ingest_items(collection, encoder, documents(data, count), FieldChoice()):
        if outcome.status != "indexed":
            raise RuntimeError(f"{outcome.uri}: {outcome.status} ({outcome.reason})")
    return collection


# -- servers -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(data_dir: Path) -> Iterator[tuple[httpx.Client, int]]:
    """Our server in a process of its own over ``data_dir``: a client with one kept connection, and the process id."""
    port = free_port()
    command = [sys.executable, "-m", "embedsvc", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    with running(command, f"http://127.0.0.1:{port}", "/readyz") as (client, pid):
        yield client, pid


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], url: str, ready: str) -> Iterator[tuple[httpx.Client, int]]:
    """A server process, once it answers 200 at the path ``ready``; stopped at the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            deadline = time.monotonic() + 120
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if client.get(ready).status_code == 200:
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(command)} did not get ready")
                time.sleep(0.1)
            yield client, process.pid
    finally:
        process.terminate()
        process.wait(30)
