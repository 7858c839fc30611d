"""A collection: store, contract and vector index under one name. The only place that writes them.

<data dir>/<name>/passages.lance     the store
<data dir>/<name>/faiss              the vector index (see vectors/files.py)
<data dir>/.<name>.lock              held by the one process that writes
"""

from __future__ import annotations

import difflib
import logging
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from embedsvc.config import Settings, memory_bytes
from embedsvc.errors import Conflict, EmbedsvcError, NotFound, StorageFailure, UsageError
from embedsvc.records import Chunking, Contract, Document, Passage
from embedsvc.storage import Store, export_store, passage_table, read_exported
from embedsvc.storage.store import TABLE, Floats, check_free, move_into_place, vector_count
from embedsvc.vectors import (
    Among,
    Filters,
    Goal,
    VectorIndex,
    apply_changes,
    build,
    fold,
    gently,
    load_index,
    needs_fold,
    of_segment,
    save_index,
)

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INDEX_FOLDER = "faiss"

EncodedDocument = tuple[Document, Sequence[Passage], Floats]
"""A document, its passages, and their vectors (n, dimension): each passage's own, then those of its sub-windows."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A collection at one store version: what a search sees from its first step to its last."""

    name: str
    store: Store
    index: VectorIndex

    filters: Filters

    @property
    def version(self) -> int:
        return self.store.version

    def among(self, condition: str) -> Among:
        """The rows for which the user's SQL ``condition`` holds, for the index to search among.

        Raises:
            BadFilter: it is not SQL, or the store cannot evaluate it.
        """
        return self.filters.among(self.index, condition, lambda: self.store.matching(condition))


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


def index_goal(settings: Settings) -> Goal:
    """What the vector index of a collection must reach and may take.

    Raises:
        UsageError: a recall that is not a share.
    """
    if not 0 < settings.target_recall <= 1:
        raise UsageError(f"target_recall is {settings.target_recall:g}; it is a share, above 0 and up to 1.")
    memory = settings.index_memory_mb * 1_000_000 or memory_bytes() // 2
    return Goal(settings.target_recall, memory, settings.exact_passages)


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
        self.goal = index_goal(settings)
        self._filters = Filters(settings.target_recall)
        self._writing = False
        self._refreshing = threading.Lock()
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

    @property
    def index_bytes(self) -> float:
        """Memory that the vector index takes, 0 where it is not loaded."""
        snapshot = self._snapshot
        return 0.0 if snapshot is None else snapshot.index.bytes_resident

    def store(self) -> Store:
        """The store at its newest version, whichever process committed it. Costs microseconds when nothing changed."""
        newest = self._store.latest()
        if newest.version > self._store.version:
            self._store = newest
        return newest

    def snapshot(self) -> Snapshot:
        """The newest version with its vector index, which is loaded or brought up to date where it has to be.

        While this Collection's own writer is at work, nobody else commits, and the writer brings the index up to date
        before it acknowledges a commit: searches neither ask the disk nor wait for that.
        """
        current = self._snapshot
        return current if current is not None and self._writing else self._refreshed()

    def _refreshed(self) -> Snapshot:
        store, current = self.store(), self._snapshot
        if current is not None and store.version == current.version:
            return current
        with self._refreshing:
            current = self._snapshot
            if current is None or store.version > current.version:
                index = self._index_for(store, None if current is None else current.index)
                self._snapshot = current = Snapshot(self.name, store, index, self._filters)
            return current

    def catch_up(self) -> None:
        """Makes what was committed visible to those who search already. For the one that writes."""
        if self._snapshot is not None:
            try:
                self._refreshed()
            except Exception:
                log.exception("%s: the vector index is loaded anew", self.name)
                self._snapshot = None

    def _index_for(self, store: Store, known: VectorIndex | None = None) -> VectorIndex:
        """The index of exactly this store version: the saved or the known one, and what has changed since."""
        for source in (known, None):
            index = load_index(self._index_folder, store.contract.dimension, store.version, source) or source
            if index is not None:
                try:
                    return _brought_to(index, store)
                except (ValueError, OSError, RuntimeError) as error:  # the older version was cleaned up, say
                    log.warning("%s: no difference to version %s (%s)", self.name, index.version, error)
        built = self._built(store) if store.count_vectors() > self.goal.exact else None
        if built is not None:
            return built
        row_ids, vectors = store.vectors()
        none = row_ids[:0]
        return apply_changes(VectorIndex.empty(store.contract.dimension), row_ids, vectors, none, store.version)

    def _built(self, store: Store) -> VectorIndex | None:
        """An index of all that is in the store, built and saved; None where another process writes, which will do that,
        or where nothing can be written or fits the memory. Searches are exact then."""
        try:
            with nullcontext() if self._writing else _locked(self._directory, 0):
                rows, dimension = store.vector_batches(), store.contract.dimension
                segment = build(rows, store.count_vectors(), dimension, self.goal, self._index_folder)
                return self._saved(of_segment(segment, store.version), store)
        except EmbedsvcError as error:
            log.warning("%s: no vector index can be built now, searches are exact: %s", self.name, error)
            return None

    @property
    def _index_folder(self) -> Path:
        return self._directory / _INDEX_FOLDER

    def _saved(self, index: VectorIndex, store: Store) -> VectorIndex:
        save_index(index, self._index_folder)
        store.keep(index.version)
        return index

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """The right to write, held by one process at a time. Leaving without an error folds the vector index.

        Raises:
            Conflict: another process writes, and did not end within ``lock_timeout`` seconds; or the collection was
                deleted and made anew since it was opened.
            StorageFailure: the data directory cannot be written.
        """
        with _locked(self._directory, self.settings.lock_timeout):
            # Opened afresh: version numbers alone do not tell a collection from one made later under its name.
            if Store.open(self._directory, self.settings.durability).identity != self._store.identity:
                raise Conflict(f"The collection {self.name!r} was deleted and made anew meanwhile. Open it again.")
            folder = Folder(self)
            writer = Writer(self.store(), folder.nudge)
            self.catch_up()  # with what others committed before: from here on nobody else does
            self._writing = True
            try:
                try:
                    yield writer
                finally:
                    folder.join()
                if writer.store.count() or writer.changed:
                    writer.store = writer.store.maintain()
                folder.fold()
                # Last: the index is brought up to date by the difference to the version it stands at.
                writer.store.clean_up()
            finally:
                self._writing = False

    def fold(self) -> None:
        """Makes a segment of the rows that no segment of the vector index holds, where there are enough of them, and
        saves the index where no such rows are left. For the one that writes; searches go on meanwhile.

        Raises:
            StorageFailure: the disk is full or not writable. UsageError: no index fits the memory.
        """
        snapshot = self._refreshed()
        index = snapshot.index
        if needs_fold(index, self.goal):
            index = fold(index, self.goal, self._index_folder)
        elif not index.parts:
            shutil.rmtree(self._index_folder, ignore_errors=True)
            return
        elif len(index.fresh) or index.version == index.folded:
            return
        self._saved(index, snapshot.store)
        with self._refreshing:
            current = self._snapshot or snapshot
            self._snapshot = replace(current, index=_brought_to(index, current.store))

    def export(self, file: Path) -> int:
        """Writes the collection to one Parquet file (see :mod:`embedsvc.storage.portable`); returns its passages."""
        return export_store(self.store(), file)


