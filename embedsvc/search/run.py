"""What a search is about: the query, the answer, and the run that the stages carry from one to the other."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from embedsvc.config import OnOverflow
from embedsvc.encoding import Encoder
from embedsvc.encoding.cross_encoder import CrossEncoder
from embedsvc.errors import UsageError
from embedsvc.records import Fusion, FusionMethod, Normalisation, Tuned
from embedsvc.search.expanding import Expand
from embedsvc.search.hits import Context, Hit, Mode
from embedsvc.search.packing import CountTokens, Order
from embedsvc.search.selection import Selection, check_selection
from embedsvc.storage import StoredPassage
from embedsvc.upkeep import Snapshot

RowIds = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

MAX_K = 1000
MAX_CONTEXT_TOKENS = 200_000
"""Of one answer: counting them holds up other requests, a second for each 100,000."""
RERANK_DEPTH = 50
"""Or as many as hits are wanted, where that is more."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is wanted besides the hits.

    ``expand`` or ``max_context_tokens`` ask for a context; its sources stand in ``order`` (``best-first`` where that is
    None). ``count_tokens``: of the one who reads it; None: the collection's tokenizer. ``highlight``: each hit's best
    sentence and the query's words. ``min_confidence``: hits that are less likely to answer are left out.
    """

    expand: Expand | None = None
    max_context_tokens: int | None = None
    order: Order | None = None
    count_tokens: CountTokens | None = None
    highlight: bool = False
    min_confidence: float | None = None

    @property
    def has_context(self) -> bool:
        return self.expand is not None or self.max_context_tokens is not None


@dataclass(frozen=True, slots=True)
class Rerank:
    """``depth``: how many of the best candidates are read; None: as many as the collection was tuned to, none where it
    was tuned to 0, else 50; and ``k`` where that is more. ``budget_ms``: milliseconds after which the search goes on
    in the order that it has, counted from its beginning; None: it waits."""

    encoder: CrossEncoder
    depth: int | None = None
    budget_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked. Either ``text``, or for dense search a ready-made ``vector`` (dimension floats).

    ``filter`` is SQL over built-in fields and ``metadata.KEY``. Hits below ``min_score`` are left out. Without
    ``merge`` every passage is a hit of its own, also where it overlaps another. ``explain``: the answer tells what
    every stage made of its hits. ``fusion``: of mode hybrid; None: the collection's own. ``narrow``: hits are the best
    parts of passages, of at most so many tokens; True: of three fifths of a passage's window, about.
    """

    text: str = ""
    vector: tuple[float, ...] | None = None
    k: int = 10
    mode: Mode = "hybrid"
    filter: str | None = None
    min_score: float | None = None
    on_overflow: OnOverflow = "error"
    merge: bool = True
    explain: bool = False
    fusion: Fusion | None = None
    evidence: Evidence = Evidence()
    rerank: Rerank | None = None
    selection: Selection = field(default_factory=Selection)
    narrow: bool | int = False


@dataclass(frozen=True, slots=True)
class Part:
    """What a part of a passage has of its own: its score, and the page and heading that it begins under."""

    score: float
    page: int | None
    heading: str | None


@dataclass(frozen=True, slots=True)
class Span:
    """A hit in the making: ``best``, the candidate at ``rank`` (from 0), with what was joined to it; or a ``part``.
    ``first``: the passage that it begins in, where that is another. ``rows``: row ids of all passages that it has some
    of; ``copies``: of others that say the same as one of these."""

    rank: int
    best: StoredPassage
    start: int
    end: int
    text: str
    part: Part | None = None
    rows: tuple[int, ...] = ()
    copies: tuple[int, ...] = ()
    first: StoredPassage | None = None

    @property
    def document_id(self) -> str:
        return self.best.document_id


def _no_rows() -> RowIds:
    return np.empty(0, np.int64)


