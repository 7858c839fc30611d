"""A collection as a retriever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from embedsvc.api.collections import AsyncCollection, Collection
from embedsvc.integrations.langchain.asking import Filter, asearch, cited, search


class EmbedsvcRetriever(BaseRetriever, extra="forbid"):
    """Gives the passages that answer, best first, each with its citation in ``metadata`` (:func:`.citing.citation`),
    its ``score`` from 0 to 1, and its document's own metadata. ``id`` is the passage's.

    ``k``: how many. ``filter``: SQL, or a dict (:func:`.filters.condition_of`). ``search_kwargs``: other options of
    :meth:`embedsvc.Collection.search`, such as ``mode`` or ``rerank``. ``invoke`` takes all of them too.
    """

    collection: Collection
    async_collection: AsyncCollection | None = None
    k: int = 4
    filter: Filter | None = None
    search_kwargs: dict[str, Any] = {}  # noqa: RUF012 - a field of a pydantic model

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return cited(search(self, query, self._options(kwargs)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return cited(await asearch(self, query, self._options(kwargs)))

    def _options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"k": self.k, "filter": self.filter, **self.search_kwargs, **given}
