"""Retrievers over the document store, by words or by a vector."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.document_stores.types import FilterPolicy, apply_filter_policy

from embedsvc.errors import UsageError
from embedsvc.integrations.haystack.document_store import EmbedsvcDocumentStore


class _Retriever:
    """``search_kwargs``: other options of :meth:`embedsvc.Collection.search`, such as ``mode`` or ``rerank``."""

    def __init__(
        self,
        document_store: EmbedsvcDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
        search_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(document_store, EmbedsvcDocumentStore):
            raise UsageError(f"document_store is a {type(document_store).__name__}, not an EmbedsvcDocumentStore.")
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.filter_policy = FilterPolicy.from_str(filter_policy) if isinstance(filter_policy, str) else filter_policy
        self.search_kwargs = search_kwargs or {}

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            filter_policy=self.filter_policy.value,
            search_kwargs=self.search_kwargs,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        parameters = dict(data["init_parameters"])
        if isinstance(store := parameters["document_store"], dict):
            parameters["document_store"] = EmbedsvcDocumentStore.from_dict(store)
        return default_from_dict(cls, {**data, "init_parameters": parameters})

    def _found(
        self, query: str | list[float], filters: dict[str, Any] | None, top_k: int | None
    ) -> dict[str, list[Document]]:
        filters = apply_filter_policy(self.filter_policy, self.filters, filters)
        top_k = self.top_k if top_k is None else top_k
        return {"documents": self.document_store.search(query, filters, top_k, self.search_kwargs)}


@component
class EmbedsvcRetriever(_Retriever):
    """The passages that answer a query, best first (:meth:`EmbedsvcDocumentStore.search`); hybrid, unless
    ``search_kwargs`` say another ``mode``."""

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        return self._found(query, filters, top_k)

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """:meth:`run`, on a thread."""
        return await asyncio.to_thread(self._found, query, filters, top_k)


@component
class EmbedsvcEmbeddingRetriever(_Retriever):
    """As :class:`EmbedsvcRetriever`, by a vector of the collection's model."""

    @component.output_types(documents=list[Document])
    def run(
        self, query_embedding: list[float], filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        return self._found(query_embedding, filters, top_k)

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query_embedding: list[float], filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """:meth:`run`, on a thread."""
        return await asyncio.to_thread(self._found, query_embedding, filters, top_k)