def _no_scores() -> Floats:
    return np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Run:
    """One query on its way through the stages: each takes a run and gives back another.

    ``limit``: candidates that each side is asked for; ``more``: whether it may have others. ``vector`` (dimension,) is
    the query's, once it is known; ``tokens_cut`` and ``words_cut`` were too many for it, and for the lexical side. The
    candidates are ``row_ids`` (n,), best first, with their ``scores`` (n,) by the stage that ranked them last;
    ``dense``, ``lexical`` and ``rerank`` (n,) are those of each side, None where it was not asked. ``copies``: by row
    id of a candidate those of others that say the same and are candidates no more, in their order; ``unfolded``: the
    run in which they still were. ``started``: by time.perf_counter; ``late``: reranking would have taken longer than it
    may. ``texts`` and ``reranked``: what was read so far, by row id, and what a cross-encoder gave; rounds hand them
    on.
    """

    snapshot: Snapshot
    encoder: Encoder
    query: Query
    limit: int
    more: bool = True
    vector: Floats | None = None
    tokens_cut: int = 0
    words_cut: int = 0
    row_ids: RowIds = field(default_factory=_no_rows)
    scores: Floats = field(default_factory=_no_scores)
    dense: Floats | None = None
    lexical: Floats | None = None
    rerank: Floats | None = None
    copies: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    unfolded: Run | None = None
    spans: tuple[Span, ...] = ()
    hits: tuple[Hit, ...] = ()
    answerable: bool | None = None
    context: Context | None = None
    started: float = field(default_factory=time.perf_counter)
    late: bool = False
    texts: Mapping[int, str] = field(default_factory=dict)
    reranked: Mapping[int, float] = field(default_factory=dict)


def settled(query: Query, tuned: Tuned) -> Query:
    """``query`` with what it leaves to a collection, as that was ``tuned``."""
    rerank = query.rerank
    if rerank is not None and rerank.depth is None:
        rerank = replace(rerank, depth=rerank_depth(query.k, tuned))
    return replace(query, fusion=query.fusion or tuned.fusion or Fusion(), rerank=rerank)


def rerank_depth(k: int, tuned: Tuned) -> int:
    """How many hits a cross-encoder reads for ``k`` that are wanted, where the query does not say; 0: it was found not
    to pay."""
    return 0 if tuned.rerank_depth == 0 else max(k, tuned.rerank_depth or RERANK_DEPTH)


def check_query(query: Query) -> None:
    """Raise UsageError for what is wrong with ``query`` whatever collection it is for."""
    if not 1 <= query.k <= MAX_K:
        raise UsageError.of("k", f"is {query.k}; ask for 1 to {MAX_K} hits.")
    if query.min_score is not None and math.isnan(query.min_score):
        raise UsageError.of("min_score", "is not a number.")
    if query.mode not in get_args(Mode):
        raise UsageError.of("mode", f"is {query.mode!r}; choose {', '.join(get_args(Mode))}.")
    if query.fusion is not None:
        check_fusion(query.fusion)
    if query.vector is None:
        if not query.text.strip():
            raise UsageError("The query is empty. Ask with at least one word.")
    elif query.mode != "dense" or query.text:
        raise UsageError("A query vector is searched in mode dense, without a query text.")
    if query.fusion is not None and query.mode != "hybrid":
        raise UsageError(
            f"fusion is of mode hybrid, not {query.mode}: leave it and its weight out, or ask in that mode."
        )
    if query.narrow is not False:
        _check_narrow(query)
    if query.rerank is not None:
        _check_rerank(query, query.rerank)
    _check_evidence(query)
    check_selection(query.selection)


def _check_narrow(query: Query) -> None:
    if query.narrow < 1:
        raise UsageError.of(
            "narrow", f"is {query.narrow} tokens; a part has at least one. Leave it out for whole passages."
        )
    if query.vector is not None:
        raise UsageError("narrow goes by the query's words: a vector has none. Send the query's text.")
    if not query.merge:
        raise UsageError("narrow lets no two hits share text, merge = false lets them: ask for one of the two.")
    if query.selection.diversity or query.selection.group_by is not None:
        raise UsageError("narrow may take several parts of a passage: not together with diversity or group_by.")


def check_reranker(encoder: CrossEncoder) -> None:
    """Raise UsageError for a cross-encoder that does not rank."""
    if len(encoder.labels) != 1:
        raise UsageError(
            f"{encoder.model.name} is a classifier of {len(encoder.labels)} labels ({', '.join(encoder.labels[:4])}), "
            "not a reranker: none of them is a rank. Name one with a single label."
        )


