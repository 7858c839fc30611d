"""A collection as a document store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Self

from haystack import Document, default_from_dict
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret

from embedsvc import conditions
from embedsvc.api.collections import Collection
from embedsvc.errors import NotFound, UsageError
from embedsvc.integrations.citing import citation, unit_scores
from embedsvc.integrations.haystack.filters import UnsupportedFilter, condition_of
from embedsvc.integrations.haystack.places import Place, with_secret
from embedsvc.integrations.storing import check_new, check_report, new_document

_PAGE = 1000
_ALL = {"field": "id", "operator": "!=", "value": ""}


class DuplicateIds(UsageError, DuplicateDocumentError):
    """Documents have an id that is taken, and the policy is to fail."""


class WrongDocuments(UsageError, ValueError):
    """What was to be written are no documents."""


class EmbedsvcDocumentStore:
    """The collection of that name, at a :class:`.places.Place`. Where there is none, the first write makes it; whatever
    else is asked before that is a NotFound, with the name that may have been meant, but for how many documents there
    are: none. With ``create`` it is made by whatever is asked first, so that a new store is empty.

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
        create: bool = False,
    ) -> None:
        self.name = collection
        self.place = Place(url, api_key, settings)
        self.create = create

    @cached_property
    def collection(self) -> Collection:
        library = self.place.library
        return library.create(self.name) if self.create else library.open(self.name)

    def to_dict(self) -> dict[str, Any]:
        return self.place.to_dict(self, collection=self.name, create=self.create)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return default_from_dict(cls, with_secret(data))

    # -- Haystack's protocol -----------------------------------------------------------------------------------------

    def count_documents(self) -> int:
        try:
            return self.collection.count()
        except NotFound:
            return 0

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """In the order of their uris.

        Raises:
            UnsupportedFilter: ``filters`` cannot be expressed.
        """
        collection, condition = self.collection, condition_of(filters)
        found: list[Document] = []
        offset = 0
        while page := collection.documents(_PAGE, offset, condition):
            found += (
                Document(id=document.id, content=document.text, meta=dict(document.metadata))
                for document in collection.get_many(listed.id for listed in page)
            )
            offset += len(page)
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
        self.collection.delete_many(document_ids)

    # -- what other stores have besides ------------------------------------------------------------------------------

    def delete_all_documents(self) -> None:
        self.collection.delete_many(filter=conditions.ALWAYS)

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Returns how many there were.

        Raises:
            UnsupportedFilter: ``filters`` cannot be expressed, or say nothing.
        """
        return self.collection.delete_many(filter=_said(filters, "delete_all_documents() deletes all"))

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Puts ``meta`` over what the documents have, which stay cited as they were; nothing is encoded. None takes a
        key away. Returns how many were changed; one that has all of it already is not.

        Raises:
            UnsupportedFilter: ``filters`` cannot be expressed, or say nothing.
        """
        return self.collection.set_metadata(meta, filter=_said(filters, f"if all are meant, give {_ALL}"))

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        return self.collection.count(condition_of(filters))

    def search(
        self, query: str | list[float], filters: Mapping[str, Any] | None, top_k: int, options: Mapping[str, Any]
    ) -> list[Document]:
        """The passages that answer, best first, each with its citation in ``meta`` beside its document's own, and a
        ``score`` from 0 to 1. ``id`` is the passage's, ``meta["document_id"]`` that of the document."""
        asked: Any = {**options, "k": top_k, "filter": condition_of(filters)}
        answer = self.collection.search(query, **asked)
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


def _said(filters: Mapping[str, Any], instead: str) -> str:
    """``filters`` as SQL. Raises UnsupportedFilter where they leave out nothing, because there are none in them."""
    condition = condition_of(filters)
    if condition is None or not conditions.says_something(condition):
        raise UnsupportedFilter(f"The filter is empty, so no document is meant; {instead}.")
    return condition


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
