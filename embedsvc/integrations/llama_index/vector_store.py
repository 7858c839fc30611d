"""A collection as a vector store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from embedsvc import conditions
from embedsvc.api.collections import AsyncCollection, Collection
from embedsvc.errors import UsageError
from embedsvc.integrations.citing import unit_scores
from embedsvc.integrations.llama_index.filters import condition_of
from embedsvc.integrations.llama_index.nodes import cited_node, document_of, node_of
from embedsvc.integrations.storing import check_new, check_report
from embedsvc.search.hits import Answer

_PAGE = 1000
_PARENT = conditions.metadata("ref_doc_id")
_MODES: dict[VectorStoreQueryMode, dict[str, Any]] = {
    VectorStoreQueryMode.DEFAULT: {},
    VectorStoreQueryMode.MMR: {},
    VectorStoreQueryMode.HYBRID: {"mode": "hybrid"},
    VectorStoreQueryMode.SPARSE: {"mode": "lexical"},
    VectorStoreQueryMode.TEXT_SEARCH: {"mode": "lexical"},
}


class EmbedsvcVectorStore(BasePydanticVectorStore):
    """Each node is a document of the collection, which encodes its text by its own model: a node needs no vector, and
    one that it has is not kept. A query is taken by its words (mode ``default``: hybrid), by its vector where it has no
    words. Results have their citation in the metadata, and similarities from 0 to 1.

    Raises, from all methods, what :class:`embedsvc.Collection` does.
    """

    stores_text: bool = True
    is_embedding_query: bool = False

    _collection: Collection = PrivateAttr()
    _async_collection: AsyncCollection | None = PrivateAttr()

    def __init__(self, collection: Collection, async_collection: AsyncCollection | None = None) -> None:
        super().__init__(stores_text=True)
        self._collection = collection
        self._async_collection = async_collection

    @classmethod
    def class_name(cls) -> str:
        return "EmbedsvcVectorStore"

    @property
    def client(self) -> Collection:
        return self._collection

    # -- searching ---------------------------------------------------------------------------------------------------

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """``kwargs``: options of :meth:`embedsvc.Collection.search`.

        Raises:
            BadFilter: the filters cannot be expressed. UsageError: there is no such mode, or nothing to search for.
        """
        return _result(self._collection.search(_asked(query), **{**_options(query), **kwargs}))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """:meth:`query`."""
        if self._async_collection is None:
            return await asyncio.to_thread(self.query, query, **kwargs)
        return _result(await self._async_collection.search(_asked(query), **{**_options(query), **kwargs}))

    # -- putting in, reading, taking out -----------------------------------------------------------------------------

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Puts nodes in, durably, each in the place of the one with its id; returns their ids.

        Raises:
            UsageError: a node has no text, two have one id, or metadata are not JSON: none was put in.
        """
        documents = list(map(document_of, nodes))
        check_new(documents)
        check_report(self._collection.add(documents))
        return [document["id"] for document in documents]

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The whole nodes of these ids, of those that there are, or those for which ``filters`` hold; or both."""
        found = map(self._collection.get_many, self._chosen(node_ids, filters))
        return [node_of(document) for page in found for document in page]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Deletes the nodes of that document."""
        self._collection.delete_many(filter=conditions.compared(_PARENT, "=", ref_doc_id))

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """As :meth:`get_nodes`. Raises UsageError: neither is given, or filters without one in them; :meth:`clear`
        deletes all."""
        condition = condition_of(filters)
        if node_ids is None and not conditions.says_something(condition):
            raise UsageError("Say which nodes are to go: node_ids or filters. clear() deletes all.")
        self._collection.delete_many(node_ids, filter=condition)

    def clear(self) -> None:
        self._collection.delete_many(filter=conditions.ALWAYS)

    def _chosen(self, node_ids: list[str] | None, filters: MetadataFilters | None) -> Iterator[list[str]]:
        """Ids of the nodes that are meant, a page at a time."""
        if filters is None and node_ids is not None:
            yield node_ids
            return
        wanted = None if node_ids is None else set(node_ids)
        condition, offset = condition_of(filters), 0
        while page := self._collection.documents(_PAGE, offset, condition):
            yield [document.id for document in page if wanted is None or document.id in wanted]
            offset += len(page)

    # -- on a thread -------------------------------------------------------------------------------------------------

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        return await asyncio.to_thread(self.add, nodes)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        await asyncio.to_thread(self.delete, ref_doc_id)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    async def aclear(self) -> None:
        await asyncio.to_thread(self.clear)


def _asked(query: VectorStoreQuery) -> str | list[float]:
    if query.query_str:
        return query.query_str
    if query.query_embedding is None:
        raise UsageError("The query has neither words (query_str) nor a vector (query_embedding).")
    return query.query_embedding


def _options(query: VectorStoreQuery) -> dict[str, Any]:
    if query.mode not in _MODES:
        raise UsageError(f"There is no mode {query.mode.value}; there are {', '.join(mode.value for mode in _MODES)}.")
    options = {"k": query.similarity_top_k, **_MODES[query.mode]}
    options["filter"] = _narrowed(query)
    if query.mode == VectorStoreQueryMode.HYBRID:
        options["k"] = query.hybrid_top_k or query.similarity_top_k
        if query.alpha is not None:
            options["fusion"] = {"weight": query.alpha}
    if query.mode == VectorStoreQueryMode.MMR:
        options["diversity"] = 0.5 if query.mmr_threshold is None else 1 - query.mmr_threshold
    return options


def _narrowed(query: VectorStoreQuery) -> str | None:
    """All that has to hold, as SQL; None: nothing has to. No ids are all: so an index asks that keeps none itself."""
    parts = [
        condition_of(query.filters),
        conditions.compared("document_id", "IN", query.node_ids) if query.node_ids else None,
        conditions.compared(_PARENT, "IN", query.doc_ids) if query.doc_ids else None,
    ]
    wanted = [part for part in parts if part is not None]
    return conditions.both(wanted) if wanted else None


def _result(answer: Answer) -> VectorStoreQueryResult:
    nodes = [cited_node(hit, hit.document_id) for hit in answer.hits]
    return VectorStoreQueryResult(nodes, unit_scores(answer), [node.node_id for node in nodes])
