"""fsync: what was written outlasts a power cut once this returns."""

from __future__ import annotations

import os
from pathlib import Path


def fsync_path(path: str | Path) -> None:
    """fsync one file or directory. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """fsync the files that lie in ``folder``, and then the folder, which names them. Raises OSError."""
    for entry in folder.iterdir():
        fsync_path(entry)
    fsync_path(folder)
