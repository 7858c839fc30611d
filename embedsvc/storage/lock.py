"""Locks that the system lets go of when their holder dies: one process at a time writes to a collection's store, and
one to its vector index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from embedsvc.errors import Locked, StorageFailure


def write_lock(directory: Path, timeout: float) -> AbstractContextManager[None]:
    """The right to write to the collection in ``directory``, waited for ``timeout`` seconds at most.

    Raises:
        Locked: another process has it. StorageFailure: the data directory cannot be written.
    """
    return _locked(directory, ".lock", timeout, "writing to the collection")


def index_lock(directory: Path, timeout: float) -> AbstractContextManager[None]:
    """The right to write the vector index of the collection in ``directory``, as :func:`write_lock`. An index takes
    long to build, and depends on nothing that a commit changes: whoever only commits need not have it. Who wants both
    takes this one last, or does not wait for the other."""
    return _locked(directory, ".index-lock", timeout, "building the vector index of")


@contextmanager
def _locked(directory: Path, suffix: str, timeout: float, doing: str) -> Iterator[None]:
    lock = FileLock(directory.with_name(f".{directory.name}{suffix}"))
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise Locked(
            f"Another process is {doing} {directory.name!r} and did not end within {timeout:g} s. "
            "Wait for it, or raise lock_timeout."
        ) from None
    except OSError as error:
        raise StorageFailure(
            f"{directory.parent} cannot be written ({error.strerror or error}). "
            "Check its permissions, or choose another place with --data-dir."
        ) from error
    try:
        yield
    finally:
        lock.release()
