"""The open collections that requests share, and what becomes of requests while somebody deletes one."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from embedsvc.collection import Collection, collection_directory, index_goal
from embedsvc.config import Settings
from embedsvc.describe import describe
from embedsvc.encoders import Encoders
from embedsvc.encoding import Encoder
from embedsvc.errors import Closed, Conflict, DamagedCollection, EmbedsvcError, NotFound
from embedsvc.ingest import open_or_create
from embedsvc.storage.store import TABLE

_T = TypeVar("_T")
_TRIES = 5
OPEN_BYTES = 500_000
"""That an open collection takes beside its vectors; to open it again takes some 10 ms."""
_MOST_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
MOST_OPEN = sys.maxsize if _MOST_FILES == resource.RLIM_INFINITY else _MOST_FILES // 4
"""Collections that are open with their index at once, whatever memory there is: each holds two files, and half of those
that this process may have open are for connections and writers. Of 1,024, as it often has: 256."""


class Hold:
    """A table's folder, held open. Until it is let go of, no other folder can get the same inode number: that is how
    a collection that was deleted and made anew is told from this one."""

    def __init__(self, path: str) -> None:
        """Raises FileNotFoundError where there is none."""
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def is_current(self) -> bool:
        """Whether what is found at the path is still what was found there then."""
        try:
            there = os.stat(self._path)  # noqa: PTH116 - on every request
        except OSError:
            return False
        here = os.fstat(self._descriptor)
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Opened:
    """An open collection with the encoder that made it."""

    collection: Collection
    encoder: Encoder
    hold: Hold

    def is_current(self) -> bool:
        """False once it was deleted, or deleted and made anew."""
        return self.hold.is_current()


class Collections:
    """The open collections by name, opened when first used."""

    def __init__(self, settings: Settings, encoders: Encoders) -> None:
        self._settings = settings
        self._encoders = encoders
        self._opened: dict[str, Opened] = {}
        self._opening: dict[str, threading.Lock] = {}
        self._used: dict[str, float] = {}
        self._unloading = threading.Lock()
        self._closed = False
        encoders.on_unload.append(self._let_go)

    def _let_go(self, encoder: object) -> None:
        """Closes the collections that hold an unloaded encoder; they are opened again when next asked for."""
        for name, opened in list(self._opened.items()):
            if opened.encoder is encoder:
                self.forget(name)

    def open(self, name: str, *, in_passing: bool = False) -> Opened:
        """The collection as it is on disk now; opened anew where it was deleted and made again. ``in_passing``: by one
        who looks into all of them, which is no use to keep it open for.

        Raises:
            UsageError, NotFound, DamagedCollection, ContractMismatch, ModelError: as when opening it. Closed: after
                :meth:`close`.
        """
        opened = self._opened.get(name)
        if opened is not None and opened.is_current():
            self._encoders.touch(opened.encoder)
            if not in_passing:
                self._used[name] = time.monotonic()
            return opened
        try:
            collection_directory(name, self._settings)
        except NotFound:
            self.forget(name)
            raise
        with self._opening.setdefault(name, threading.Lock()):
            self._check_not_closed()
            opened = self._opened.get(name)
            if opened is None or not opened.is_current():
                self.forget(name)
                opened = self._opened[name] = self._open(name)
                if self._closed:  # meanwhile: close() may not have seen this one
                    self.forget(name)
                    self._check_not_closed()
                self._make_room(name)
            if not in_passing:
                self._used[name] = time.monotonic()
            return opened

    def _check_not_closed(self) -> None:
        if self._closed:
            raise Closed(self._settings.data_dir)

    def load(self, name: str, *, in_passing: bool = False) -> None:
        """Opens the collection with its vector index."""
        self.call(name, lambda opened: opened.collection.upkeep.look_after(), in_passing=in_passing)
        self.call(name, lambda opened: opened.collection.snapshot(), in_passing=in_passing)
        self._make_room(name)

    def _make_room(self, name: str) -> None:
        """Where all that are open take more memory than ``index_memory_mb``, an index and ``OPEN_BYTES`` each, or are
        more than ``MOST_OPEN``, closes those that were opened in passing, then those unused for longest, but for
        ``name``; they are opened again when next asked for."""
        budget = index_goal(self._settings).memory
        with self._unloading:
            held = {
                name: OPEN_BYTES + opened.collection.upkeep.bytes_resident
                for name, opened in list(self._opened.items())
            }
            # Of those in passing the one that was opened first, as others may still be asked.
            for oldest in sorted((each for each in held if each != name), key=lambda each: self._used.get(each, 0.0)):
                if sum(held.values()) <= budget and len(held) <= MOST_OPEN:
                    break
                self.forget(oldest)
                del held[oldest]

    def is_ready(self, name: str) -> bool:
        """Whether it is open with its vector index, so that a search of it waits for nothing."""
        opened = self._opened.get(name)
        return opened is not None and opened.collection.upkeep.loaded is not None and opened.is_current()

    def _open(self, name: str) -> Opened:
        hold = self._hold(name)
        if hold is None:
            raise NotFound(f"The collection {name!r} was deleted just now.")
        try:
            collection = Collection.open(name, self._settings)
            return Opened(collection, self._encoders.of(collection.contract), hold)
        except DamagedCollection:
            collection_directory(name, self._settings)  # NotFound, where it was deleted in between
            raise

    def _hold(self, name: str) -> Hold | None:
        try:
            return Hold(str(self._settings.data_dir / name / TABLE))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def forget(self, name: str) -> None:
        """Lets go of what is held of a collection that was deleted: its vectors and its files' space."""
        opened = self._opened.pop(name, None)
        if opened is not None:
            opened.collection.upkeep.close()
        self._used.pop(name, None)

    def close(self) -> None:
        """Forgets all of them, and the encoders, for good: calls that are at work end with what they have open, and are
        refused where they would have to open more."""
        self._closed = True
        self._encoders.on_unload.remove(self._let_go)
        for name in list(self._opened):
            self.forget(name)

    def loaded(self) -> list[tuple[str, Collection]]:
        """Those that are open, by name."""
        return [(name, opened.collection) for name, opened in sorted(self._opened.items())]

    def peek(self, name: str) -> Collection:
        """The collection, for looking at: neither kept open nor checked against an encoder."""
        opened = self._opened.get(name)
        return opened.collection if opened and opened.is_current() else Collection.open(name, self._settings)

    def describe(self, name: str) -> dict[str, Any]:
        """What is told about it.

        Raises:
            NotFound: there is none, or it was deleted while it was looked at. DamagedCollection: it cannot be read.
        """
        return self.steadily(name, lambda: describe(self.peek(name)))

    def make(self, name: str, asked: dict[str, Any]) -> bool:
        """Makes the collection with the settings ``asked`` unless it is there with these; whether it was made.

        Raises:
            Conflict, ContractMismatch: it is there with others.
            UsageError: a bad name or setting. ModelError: no such model.
        """
        settings = replace(self._settings, **asked)
        try:
            collection_directory(name, settings)
            made = False
        except NotFound:
            made = True
        open_or_create(name, settings, asked.keys(), self._encoders.load, lambda made_by, _: self._encoders.of(made_by))
        return made

    def call(self, name: str, work: Callable[[Opened], _T], *, in_passing: bool = False) -> _T:
        """``work`` on the open collection, see :meth:`open` and :meth:`steadily`."""
        return self.steadily(name, lambda: work(self.open(name, in_passing=in_passing)))

    def steadily(self, name: str, work: Callable[[], _T]) -> _T:
        """``work``; again, a few times, where it failed while somebody deleted the collection or made it anew; and once
        where it found files missing: a compaction removes versions, and the next snapshot is of one that is there."""
        for attempt in range(_TRIES - 1):
            hold = self._hold(name)
            try:
                return work()
            except Exception as error:
                unchanged = self._hold(name) is None if hold is None else hold.is_current()
                # Where there was none before and there is none now, it may have been made and deleted in between.
                meant = isinstance(error, EmbedsvcError) and not isinstance(error, DamagedCollection | Conflict)
                removed = isinstance(error, DamagedCollection) and not attempt
                if unchanged and (meant or hold is not None) and not removed:
                    raise
        return work()
