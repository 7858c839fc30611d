"""A collection: store, contract and vector index under one name. The only place that writes them.

<data dir>/<name>/passages.lance     the store
<data dir>/<name>/faiss/<version>    the vector index of one store version
<data dir>/.<name>.lock              held by the one process that writes
"""

from __future__ import annotations

import difflib
import logging
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from embedsvc.config import Settings
from embedsvc.errors import Conflict, NotFound, StorageFailure, UsageError
from embedsvc.records import Chunking, Contract, Document, Passage
from embedsvc.storage import Store, export_store, passage_table, read_exported
from embedsvc.storage.store import TABLE, Floats, check_free, move_into_place
from embedsvc.vectors import IndexPlan, VectorIndex, apply_changes, build_index, fold, load_index, save_index

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INDEX_FOLDER = "faiss"

EncodedDocument = tuple[Document, Sequence[Passage], Floats]
"""A document, its passages, and their vectors (passages, dimension)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A collection at one store version: what a search sees from its first step to its last."""

    name: str
    store: Store
    index: VectorIndex

    @property
    def version(self) -> int:
        return self.store.version


def check_name(name: str) -> str:
    """``name``, if a collection may be called that.

    Raises:
        UsageError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a collection: use 1 to 64 letters, digits, '.', '_' or '-', "
            "the first one a letter or digit."
        )
    return name


def collection_names(data_dir: Path) -> list[str]:
    """Names of the collections in ``data_dir``, sorted; none where the folder is missing."""
    entries = data_dir.iterdir() if data_dir.is_dir() else ()
    return sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name) and (entry / TABLE).is_dir())


def collection_directory(name: str, settings: Settings) -> Path:
    """Where the collection ``name`` lives.

    Raises:
        UsageError: no collection can be called that.
        NotFound: there is none; the message gives the nearest name.
    """
    directory = settings.data_dir / check_name(name)
    if not (directory / TABLE).is_dir():
        names = collection_names(settings.data_dir)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names) or 'none yet'}."
        raise NotFound(f"There is no collection {name!r} in {settings.data_dir}. {hint}")
    return directory


def delete_collection(name: str, settings: Settings) -> None:
    """Removes a collection, damaged or not: at once out of sight, then its files.

    Raises:
        NotFound: there is none.
        Conflict: another process writes to it.
        StorageFailure: it cannot be removed.
    """
    directory = collection_directory(name, settings)
    with _locked(directory, settings.lock_timeout):
        collection_directory(name, settings)  # NotFound, where another process deleted it before we got the lock
        doomed = directory.with_name(f".{name}.{uuid.uuid4().hex}.deleted")
        try:
            directory.rename(doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            raise StorageFailure(f"{directory} cannot be deleted: {error}.") from error


class Collection:
    """An open collection. Any number of threads may take snapshots; :meth:`writer` is for one at a time."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.settings = settings
        self._directory = directory
        self._plan = IndexPlan()
        self._refreshing = threading.Lock()
        self._on_disk: int | None = None
        """Version of the saved index that was found whole, or written, last."""
        self._store = Store.open(directory, settings.durability)
        self._snapshot: Snapshot | None = None
        """None until somebody searches: much of what is done with a collection needs no vector index."""

    @classmethod
    def open(cls, name: str, settings: Settings) -> Collection:
        """The collection called ``name``.

        Raises:
            UsageError: no collection can be called that.
            NotFound: there is none; the message gives the nearest name.
            DamagedCollection: its store cannot be read.
        """
        return cls(collection_directory(name, settings), settings)

    @classmethod
    def create(cls, name: str, contract: Contract, chunking: Chunking, settings: Settings) -> Collection:
        """Makes an empty collection.

        Raises:
            UsageError: no collection can be called that.
            Conflict: there is one already.
            StorageFailure: the data directory cannot be written.
        """
        directory = settings.data_dir / check_name(name)
        Store.create(directory, contract, chunking, settings.durability)
        return cls(directory, settings)

    @property
    def name(self) -> str:
        return self._directory.name

    @property
    def contract(self) -> Contract:
        return self._store.contract

    @property
    def chunking(self) -> Chunking:
        return self._store.chunking

    @property
    def is_loaded(self) -> bool:
        """Whether there is a snapshot already, of whatever version: a newer one is made of it quickly."""
        return self._snapshot is not None

    def store(self) -> Store:
        """The store at its newest version, whichever process committed it. Costs microseconds when nothing changed."""
        newest = self._store.latest()
        if newest.version > self._store.version:
            self._store = newest
        return newest

    def snapshot(self) -> Snapshot:
        """The newest version with its vector index, which is loaded or brought up to date where it has to be."""
        store, current = self.store(), self._snapshot
        if current is not None and store.version == current.version:
            return current
        with self._refreshing:
            current = self._snapshot
            if current is None or store.version > current.version:
                index = self._index_for(store, None if current is None else current.index)
                self._snapshot = current = Snapshot(self.name, store, index)
            return current

    def _index_for(self, store: Store, known: VectorIndex | None = None) -> VectorIndex:
        """The index of exactly this store version: the saved or the known one, and what has changed since."""
        saved = load_index(self._directory / _INDEX_FOLDER, store.contract.dimension, store.version, known)
        if saved is not None:
            self._on_disk = saved.version
        index = saved or known
        if index is not None and index.version == store.version:
            return index
        if index is not None:
            try:
                changes = store.changes_since(index.version)
                return apply_changes(index, changes.row_ids, changes.vectors, changes.deleted, store.version)
            except (ValueError, OSError, RuntimeError) as error:  # the older version was cleaned up, say
                log.warning("%s: no difference to version %s (%s)", self.name, index.version, error)
        return build_index(*store.vectors(), store.version, self._plan)

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """The right to write, held by one process at a time. Leaving without an error saves the vector index.

        Raises:
            Conflict: another process writes, and did not end within ``lock_timeout`` seconds; or the collection was
                deleted and made anew since it was opened.
            StorageFailure: the data directory cannot be written.
        """
        with _locked(self._directory, self.settings.lock_timeout):
            # Opened afresh: version numbers alone do not tell a collection from one made later under its name.
            if Store.open(self._directory, self.settings.durability).identity != self._store.identity:
                raise Conflict(f"The collection {self.name!r} was deleted and made anew meanwhile. Open it again.")
            writer = Writer(self.store())
            yield writer
            if writer.store.count() or writer.changed:
                writer.store = writer.store.maintain()
            self.save()
            # Last: the index is brought up to date by the difference to the version it stands at.
            writer.store.clean_up()

    def save(self) -> None:
        """Makes one index of all there is at the newest version and writes it to the disk, if it is not there yet."""
        snapshot = self.snapshot()
        index = fold(snapshot.index, self._plan)
        folder = self._directory / _INDEX_FOLDER
        there = index.version == self._on_disk and (folder / str(index.version)).is_dir()
        if not index.is_loose and not there:
            save_index(index, folder)
            self._on_disk = index.version
            snapshot.store.keep(index.version)
        with self._refreshing:
            if self._snapshot is snapshot:
                self._snapshot = Snapshot(self.name, snapshot.store, index)

    def export(self, file: Path) -> int:
        """Writes the collection to one Parquet file (see :mod:`embedsvc.storage.portable`); returns its passages."""
        return export_store(self.store(), file)


