"""fsync for files that a library wrote without it.

Lance leaves its files to the page cache. A commit of ours is two-phase, so that no manifest on the disk ever
points at data that is not: data files are synced, then the manifest is written, then synced; directories too.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedsvc.syncing import fsync_path

TAGS = "_refs"
"""Lance's folder of tags, which are no part of a commit: another thread may be setting one."""


def _files(root: Path) -> set[str]:
    found: set[str] = set()
    pending = [str(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != TAGS:
                        pending.append(entry.path)
                else:
                    found.add(entry.path)
    return found


def exchange(one: Path, other: Path) -> None:
    """Swaps the names of two folders in one step: a kill finds both under one name or the other.

    Raises:
        OSError: the file system, or this system, cannot do that.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, "this system cannot swap two folders (renameat2)")
    here, swap = -100, 2
    if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), swap):
        number = ctypes.get_errno()
        raise OSError(number, f"two folders cannot be swapped here: {os.strerror(number)}", str(one))
    for parent in {one.parent, other.parent}:
        fsync_path(parent)


def fsync_tree(root: Path) -> None:
    """fsync every file and directory under ``root``, and the directory that names ``root``."""
    DurableCommits(root, seen=frozenset()).sync()
    fsync_path(root.parent)


class DurableCommits:
    """Makes each commit of one Lance dataset durable, two-phase. Give it to ``lance.dataset`` as its commit lock.

    Lance enters its commit lock when all files of a commit are written but the manifest that names them, and leaves it
    once that is written: merges, deletes, compaction and index updates alike. (The locking itself is not needed, the
    collection's own lock keeps other writers out.)
    """

    def __init__(self, root: Path, seen: frozenset[str] | None = None) -> None:
        self._root = root
        self._seen: set[str] = _files(root) if seen is None else set(seen)

    @contextmanager
    def __call__(self, version: int) -> Iterator[None]:
        self.sync()
        yield
        self.sync()

    def sync(self) -> None:
        """fsync the files that are new since the last call and every directory from theirs up to the root.

        Raises:
            OSError: the disk refused; the commit must not be acknowledged.
        """
        new = _files(self._root) - self._seen
        directories = {str(self._root)}
        for file in new:
            fsync_path(file)
            parent = Path(file).parent
            while parent != self._root:
                directories.add(str(parent))
                parent = parent.parent
        for directory in directories:
            fsync_path(directory)
        self._seen |= new
