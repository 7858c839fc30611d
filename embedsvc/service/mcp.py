"""``/mcp``: the tools of agents, over the collections that the service has open. Nothing of it is loaded before it is
asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from embedsvc.collection import collection_names
from embedsvc.describe import read_document
from embedsvc.errors import MissingDependency
from embedsvc.opened import Opened
from embedsvc.records import WholeText
from embedsvc.search.asking import Asked, answers_to, queries_of
from embedsvc.search.hits import Answer
from embedsvc.service.access import stranger
from embedsvc.service.problems import MCP_ROUTE, problem
from embedsvc.service.state import State, run

if TYPE_CHECKING:
    from embedsvc.agents.server import Door

_MISSING = "MCP needs the package mcp, which is not installed here, or too old: pip install 'embedsvc[mcp]'."


@dataclass(frozen=True, slots=True)
class OfService:
    """A :class:`~embedsvc.agents.shelves.Shelf`: all collections of the service."""

    state: State

    async def names(self) -> list[str]:
        return await run(self.state.errands, lambda: collection_names(self.state.settings.data_dir))

    async def describe(self, name: str) -> dict[str, Any]:
        return await run(self.state.errands, lambda: self.state.collections.describe(name))

    async def search(self, name: str, query: str, k: int, *, in_passing: bool) -> Answer:
        asked = Asked(query=query, k=k)
        queries = queries_of(asked, self.state.settings.on_overflow, None, None)

        def work(opened: Opened) -> Answer:
            return answers_to(asked, queries, opened.collection.snapshot(), opened.encoder)[0]

        await self.state.ready(name, in_passing=in_passing)
        collections = self.state.collections
        return await self.state.queries.run(lambda: collections.call(name, work, in_passing=in_passing))

    async def get(self, name: str, id: str) -> WholeText:
        def work(opened: Opened) -> WholeText:
            return read_document(opened.collection.store(), id)

        return await run(self.state.errands, lambda: self.state.collections.call(name, work))


class Mcp:
    """The ASGI application behind ``MCP_ROUTE``; answers while it is :meth:`running`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._asked = asyncio.Event()
        self._door: asyncio.Future[Door] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._asked, self._door = asyncio.Event(), asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        serving = asyncio.create_task(self._serve(self._door, stop))
        try:
            yield
        finally:
            stop.set()
            self._asked.set()
            await serving

    async def _serve(self, opened: asyncio.Future[Door], stop: asyncio.Event) -> None:
        await self._asked.wait()
        if stop.is_set():
            return
        settings = self._state.settings
        try:
            # Importing the SDK takes half a second.
            door = await run(
                self._state.loading, lambda: _door(OfService(self._state), settings.public_url, settings.max_body_mb)
            )
        except Exception as error:  # told to all who ask; the service goes on, and stops, as it would without
            missing = isinstance(error, ImportError)
            opened.set_exception(MissingDependency(_MISSING) if missing else error)
            return
        async with door.running():
            opened.set_result(door)
            await stop.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":  # there are no sessions, and nothing that comes unasked
            refusal = "Send POST: this server keeps no sessions."
            await problem(MCP_ROUTE, 405, "Method Not Allowed", refusal, headers={"allow": "POST"})(
                scope, receive, send
            )
            return
        if (who := stranger(scope, self._state.settings)) is not None:  # with a key, too, as MCP asks for
            refusal = f"What comes from {who} may not ask here. Set public_url where others are to reach this."
            await problem(MCP_ROUTE, 403, "Access denied", refusal)(scope, receive, send)
            return
        # Read here, where a client that leaves in the midst of it is no fault of the service.
        body = await Request(scope, receive).body()
        assert self._door is not None  # requests come while it is running
        self._asked.set()
        door = await asyncio.shield(self._door)
        await door(scope, _again(body, receive), send)


def _again(body: bytes, receive: Receive) -> Receive:
    """``receive`` of a request whose ``body`` was read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return messages.pop() if messages else await receive()

    return received


def _door(shelf: OfService, public_url: str, max_body_mb: int) -> Door:
    from embedsvc.agents.server import Door

    return Door(shelf, public_url, max_body_mb * 1_000_000)
