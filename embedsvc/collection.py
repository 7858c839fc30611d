"""A collection: store, contract and vector index under one name. The only place that writes them.

<data dir>/<name>/passages.lance     the store
<data dir>/<name>/faiss              the vector index (see vectors/files.py)
<data dir>/<name>/live-queries.npz   vectors of the last queries whose answers were checked (see vectors/live.py)
<data dir>/.<name>.lock              held by the one process that writes the store
<data dir>/.<name>.index-lock        held by the one process that writes the vector index
"""

from __future__ import annotations

import difflib
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from embedsvc.allocator import trim
from embedsvc.config import Settings
from embedsvc.errors import Conflict, NotFound, StorageFailure, UsageError
from embedsvc.names import NAME, check_name
from embedsvc.records import Chunking, Contract, Document, Metadata, Passage, Tuned
from embedsvc.storage import Store, export_store, passage_table, read_exported, write_lock
from embedsvc.storage.store import TABLE, Floats, check_free, move_into_place, vector_count
from embedsvc.upkeep import INDEX_FOLDER, Snapshot, Upkeep
from embedsvc.vectors import Goal, not_needed, saved_versions

_TIDY_EVERY = 32
"""Commits of one writer, and versions of many that make small changes, after which old versions are removed, which
takes half a millisecond for each that there is; and new rows indexed where they are many."""
_NEW_SHARE = 0.05
"""Of all rows, that are new by then: until they are in the text index, each lexical search reads their text; each time
a segment of it is written, and small ones with it, so no more often as a collection grows."""
_LEAST_CACHE = 64_000_000
"""Bytes that the store may keep its own indexes in, at least."""

EncodedDocument = tuple[Document, Sequence[Passage], Floats]
"""A document, its passages, and their vectors (n, dimension): each passage's own, then those of its sub-windows."""

Maintaining = Literal["always", "seldom", "never"]
"""When the end of a writer maintains the store: each time a segment of the text index may be written anew, or fragments
put together. Nobody should wait for that who changes or deletes one document after the other."""


def index_goal(settings: Settings) -> Goal:
    """What the vector index of a collection must reach and may take.

    Raises:
        UsageError: a recall that is not a share.
    """
    if not 0 < settings.target_recall <= 1:
        raise UsageError(f"target_recall is {settings.target_recall:g}; it is a share, above 0 and up to 1.")
    return Goal(settings.target_recall, settings.index_memory, settings.exact_passages)


def collection_names(data_dir: Path) -> list[str]:
    """Names of the collections in ``data_dir``, sorted; none where the folder is missing.

    Raises:
        StorageFailure: it cannot be read.
    """
    try:
        entries = data_dir.iterdir() if data_dir.is_dir() else ()
        return sorted(entry.name for entry in entries if NAME.fullmatch(entry.name) and (entry / TABLE).is_dir())
    except OSError as error:
        raise StorageFailure.of_reading(data_dir, error) from error


def collection_directory(name: str, settings: Settings) -> Path:
    """Where the collection ``name`` lives.

    Raises:
        UsageError: no collection can be called that.
        NotFound: there is none; the message gives the nearest name.
        StorageFailure: the data directory cannot be read.
    """
    directory = settings.data_dir / check_name(name)
    try:
        is_there = (directory / TABLE).is_dir()
    except OSError as error:
        raise StorageFailure.of_reading(settings.data_dir, error) from error
    if not is_there:
        names = collection_names(settings.data_dir)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names) or 'none yet'}."
        raise NotFound(f"There is no collection {name!r} in {settings.data_dir}. {hint}")
    return directory


def leftovers(name: str, settings: Settings) -> list[Path]:
    """What killed processes left of the collection beside what it needs, and what living ones have in the making."""
    directory = settings.data_dir / name
    index = directory / INDEX_FOLDER
    staged = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{32}}\.(tmp|deleted)")
    return [
        *(entry for entry in sorted(settings.data_dir.iterdir()) if staged.fullmatch(entry.name)),
        *(entry for entry in sorted(directory.glob(".*.npz"))),
        *not_needed(index, saved_versions(index)),
        *(entry for entry in sorted(index.glob(".*.tmp")) if entry.is_file()),
    ]


def asides(name: str, settings: Settings) -> list[Path]:
    """Other selves of the collection, which may hold its text: in the making or kept by a migration, or damaged."""
    own = re.compile(rf"\.{re.escape(name)}\.(migration|before|[0-9]{{8}}T[0-9]{{6}}Z\.damaged)")
    return sorted(entry for entry in settings.data_dir.iterdir() if own.fullmatch(entry.name))


