"""What a method of the API does, told apart from how it is waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """Something to do in this process that takes a while; what comes of it is sent back."""

    do: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True)
class Request:
    """To the service; a :class:`Response` is sent back. ``path``: escaped, from the service's address on. Either
    ``json``, a body, or ``files``, a form of names and bytes; or neither."""

    method: str
    path: str
    json: bytes | None = None
    files: tuple[tuple[str, bytes], ...] = ()
    query: Mapping[str, int | str | Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """``headers`` by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Steps = Generator[Work | Pause | Request, Any, T]


def run(steps: Steps[T], send: Callable[[Request], Response]) -> T:
    """What comes of ``steps`` in the end; waits for each."""
    came: Any = None
    while True:
        try:
            step = steps.send(came)
        except StopIteration as end:
            value: T = end.value
            return value
        match step:
            case Work():
                came = step.do()
            case Pause():
                time.sleep(step.seconds)
                came = None
            case Request():
                came = send(step)


async def run_async(steps: Steps[T], send: Callable[[Request], Awaitable[Response]]) -> T:
    """As :func:`run`, and leaves the event loop to others meanwhile: work is done on a thread."""
    came: Any = None
    while True:
        try:
            step = steps.send(came)
        except StopIteration as end:
            value: T = end.value
            return value
        match step:
            case Work():
                came = await asyncio.to_thread(step.do)
            case Pause():
                await asyncio.sleep(step.seconds)
                came = None
            case Request():
                came = await send(step)
