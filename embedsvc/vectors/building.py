"""Makes a segment: lays the vectors down on the disk, builds the codes over them, and measures what came of it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from embedsvc.vectors.faiss_module import faiss_module
from embedsvc.vectors.gpu import build_on_card
from embedsvc.vectors.kinds import HNSW8, KINDS, Effort, blocks
from embedsvc.vectors.measuring import asked_of, tuned
from embedsvc.vectors.recall import EXACT, Floats, Recall
from embedsvc.vectors.segment import FLAT, RowIds, Segment

log = logging.getLogger(__name__)

_FEWEST = 100
"""Fewer vectors are searched exactly: a sample of them could not show that a target is reached."""
_WHOLE = 64_000_000
"""Larger files are read in 256 places when they are opened: the codes of ten million vectors took 9 s from a disk."""
_SPOTS, _SPOT = 256, 4096
_PIECE = 16 << 20
"""Bytes that are written, or read, at a time. Linux keeps what was written in one piece together in its cache, and maps
it so: a graph of a million vectors answers 15 % more queries/s than one written 4 KB at a time (docs/indexes.md).
In pieces of 4 MB, which do not begin where pages do: 10 %."""

_READERS = 8
"""Threads that read at once: 1,240 MB/s, where one read 680."""


@dataclass(frozen=True, slots=True)
class Layout:
    """File names of a segment."""

    codes: str = "codes.faiss"
    vectors: str = "vectors.npy"
    row_ids: str = "row_ids.npy"
    about: str = "segment.json"


LAYOUT = Layout()


def build_segment(
    rows: Iterable[tuple[RowIds, Floats]],
    count: int,
    dimension: int,
    kinds: Sequence[str],
    target: float,
    folder: Path,
    real: Floats,
    go_on: Callable[[], None],
) -> Segment:
    """Indexes ``count`` rows (one at least) under ``folder``. They come as row ids (n,) and vectors (n, dimension) of
    unit length.

    The first of ``kinds`` that reaches recall@10 of ``target`` is taken (the whole 95 % confidence interval must lie
    above it), with the least effort that does; where none does, an exact segment is made. Recall is measured with
    stand-ins for queries and with ``real`` (m, dimension) ones, where there are enough. ``go_on`` is called now and
    then; what it raises ends the work.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    started = time.perf_counter()
    name = f"segment-{uuid.uuid4().hex}"
    temporary = folder / f".{name}.tmp"
    try:
        folder.mkdir(exist_ok=True)  # not its parents: a collection that is deleted meanwhile must not come back
        temporary.mkdir()
        sums: dict[str, int] = {}
        ids = _lay_down(rows, count, dimension, temporary, sums)
        vectors: Floats = np.load(temporary / LAYOUT.vectors, mmap_mode="r")
        copies = int(np.unique(ids, return_counts=True)[1].max())
        exact = Segment(name, FLAT, ids, _order(ids), copies, vectors, None, Effort(0, 1), EXACT, 0.0)
        if count < _FEWEST:
            kinds = ()
        segment = exact
        if kinds:
            segment = next(
                filter(None, (_tried(replace(exact, kind=kind), target, real, go_on) for kind in kinds)), exact
            )
        if segment is exact and count >= _FEWEST:
            log.warning("no index of these %d vectors reaches a recall of %g: they are searched exactly", count, target)
        if segment.codes is not None:
            _write_codes(segment.codes, temporary, sums)
        about = {
            "kind": segment.kind,
            "dimension": dimension,
            "copies": copies,
            "effort": asdict(segment.effort),
            "recall": asdict(segment.recall),
            "build_seconds": round(time.perf_counter() - started, 3),
            "faiss": faiss_module().__version__,
            "files": {name: _checksum(temporary / name) for name in sorted(sums)},
            "whole": sums,
        }
        (temporary / LAYOUT.about).write_text(json.dumps(about, indent=1), encoding="utf-8")
        temporary.rename(folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_segment(folder / name, dimension)


@dataclass(slots=True)
class _Summed:
    """A file that is written, and the CRC-32 of what was: to read it again for that would be to read 15 GB of ten
    million vectors."""

    file: BinaryIO
    crc: int = 0

    def write(self, data: Any) -> int:
        self.crc = zlib.crc32(data, self.crc)
        return self.file.write(data)


@contextmanager
def _written(path: Path, sums: dict[str, int]) -> Iterator[_Summed]:
    """The new file ``path`` to be written; its CRC-32 is in ``sums``, by its name, once it is."""
    # Written, not mapped: a full disk is an error then, and not a signal that ends the process.
    with path.open("wb", buffering=_PIECE) as file:
        summed = _Summed(file)
        yield summed
    sums[path.name] = summed.crc


def _lay_down(
    rows: Iterable[tuple[RowIds, Floats]], count: int, dimension: int, folder: Path, sums: dict[str, int]
) -> RowIds:
    """Writes vectors and row ids; returns the latter. Rows whose vector is not finite would be found for any query or
    none, and are laid down as zeros, which are nobody's neighbours."""
    ids = np.empty(count, np.int64)
    at = 0
    with _written(folder / LAYOUT.vectors, sums) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dimension)}
        np.lib.format.write_array_header_1_0(file, header)
        for some_ids, some in rows:
            ids[at : at + len(some_ids)] = some_ids
            at += len(some_ids)
            for block in blocks(some):
                file.write(np.nan_to_num(block, nan=0, posinf=0, neginf=0).astype("<f4", copy=False).data)
    if at != count:
        raise ValueError(f"{at} rows came where {count} were announced")
    with _written(folder / LAYOUT.row_ids, sums) as file:
        np.save(file, ids, allow_pickle=False)
    return ids


