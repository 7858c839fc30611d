"""The plain, frozen data that every layer speaks. No logic beyond derived quantities.

Offsets are always in Unicode characters of ``Document.text`` (never bytes, never UTF-16 units).
"""

from __future__ import annotations

import bisect
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Metadata = Mapping[str, Any]
"""JSON object of an input's own fields (author, year, tags …); filterable as ``metadata.KEY``."""

HEADING_PARTED_BY = " > "
"""Between the headings of a path."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def without_surrogates(text: str) -> str:
    """``text`` with U+FFFD in the place of each lone surrogate, which neither UTF-8 nor the store can carry."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def clean_metadata(metadata: Metadata) -> dict[str, Any]:
    """``metadata`` as JSON gives them back, without the lone surrogates that any of their values might carry."""
    cleaned: dict[str, Any] = json.loads(without_surrogates(json.dumps(dict(metadata), ensure_ascii=False)))
    return cleaned


@dataclass(frozen=True, slots=True)
class Source:
    """One input before reading: a file's bytes, an upload or a web page, under the uri it is cited by.

    ``name`` carries the file name, whose suffix is the first hint at the format. ``metadata``: what is said of it
    besides, which goes before what is read in it.
    """

    uri: str
    name: str
    data: bytes = field(repr=False)
    metadata: Metadata = field(default_factory=dict, hash=False)

    @property
    def hash(self) -> str:
        """sha256 of the bytes, hex; another one for each ``metadata``."""
        return hash_with(hashlib.sha256(self.data).hexdigest(), self.metadata)


def hash_with(hash: str, metadata: Metadata) -> str:
    """That of a document whose ``hash`` does not count ``metadata`` yet. What stands behind a dash in it stays."""
    if not metadata:
        return hash
    digits, dash, mark = hash.partition("-")
    return hashlib.sha256(f"{digits}{json.dumps(dict(metadata), sort_keys=True)}".encode()).hexdigest() + dash + mark


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of a document: its character offset, its level (1 = topmost) and its title."""

    start: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Document:
    """One source (file, URL, record) read into text. Build it with :func:`make_document`.

    ``page_starts[i]`` is the offset at which page ``i + 1`` begins; empty for formats without pages.
    ``headings`` are in text order. ``hash`` changes whenever a re-read would give another document.
    ``notes`` say what reading had to change (lone surrogates, a guessed encoding …).
    ``source`` is the uri of the file or upload that it was read from, which may hold many documents; None for one
    that was handed over ready-made.
    """

    id: str
    uri: str
    text: str = field(repr=False)
    title: str = ""
    hash: str = ""
    page_starts: tuple[int, ...] = ()
    headings: tuple[Heading, ...] = ()
    metadata: Metadata = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: str | None = None

    def page_at(self, offset: int) -> int | None:
        """1-based page that holds the character at ``offset``; None where there are no pages."""
        return max(1, bisect.bisect_right(self.page_starts, offset)) if self.page_starts else None

    def heading_at(self, offset: int) -> str | None:
        """Path of the headings in force at ``offset``, topmost first: ``"Guide > Install"``, or None."""
        path: list[Heading] = []
        last = bisect.bisect_right(self.headings, offset, key=lambda heading: heading.start)
        for position in range(last - 1, -1, -1):
            heading = self.headings[position]
            if not path or heading.level < path[-1].level:
                path.append(heading)
            if heading.level <= 1:
                break
        return HEADING_PARTED_BY.join(heading.title for heading in reversed(path)) or None

    def turns(self, start: int, end: int) -> list[int]:
        """Where between ``start`` and ``end``, but not at either, a page or a heading begins, in order."""
        pages = self.page_starts[
            bisect.bisect_right(self.page_starts, start) : bisect.bisect_left(self.page_starts, end)
        ]
        first = bisect.bisect_right(self.headings, start, key=lambda heading: heading.start)
        last = bisect.bisect_left(self.headings, end, key=lambda heading: heading.start)
        return sorted({*pages, *(heading.start for heading in self.headings[first:last])})


def document_id(uri: str) -> str:
    """The id of a document that brings none of its own: 80 bits of its uri's sha256, safe in a URL path."""
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def make_document(
    uri: str,
    text: str,
    *,
    id: str | None = None,
    title: str = "",
    hash: str | None = None,
    page_starts: tuple[int, ...] = (),
    headings: tuple[Heading, ...] = (),
    metadata: Metadata | None = None,
    notes: tuple[str, ...] = (),
) -> Document:
    """A Document fit to be stored: lone surrogates become U+FFFD (same length, so offsets hold) with a note.

    ``hash`` defaults to the sha256 of all that is stored of it; a file's reader passes that of the file's bytes.
    """
    told = json.dumps(dict(metadata or {}), ensure_ascii=False)
    (text, title, uri, told), counts = zip(
        *(_LONE_SURROGATE.subn("\ufffd", part) for part in (text, title, uri, told)), strict=True
    )
    metadata = json.loads(told)
    headings = tuple(Heading(heading.start, heading.level, without_surrogates(heading.title)) for heading in headings)
    if any(counts):
        notes = (*notes, f"{sum(counts)} lone surrogate(s) replaced by U+FFFD")
    if hash is None:
        places = [page_starts, [astuple(heading) for heading in headings]]
        content = json.dumps([uri, title, text, metadata, places], ensure_ascii=False, sort_keys=True)
        hash = hashlib.sha256(content.encode()).hexdigest()
    return Document(
        id=document_id(uri) if id is None else id,
        uri=uri,
        text=text,
        title=title,
        hash=hash,
        page_starts=page_starts,
        headings=headings,
        metadata=metadata,
        notes=notes,
    )