def _check_rerank(query: Query, wanted: Rerank) -> None:
    check_reranker(wanted.encoder)
    if query.vector is not None:
        raise UsageError("A cross-encoder reads the query: a vector cannot be reranked. Send the query's text.")
    if wanted.depth is not None and not query.k <= wanted.depth <= MAX_K:
        raise UsageError.of(
            "rerank_depth", f"is {wanted.depth}; it is at least k, which is {query.k}, and at most {MAX_K}."
        )
    if wanted.budget_ms is not None and not wanted.budget_ms > 0:
        raise UsageError(f"The time budget is {wanted.budget_ms:g} ms; it must be more than 0.")


def _check_evidence(query: Query) -> None:
    wanted = query.evidence
    if wanted.expand is not None and wanted.expand not in get_args(Expand):
        raise UsageError.of("expand", f"is {wanted.expand!r}; choose {', '.join(get_args(Expand))}.")
    if wanted.max_context_tokens is not None and not 1 <= wanted.max_context_tokens <= MAX_CONTEXT_TOKENS:
        raise UsageError.of(
            "max_context_tokens", f"is {wanted.max_context_tokens:,}; ask for 1 to {MAX_CONTEXT_TOKENS:,}."
        )
    if wanted.order is not None and wanted.order not in get_args(Order):
        raise UsageError.of("order", f"is {wanted.order!r}; choose {', '.join(get_args(Order))}.")
    if (wanted.order is not None or wanted.count_tokens is not None) and not wanted.has_context:
        raise UsageError("order and tokenizer are a context's: give expand or max_context_tokens too.")
    if wanted.min_confidence is not None:
        if not 0 <= wanted.min_confidence <= 1:
            raise UsageError.of("min_confidence", f"is {wanted.min_confidence:g}; it is a probability, 0 to 1.")
        if query.vector is not None or query.mode == "lexical":
            raise UsageError.of(
                "min_confidence",
                "needs a query text and its vector: ask in mode hybrid or dense, or for a least score instead.",
            )


def check_fusion(fusion: Fusion) -> None:
    """Raise UsageError where a value is out of range."""
    if not 0 <= fusion.weight <= 1:
        raise UsageError.of(
            "weight", f"is {fusion.weight}; the dense side's is from 0 to 1, the lexical side has the rest."
        )
    if not 1 <= fusion.depth <= MAX_K:
        raise UsageError.of("depth", f"is {fusion.depth}; choose 1 to {MAX_K} candidates of each side.")
    for name, allowed in (("method", FusionMethod), ("normalisation", Normalisation)):
        if getattr(fusion, name) not in get_args(allowed):
            raise UsageError.of(name, f"is {getattr(fusion, name)!r}; choose {', '.join(get_args(allowed))}.")


def fusion_of(current: Fusion, changed: Mapping[str, Any]) -> Fusion:
    """``current``, the collection's, with what a query has ``changed``.

    Raises:
        UsageError: there is nothing of one of these names to change; a normalisation, and ranks are fused, which have
            none; a value is out of range.
    """
    known = [field.name for field in fields(Fusion)]
    if unknown := [name for name in changed if name not in known]:
        raise UsageError(f"fusion has no {unknown[0]!r}; there are {', '.join(known)}.")
    fusion = replace(current, **changed)
    check_fusion(fusion)
    if fusion.method == "rrf" and "normalisation" in changed:
        whose = "" if "method" in changed else ", which this collection was tuned to"
        raise UsageError.of(
            "normalisation", f"is of scores, and rrf{whose} fuses ranks: leave it out, or choose convex to fuse by."
        )
    return fusion


def ranked(run: Run, order: npt.NDArray[np.intp], scores: Floats) -> Run:
    """``run`` with its candidates in another ``order`` (m,), with these ``scores`` (m,): all that is known of each goes
    along, what is not in ``order`` is left out."""

    def moved(side: Floats | None) -> Floats | None:
        return None if side is None else side[order]

    return replace(
        run,
        row_ids=run.row_ids[order],
        scores=scores,
        dense=moved(run.dense),
        lexical=moved(run.lexical),
        rerank=moved(run.rerank),
    )


def with_texts(run: Run, row_ids: Sequence[int]) -> Run:
    """``run`` that has the texts of these passages; those that it has already are not read again."""
    unread = [row for row in row_ids if row not in run.texts]
    if not unread:
        return run
    (texts,) = run.snapshot.store.columns(unread, ["text"])
    return replace(run, texts={**run.texts, **dict(zip(unread, texts, strict=True))})
