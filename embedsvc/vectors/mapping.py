"""Vectors that are mapped from the disk, and the memory that reading them takes."""

from __future__ import annotations

import mmap

import numpy as np

from embedsvc.vectors.recall import Floats


def let_go(vectors: Floats) -> None:
    """Takes what was read of mapped ``vectors`` (n, dimension) out of this process's memory. It stays in the system's
    cache: who reads it again waits for no disk. Vectors that are not mapped stay as they are."""
    file = vectors.base
    while isinstance(file, np.ndarray):  # of a slice
        file = file.base
    if isinstance(vectors, np.memmap) and isinstance(file, mmap.mmap):
        file.madvise(mmap.MADV_DONTNEED)
