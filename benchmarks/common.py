"""What the benchmarks share: their arguments, the SciFact folder, a collection of it, and servers."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import httpx

from embedsvc.collection import Collection, collection_names
from embedsvc.config import load_settings
from embedsvc.encoding import load_encoder
from embedsvc.ingest import ingest_items
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking, Document, make_document

SCIFACT = Path("../shared/data/scifact")
WINDOW = 256
"""Tokens of a document that its vector sees, special tokens counted: as in the published figures."""


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