def _brought_to(index: VectorIndex, store: Store) -> VectorIndex:
    """``index`` at the version of ``store``, which is the same or a later one."""
    if index.version == store.version:
        return index
    changes = store.changes_since(index.version)
    return apply_changes(index, changes.row_ids, changes.vectors, changes.deleted, store.version)


class Folder:
    """Folds a collection's vector index on a thread of its own while documents keep coming, so that searches need not
    look at more and more rows one by one."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._rows = 0
        self._thread: threading.Thread | None = None

    def nudge(self, vectors: int) -> None:
        """Rows with so many ``vectors`` were committed."""
        self._collection.catch_up()
        self._rows += vectors
        if self._rows > self._collection.goal.exact and (self._thread is None or not self._thread.is_alive()):
            self._rows = 0
            self._thread = threading.Thread(target=self._run, name="fold", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        with gently():
            self.fold()

    def fold(self) -> None:
        """Folds; what goes wrong is logged, for all that was committed can be found without."""
        try:
            self._collection.fold()
        except EmbedsvcError as error:
            log.warning("%s: the vector index stays as it is: %s", self._collection.name, error)
        except Exception:
            log.exception("%s: the vector index stays as it is", self._collection.name)

    def join(self) -> None:
        """Waits for the fold that is under way."""
        if self._thread is not None:
            self._thread.join()


class Writer:
    """Commits to a collection's store. Got from :meth:`Collection.writer`."""

    def __init__(self, store: Store, committed: Callable[[int], None]) -> None:
        """``committed`` is told how many vectors were put in."""
        self.store = store
        self.changed = False
        self._committed = committed

    def replace(self, documents: Sequence[EncodedDocument], gone: Sequence[str] = ()) -> None:
        """In one durable commit, puts ``documents`` in the place of what has their ids and removes the ids ``gone``."""
        rows = passage_table(documents, self.store.contract.dimension, finer=self.store.chunking.finer > 0)
        self.replace_rows(rows, [*(document.id for document, _, _ in documents), *gone])

    def replace_rows(self, rows: pa.Table, document_ids: Sequence[str]) -> None:
        self.store = self.store.replace(rows, document_ids)
        self.changed = True
        self._committed(vector_count(rows))


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
