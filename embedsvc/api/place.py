"""Where collections are: what :mod:`.embedded` and :mod:`.remote` both can do, each in its own steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from embedsvc.api.steps import Steps

if TYPE_CHECKING:
    from embedsvc.api.options import CollectionOptions, Kind, NewDocument
    from embedsvc.config import OnOverflow
    from embedsvc.outcomes import Report
    from embedsvc.records import Metadata, StoredDocument, WholeText
    from embedsvc.search.asking import Asked
    from embedsvc.search.hits import Answer


class Place(Protocol):
    """``name``: of the collection. What each does is said where users call it (:mod:`.collections`)."""

    def search(self, name: str, asked: Asked) -> Steps[Answer]: ...

    def index(
        self, name: str, paths: Sequence[str | Path], exclude: Sequence[str], include: Sequence[str]
    ) -> Steps[Report]: ...

    def add(self, name: str, documents: Iterable[NewDocument]) -> Steps[Report]: ...

    def get(self, name: str, id: str) -> Steps[WholeText]: ...

    def get_many(self, name: str, ids: Sequence[str]) -> Steps[list[WholeText]]: ...

    def delete(self, name: str, id: str) -> Steps[None]: ...

    def delete_many(self, name: str, ids: Sequence[str] | None, filter: str | None) -> Steps[int]: ...

    def set_metadata(
        self, name: str, metadata: Metadata, ids: Sequence[str] | None, filter: str | None
    ) -> Steps[int]: ...

    def delete_uris(self, name: str, uris: Sequence[str]) -> Steps[list[str]]: ...

    def documents(self, name: str, limit: int, offset: int, filter: str | None) -> Steps[list[StoredDocument]]: ...

    def count(self, name: str, filter: str | None) -> Steps[int]: ...

    def describe(self, name: str) -> Steps[dict[str, Any]]: ...

    def names(self) -> Steps[list[str]]: ...

    def create(self, name: str, options: CollectionOptions) -> Steps[None]: ...

    def embed(
        self, texts: Sequence[str], kind: Kind, model: str | None, on_overflow: OnOverflow | None
    ) -> Steps[list[list[float]]]: ...

    def remove(self, name: str) -> Steps[None]: ...
