"""What the retriever and the vector store share: a search with LangChain's filters, and cited documents of its hits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from langchain_core.documents import Document

from embedsvc.api.collections import AsyncCollection, Collection
from embedsvc.integrations.citing import citation, unit_scores
from embedsvc.integrations.langchain.filters import condition_of
from embedsvc.search.hits import Answer

Filter = Mapping[str, Any] | str


class Asking(Protocol):
    """Who asks a collection, and its asynchronous twin where it has one."""

    @property
    def collection(self) -> Collection: ...
    @property
    def async_collection(self) -> AsyncCollection | None: ...


def search(asking: Asking, query: str | list[float], options: Mapping[str, Any]) -> Answer:
    """``options``: of :meth:`embedsvc.Collection.search`; ``filter`` may be a dict too."""
    return asking.collection.search(query, **_translated(options))


async def asearch(asking: Asking, query: str | list[float], options: Mapping[str, Any]) -> Answer:
    """:func:`search`."""
    if asking.async_collection is None:
        return await asyncio.to_thread(search, asking, query, options)
    return await asking.async_collection.search(query, **_translated(options))


def _translated(options: Mapping[str, Any]) -> Any:
    given = options.get("filter")
    return {**options, "filter": given if given is None or isinstance(given, str) else condition_of(given)}


def cited(answer: Answer) -> list[Document]:
    """The hits with their citations and scores beside their own metadata."""
    return [
        Document(id=hit.id, page_content=hit.text, metadata={**hit.metadata, **citation(hit), "score": score})
        for hit, score in zip(answer.hits, unit_scores(answer), strict=True)
    ]
