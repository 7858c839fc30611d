"""A model that embedsvc serves, as embeddings."""

from __future__ import annotations

import asyncio

from langchain_core.embeddings import Embeddings

from embedsvc.api.libraries import AsyncLibrary, Library
from embedsvc.api.options import Kind


class EmbedsvcEmbeddings(Embeddings):
    """Vectors of unit length by a model that ``library`` serves; ``model`` None: its default one."""

    def __init__(
        self, library: Library, async_library: AsyncLibrary | None = None, *, model: str | None = None
    ) -> None:
        self.library = library
        self.async_library = async_library
        self.model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.library.embed(texts, "passage", self.model)

    def embed_query(self, text: str) -> list[float]:
        return self.library.embed([text], "query", self.model)[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return await self._embedded(texts, "passage")

    async def aembed_query(self, text: str) -> list[float]:
        return (await self._embedded([text], "query"))[0]

    async def _embedded(self, texts: list[str], kind: Kind) -> list[list[float]]:
        if self.async_library is None:
            return await asyncio.to_thread(self.library.embed, texts, kind, self.model)
        return await self.async_library.embed(texts, kind, self.model)
