"""Files that need not be read again though no document has their hash: those that hold others (archives, mailboxes,
records), and those that gave no text.

<data dir>/<name>/inputs.sqlite   derived: what is not in it is read again
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from embedsvc.derived import open_derived

log = logging.getLogger(__name__)

INPUTS = "inputs.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS inputs (uri TEXT PRIMARY KEY, hash TEXT, how TEXT, documents BLOB, told TEXT);"
_VERSION = 1
_T = TypeVar("_T")


class Told(NamedTuple):
    """What was told of something in an input that is not stored, or of the input itself: empty, or quarantined."""

    uri: str
    status: Literal["empty", "quarantined"]
    reason: str | None
    notes: tuple[str, ...]


class Taken(NamedTuple):
    """An input that was read to its end: the hash of its bytes, and what of it is not stored."""

    hash: str
    told: Sequence[Told]


class Inputs:
    """What became of inputs when they were last read. For one thread at a time; a file that cannot be used is as good
    as none, with a warning."""

    def __init__(self, directory: Path, how: str) -> None:
        """``how``: all that decides, besides its bytes, what is read of an input."""
        self._file = directory / INPUTS
        self._how = how
        self._data: sqlite3.Connection | None = None

    def told(self, uri: str, hash: str, stored: Mapping[str, str]) -> list[Told] | None:
        """What there is to tell of the input besides what is ``stored`` of it (hash by document id), if reading it
        would give all that again; None: it has to be read."""

        def work(data: sqlite3.Connection) -> list[Told] | None:
            wanted = uri, hash, self._how, _digest(stored)
            row = data.execute(
                "SELECT told FROM inputs WHERE uri = ? AND hash = ? AND how = ? AND documents = ?", wanted
            ).fetchone()
            if row is None:
                return None
            return [Told(uri, status, reason, tuple(notes)) for uri, status, reason, notes in json.loads(row[0])]

        return self._try(work)

    def keep(self, taken: Mapping[str, Taken], stored: Mapping[str, Mapping[str, str]]) -> None:
        """``taken`` and what is ``stored`` of each by now, both by uri."""
        rows = [
            (uri, each.hash, self._how, _digest(stored.get(uri, {})), json.dumps(each.told))
            for uri, each in taken.items()
        ]

        def work(data: sqlite3.Connection) -> None:
            with data:
                data.executemany("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?)", rows)

        self._try(work)

    def close(self) -> None:
        if self._data is not None:
            self._data.close()

    def _try(self, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        try:
            if self._data is None:
                self._data = open_derived(self._file, _TABLE, _VERSION)
            return work(self._data)
        except sqlite3.Error as error:
            log.warning("%s cannot be used (%s): files are read again. It may be removed", self._file, error)
            return None


def _digest(stored: Mapping[str, str]) -> bytes:
    return hashlib.blake2b(json.dumps(sorted(stored.items())).encode(), digest_size=16).digest()
