"""A finished answer, as all that looks at it knows it: also who asked another process for it, so it imports little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from embedsvc.records import Metadata
from embedsvc.search.terms import Span

Mode = Literal["hybrid", "dense", "lexical"]


class Placed(Protocol):
    """What stands in a document from the character ``start`` to ``end``."""

    @property
    def document_id(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


class Extent(NamedTuple):
    """Where something stands, and no more; the names are those of the store's columns."""

    document_id: str
    start: int
    end: int


def overlap(one: Placed, other: Placed) -> bool:
    """Whether the two share a character of a document."""
    return one.document_id == other.document_id and one.start < other.end and other.start < one.end


@dataclass(frozen=True, slots=True)
class Scores:
    """A hit's score on each side; None where that side was not asked. BM25 of 0: no term of the query is in it."""

    dense: float | None
    lexical: float | None
    rerank: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a passage stood in a ranking, the first being 1, and with what score."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Highlight:
    """In characters of the document: the hit's best ``sentence``, and every word of the query in the hit (``terms``).
    ``by``: how the sentence was chosen, by its meaning and the query's words in it (``vector``) or by these alone
    (``terms``). ``page`` and ``heading``: those that it stands under, which may come later than those of the hit."""

    sentence: Span
    terms: tuple[Span, ...]
    by: Literal["vector", "terms"]
    page: int | None
    heading: str | None


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a passage stands in its document, from ``start`` to ``end``."""

    id: str
    document_id: str
    uri: str
    title: str
    start: int
    end: int
    page: int | None
    heading: str | None


@dataclass(frozen=True, slots=True)
class Hit:
    """A finished answer: its text is ``text`` of the document from ``start`` to ``end``, to the letter.

    Hits never share text, unless ``merge`` is off. A passage that overlaps a better one answers as part of its hit,
    so a hit spans at most a passage and those that overlap it; ``page`` and ``heading`` are those that it begins
    under, all else (``id``, ``scores`` …) is that passage's own. Narrowed hits are parts of passages: a part's score,
    page and heading are its own, ``id`` and ``scores`` those of the best passage that has some of it, which may have
    several parts. ``places``: its place in every ranking of the explanation, where one was asked for. ``confidence``:
    the probability that it answers, where that is known (see :mod:`.confidence`). ``duplicates``: other passages that
    say what its own one, or one that is joined to it, says, the first 100 of those found.
    """

    id: str
    document_id: str
    uri: str
    title: str
    text: str
    start: int
    end: int
    page: int | None
    heading: str | None
    score: float
    scores: Scores
    metadata: Metadata
    confidence: float | None = None
    highlight: Highlight | None = None
    places: Mapping[str, Place] = field(default_factory=dict)
    duplicates: tuple[Citation, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """What stands behind the marker ``[marker]`` in the context: ``text`` of the document from ``start`` to ``end``.

    ``hits`` are the places (from 1) of the hits that lie in it. ``complete``: false where it was to reach further, or
    was cut at a sentence, for want of room.
    """

    marker: int
    document_id: str
    uri: str
    title: str
    page: int | None
    heading: str | None
    start: int
    end: int
    text: str
    hits: tuple[int, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Context:
    """``text``: the sources, each under a line with its marker, title, heading and page; of ``tokens`` tokens.
    ``left_out``: the places (from 1) of the hits for which there was no room."""

    text: str
    tokens: int
    sources: tuple[Source, ...]
    left_out: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What a stage did: its milliseconds, over all rounds, and how many passages it left.

    ``rankings``: the best of them by id with their scores, as many as hits were asked for; of the candidates one for
    each side, of other stages one under their own name, or none where they rank nothing.
    """

    stage: str
    ms: float
    passages: int
    rankings: Mapping[str, tuple[tuple[str, float], ...]]


@dataclass(frozen=True, slots=True)
class Explanation:
    """``rounds``: how often the stages ran, each time with more candidates, until there were hits enough."""

    rounds: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one query, best first. ``tokens_cut``: of the query, by ``on_overflow = truncate``. ``answerable``:
    whether the best of these hits has the confidence of an answer; False where there is none, None where that is not
    known. ``rerank_late``: there was no time to rerank, the order is that from before. ``warnings``: what of the query
    was not understood, or not looked at, in sentences."""

    query: str
    collection: str
    version: int
    mode: Mode
    took_ms: float
    hits: tuple[Hit, ...]
    tokens_cut: int = 0
    answerable: bool | None = None
    context: Context | None = None
    rerank_late: bool = False
    warnings: tuple[str, ...] = ()
    explanation: Explanation | None = None
