"""A model that embedsvc serves, as embeddings."""

from __future__ import annotations

import asyncio

from langchain_core.embeddings import Embeddings

from embedsvc.api.libraries import AsyncLibrary, Library
from embedsvc.api.options import Kind
from embedsvc.config import OnOverflow


class EmbedsvcEmbeddings(Embeddings):
    """Vectors of unit length by a model that ``library`` serves; ``model`` None: its default one. ``on_overflow``: what
    becomes of a text longer than the model's window, as of :meth:`embedsvc.Library.embed`; by default all of it counts.
    """

    def __init__(
        self,
        library: Library,
        async_library: AsyncLibrary | None = None,
        *,
        model: str | None = None,
        on_overflow: OnOverflow = "split",
    ) -> None:
        self.library = library
        self.async_library = async_library
        self.model = model
        self.on_overflow: OnOverflow = on_overflow

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.library.embed(texts, "passage", self.model, self.on_overflow)

    def embed_query(self, text: str) -> list[float]:
        return self.library.embed([text], "query", self.model, self.on_overflow)[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return await self._embedded(texts, "passage")

    async def aembed_query(self, text: str) -> list[float]:
        return (await self._embedded([text], "query"))[0]

    async def _embedded(self, texts: list[str], kind: Kind) -> list[list[float]]:
        if self.async_library is None:
            return await asyncio.to_thread(self.library.embed, texts, kind, self.model, self.on_overflow)
        return await self.async_library.embed(texts, kind, self.model, self.on_overflow)
