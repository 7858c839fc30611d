"""A collection as users have it, in this process or of a service."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from embedsvc.api.options import (
    NewDocument,
    SearchOptions,
    check_metadata,
    check_page,
    check_search,
    listed,
    meant,
    numbers_of,
)
from embedsvc.api.place import Place
from embedsvc.api.steps import Steps, T
from embedsvc.search.asking import Asked

if TYPE_CHECKING:
    from embedsvc.outcomes import Report
    from embedsvc.records import Metadata, StoredDocument, WholeText
    from embedsvc.search.hits import Answer, Context


class Runs(Protocol):
    """Runs steps, and waits for them."""

    def __call__(self, steps: Steps[T], /) -> T: ...


class RunsAsync(Protocol):
    """Runs steps, and awaits them."""

    async def __call__(self, steps: Steps[T], /) -> T: ...


def _asked(query: str | Sequence[float], options: SearchOptions) -> Asked:
    check_search(options)
    if isinstance(query, str):
        return Asked(query=query, **options)
    return Asked(vector=numbers_of(query), **options)


def _packed(query: str, max_tokens: int, options: SearchOptions) -> Asked:
    check_search({"max_context_tokens": max_tokens})
    return replace(_asked(query, options), max_context_tokens=max_tokens)


def _context_of(answer: Answer) -> Context:
    assert answer.context is not None  # it was asked for
    return answer.context


class Collection:
    """A collection by its name. Threads may share it.

    Every method may raise what :mod:`embedsvc.errors` has, among it NotFound where there is no such collection,
    DamagedCollection, ContractMismatch, and of a service Unreachable, AccessDenied, VersionMismatch, Overloaded and
    NotReady.
    """

    def __init__(self, name: str, place: Place, run: Runs) -> None:
        self.name = name
        self._place = place
        self._run = run

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self._place})"

    def search(self, query: str | Sequence[float], **options: Unpack[SearchOptions]) -> Answer:
        """The passages that answer ``query``, best first: words, or a vector of the collection's dimension.

        Raises:
            UsageError: an option has a wrong value. BadFilter: the filter is not SQL over the collection's fields.
            QueryTooLong: the query exceeds the model's window, and ``on_overflow`` is ``error``.
        """
        return self._run(self._place.search(self.name, _asked(query, options)))

    def context(self, query: str, max_tokens: int = 2000, **options: Unpack[SearchOptions]) -> Context:
        """What a language model is to read to answer ``query``: the best hits as numbered sources in one text of at
        most ``max_tokens`` tokens, and where each comes from. With ``expand``, also what is around them."""
        return _context_of(self._run(self._place.search(self.name, _packed(query, max_tokens, options))))

    def index(self, *paths: str | Path, exclude: Sequence[str] = (), include: Sequence[str] = ()) -> Report:
        """Reads files and folders and puts them in, durably; the collection is made where there is none. What is
        unchanged is not encoded again. Returns what became of each file; one that cannot be read is told there.

        ``paths`` may begin with ``~``; in this process they may also be URLs. A service is sent the files, and cites
        them by their path from the folder that was named (``handbook/travel.md``), by which those that another program
        sent from a folder of that name are ``replaced``. ``exclude``, ``include``: patterns as in ``.gitignore``.

        Raises:
            NotFound: none of ``paths`` exists. UsageError: no path, or a pattern that is none.
            Locked: another process writes to the collection. StorageFailure: the disk is full, or read-only.
        """
        return self._run(self._place.index(self.name, paths, exclude, include))

    def add(self, documents: Iterable[NewDocument]) -> Report:
        """Puts ready-made documents in, durably, each in the place of what has its id; the collection is made where
        there is none. Returns what became of each: one with white space alone is ``empty``, and of several with one id
        the first is taken.

        Raises:
            UsageError: it is no list; one has no text, an unknown field, or a value of another type; none was taken.
            Locked, StorageFailure: as :meth:`index`.
        """
        return self._run(self._place.add(self.name, documents))

    def get(self, id: str) -> WholeText:
        """A document with its whole text and the spans of its passages. Raises NotFound: there is none."""
        return self._run(self._place.get(self.name, id))

    def get_many(self, ids: Iterable[str]) -> list[WholeText]:
        """The documents of these ids, in their order; those of which there is none are passed over."""
        return self._run(self._place.get_many(self.name, listed("ids", ids)))

    def delete(self, id: str) -> None:
        """Deletes a document, durably. Raises NotFound: there is none. Locked: another process writes."""
        return self._run(self._place.delete(self.name, id))

    def delete_many(self, ids: Iterable[str] | None = None, *, filter: str | None = None) -> int:
        """Deletes documents, durably and in one commit: those of ``ids``, of which those that there are not are passed
        over; those that have a passage for which ``filter`` holds, as of :meth:`search`; of both, where both are given.
        Returns how many there were.

        Raises:
            UsageError: neither is given. BadFilter: ``filter`` is empty, or no SQL over the collection's fields. All
            documents are deleted by ``filter="TRUE"`` alone. Locked: another process writes.
        """
        return self._run(self._place.delete_many(self.name, *meant(ids, filter)))

    def delete_uris(self, uris: Iterable[str]) -> list[str]:
        """Deletes the documents of these uris, and all that came out of files of these uris, durably and in one commit;
        returns the uris of what is gone. Raises NotFound: there is none of one of them, and nothing was deleted.
        Locked: another process writes."""
        return self._run(self._place.delete_uris(self.name, listed("uris", uris)))

    def set_metadata(self, metadata: Metadata, ids: Iterable[str] | None = None, *, filter: str | None = None) -> int:
        """Puts ``metadata`` over that of documents, durably: their values of these keys are replaced, None takes a key
        away, other keys stay. Nothing is encoded, and texts, uris and titles stay as they are. Which documents, is said
        as for :meth:`delete_many`. Returns how many were changed; one that has all of it already is not.

        A document that is put in again has the metadata that it comes with then, and none but these.

        Raises:
            UsageError: ``metadata`` is not JSON. And as :meth:`delete_many`.
        """
        check_metadata(metadata)
        return self._run(self._place.set_metadata(self.name, metadata, *meant(ids, filter)))

    def documents(self, limit: int = 100, offset: int = 0, filter: str | None = None) -> list[StoredDocument]:
        """A page of ``limit`` documents (1 to 1000) in the order of their uris, without their text; with ``filter``, as
        of :meth:`search`, of those that have a passage for which it holds."""
        check_page(limit, offset)
        return self._run(self._place.documents(self.name, limit, offset, filter))

    def count(self, filter: str | None = None) -> int:
        """How many documents there are, as of :meth:`documents`."""
        return self._run(self._place.count(self.name, filter))

    def describe(self) -> dict[str, Any]:
        """Counts, contract, chunking and vector index, as ``embedsvc collections show --json`` tells them."""
        return self._run(self._place.describe(self.name))


class AsyncCollection:
    """As :class:`Collection`, method by method, for an event loop."""

    def __init__(self, name: str, place: Place, run: RunsAsync) -> None:
        self.name = name
        self._place = place
        self._run = run

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self._place})"

    async def search(self, query: str | Sequence[float], **options: Unpack[SearchOptions]) -> Answer:
        """:meth:`Collection.search`."""
        return await self._run(self._place.search(self.name, _asked(query, options)))

    async def context(self, query: str, max_tokens: int = 2000, **options: Unpack[SearchOptions]) -> Context:
        """:meth:`Collection.context`."""
        return _context_of(await self._run(self._place.search(self.name, _packed(query, max_tokens, options))))

    async def index(self, *paths: str | Path, exclude: Sequence[str] = (), include: Sequence[str] = ()) -> Report:
        """:meth:`Collection.index`."""
        return await self._run(self._place.index(self.name, paths, exclude, include))

    async def add(self, documents: Iterable[NewDocument]) -> Report:
        """:meth:`Collection.add`."""
        return await self._run(self._place.add(self.name, documents))

    async def get(self, id: str) -> WholeText:
        """:meth:`Collection.get`."""
        return await self._run(self._place.get(self.name, id))

    async def get_many(self, ids: Iterable[str]) -> list[WholeText]:
        """:meth:`Collection.get_many`."""
        return await self._run(self._place.get_many(self.name, listed("ids", ids)))

    async def delete(self, id: str) -> None:
        """:meth:`Collection.delete`."""
        return await self._run(self._place.delete(self.name, id))

    async def delete_many(self, ids: Iterable[str] | None = None, *, filter: str | None = None) -> int:
        """:meth:`Collection.delete_many`."""
        return await self._run(self._place.delete_many(self.name, *meant(ids, filter)))

    async def delete_uris(self, uris: Iterable[str]) -> list[str]:
        """:meth:`Collection.delete_uris`."""
        return await self._run(self._place.delete_uris(self.name, listed("uris", uris)))

    async def set_metadata(
        self, metadata: Metadata, ids: Iterable[str] | None = None, *, filter: str | None = None
    ) -> int:
        """:meth:`Collection.set_metadata`."""
        check_metadata(metadata)
        return await self._run(self._place.set_metadata(self.name, metadata, *meant(ids, filter)))

    async def documents(self, limit: int = 100, offset: int = 0, filter: str | None = None) -> list[StoredDocument]:
        """:meth:`Collection.documents`."""
        check_page(limit, offset)
        return await self._run(self._place.documents(self.name, limit, offset, filter))

    async def count(self, filter: str | None = None) -> int:
        """:meth:`Collection.count`."""
        return await self._run(self._place.count(self.name, filter))

    async def describe(self) -> dict[str, Any]:
        """:meth:`Collection.describe`."""
        return await self._run(self._place.describe(self.name))
