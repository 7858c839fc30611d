"""What became of the inputs of a run, as all faces tell it: one line of JSON for each, and back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedsvc.errors import ReadError

Status = Literal["indexed", "unchanged", "replaced", "removed", "duplicate", "quarantined", "empty"]

CLASHES = "duplicate: another input of this run has the document id {!r} too; only the first was taken."
"""Why an input is quarantined whose document's id another one has."""
ACTIVE = ("queued", "waiting", "running")
"""Statuses of a job of the service that is not over."""
INTO = re.compile("!/|#")
"""What stands in a uri between a file and what is in it: a member of an archive, an attachment; a record."""


def uri_of_upload(name: str) -> str:
    """What a file sent under ``name`` is cited by: ``#`` would set a record apart from its file, ``%`` escapes it."""
    return name.replace("%", "%25").replace("#", "%23")


def reason_of(uri: str, error: ReadError) -> str:
    """Why the input ``uri`` was quarantined: the error's code and what it says, without the uri that it begins with, or
    that of the file around it, for ``uri`` is told beside it."""
    told = str(error)
    for end in (len(uri), *(into.start() for into in INTO.finditer(uri))):
        told = told.removeprefix(f"{uri[:end]}: ").removeprefix(f"{uri[:end]}, ")
    return f"{error.reason}: {told}"


@dataclass(frozen=True, slots=True)
class Like:
    """A document that says the same, or nearly. ``similarity`` is 1 where it does to the letter, else an estimate of
    the Jaccard index, 0.99 at most."""

    id: str
    uri: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input. ``reason`` says why it was quarantined or empty; ``notes`` what reading changed.

    ``like``: a document that was there or came before and says the same, or nearly; of status ``duplicate`` is what was
    left out for that (and removed, if an earlier edition of it was stored).
    ``passages``: that the document has, an unchanged one too; ``tokens``: of those that were cut in this run.
    ``encoded_tokens``: that the encoder was given; of text whose vectors were known it is not.
    ``seconds`` were spent on reading and tokenising it; encoding is shared by a batch and not told apart.
    """

    uri: str
    status: Status
    passages: int = 0
    tokens: int = 0
    encoded_tokens: int = 0
    seconds: float = 0.0
    reason: str | None = None
    notes: tuple[str, ...] = ()
    like: Like | None = None

    @property
    def source(self) -> str:
        """Uri of the file or upload that it comes from, where ``uri`` is of a record or an attachment (``#``) or of a
        member of an archive (``!/``) in it."""
        return INTO.split(self.uri, maxsplit=1)[0]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of all inputs that were put into ``collection`` at once, in the order in which that was decided."""

    collection: str
    outcomes: tuple[Outcome, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many inputs had each status."""
        return dict(Counter(outcome.status for outcome in self.outcomes))

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Those that gave no passage: each says why in its ``reason``."""
        return tuple(outcome for outcome in self.outcomes if outcome.status in ("quarantined", "empty"))

    @property
    def passages(self) -> int:
        return sum(outcome.passages for outcome in self.outcomes)


def outcome_dict(outcome: Outcome) -> dict[str, Any]:
    """A line of a report."""
    like = outcome.like
    return {
        "uri": outcome.uri,
        "status": outcome.status,
        "passages": outcome.passages,
        "tokens": outcome.tokens,
        "encoded_tokens": outcome.encoded_tokens,
        "seconds": round(outcome.seconds, 4),
        "reason": outcome.reason,
        "notes": list(outcome.notes),
        "like": None if like is None else {"id": like.id, "uri": like.uri, "similarity": like.similarity},
    }


def outcome_of(value: Mapping[str, Any]) -> Outcome:
    """What :func:`outcome_dict` told of."""
    like = value["like"]
    return Outcome(**{**value, "notes": tuple(value["notes"]), "like": None if like is None else Like(**like)})
