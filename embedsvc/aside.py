"""Inputs that are laid aside, to be read again at the end of a run: in a file without a name, for there may be as many
as there are inputs, and some carry their bytes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedsvc.errors import StorageFailure
from embedsvc.readers import FoundFile
from embedsvc.records import Document, Heading, Source

Laid = FoundFile | Source | Document

_TABLES = """
CREATE TABLE inputs (number INTEGER PRIMARY KEY, kind TEXT, about TEXT, data BLOB);
CREATE TABLE documents (number INTEGER, id TEXT);
CREATE INDEX of_input ON documents (number);
"""


class Aside:
    """For one thread. It takes little memory, however much is in it.

    Raises, from any of its methods:
        StorageFailure: the folder for temporary files is full, or not writable.
    """

    def __init__(self) -> None:
        self._data: sqlite3.Connection | None = None
        self._last: Laid | None = None
        self._number = 0

    def add(self, item: Laid, document_id: str) -> None:
        """``document_id``: of the document for which ``item`` is to be read again; of one input they come in turn."""
        with self._working() as data:
            if item is not self._last:
                self._last = item
                self._number += 1
                data.execute("INSERT INTO inputs VALUES (?, ?, ?, ?)", (self._number, *_packed(item)))
            data.execute("INSERT INTO documents VALUES (?, ?)", (self._number, json.dumps(document_id)))

    def __iter__(self) -> Iterator[tuple[Laid, set[str]]]:
        """The inputs in the order in which they came, and of each the ids of the documents."""
        for number in range(1, self._number + 1):
            with self._working() as data:
                kind, about, body = data.execute(
                    "SELECT kind, about, data FROM inputs WHERE number = ?", (number,)
                ).fetchone()
                ids = {json.loads(id) for (id,) in data.execute("SELECT id FROM documents WHERE number = ?", (number,))}
            yield _unpacked(kind, json.loads(about), body), ids

    def close(self) -> None:
        if self._data is not None:
            self._data.close()

    @contextmanager
    def _working(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._data is None:
                self._data = sqlite3.connect("", check_same_thread=False)
                self._data.executescript(_TABLES)
            yield self._data
        except sqlite3.Error as error:
            raise StorageFailure(
                f"The folder for temporary files (TMPDIR) cannot be used: {error}. Make room there, or name another."
            ) from error


def _packed(item: Laid) -> tuple[str, str, bytes | None]:
    """Its kind, JSON (in which lone surrogates of file names survive), and its bytes."""
    if isinstance(item, FoundFile):
        return "file", json.dumps([str(item.path), item.uri, item.bytes, item.max_file_bytes]), None
    if isinstance(item, Source):
        return "source", json.dumps([item.uri, item.name, dict(item.metadata)]), item.data
    return "document", json.dumps(asdict(item)), None


def _unpacked(kind: str, about: Any, data: bytes | None) -> Laid:
    if kind == "file":
        path, *rest = about
        return FoundFile(Path(path), *rest)
    if kind == "source":
        uri, name, metadata = about
        return Source(uri, name, data or b"", metadata)
    about["headings"] = tuple(Heading(**each) for each in about["headings"])
    return Document(**{**about, "page_starts": tuple(about["page_starts"]), "notes": tuple(about["notes"])})
