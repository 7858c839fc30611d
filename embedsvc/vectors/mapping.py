"""Vectors that are mapped from the disk, and the memory that reading them takes."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

from embedsvc.vectors.recall import Floats

_BLOCK = 10_000
"""Vectors that are mapped at a time."""


def rows_of(vectors: Floats, positions: npt.NDArray[np.integer]) -> Floats:
    """A copy (m, dimension) of the ``vectors`` (n, dimension) at sorted ``positions`` (m,). The system maps up
    to 2 MB around each one that is read, so of a hundred all there are: they are let go of as it goes on."""
    rows = np.empty((len(positions), vectors.shape[1]), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        here = slice(*np.searchsorted(positions, (start, start + _BLOCK)))
        rows[here] = vectors[positions[here]]
        let_go(vectors)
    return rows


def let_go(vectors: Floats) -> None:
    """Takes what was read of mapped ``vectors`` (n, dimension) out of this process's memory. It stays in the system's
    cache: who reads it again waits for no disk. Vectors that are not mapped stay as they are."""
    file = vectors.base
    while isinstance(file, np.ndarray):  # of a slice
        file = file.base
    if isinstance(vectors, np.memmap) and isinstance(file, mmap.mmap):
        file.madvise(mmap.MADV_DONTNEED)
