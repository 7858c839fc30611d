"""SQLite files that hold nothing but what can be made again: a damaged one, or one of another version, is made anew."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

log = logging.getLogger(__name__)


def open_derived(file: Path | None, tables: str, version: int) -> sqlite3.Connection:
    """``file`` with its ``tables``, statements that make them where they are missing; None: for this process alone,
    past its memory on the disk. It may pass from thread to thread.

    Raises:
        sqlite3.Error: it cannot be read or written.
    """
    try:
        return _opened(file, tables, version)
    except sqlite3.DatabaseError as error:
        if file is None or isinstance(error, sqlite3.OperationalError):
            raise
        log.warning("%s is not usable (%s); it is made again", file, error)
        remove_derived(file)
        return _opened(file, tables, version)


def _opened(file: Path | None, tables: str, version: int) -> sqlite3.Connection:
    data = sqlite3.connect(file or "", check_same_thread=False)
    try:
        found = data.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, version):
            raise sqlite3.DatabaseError(f"it is of version {found}")
        data.executescript(f"{tables} PRAGMA user_version = {version};")
    except BaseException:
        data.close()
        raise
    return data


def remove_derived(file: Path) -> None:
    """With the journal that a killed process leaves, which would be played back into whatever has that name."""
    for each in (file, file.with_name(f"{file.name}-journal")):
        each.unlink(missing_ok=True)
