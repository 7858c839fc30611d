"""A collection as a vector store."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from embedsvc import conditions
from embedsvc.api.collections import AsyncCollection, Collection
from embedsvc.api.options import NewDocument
from embedsvc.errors import UsageError
from embedsvc.integrations.citing import unit_scores
from embedsvc.integrations.langchain.asking import asearch, cited, search
from embedsvc.integrations.langchain.embeddings import EmbedsvcEmbeddings
from embedsvc.integrations.storing import check_new, check_report, new_document
from embedsvc.records import WholeText
from embedsvc.search.hits import Answer


class EmbedsvcVectorStore(VectorStore):
    """A collection as a vector store. It encodes texts itself, by its own model: it takes no ``embedding``.

    A document that is added keeps its ``id``, or is given one; one that is longer than a passage is found by each of
    its passages, whose text is then the result's. ``source`` and ``title`` in its metadata are what it is cited by.
    Results have the metadata that were put in and no more, as other stores' have; with ``cites``, and from
    :meth:`as_retriever`, also the citation and the score. The searches take the options of
    :meth:`embedsvc.Collection.search`; without ``mode`` they are hybrid.

    Raises, from all methods, what :class:`embedsvc.Collection` does; a dict as filter that cannot be expressed is a
    BadFilter.
    """

    def __init__(
        self, collection: Collection, async_collection: AsyncCollection | None = None, *, cites: bool = False
    ) -> None:
        self.collection = collection
        self.async_collection = async_collection
        self.cites = cites

    # -- searching ---------------------------------------------------------------------------------------------------

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return self._documents(search(self, query, {"k": k, **kwargs}))

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return self._documents(await asearch(self, query, {"k": k, **kwargs}))

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """With scores from 0 to 1; higher is better."""
        return self._scored(search(self, query, {"k": k, **kwargs}))

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """:meth:`similarity_search_with_score`."""
        return self._scored(await asearch(self, query, {"k": k, **kwargs}))

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """``embedding``: of the collection's model."""
        return self._documents(search(self, embedding, {"k": k, **kwargs}))

    async def asimilarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """:meth:`similarity_search_by_vector`."""
        return self._documents(await asearch(self, embedding, {"k": k, **kwargs}))

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """By the search's ``diversity``, which is 1 - ``lambda_mult``. ``fetch_k`` is not looked at: there are at least
        100 candidates to choose from, and three for each hit."""
        return self.similarity_search(query, k, diversity=1 - lambda_mult, **kwargs)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """:meth:`max_marginal_relevance_search`."""
        return await self.asimilarity_search(query, k, diversity=1 - lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """:meth:`max_marginal_relevance_search`, by a vector of the collection's model."""
        return self.similarity_search_by_vector(embedding, k, diversity=1 - lambda_mult, **kwargs)

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """:meth:`max_marginal_relevance_search_by_vector`."""
        return await self.asimilarity_search_by_vector(embedding, k, diversity=1 - lambda_mult, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda score: score

    def _documents(self, answer: Answer) -> list[Document]:
        return cited(answer) if self.cites else [document for document, _ in self._scored(answer)]

    def _scored(self, answer: Answer) -> list[tuple[Document, float]]:
        if self.cites:
            documents = cited(answer)
        else:
            documents = [
                Document(id=hit.document_id, page_content=hit.text, metadata=dict(hit.metadata)) for hit in answer.hits
            ]
        return list(zip(documents, unit_scores(answer), strict=True))

    def as_retriever(self, **kwargs: Any) -> VectorStoreRetriever:
        """As of any vector store; its documents are cited."""
        cited = type(self)(self.collection, self.async_collection, cites=True)
        return VectorStore.as_retriever(cited, **kwargs)

    # -- putting in, reading, taking out -----------------------------------------------------------------------------

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Puts texts in, durably, each in the place of what has its id; returns their ids. Where one of ``ids`` is
        None, one is made.

        Raises:
            UsageError: a text is empty, two have one id, or metadata are not JSON: none was put in.
        """
        documents = _new_documents(texts, metadatas, ids)
        check_report(self.collection.add(documents))
        return [document["id"] for document in documents]

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """:meth:`add_texts`."""
        if self.async_collection is None:
            return await asyncio.to_thread(self.add_texts, texts, metadatas, ids=ids)
        documents = _new_documents(texts, metadatas, ids)
        check_report(await self.async_collection.add(documents))
        return [document["id"] for document in documents]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Deletes documents, those of ``ids`` that there are; None: all."""
        self.collection.delete_many(ids, filter=conditions.ALWAYS if ids is None else None)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The whole documents of these ids, of those that there are."""
        return list(map(_whole, self.collection.get_many(ids)))

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """:meth:`get_by_ids`."""
        if self.async_collection is None:
            return await asyncio.to_thread(self.get_by_ids, ids)
        return list(map(_whole, await self.async_collection.get_many(ids)))

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        collection: Collection | None = None,
        async_collection: AsyncCollection | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store over ``collection`` with these texts added. ``embedding`` is None or EmbedsvcEmbeddings.

        Raises:
            UsageError: another ``embedding``, no ``collection``, or as :meth:`add_texts`.
        """
        if embedding is not None and not isinstance(embedding, EmbedsvcEmbeddings):
            raise UsageError(
                f"A collection is encoded by its own model, not by {type(embedding).__name__}: leave embedding out, "
                "and choose the model when the collection is made."
            )
        if collection is None:
            raise UsageError("Say which collection it is: collection=embedsvc.open(NAME).")
        store = cls(collection, async_collection)
        store.add_texts(texts, metadatas, ids=ids)
        return store


def _whole(document: WholeText) -> Document:
    return Document(id=document.id, page_content=document.text, metadata=dict(document.metadata))


def _new_documents(
    texts: Iterable[str], metadatas: Sequence[Mapping[str, Any]] | None, ids: Sequence[str | None] | None
) -> list[NewDocument]:
    texts = list(texts)
    for name, given in (("metadatas", metadatas), ("ids", ids)):
        if given is not None and len(given) != len(texts):
            raise UsageError(f"There are {len(texts)} texts and {len(given)} {name}: give one for each.")
    metadatas = metadatas or [{}] * len(texts)
    ids = ids or [None] * len(texts)
    documents = [
        new_document(id or str(uuid.uuid4()), text, metadata)
        for id, text, metadata in zip(ids, texts, metadatas, strict=True)
    ]
    check_new(documents)
    return documents
