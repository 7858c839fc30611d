"""What the service holds between requests: encoders, open collections, thread pools, jobs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request

from embedsvc.config import Settings, listed
from embedsvc.encoders import Encoders
from embedsvc.encoding import Encoder
from embedsvc.encoding.cross_encoder import CrossEncoder
from embedsvc.encoding.tokens import load_counter
from embedsvc.errors import NotFound, Overloaded
from embedsvc.opened import Collections

if TYPE_CHECKING:
    from embedsvc.service.jobs import Jobs

_T = TypeVar("_T")


class Bounded:
    """Threads for one kind of request, and how many of them may wait."""

    def __init__(self, kind: str, threads: int, most: int) -> None:
        """``kind``: what is told to be too much, in the plural."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=kind)
        self._kind = kind
        self._most = most
        self._pending = 0  # changed in the event loop only

    async def run(self, work: Callable[[], _T]) -> _T:
        """``work`` on one of the threads.

        Raises:
            Overloaded: as many wait or run as may.
        """
        if self._pending >= self._most:
            raise Overloaded(f"{self._pending} {self._kind}", 1)
        self._pending += 1
        try:
            return await run(self._pool, work)
        finally:
            self._pending -= 1

    def shutdown(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class State:
    """Everything that requests share. Made by ``create_app``, found on ``app.state.embedsvc``."""

    settings: Settings
    encoders: Encoders
    collections: Collections
    jobs: Jobs
    queries: Bounded = field(default_factory=lambda: Bounded("searches", max(4, 2 * (os.cpu_count() or 1)), 512))
    token_vectors: Bounded = field(default_factory=lambda: Bounded("requests to /embed_all", 1, 8))
    errands: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8, thread_name_prefix="errand"))
    """All that may wait, for another writer or a collection being opened, so that no search waits behind it."""
    chores: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="chore"))
    """What takes too long for the event loop and waits for nothing: large JSON, tokenising."""
    loading: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="load"))
    counters: dict[str, Callable[[str], int]] = field(default_factory=dict)
    under_way: dict[str, asyncio.Future[Any]] = field(default_factory=dict)
    """Collections that are being opened and models that are being loaded, each once for all who ask."""

    async def ready(self, name: str, *, in_passing: bool = False) -> None:
        """Opens the collection with its vector index, where it is not; not among the searches, which go on for the
        other collections. ``in_passing``: as of :meth:`Collections.open`.

        Raises:
            As :meth:`Collections.open`.
        """
        if not self.collections.is_ready(name):
            await self._once(
                f"collection {name}",
                self.errands,
                lambda: self.collections.load(name, in_passing=in_passing),
            )

    async def encoder(self, name: str | None) -> Encoder:
        """The encoder of a served model, loaded where it is not; None: the default one.

        Raises:
            NotFound: no such model is served. ModelError: it cannot be loaded.
        """
        wanted = self.settings.model if name is None else name
        encoder = self.encoders.loaded(wanted)
        if encoder is None:
            encoder = await self._once(f"model {wanted}", self.loading, lambda: self.encoders.named(wanted))
        return encoder

    async def reranker(self, name: str | None) -> CrossEncoder:
        """The served cross-encoder, loaded where it is not; None: the first.

        Raises:
            NotFound: no such cross-encoder is served. ModelError: it cannot be loaded.
        """
        wanted = self.encoders.reranker_model(name)
        encoder = self.encoders.loaded_reranker(wanted)
        if encoder is None:
            encoder = await self._once(f"reranker {wanted}", self.loading, lambda: self.encoders.reranker(wanted))
        return encoder

    async def counter(self, name: str) -> Callable[[str], int]:
        """How the tokenizer ``name`` of the settings counts.

        Raises:
            NotFound: there is none of that name, or its file is gone. UsageError: it cannot be used.
        """
        places = {Path(place).name.removesuffix(".json"): place for place in listed(self.settings.tokenizers)}
        if name not in places:
            there = ", ".join(places) or "none: start the service with EMBEDSVC_TOKENIZERS=FOLDER"
            raise NotFound(f"There is no tokenizer {name!r} here. There are: {there}.")
        if name not in self.counters:
            self.counters[name] = await run(self.chores, lambda: load_counter(Path(places[name]).expanduser()))
        return self.counters[name]

    async def _once(self, what: str, pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        """``work`` on a thread of ``pool``; what comes of it, good or bad, goes to all who ask for ``what`` meanwhile,
        and goes on where one of them hangs up."""
        future = self.under_way.get(what)
        if future is None:
            future = self.under_way[what] = asyncio.ensure_future(run(pool, work))
            future.add_done_callback(lambda done: self._is_done(what, done))
        result: _T = await asyncio.shield(future)
        return result

    def _is_done(self, what: str, future: asyncio.Future[Any]) -> None:
        del self.under_way[what]
        if not future.cancelled():
            future.exception()  # has been seen, also where all who asked have hung up

    def shutdown(self) -> None:
        """Ends the threads; what they have begun is finished."""
        for _, collection in self.collections.loaded():
            collection.upkeep.close()
        for each in (self.queries, self.token_vectors):
            each.shutdown()
        for pool in (self.errands, self.chores, self.loading):
            pool.shutdown(wait=False, cancel_futures=True)


def state_of(request: Request) -> State:
    state: State = request.app.state.embedsvc
    return state


async def run(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)
