"""Where the tools of agents look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from embedsvc.api.libraries import AsyncLibrary
from embedsvc.records import WholeText
from embedsvc.search.hits import Answer


class Shelf(Protocol):
    """Collections that agents may read. Each method raises what :mod:`embedsvc.errors` has."""

    async def names(self) -> list[str]:
        """Of the collections, sorted."""

    async def describe(self, name: str) -> dict[str, Any]:
        """Counts and more, as ``embedsvc collections show --json`` tells them."""

    async def search(self, name: str, query: str, k: int, *, in_passing: bool) -> Answer:
        """The best ``k`` hits. ``in_passing``: all collections are asked, and this one is not to be kept open in the
        place of one that somebody means."""

    async def get(self, name: str, id: str) -> WholeText:
        """A document."""


@dataclass(frozen=True, slots=True)
class OfLibrary:
    """A :class:`Shelf`: collections of this process, or of a service; those ``only`` names, or all. Of this
    process nobody else has them open, and a service is not told which searches are in passing."""

    library: AsyncLibrary
    only: Sequence[str] = ()

    async def names(self) -> list[str]:
        return sorted(self.only) or await self.library.names()

    async def describe(self, name: str) -> dict[str, Any]:
        return await self.library.open(name).describe()

    async def search(self, name: str, query: str, k: int, *, in_passing: bool) -> Answer:
        return await self.library.open(name).search(query, k=k)

    async def get(self, name: str, id: str) -> WholeText:
        return await self.library.open(name).get(id)