def put_out_of_sight(folder: Path, name: str) -> None:
    """The first half of removing a collection's ``folder``, under its write lock: one rename. Raises OSError."""
    folder.rename(folder.with_name(f".{name}.{uuid.uuid4().hex}.deleted"))


def remove_unseen(name: str, settings: Settings) -> None:
    """The second half, for which nobody has to wait: removes what was put out of sight, also by a process that was
    killed after it. Two processes may be at it.

    Raises:
        StorageFailure: it cannot be removed.
    """
    for folder in settings.data_dir.glob(f".{name}.{'[0-9a-f]' * 32}.deleted"):
        while folder.exists():
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:  # the other one was quicker
                continue
            except OSError as error:
                raise StorageFailure(f"{folder} cannot be removed: {error}. Check its permissions.") from error


def delete_collection(name: str, settings: Settings, check: Callable[[], None] = lambda: None) -> None:
    """Removes a collection, damaged or not: at once out of sight, then its files. ``check`` is called before, while
    nobody else can write to it; where that raises, all stays.

    Raises:
        NotFound: there is none; what a deletion that was killed had left of it is removed all the same.
        Conflict: another process writes to it.
        StorageFailure: it cannot be removed.
    """
    try:
        directory = collection_directory(name, settings)
        with write_lock(directory, settings.lock_timeout):
            collection_directory(name, settings)  # NotFound, where another process deleted it before we got the lock
            check()
            try:
                for folder in (directory, *asides(name, settings)):
                    put_out_of_sight(folder, name)
            except OSError as error:
                raise StorageFailure(f"{directory} cannot be deleted: {error}.") from error
    except NotFound:
        remove_unseen(name, settings)
        raise
    remove_unseen(name, settings)