_OWN_URI = "urn:embedsvc:"


def is_own_uri(uri: str) -> bool:
    """Whether the document was handed over without a uri, and this one, of its id, tells a reader nothing."""
    return uri.startswith(_OWN_URI)


def ready_document(
    text: str,
    *,
    id: str | None = None,
    uri: str | None = None,
    title: str = "",
    metadata: Metadata | None = None,
) -> Document:
    """A document that is handed over ready-made. Without ``id``, the id comes from ``uri``, without both from the
    text."""
    if id is None:
        id = document_id(uri or f"text:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}")
    return make_document(uri or f"{_OWN_URI}{id}", text, id=id, title=title, metadata=metadata)


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as a collection lists it, without its text; ``characters`` are that of its text."""

    id: str
    uri: str
    title: str
    hash: str
    passages: int
    characters: int


@dataclass(frozen=True, slots=True)
class PassageSpan:
    """Where a passage stands in its document, in characters ``[start, end)``."""

    id: str
    start: int
    end: int
    page: int | None
    heading: str | None


@dataclass(frozen=True, slots=True)
class WholeText:
    """A document as a collection gives it back. ``text``: without white space at its very end; ``passages``: in
    order."""

    id: str
    uri: str
    title: str
    metadata: Metadata
    text: str
    passages: tuple[PassageSpan, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """A window of a document: its text is exactly ``document.text[start:end]``.

    ``token_ids`` (int32, shape ``(tokens,)``) are the window's own tokens as the document's one tokenisation
    gave them, without special tokens and without the prompt: the encoder adds those. ``finer``: the sub-windows of
    these that have vectors of their own besides the passage's, see :class:`Chunking`. ``context``: what is encoded in
    front of the text (``""``: nothing), ``context_ids`` its tokens, as many of them as have room.
    """

    ordinal: int
    start: int
    end: int
    token_ids: npt.NDArray[np.int32] = field(compare=False, repr=False)
    finer: tuple[npt.NDArray[np.int32], ...] = field(default=(), compare=False, repr=False)
    context: str = ""
    context_ids: tuple[int, ...] = field(default=(), compare=False, repr=False)


Language = Literal[
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian", "norwegian",
    "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish", "other",
]  # fmt: skip
"""Languages whose words have stems and stop words. ``other``: none are known."""

ChunkContext = Literal["none", "title", "headings", "title+headings"]
"""What is said of a passage's place when it is encoded: its document's title, the headings that it stands under."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a collection's documents are cut into passages and words. Fixed when the collection is made.

    ``window``: tokens per passage, counting special tokens and the passage prompt. ``overlap``: tokens shared by
    neighbours, at most. ``whole``: one passage per document whose vector sees only the first window (the
    BEIR convention, for evaluations); every such cut is counted and reported. ``finer``: tokens, counted as those of
    the window, of the sub-windows that a longer passage is also represented by, so that a fact in the midst of it is
    not lost in the mean of all it says; it scores as the best of its vectors. 0: a passage has only its own.
    ``language``: of the text, for the stems and stop words of the lexical side. ``context``: what is put in front of
    every window's text when it is encoded (see :mod:`.context`); it counts among the window's tokens.
    """

    window: int = 512
    overlap: int = 64
    whole: bool = False
    finer: int = 0
    language: Language = "english"
    context: ChunkContext = "none"


FusionMethod = Literal["convex", "rrf"]
Normalisation = Literal["max", "minmax", "zscore"]


@dataclass(frozen=True, slots=True)
class Fusion:
    """How hybrid search makes one ranking of two. ``convex``: the weighted sum of the scores, each side first made
    comparable by ``normalisation``; ``rrf``: of reciprocal ranks. ``weight``: the dense side's, 0 to 1; the lexical
    side has the rest. ``depth``: candidates that each side brings, at least."""

    method: FusionMethod = "convex"
    weight: float = 0.5
    normalisation: Normalisation = "max"
    depth: int = 100


Weights = tuple[float, float, float, float]
"""Of the three signals of a hit's confidence, and the bias."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The weights of a hit's cosine, of the share of the query's words that the hit has, and of the share that stands
    close together; ``answers_from``: the confidence from which on a hit counts as an answer. Of one model: cosines mean
    another thing for every other.

    ``pairs`` of query and hit, of ``queries``, that it was fitted to; ``auroc``: the probability that the best hit of
    a query has more confidence where its answer is there than where it is taken away, cross-validated.
    """

    cosine: float
    words: float
    near: float
    bias: float
    answers_from: float = 0.5
    queries: int = 0
    pairs: int = 0
    auroc: float | None = None

    @property
    def weights(self) -> Weights:
        return self.cosine, self.words, self.near, self.bias


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a collection was found to be searched best by, each where that was measured and asked to be kept: how
    hybrid search fuses, how many candidates a cross-encoder reads (0: that does not pay), and how sure it is that a hit
    answers."""

    fusion: Fusion | None = None
    rerank_depth: int | None = None
    calibration: Calibration | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Tuned:
        """Raises TypeError or AttributeError: it is not what :meth:`to_dict` gave."""
        fusion, calibration = value.get("fusion"), value.get("calibration")
        return cls(
            None if fusion is None else Fusion(**fusion),
            value.get("rerank_depth"),
            None if calibration is None else Calibration(**calibration),
        )


@dataclass(frozen=True, slots=True)
class Contract:
    """The embedding contract: everything that must be equal for two vectors to be comparable.

    ``canary_vectors`` (one row per canary text, ``dimension`` floats) were made by this very model and runtime
    when the contract was written; re-encoding the same texts must give them again.
    """

    model: str
    weights_hash: str
    tokenizer_hash: str
    pooling: str
    normalize: bool
    query_prompt: str
    passage_prompt: str
    dimension: int
    dtype: str
    max_length: int
    canary_vectors: tuple[tuple[float, ...], ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Contract:
        return cls(**{**value, "canary_vectors": tuple(tuple(row) for row in value["canary_vectors"])})
