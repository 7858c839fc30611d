"""One writer at a time: a lock that the system lets go of when its holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from embedsvc.errors import Conflict, StorageFailure


@contextmanager
def write_lock(directory: Path, timeout: float) -> Iterator[None]:
    """The right to write to the collection in ``directory``, waited for ``timeout`` seconds at most.

    Raises:
        Conflict: another process has it. StorageFailure: the data directory cannot be written.
    """
    lock = FileLock(directory.with_name(f".{directory.name}.lock"))
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise Conflict(
            f"Another process is writing to the collection {directory.name!r} and did not end within {timeout:g} s. "
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