class Collection:
    """An open collection. Any number of threads may take snapshots; :meth:`writer` is for one at a time."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.settings = settings
        self._directory = directory
        goal = index_goal(settings)
        store = Store.open(directory, settings.durability, max(goal.memory, _LEAST_CACHE))
        self.contract, self.chunking, self._identity = store.contract, store.chunking, store.identity
        self.upkeep = Upkeep(directory, settings, goal, store)

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
    def create(
        cls, name: str, contract: Contract, chunking: Chunking, settings: Settings, created: int | None = None
    ) -> Collection:
        """Makes an empty collection; one that takes the place of another may say when that was ``created``
        (:attr:`Store.created`).

        Raises:
            UsageError: no collection can be called that.
            Conflict: there is one already.
            StorageFailure: the data directory cannot be written.
        """
        directory = settings.data_dir / check_name(name)
        Store.create(directory, contract, chunking, settings.durability, created)
        return cls(directory, settings)

    @property
    def name(self) -> str:
        return self._directory.name

    def store(self) -> Store:
        """The store at its newest version, whichever process committed it. Costs microseconds when nothing changed."""
        return self.upkeep.store()

    def snapshot(self) -> Snapshot:
        """The newest version with its vector index (:meth:`Upkeep.current`)."""
        return self.upkeep.current()

    @contextmanager
    def writer(self, *, fold: bool = True, maintain: Maintaining = "always") -> Iterator[Writer]:
        """The right to write, held by one process at a time. After it was given back without an error, the vector index
        is folded; not to ``fold`` leaves that to a thread in the background. To ``maintain`` the store seldom leaves
        that to a later writer, one of many at the latest; never, leaves it and the vector index to the next one.

        Raises:
            Conflict: another process writes, and did not end within ``lock_timeout`` seconds; or the collection was
                deleted and made anew since it was opened.
            StorageFailure: the data directory cannot be written.
        """
        with write_lock(self._directory, self.settings.lock_timeout):
            # Opened afresh: version numbers alone do not tell a collection from one made later under its name. And what
            # Lance keeps of the files of each commit does not fill the cache of those that search.
            store = Store.open(self._directory, self.settings.durability, _LEAST_CACHE)
            if store.identity != self._identity:
                raise Conflict(f"The collection {self.name!r} was deleted and made anew meanwhile. Open it again.")
            writer = Writer(store, self.upkeep.committed, lambda: self.upkeep.is_tending)
            with self.upkeep.writing():
                yield writer
                if maintain == "never":
                    return
                many = writer.store.version // _TIDY_EVERY > store.version // _TIDY_EVERY
                if fold:
                    self.upkeep.settle()  # one after the other: each takes its memory
                if (maintain == "always" or many) and (writer.store.count() or writer.changed):
                    writer.store = writer.store.latest().maintain()
                    trim()
                if fold:
                    writer.store = self.upkeep.fold_on_disk(writer.store)
                if fold or many:
                    writer.store.clean_up()
        if fold:
            self.upkeep.fold()
        else:
            self.upkeep.tend()

    def export(self, file: Path) -> int:
        """Writes the collection to one Parquet file (see :mod:`embedsvc.storage.portable`); returns its passages."""
        return export_store(self.store(), file)


class Writer:
    """Commits to a collection's store. Got from :meth:`Collection.writer`."""

    def __init__(self, store: Store, committed: Callable[[int], None], is_folding: Callable[[], bool]) -> None:
        """``committed`` is told how many vectors were put in; ``is_folding``: whether the vector index is folded
        meanwhile."""
        self.store = store
        self.changed = False
        self._committed = committed
        self._is_folding = is_folding
        self._commits = 0
        self._new_rows = 0
        """Since the last maintenance."""
        self._is_due = False
        """Whether there is enough for another."""

    def replace(self, documents: Sequence[EncodedDocument], gone: Sequence[str] = ()) -> None:
        """In one durable commit, puts ``documents`` in the place of what has their ids and removes the ids ``gone``."""
        rows = passage_table(documents, self.store.contract.dimension, finer=self.store.chunking.finer > 0)
        self.replace_rows(rows, [*(document.id for document, _, _ in documents), *gone])

    def replace_rows(self, rows: pa.Table, document_ids: Sequence[str]) -> None:
        self.store = self.store.latest().replace(rows, document_ids)
        self.changed = True
        self._commits += 1
        self._new_rows += len(rows)
        if self._commits % _TIDY_EVERY == 0:
            self._is_due = self._new_rows > 0 and self._new_rows >= _NEW_SHARE * self.store.count()
            self.store.clean_up()
        # Before a fold is begun, and not while one is under way: each takes its memory.
        if self._is_due and not self._is_folding():
            self._maintain()
        self._committed(vector_count(rows))

    def remove(self, documents: Sequence[str]) -> None:
        """In one durable commit, removes these documents; ids that are not there are ignored."""
        store = self.store.latest()
        if len(documents) < store.count_documents() or not store.passage_counts().keys() <= set(documents):
            self.replace((), documents)
            return
        self.store = store.emptied()
        self.changed = True
        self._committed(0)

    def _maintain(self) -> None:
        """What would otherwise wait for the end of the writer, which may be a night away."""
        self._is_due, self._new_rows = False, 0
        self.rewrite(lambda store: store.maintain(in_passing=True).afresh())
        trim()

    def put_back(self, version: int) -> bool:
        """In one durable commit, makes the collection what it was at ``version``; whether that is a change.

        Raises:
            NotFound: that version is not there any more.
        """
        before = self.store = self.store.latest()
        self.store = before.with_rows_of(before.at(version))
        if self.store.version == before.version:
            return False
        self.changed = True
        self._committed(self.store.count_vectors())
        return True

    def tune(self, tuned: Tuned) -> None:
        """In one durable commit, keeps what the collection is searched best by."""
        if tuned != self.store.latest().tuned:
            self.rewrite(lambda store: store.with_tuned(tuned))

    def tell(self, about: Metadata) -> None:
        """In one durable commit, keeps what people say of the collection."""
        if about != self.store.latest().about:
            self.rewrite(lambda store: store.with_about(about))

    def rewrite(self, work: Callable[[Store], Store]) -> None:
        """A commit that changes how rows are stored, and none of them."""
        self.store = work(self.store.latest())
        self._committed(0)


def import_collection(name: str, file: Path, settings: Settings) -> Collection:
    """Makes the collection ``name`` of what :meth:`Collection.export` wrote to ``file``.

    Raises:
        UsageError: no collection can be called that.
        Conflict: there is one already. DamagedFile: the file is cut short. Then no collection is left behind.
        StorageFailure: the data directory cannot be written.
    """
    found = read_exported(file)
    directory = settings.data_dir / check_name(name)
    check_free(directory)
    # Made out of sight, so that it appears whole or not at all, also to whoever looks on and after a kill -9.
    staging = settings.data_dir / f".{name}.{uuid.uuid4().hex}.tmp"
    try:
        made = Collection.create(name, found.contract, found.chunking, replace(settings, data_dir=staging))
        with made.writer() as writer:
            for table in found.tables:
                writer.replace_rows(table, np.unique(table["document_id"].to_numpy(zero_copy_only=False)).tolist())
            writer.tune(found.tuned)
            writer.tell(found.about)
        move_into_place(staging / name, directory, settings.durability)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Collection.open(name, settings)
