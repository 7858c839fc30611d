"""A model that embedsvc serves, as embedders: of queries, and of documents for other stores."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Self

from haystack import Document, component, default_from_dict
from haystack.utils import Secret

from embedsvc.config import OnOverflow
from embedsvc.errors import UsageError
from embedsvc.integrations.haystack.places import Place, with_secret


@component
class EmbedsvcTextEmbedder:
    """A query's vector, of unit length. ``model``: one that is served at the :class:`.places.Place`; None: the default
    one. ``on_overflow``: what becomes of a text longer than the model's window, as of :meth:`embedsvc.Library.embed`;
    by default all of it counts."""

    def __init__(
        self,
        model: str | None = None,
        url: str | None = None,
        api_key: Secret | None = None,
        settings: dict[str, Any] | None = None,
        on_overflow: OnOverflow = "split",
    ) -> None:
        self.model = model
        self.place = Place(url, api_key, settings)
        self.on_overflow: OnOverflow = on_overflow

    def to_dict(self) -> dict[str, Any]:
        return self.place.to_dict(self, model=self.model, on_overflow=self.on_overflow)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return default_from_dict(cls, with_secret(data))

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        return {"embedding": self.place.library.embed([text], "query", self.model, self.on_overflow)[0]}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, list[float]]:
        """:meth:`run`, on a thread."""
        return await asyncio.to_thread(self.run, text)


@component
class EmbedsvcDocumentEmbedder:
    """Documents with their vectors, of unit length. ``meta_fields_to_embed``: put in front of the content, with
    ``embedding_separator`` between them; ``on_overflow`` as of :class:`EmbedsvcTextEmbedder`. An EmbedsvcDocumentStore
    needs none of this."""

    def __init__(
        self,
        model: str | None = None,
        url: str | None = None,
        api_key: Secret | None = None,
        settings: dict[str, Any] | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        on_overflow: OnOverflow = "split",
    ) -> None:
        self.model = model
        self.place = Place(url, api_key, settings)
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self.on_overflow: OnOverflow = on_overflow

    def to_dict(self) -> dict[str, Any]:
        return self.place.to_dict(
            self,
            model=self.model,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            on_overflow=self.on_overflow,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return default_from_dict(cls, with_secret(data))

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Raises UsageError: one has no text."""
        for place, document in enumerate(documents):
            if not isinstance(document, Document) or not document.content:
                raise UsageError(f"documents[{place}] has no text to embed. Leave it out.")
        vectors = self.place.library.embed(list(map(self._text, documents)), "passage", self.model, self.on_overflow)
        return {
            "documents": [
                replace(document, embedding=vector) for document, vector in zip(documents, vectors, strict=True)
            ]
        }

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, list[Document]]:
        """:meth:`run`, on a thread."""
        return await asyncio.to_thread(self.run, documents)

    def _text(self, document: Document) -> str:
        fields = (document.meta.get(name) for name in self.meta_fields_to_embed)
        told = [str(value) for value in fields if value is not None]
        return self.embedding_separator.join([*told, document.content or ""])
