"""The plain data that the readers share among themselves and with their caller."""

from __future__ import annotations

from dataclasses import dataclass

from embedsvc.errors import ReadError


@dataclass(frozen=True, slots=True)
class Rejected:
    """An input, or one record of it, that gives no document; ``error`` says why and what to do about it."""

    uri: str
    error: ReadError


@dataclass(frozen=True, slots=True)
class FieldChoice:
    """Which fields of a JSONL or CSV record become what. Nothing chosen: the customary names are looked for.

    ``text``: joined by newlines in this order. ``metadata`` None: every field that is not used otherwise.
    """

    text: tuple[str, ...] = ()
    title: str | None = None
    id: str | None = None
    metadata: tuple[str, ...] | None = None
