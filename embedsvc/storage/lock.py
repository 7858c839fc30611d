"""Locks that the system lets go of when their holder dies: one process at a time writes to a collection's store, and
one to its vector index."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

from embedsvc.errors import Locked, StorageFailure

log = logging.getLogger(__name__)


def _log(message: str | None) -> None:
    if message is not None:
        log.warning(message)


_told: ContextVar[Callable[[str | None], None]] = ContextVar("told_of_waiting", default=_log)


@contextmanager
def told_of_waiting(told: Callable[[str | None], None]) -> Iterator[None]:
    """Within this, ``told`` is called when a lock has to be waited for, with a sentence that says so, and with None
    once it is there; otherwise the log is."""
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


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


def migration_lock(made: Path, timeout: float) -> AbstractContextManager[None]:
    """The right to make the collection in ``made`` out of another one, as :func:`write_lock`; taken before others."""
    return _locked(made, ".migrating", timeout, "migrating")


@contextmanager
def _locked(directory: Path, suffix: str, timeout: float, doing: str) -> Iterator[None]:
    lock = FileLock(directory.with_name(f".{directory.name}{suffix}"))
    try:
        # The lock would make the folder, where a data folder went away under a running service.
        directory.parent.stat()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not timeout:
                raise
            _told.get()(f"Another process is {doing} {directory.name!r}: waiting for it, {timeout:g} s at most.")
            lock.acquire(timeout=timeout)
            _told.get()(None)
    except Timeout:
        within = f" and did not end within {timeout:g} s" if timeout else ""
        raise Locked(
            f"Another process is {doing} {directory.name!r}{within}. "
            "Try again once it has ended, or wait longer: lock_timeout, index --wait."
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