class Writer:
    """Commits to a collection's store. Got from :meth:`Collection.writer`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.changed = False

    def replace(self, documents: Sequence[EncodedDocument], gone: Sequence[str] = ()) -> None:
        """In one durable commit, puts ``documents`` in the place of what has their ids and removes the ids ``gone``."""
        rows = passage_table(documents, self.store.contract.dimension)
        self.replace_rows(rows, [*(document.id for document, _, _ in documents), *gone])

    def replace_rows(self, rows: pa.Table, document_ids: Sequence[str]) -> None:
        self.store = self.store.replace(rows, document_ids)
        self.changed = True


@contextmanager
def _locked(directory: Path, timeout: float) -> Iterator[None]:
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


def import_collection(name: str, file: Path, settings: Settings) -> Collection:
    """Makes the collection ``name`` of what :meth:`Collection.export` wrote to ``file``.

    Raises:
        UsageError: no collection can be called that.
        Conflict: there is one already. DamagedFile: the file is cut short. Then no collection is left behind.
        StorageFailure: the data directory cannot be written.
    """
    contract, chunking, tables = read_exported(file)
    directory = settings.data_dir / check_name(name)
    check_free(directory)
    # Made out of sight, so that it appears whole or not at all, also to whoever looks on and after a kill -9.
    staging = settings.data_dir / f".{name}.{uuid.uuid4().hex}.tmp"
    try:
        with Collection.create(name, contract, chunking, replace(settings, data_dir=staging)).writer() as writer:
            for table in tables:
                writer.replace_rows(table, np.unique(table["document_id"].to_numpy(zero_copy_only=False)).tolist())
        move_into_place(staging / name, directory, settings.durability)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Collection.open(name, settings)