def _write_codes(codes: Any, folder: Path, sums: dict[str, int]) -> None:
    faiss = faiss_module()
    with _written(folder / LAYOUT.codes, sums) as file:
        faiss.write_index(codes, faiss.PyCallbackIOWriter(file.write, 1 << 20))  # which the file puts together


def _tried(bare: Segment, target: float, real: Floats, go_on: Callable[[], None]) -> Segment | None:
    """The segment with codes of its kind and the least effort that reaches the target; None: no effort does."""
    asked, build = asked_of(bare, real), KINDS[bare.kind].build
    for made in (build_on_card, build) if bare.kind == HNSW8.name else (build,):
        codes = made(bare.vectors, go_on)
        found = None if codes is None else tuned(replace(bare, codes=codes), target, asked)
        if found is not None:
            return found
    return None


def _checksum(file: Path, *, whole: bool = False) -> dict[str, int]:
    """Size and CRC-32 of a file; of a large one, of 256 places in it, unless the ``whole`` is asked for."""
    size, crc = file.stat().st_size, 0
    with file.open("rb") as stream:
        if whole or size <= _WHOLE:
            while block := stream.read(1 << 20):
                crc = zlib.crc32(block, crc)
        else:
            for place in range(_SPOTS):
                stream.seek(place * max(0, size - _SPOT) // (_SPOTS - 1))
                crc = zlib.crc32(stream.read(_SPOT), crc)
    return {"bytes": size, "crc32": crc}


def segment_faults(folder: Path) -> list[str]:
    """What is not as :func:`build_segment` left it in ``folder``; every byte is read. Of a large file that an earlier
    embedsvc wrote, only 256 places can be compared."""
    try:
        about: dict[str, Any] = json.loads((folder / LAYOUT.about).read_text(encoding="utf-8"))
        files, whole = about["files"], about.get("whole", {})
    except (OSError, ValueError, KeyError) as error:
        return [f"{folder.name}/{LAYOUT.about} cannot be read ({error})"]
    faults = []
    for name, expected in files.items():
        try:
            same = _checksum(folder / name) == expected
            if same and name in whole and expected["bytes"] > _WHOLE:
                same = _checksum(folder / name, whole=True)["crc32"] == whole[name]
        except OSError as error:
            faults.append(f"{folder.name}/{name} cannot be read ({error.strerror or error})")
        else:
            faults += [] if same else [f"{folder.name}/{name} is not what was written"]
    return faults


def _fetch(file: Path) -> None:
    """Reads a file that the system's cache does not hold, in large pieces at a time. Mapped, it would come from the
    disk page by page: 14 s instead of 1 for the codes of ten million vectors."""
    with file.open("rb", buffering=0) as stream:
        size, descriptor = os.fstat(stream.fileno()).st_size, stream.fileno()
        spots = range(0, size, max(1, size // _SPOTS))

        def cached(spot: int) -> bool:
            try:
                return os.preadv(descriptor, [bytearray(1)], spot, os.RWF_NOWAIT) == 1
            except OSError:  # it would wait for the disk, or this file system cannot tell
                return False

        if not all(map(cached, spots)):
            with ThreadPoolExecutor(_READERS) as readers:
                for _ in readers.map(lambda start: os.pread(descriptor, _PIECE, start), range(0, size, _PIECE)):
                    pass


def load_segment(folder: Path, dimension: int, *, check: bool = True) -> Segment:
    """The segment that :func:`build_segment` left in ``folder``, mapped into memory. Not to ``check`` what the files
    hold is for those who only tell about it.

    Raises:
        OSError, ValueError, KeyError, TypeError, RuntimeError: it is not what was written, or of another FAISS.
    """
    faiss = faiss_module()
    about: dict[str, Any] = json.loads((folder / LAYOUT.about).read_text(encoding="utf-8"))
    if about["faiss"] != faiss.__version__:
        raise ValueError(f"written by FAISS {about['faiss']}, this is {faiss.__version__}")
    for name, expected in about["files"].items() if check else ():
        if _checksum(folder / name) != expected:
            raise ValueError(f"{name} is not what was written")
    ids = np.load(folder / LAYOUT.row_ids, mmap_mode="r", allow_pickle=False)
    vectors = np.load(folder / LAYOUT.vectors, mmap_mode="r", allow_pickle=False)
    codes = None
    if about["kind"] != FLAT:
        if check:
            _fetch(folder / LAYOUT.codes)
        codes = faiss.read_index(str(folder / LAYOUT.codes), faiss.IO_FLAG_MMAP_IFC)
        if codes.d != dimension or codes.ntotal != len(ids):
            raise ValueError("it belongs to another collection")
    if vectors.shape != (len(ids), dimension) or about["kind"] not in (FLAT, *KINDS):
        raise ValueError("it belongs to another collection")
    return Segment(
        name=folder.name,
        kind=about["kind"],
        row_ids=ids,
        order=_order(ids),
        copies=about["copies"],
        vectors=vectors,
        codes=codes,
        effort=Effort(**about["effort"]),
        recall=Recall(**about["recall"]),
        build_seconds=about["build_seconds"],
    )


def _order(ids: RowIds) -> npt.NDArray[np.intp] | None:
    """Sorting permutation of ``ids``; None where they are sorted."""
    return None if bool((ids[1:] >= ids[:-1]).all()) else np.argsort(ids, kind="stable")
