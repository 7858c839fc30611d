"""A collection as a retriever."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from embedsvc.api.collections import AsyncCollection, Collection
from embedsvc.integrations.llama_index.filters import condition_of
from embedsvc.integrations.llama_index.nodes import scored_nodes


class EmbedsvcRetriever(BaseRetriever):
    """Gives the passages that answer, best first, as nodes of their ids, with a score from 0 to 1 and the citation in
    their metadata. ``search_kwargs``: other options of :meth:`embedsvc.Collection.search`, such as ``mode`` or
    ``rerank``."""

    def __init__(
        self,
        collection: Collection,
        async_collection: AsyncCollection | None = None,
        *,
        similarity_top_k: int = 10,
        filters: MetadataFilters | None = None,
        search_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._collection = collection
        self._async_collection = async_collection
        self._options: Any = {"k": similarity_top_k, "filter": condition_of(filters), **(search_kwargs or {})}

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return scored_nodes(self._collection.search(query_bundle.query_str, **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if self._async_collection is None:
            return await asyncio.to_thread(self._retrieve, query_bundle)
        return scored_nodes(await self._async_collection.search(query_bundle.query_str, **self._options))
