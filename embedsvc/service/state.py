"""What the service holds between requests: encoders, open collections, thread pools, jobs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from fastapi import Request

from embedsvc.config import Settings
from embedsvc.encoding import Encoder
from embedsvc.errors import Overloaded
from embedsvc.service.encoders import Encoders
from embedsvc.service.opened import Collections

if TYPE_CHECKING:
    from embedsvc.service.jobs import Jobs

_T = TypeVar("_T")


class Queries:
    """The threads that search, and how many searches may wait for them."""

    def __init__(self, threads: int = max(4, 2 * (os.cpu_count() or 1)), most: int = 512) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="query")
        self._most = most
        self._pending = 0  # changed in the event loop only

    async def run(self, work: Callable[[], _T]) -> _T:
        """``work`` on one of the threads.

        Raises:
            Overloaded: as many wait or run as may.
        """
        if self._pending >= self._most:
            raise Overloaded(f"{self._pending} searches", 1)
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
    queries: Queries = field(default_factory=lambda: Queries())
    """Searches."""
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

    async def encoder(self, name: str | None) -> Encoder:
        """The encoder of a served model, loaded where it is not; None: the default one.

        Raises:
            NotFound: no such model is served. ModelError: it cannot be loaded.
        """
        wanted = self.settings.model if name is None else name
        encoder = self.encoders.loaded(wanted)
        return encoder if encoder is not None else await run(self.errands, lambda: self.encoders.named(wanted))


def state_of(request: Request) -> State:
    state: State = request.app.state.embedsvc
    return state


async def run(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)
