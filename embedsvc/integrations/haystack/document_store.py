"""A collection as a document store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar

from haystack import Document, default_from_dict
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret

from embedsvc.api.collections import Collection
from embedsvc.api.options import NewDocument
from embedsvc.errors import NotFound, UsageError
from embedsvc.integrations.citing import citation, unit_scores
from embedsvc.integrations.haystack.filters import condition_of
from embedsvc.integrations.haystack.places import Place, with_secret
from embedsvc.integrations.storing import check_new, check_report, new_document
from embedsvc.records import StoredDocument

_PAGE = 1000
T = TypeVar("T")


class DuplicateIds(UsageError, DuplicateDocumentError):
    """Documents have an id that is taken, and the policy is to fail."""


class WrongDocuments(UsageError, ValueError):
    """What was to be written are no documents."""


class EmbedsvcDocumentStore:
    """The collection of that name, at a :class:`.places.Place`; the first write makes it, and before that the store is
    empty.

    It encodes texts itself, by its own model: documents need no ``embedding``, and one that they have is not kept.
    ``source`` and ``title`` in their ``meta`` are what they are cited by. Documents need ``content``.

    Raises, from all methods, what :class:`embedsvc.Collection` does. Methods with ``_async`` at the end work on a
    thread.
    """

    def __init__(
        self,
        collection: str,
        url: str | None = None,
        api_key: Secret | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.name = collection
        self.place = Place(url, api_key, settings)

    @property
    def collection(self) -> Collection:
        return self.place.library.open(self.name)

    def to_dict(self) -> dict[str, Any]:
        return self.place.to_dict(self, collection=self.name)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return default_from_dict(cls, with_secret(data))

    # -- Haystack's protocol -----------------------------------------------------------------------------------------

    def count_documents(self) -> int:
        return self._unless_new(self.collection.count, 0)

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """In the order of their uris.

        Raises:
            UnsupportedFilter: ``filters`` cannot be expressed.
        """
        collection = self.collection
        found: list[Document] = []
        for ids in self._pages(filters):
            found += (
                Document(id=document.id, content=document.text, meta=dict(document.metadata))
                for document in collection.get_many(ids)
            )
        return found

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Puts documents in, durably; returns how many. Policy ``NONE`` is ``FAIL``. Of several with one id in one
        call, ``SKIP`` takes the first, ``OVERWRITE`` the last.

        Raises:
            WrongDocuments: they are none, or one has no text. DuplicateIds: an id is taken, or that of two of them, and
            ``policy`` is ``FAIL``. In both cases none was put in.
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise WrongDocuments("documents is not a list of Haystack's Documents.")
        if not documents:
            return 0
        collection = self.place.library.create(self.name)
        chosen = _chosen(documents, policy)
        if policy != DuplicatePolicy.OVERWRITE:
            there = {document.id for document in collection.get_many(chosen)}
            if there and policy != DuplicatePolicy.SKIP:
                raise DuplicateIds(f"{_some(there)} there already, so none was written. Choose another policy.")
            chosen = {id: document for id, document in chosen.items() if id not in there}
        new = [new_document(id, document.content or "", document.meta) for id, document in chosen.items()]
        try:
            check_new(new)
        except UsageError as error:
            raise WrongDocuments(str(error)) from None
        check_report(collection.add(new))
        return len(new)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Ids of which there is no document are passed over."""
        self._unless_new(lambda: self.collection.delete_many(document_ids), 0)

    # -- what other stores have besides ------------------------------------------------------------------------------

    def delete_all_documents(self) -> None:
        self.delete_by_filter({})

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Returns how many there were."""
        collection = self.collection
        return sum(collection.delete_many(ids) for ids in list(self._pages(filters)))

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Puts ``meta`` over what the documents have, which stay cited as they were; texts are not encoded again. Of
        documents that were read from files, pages and headings are not kept. Returns how many there were."""
        collection = self.collection
        updated = [
            NewDocument(
                **{"uri": document.uri, "title": document.title}
                | new_document(document.id, document.text, {**document.metadata, **meta})
            )
            for ids in self._pages(filters)
            for document in collection.get_many(ids)
        ]
        if updated:
            check_report(collection.add(updated))
        return len(updated)

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        condition = condition_of(filters)
        return self._unless_new(lambda: self.collection.count(condition), 0)

    def search(
        self, query: str | list[float], filters: Mapping[str, Any] | None, top_k: int, options: Mapping[str, Any]
    ) -> list[Document]:
        """The passages that answer, best first, each with its citation in ``meta`` beside its document's own, and a
        ``score`` from 0 to 1. ``id`` is the passage's, ``meta["document_id"]`` that of the document."""
        asked: Any = {**options, "k": top_k, "filter": condition_of(filters)}
        answer = self._unless_new(lambda: self.collection.search(query, **asked), None)
        if answer is None:
            return []
        return [
            Document(id=hit.id, content=hit.text, meta={**hit.metadata, **citation(hit)}, score=score)
            for hit, score in zip(answer.hits, unit_scores(answer), strict=True)
        ]

    # -- on a thread -------------------------------------------------------------------------------------------------

    async def count_documents_async(self) -> int:
        return await asyncio.to_thread(self.count_documents)

    async def filter_documents_async(self, filters: dict[str, Any] | None = None) -> list[Document]:
        return await asyncio.to_thread(self.filter_documents, filters)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        return await asyncio.to_thread(self.write_documents, documents, policy)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        await asyncio.to_thread(self.delete_documents, document_ids)

    async def delete_all_documents_async(self) -> None:
        await asyncio.to_thread(self.delete_all_documents)

    async def delete_by_filter_async(self, filters: dict[str, Any]) -> int:
        return await asyncio.to_thread(self.delete_by_filter, filters)

    async def update_by_filter_async(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        return await asyncio.to_thread(self.update_by_filter, filters, meta)

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        return await asyncio.to_thread(self.count_documents_by_filter, filters)

    def _pages(self, filters: Mapping[str, Any] | None) -> Iterator[list[str]]:
        """Ids of the documents for which ``filters`` hold, a page at a time."""
        condition, offset = condition_of(filters), 0
        while page := self._listed(offset, condition):
            yield [document.id for document in page]
            offset += len(page)

    def _listed(self, offset: int, condition: str | None) -> list[StoredDocument]:
        return self._unless_new(lambda: self.collection.documents(_PAGE, offset, condition), [])

    def _unless_new(self, ask: Callable[[], T], empty: T) -> T:
        """What comes of ``ask``; ``empty`` where the collection is not there yet."""
        try:
            return ask()
        except NotFound:
            if self.name in self.place.library.names():
                raise
            return empty


def _chosen(documents: list[Document], policy: DuplicatePolicy) -> dict[str, Document]:
    """By id, the first of several, or the last where it is to overwrite."""
    chosen: dict[str, Document] = {}
    for document in documents:
        if document.id in chosen and policy not in (DuplicatePolicy.SKIP, DuplicatePolicy.OVERWRITE):
            raise DuplicateIds(f"{document.id!r} is the id of two of the documents, so none was written.")
        if policy == DuplicatePolicy.OVERWRITE or document.id not in chosen:
            chosen[document.id] = document
    return chosen


def _some(ids: Iterable[str]) -> str:
    first, *others = sorted(ids)
    return f"{first!r} and {len(others)} other ids are" if others else f"The id {first!r} is"
