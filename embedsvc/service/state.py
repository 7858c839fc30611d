"""What the service holds between requests: encoders, open collections, thread pools, jobs."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from fastapi import Request

from embedsvc.collection import Collection, collection_directory
from embedsvc.config import Settings
from embedsvc.describe import describe
from embedsvc.encoding import Encoder, check_contract, encoder_for, load_encoder
from embedsvc.encoding.canaries import CANARY_TEXTS
from embedsvc.encoding.contract import LEAST_CANARY_COSINE
from embedsvc.errors import Conflict, DamagedCollection, EmbedsvcError, ModelError, NotFound
from embedsvc.ingest import open_or_create
from embedsvc.records import Contract
from embedsvc.service.problems import NotReady
from embedsvc.storage.store import TABLE

if TYPE_CHECKING:
    from embedsvc.service.jobs import Jobs

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_TRIES = 5


class Encoders:
    """Encoders by (model, dtype), each loaded once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[tuple[str, str], Encoder] = {}
        self._default: Encoder | None = None
        self._failure: EmbedsvcError | None = None
        self._loading = threading.Lock()

    def default(self) -> Encoder:
        """The encoder that the settings name."""
        if self._default is None:
            with self._loading:
                if self._default is None:
                    try:
                        encoder = load_encoder(self._settings)
                    except EmbedsvcError as error:
                        self._failure = error
                        raise
                    self._default = self._loaded.setdefault((encoder.model.name, encoder.dtype), encoder)
        return self._default

    def load(self, settings: Settings) -> Encoder:
        """The encoder that ``settings`` name: the default one where they name the same."""
        own = self._settings
        same = (settings.model, settings.runtime, settings.dtype) == (own.model, own.runtime, own.dtype)
        return self.default() if same else load_encoder(settings)

    def warm(self) -> None:
        """Loads the default encoder and encodes once; a failure is logged, and kept for the readiness probe."""
        try:
            _ = self.default().contract
        except Exception as error:
            log.error("The default encoder cannot be loaded: %s", error)

    def of(self, contract: Contract) -> Encoder:
        """The encoder that made a collection, checked against its contract."""
        key = (contract.model, contract.dtype)
        if key not in self._loaded:
            with self._loading:
                if key not in self._loaded:
                    self._loaded[key] = encoder_for(contract, self._settings)
        check_contract(self._loaded[key], contract)
        return self._loaded[key]

    def probe(self) -> Encoder:
        """The default encoder, once a canary text gave the vector that it must; never waits for loading.

        Raises:
            NotReady: it is not loaded (the reason is told), or computes something else.
        """
        encoder = self._default
        if encoder is None:
            if self._failure is not None and not self._loading.locked():
                threading.Thread(target=self.warm, name="warm", daemon=True).start()
            raise NotReady(str(self._failure or "The model is being loaded. Ask again in a few seconds."))
        try:
            vector = encoder.encode_texts(CANARY_TEXTS[1:2], kind="passage", on_overflow="truncate").vectors[0]
        except ModelError as error:
            raise NotReady(str(error)) from error
        cosine = float(np.dot(vector, encoder.contract.canary_vectors[1]))
        if not cosine >= LEAST_CANARY_COSINE[encoder.dtype]:
            raise NotReady(f"The encoder gives a canary text another vector than before (cosine {cosine:.4f}).")
        return encoder


@dataclass(frozen=True, slots=True)
class Opened:
    """An open collection with the encoder that made it.

    ``folder`` is a descriptor of its table's folder. While it is open, no other folder can get the same inode
    number: that is how a collection that was deleted and made anew is told from this one.
    """

    collection: Collection
    encoder: Encoder
    folder: int
    path: str

    def is_current(self) -> bool:
        try:
            there = os.stat(self.path)  # noqa: PTH116 - on every request
        except OSError:
            return False
        here = os.fstat(self.folder)
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)

    def __del__(self) -> None:
        os.close(self.folder)


