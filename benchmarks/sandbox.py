"""What reading in a process of its own costs: milliseconds per file inside and outside, start, memory.

    python benchmarks/sandbox.py ../shared/data/long/peps

The first two figures are of the readers alone; then those of the ingest's reading stage, with tokenising and cutting on
other threads, as it is in a run that ignores duplicates, and the seconds until all of that is done.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from embedsvc.chunking import Chunks, chunk
from embedsvc.collection import Collection
from embedsvc.config import Settings, usable_cores
from embedsvc.encoding import load_encoder
from embedsvc.intake import _Reader, _Reading
from embedsvc.likeness import Likeness
from embedsvc.readers import FieldChoice, FoundFile, Rejected, discover, read
from embedsvc.readers.sandbox import Sandbox
from embedsvc.records import Chunking, Document, Source
from embedsvc.unread import Inputs

Reader = Callable[[Source, FieldChoice], Iterator[Document | Rejected]]
_ROUNDS = 5
_LARGEST = 100_000_000


def readers_alone(reader: Reader, sources: list[Source]) -> float:
    started = time.perf_counter()
    for source in sources:
        for _ in reader(source, FieldChoice()):
            pass
    return time.perf_counter() - started


def stage(
    reader: Reader, folder: str, cut: Callable[[Document], tuple[Chunks, float]], empty: Collection
) -> tuple[float, float]:
    """Seconds until all is read, and until all is cut as well."""
    store = empty.store()
    directory = store.path.parent
    with ThreadPoolExecutor(usable_cores()) as chunkers, closing(Inputs(directory, "")) as inputs:
        cutting: list[Future[tuple[Chunks, float]]] = []

        def apart(document: Document) -> Future[tuple[Chunks, float]]:
            cutting.append(chunkers.submit(cut, document))
            return cutting[-1]

        reading = _Reader(
            _Reading({}, store.passage_counts),
            lambda source: reader(source, FieldChoice()),
            lambda: 1.0,
            apart,
            Likeness("ignore", store, directory),
            inputs,
            (),
        )
        started = time.perf_counter()
        for _ in reading.read_all(discover([folder], max_file_bytes=_LARGEST)):
            pass
        done = time.perf_counter() - started
        for each in cutting:
            each.result()
        return done, time.perf_counter() - started


def main(folder: str) -> None:
    encoder = load_encoder(Settings(runtime="onnx", dtype="int8"))

    def cut(document: Document) -> tuple[Chunks, float]:
        return chunk(document, encoder.tokenizer, Chunking(), reserved=encoder.reserved("passage")), 0.0

    sources = [file.load() for file in discover([folder], max_file_bytes=_LARGEST) if isinstance(file, FoundFile)]
    with tempfile.TemporaryDirectory() as data, Sandbox() as sandbox:
        empty = Collection.create("empty", encoder.contract, Chunking(), Settings(data_dir=Path(data)))
        started = time.perf_counter()
        sandbox.held()
        print(f"start: {time.perf_counter() - started:.3f} s")
        ways: dict[str, Reader] = {"outside": read, "inside": sandbox.read}
        alone: dict[str, list[float]] = {name: [] for name in ways}
        staged: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(_ROUNDS):
            for name, reader in ways.items():
                alone[name].append(readers_alone(reader, sources))
                staged[name].append(stage(reader, folder, cut, empty))
        for name in ways:
            each = 1000 / len(sources)
            reading, cutting = (statistics.median(seconds) for seconds in zip(*staged[name], strict=True))
            print(
                f"{name}: readers {statistics.median(alone[name]) * each:.2f} ms per file, least "
                f"{min(alone[name]) * each:.2f}; reading stage {reading * each:.2f} ms per file, "
                f"{reading:.2f} s in all, with cutting {cutting:.2f} s"
            )
        status = Path(f"/proc/{sandbox._ready()._process.pid}/status").read_text(encoding="ascii").splitlines()
        print(*(" ".join(line.split()) for line in status if line.startswith(("VmPeak", "VmHWM"))), sep="; ")


if __name__ == "__main__":
    main(sys.argv[1])
