"""Vectors that are mapped from the disk, and the memory that reading them takes."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedsvc.errors import StorageFailure
from embedsvc.vectors.recall import Floats

_Ids = npt.NDArray[np.int64]

BLOCK = 2_500
"""Vectors that are in memory at a time, mapped or copied, where work goes over all there are."""


def rows_of(vectors: Floats, positions: npt.NDArray[np.integer]) -> Floats:
    """A copy (m, dimension) of the ``vectors`` (n, dimension) at sorted ``positions`` (m,). The system maps up
    to 2 MB around each one that is read, so of a hundred all there are: they are let go of as it goes on."""
    rows = np.empty((len(positions), vectors.shape[1]), np.float32)
    for start in range(0, len(vectors), BLOCK):
        here = slice(*np.searchsorted(positions, (start, start + BLOCK)))
        rows[here] = vectors[positions[here]]
        let_go(vectors)
    return rows


def set_aside(batches: Iterable[tuple[_Ids, Floats]], dimension: int, folder: Path) -> tuple[_Ids, Floats]:
    """Row ids (n,) and vectors (n, dimension) of all ``batches``, the vectors in a file without a name on the disk of
    ``folder``, mapped: it goes with them.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    row_ids = [np.empty(0, np.int64)]
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for some_ids, some in batches:
                row_ids.append(some_ids)
                file.write(np.ascontiguousarray(some, np.float32).data)
            file.flush()
            ids = np.concatenate(row_ids)
            if not len(ids):
                return ids, np.empty((0, dimension), np.float32)
            return ids, np.memmap(file, np.float32, "r", shape=(len(ids), dimension))
    except OSError as error:
        raise StorageFailure(
            f"New vectors could not be written under {folder} to be indexed: {error}. Nothing is lost, they are in the "
            "store, and searched. Make room."
        ) from error


def let_go(vectors: Floats) -> None:
    """Takes what was read of mapped ``vectors`` (n, dimension) out of this process's memory. It stays in the system's
    cache: who reads it again waits for no disk. Vectors that are not mapped stay as they are."""
    file = vectors.base
    while isinstance(file, np.ndarray):  # of a slice
        file = file.base
    if isinstance(vectors, np.memmap) and isinstance(file, mmap.mmap):
        file.madvise(mmap.MADV_DONTNEED)