class Collections:
    """The open collections by name, opened when first used."""

    def __init__(self, settings: Settings, encoders: Encoders) -> None:
        self._settings = settings
        self._encoders = encoders
        self._opened: dict[str, Opened] = {}
        self._opening: dict[str, threading.Lock] = {}

    def open(self, name: str) -> Opened:
        """The collection as it is on disk now; opened anew where it was deleted and made again.

        Raises:
            UsageError, NotFound, DamagedCollection, ContractMismatch, ModelError: as when opening it.
        """
        opened = self._opened.get(name)
        if opened is not None and opened.is_current():
            return opened
        try:
            collection_directory(name, self._settings)
        except NotFound:
            self.forget(name)
            raise
        with self._opening.setdefault(name, threading.Lock()):
            opened = self._opened.get(name)
            if opened is None or not opened.is_current():
                self._opened.pop(name, None)
                opened = self._opened[name] = self._open(name)
            return opened

    def is_ready(self, name: str) -> bool:
        """Whether it is open with its vector index, so that a search of it waits for nothing."""
        opened = self._opened.get(name)
        return opened is not None and opened.collection.is_loaded and opened.is_current()

    def _open(self, name: str) -> Opened:
        path = str(collection_directory(name, self._settings) / TABLE)
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise NotFound(f"The collection {name!r} was deleted just now.") from None
        try:
            collection = Collection.open(name, self._settings)
            encoder = self._encoders.of(collection.contract)
        except BaseException as error:
            os.close(folder)
            if isinstance(error, DamagedCollection):
                collection_directory(name, self._settings)  # NotFound, where it was deleted in between
            raise
        return Opened(collection, encoder, folder, path)

    def forget(self, name: str) -> None:
        """Lets go of what is held of a collection that was deleted: its vectors and its files' space."""
        self._opened.pop(name, None)

    def peek(self, name: str) -> Collection:
        """The collection, for looking at: neither kept open nor checked against an encoder."""
        opened = self._opened.get(name)
        return opened.collection if opened and opened.is_current() else Collection.open(name, self._settings)

    def describe(self, name: str) -> dict[str, Any]:
        """What is told about it.

        Raises:
            NotFound: there is none, or it was deleted while it was looked at. DamagedCollection: it cannot be read.
        """
        return self.steadily(name, lambda: describe(self.peek(name).snapshot()))

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
        open_or_create(name, settings, asked.keys(), self._encoders.load)
        return made

    def call(self, name: str, work: Callable[[Opened], _T]) -> _T:
        """``work`` on the open collection, see :meth:`steadily`."""
        return self.steadily(name, lambda: work(self.open(name)))

    def steadily(self, name: str, work: Callable[[], _T]) -> _T:
        """``work``; again, a few times, where it failed while somebody deleted the collection or made it anew."""
        for _ in range(_TRIES - 1):
            before = self._identity(name)
            try:
                return work()
            except Exception as error:
                now = self._identity(name)
                # Where there was none before and there is none now, it may have been made and deleted in between.
                meant = isinstance(error, EmbedsvcError) and not isinstance(error, DamagedCollection | Conflict)
                if now == before and (now is not None or meant):
                    raise
        return work()

    def _identity(self, name: str) -> tuple[int, int] | None:
        """Tells one table from the next of the same name, whose folder may get the same inode number."""
        try:
            table = os.stat(self._settings.data_dir / name / TABLE)  # noqa: PTH116 - on every request
        except (OSError, ValueError):
            return None
        return table.st_ino, table.st_mtime_ns


@dataclass(frozen=True)
class State:
    """Everything that requests share. Made by ``create_app``, found on ``app.state.embedsvc``."""

    settings: Settings
    encoders: Encoders
    collections: Collections
    jobs: Jobs
    queries: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max(4, 2 * (os.cpu_count() or 1)), thread_name_prefix="query")
    )
    """Searches and embeddings."""
    errands: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8, thread_name_prefix="errand"))
    """All else that blocks, waiting for another writer included, so that no search waits behind it."""
    opening: dict[str, asyncio.Future[object]] = field(default_factory=dict)

    async def ready(self, name: str) -> None:
        """Opens the collection with its vector index, where it is not: once for all who ask, and not among the
        searches, which go on for the other collections.

        Raises:
            As :meth:`Collections.open`.
        """
        if self.collections.is_ready(name):
            return
        opening = self.opening.get(name)
        if opening is None:
            work = run(self.errands, lambda: self.collections.call(name, lambda opened: opened.collection.snapshot()))
            opening = self.opening[name] = asyncio.ensure_future(work)
            opening.add_done_callback(lambda _: self.opening.pop(name, None))
        await asyncio.shield(opening)


def state_of(request: Request) -> State:
    state: State = request.app.state.embedsvc
    return state


async def run(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)
