"""Where collections are found: a data directory, or a service; and how a program gets at them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack

from embedsvc.api.collections import AsyncCollection, Collection, Runs, RunsAsync
from embedsvc.api.options import CollectionOptions, Kind, check_names, check_texts
from embedsvc.api.place import Place
from embedsvc.api.steps import Request, run, run_async
from embedsvc.config import OnOverflow, Settings, load_settings
from embedsvc.names import check_name

if TYPE_CHECKING:
    from embedsvc.api.embedded import Embedded


class Library:
    """The collections of one place, closed at the end of a ``with``, or by :meth:`close`: connections to a service;
    in this process, open collections, their indexes and the models, where no other library or collection in use shares
    them. What is called of it, or of its collections, after that raises UsageError."""

    def __init__(self, place: Place, run: Runs, close: Callable[[], None]) -> None:
        self._place = place
        self._run = run
        self.close = close

    def open(self, name: str) -> Collection:
        """The collection of that name. Nothing is looked at before its first method is called.

        Raises:
            UsageError: no collection can be called that.
        """
        return Collection(check_name(name), self._place, self._run)

    def create(self, name: str, **options: Unpack[CollectionOptions]) -> Collection:
        """The collection of that name, made without a document where there is none; where there is one, it must have
        been made with these ``options``.

        Raises:
            UsageError: no collection can be called that, or an option has a wrong name or value.
            Conflict, ContractMismatch: it is there with others. ModelError: no such model.
        """
        self._run(self._place.create(check_name(name), _checked(options)))
        return self.open(name)

    def names(self) -> list[str]:
        """Names of the collections that there are, sorted."""
        return self._run(self._place.names())

    def embed(
        self,
        texts: Sequence[str],
        kind: Kind = "passage",
        model: str | None = None,
        on_overflow: OnOverflow | None = None,
    ) -> list[list[float]]:
        """A vector of unit length for each text. ``kind``: whether they are queries or what is searched for. ``model``:
        of those that are served; None: the default one. A text longer than its window is refused (``on_overflow``
        ``error``), or has the mean of its parts' vectors (``split``), or that of its beginning (``truncate``); None: as
        the settings say, of a service its own.

        Raises:
            UsageError: a text is empty. QueryTooLong: ``on_overflow`` is ``error``. NotFound: no such model.
        """
        return self._run(self._place.embed(check_texts(texts, kind, on_overflow), kind, model, on_overflow))

    def delete(self, name: str) -> None:
        """Deletes a collection with all its documents, for good. Raises NotFound: there is none."""
        return self._run(self._place.remove(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncLibrary:
    """As :class:`Library`, for an event loop."""

    def __init__(self, place: Place, run: RunsAsync, close: Callable[[], Awaitable[None]]) -> None:
        self._place = place
        self._run = run
        self.close = close

    def open(self, name: str) -> AsyncCollection:
        """:meth:`Library.open`."""
        return AsyncCollection(check_name(name), self._place, self._run)

    async def create(self, name: str, **options: Unpack[CollectionOptions]) -> AsyncCollection:
        """:meth:`Library.create`."""
        await self._run(self._place.create(check_name(name), _checked(options)))
        return self.open(name)

    async def names(self) -> list[str]:
        """:meth:`Library.names`."""
        return await self._run(self._place.names())

    async def embed(
        self,
        texts: Sequence[str],
        kind: Kind = "passage",
        model: str | None = None,
        on_overflow: OnOverflow | None = None,
    ) -> list[list[float]]:
        """:meth:`Library.embed`."""
        return await self._run(self._place.embed(check_texts(texts, kind, on_overflow), kind, model, on_overflow))

    async def delete(self, name: str) -> None:
        """:meth:`Library.delete`."""
        return await self._run(self._place.remove(name))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def library(**settings: Any) -> Library:
    """The collections of a data directory, in this process: those of the settings that ``embedsvc`` has there, with
    ``settings`` (``data_dir``, ``model`` … of :class:`embedsvc.config.Settings`) in front.

    A model is loaded when it is first needed, once for all of this process.

    Raises:
        UsageError: there is no such setting, or it cannot have that value.
    """
    return Library(place := _embedded(settings), partial(run, send=_no_request), place.close)


def library_async(**settings: Any) -> AsyncLibrary:
    """As :func:`library`, for an event loop."""
    place = _embedded(settings)
    return AsyncLibrary(place, partial(run_async, send=_no_request), partial(asyncio.to_thread, place.close))


def open(name: str, **settings: Any) -> Collection:
    """The collection ``name`` in this process, as of :func:`library`. Where there is none, the first :meth:`index` or
    :meth:`add` makes it. It stays open, also for the next who opens it, until the process ends."""
    return library(**settings).open(name)


def open_async(name: str, **settings: Any) -> AsyncCollection:
    """As :func:`open`, for an event loop."""
    return library_async(**settings).open(name)


def connect(url: str, *, api_key: str | None = None, timeout: float = 30.0, retries: int = 3) -> Library:
    """The collections of the service at ``url``. Nothing is sent yet.

    ``api_key``; None: that of the environment, ``EMBEDSVC_API_KEY``, if any. ``timeout``: seconds that one answer may
    take. ``retries``: how often a request is sent again that the service had no room for (429, 503), after as long as
    it says, else after half a second, twice as long each time.

    Raises:
        UsageError: ``url`` is none, or the key cannot be sent.
    """
    from embedsvc.api.remote import Remote
    from embedsvc.api.transport import Transport, checked_url

    transport = Transport(url := checked_url(url), api_key, timeout)
    return Library(Remote(url, retries), partial(run, send=transport.send), transport.close)


def connect_async(url: str, *, api_key: str | None = None, timeout: float = 30.0, retries: int = 3) -> AsyncLibrary:
    """As :func:`connect`, for an event loop."""
    from embedsvc.api.remote import Remote
    from embedsvc.api.transport import AsyncTransport, checked_url

    transport = AsyncTransport(url := checked_url(url), api_key, timeout)
    return AsyncLibrary(Remote(url, retries), partial(run_async, send=transport.send), transport.close)


def _checked(options: CollectionOptions) -> CollectionOptions:
    check_names(options, list(CollectionOptions.__annotations__), "option")
    return options


def _embedded(given: dict[str, Any]) -> Embedded:
    check_names(given, [field.name for field in fields(Settings)], "setting")
    settings = load_settings(given)
    # From here on, whatever the working directory becomes.
    settings = replace(settings, data_dir=settings.data_dir.absolute())
    from embedsvc.api.embedded import Embedded

    return Embedded(settings, {name for name, value in given.items() if value is not None})


def _no_request(request: Request) -> NoReturn:
    raise AssertionError(f"{request} in this process")
