"""A model that embedsvc serves, as an embedding."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from embedsvc.api.libraries import AsyncLibrary, Library
from embedsvc.api.options import Kind
from embedsvc.config import OnOverflow

_DEFAULT = "default"


class EmbedsvcEmbedding(BaseEmbedding, extra="forbid"):
    """Vectors of unit length by a model that ``library`` serves; ``model_name`` left out: its default one.
    ``on_overflow``: what becomes of a text longer than the model's window, as of :meth:`embedsvc.Library.embed`; by
    default all of it counts."""

    on_overflow: OnOverflow = "split"
    _library: Library = PrivateAttr()
    _async_library: AsyncLibrary | None = PrivateAttr()

    def __init__(
        self, library: Library, async_library: AsyncLibrary | None = None, *, model_name: str = _DEFAULT, **kwargs: Any
    ) -> None:
        super().__init__(model_name=model_name, **kwargs)
        self._library = library
        self._async_library = async_library

    @classmethod
    def class_name(cls) -> str:
        return "EmbedsvcEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embedded([query], "query")[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embedded([text], "passage")[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embedded(texts, "passage")

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._awaited([query], "query"))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._awaited([text], "passage"))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._awaited(texts, "passage")

    def _embedded(self, texts: list[str], kind: Kind) -> list[list[float]]:
        return self._library.embed(texts, kind, self._model, self.on_overflow)

    async def _awaited(self, texts: list[str], kind: Kind) -> list[list[float]]:
        if self._async_library is None:
            return await asyncio.to_thread(self._embedded, texts, kind)
        return await self._async_library.embed(texts, kind, self._model, self.on_overflow)

    @property
    def _model(self) -> str | None:
        return None if self.model_name == _DEFAULT else self.model_name
