"""One query through the pipeline, over one snapshot of a collection."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from embedsvc.encoding import Encoder, OnOverflow
from embedsvc.errors import UsageError
from embedsvc.records import Metadata, without_surrogates
from embedsvc.search.fusion import convex_combination
from embedsvc.storage import Store, StoredPassage
from embedsvc.upkeep import Snapshot

Mode = Literal["hybrid", "dense", "lexical"]
RowIds = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

MAX_K = 1000
_CANDIDATES = 100
"""Candidates that each side brings to a fusion, at least."""
_SCORE_ALL = 20_000
"""Up to so many passages, BM25 gives the scores of all that match at once: 0.4 ms more than for the best 100 of 5,183,
where a second question about the candidates of the dense side alone costs 1.5 to 2.5 ms."""
_SPARE = 1.5
"""Candidates per hit wanted: some of them merge into one."""

# The lexical side runs in Lance, outside the GIL, while this thread encodes the query.
_lexical_pool = ThreadPoolExecutor(max(4, 2 * (os.cpu_count() or 1)), thread_name_prefix="lexical")


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked. Either ``text``, or for dense search a ready-made ``vector`` (dimension floats).

    ``filter`` is SQL over built-in fields and ``metadata.KEY``. Hits below ``min_score`` are left out.
    """

    text: str = ""
    vector: tuple[float, ...] | None = None
    k: int = 10
    mode: Mode = "hybrid"
    filter: str | None = None
    min_score: float | None = None
    on_overflow: OnOverflow = "error"


@dataclass(frozen=True, slots=True)
class Scores:
    """A hit's score on each side; None where that side was not asked. BM25 of 0: no term of the query is in it."""

    dense: float | None
    lexical: float | None
    rerank: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A finished answer: its text is ``text`` of the document from ``start`` to ``end``, to the letter.

    Hits never share text. A passage that overlaps a better one answers as part of its hit, so a hit spans at most a
    passage and those that overlap it; all else (``id``, ``scores``, ``page``, ``heading`` …) is that passage's own.
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


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one query, best first. ``tokens_cut``: of the query, by ``on_overflow = truncate``."""

    query: str
    collection: str
    version: int
    mode: Mode
    took_ms: float
    hits: tuple[Hit, ...]
    tokens_cut: int = 0


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Scored row ids (n,), best first. ``dense`` or ``lexical`` is None where that side was not asked."""

    row_ids: RowIds
    scores: Floats
    dense: Floats | None
    lexical: Floats | None


def search(snapshot: Snapshot, encoder: Encoder, query: Query) -> Answer:
    """The ``k`` best hits for ``query`` in ``snapshot``.

    The encoder must have passed ``check_contract`` with the collection's contract.

    Raises:
        UsageError: k out of range, an empty query, a vector of another dimension, a vector without dense mode.
        QueryTooLong: the text exceeds the model's window and ``on_overflow`` is ``error``.
        BadFilter: the filter is not SQL over the collection's fields.
    """
    started = time.perf_counter()
    check_query(query)
    query = replace(query, text=without_surrogates(query.text))
    encode = cache(lambda: _vector_of(query, encoder))
    limit = int(query.k * _SPARE) + 1
    if query.mode == "hybrid":
        limit = max(_CANDIDATES, limit)
    while True:
        candidates = _retrieve(snapshot, encode, query, limit)
        hits = _merge_and_cite(snapshot.store, candidates, query)
        there_is_more = len(candidates.row_ids) >= limit and _good_enough(candidates, query) == len(candidates.row_ids)
        if len(hits) == query.k or not there_is_more:
            break
        limit *= 4  # so many were joined that too few are left
    tokens_cut = 0 if query.mode == "lexical" else encode()[1]
    took = round((time.perf_counter() - started) * 1000, 3)
    return Answer(query.text, snapshot.name, snapshot.version, query.mode, took, tuple(hits), tokens_cut)


def check_query(query: Query) -> None:
    """Raise UsageError for what is wrong with ``query`` whatever collection it is for."""
    if not 1 <= query.k <= MAX_K:
        raise UsageError(f"k is {query.k}; ask for 1 to {MAX_K} hits.")
    if query.min_score is not None and math.isnan(query.min_score):
        raise UsageError("min_score is not a number.")
    if query.mode not in get_args(Mode):
        raise UsageError(f"mode is {query.mode!r}; choose {', '.join(get_args(Mode))}.")
    if query.vector is None:
        if not query.text.strip():
            raise UsageError("The query is empty. Ask with at least one word.")
    elif query.mode != "dense" or query.text:
        raise UsageError("A query vector is searched in mode dense, without a query text.")


def _unit(vector: tuple[float, ...], encoder: Encoder) -> Floats:
    array = np.asarray(vector, np.float32)
    if len(array) != encoder.dimension:
        raise UsageError(
            f"The query vector has {len(array)} dimensions; the collection's model, {encoder.model.name}, "
            f"has {encoder.dimension}."
        )
    norm = np.linalg.norm(array)
    if not np.isfinite(norm) or norm == 0:
        raise UsageError("The query vector is zero or not finite; its direction is what is searched for.")
    unit: Floats = array / norm
    return unit


def _vector_of(query: Query, encoder: Encoder) -> tuple[Floats, int]:
    """The query's vector (dimension,), and how many tokens were cut from its text."""
    if query.vector is not None:
        return _unit(query.vector, encoder), 0
    encoded = encoder.encode_texts([query.text], kind="query", on_overflow=query.on_overflow)
    return encoded.vectors[0], encoded.cut_tokens[0]


def _retrieve(snapshot: Snapshot, encode: Callable[[], tuple[Floats, int]], query: Query, limit: int) -> _Candidates:
    """The ``limit`` best of each side that is asked."""
    store, index = snapshot.store, snapshot.index
    if query.mode == "lexical":
        ids, scores = snapshot.lexical(query.text, limit, query.filter)
        return _Candidates(ids, scores, None, scores)
    lexical = None
    if query.mode == "hybrid":
        wanted = limit if len(index) > _SCORE_ALL else max(limit, len(index))
        lexical = _lexical_pool.submit(snapshot.lexical, query.text, wanted, query.filter)
    vector, _ = encode()
    dense_ids, dense_scores = snapshot.nearest(vector, limit, query.filter)
    if lexical is None:
        return _Candidates(dense_ids, dense_scores, dense_scores, None)
    known_ids, known_scores = lexical.result()
    lexical_ids = known_ids[:limit]
    # What one side alone returned is scored by the other side too: both know how, cheaply and exactly.
    if len(known_ids) == limit:
        only_dense = np.setdiff1d(dense_ids, lexical_ids)
        more_ids, more_scores = store.lexical(query.text, max(1, len(only_dense)), among=only_dense.tolist())
        known_ids, known_scores = np.append(known_ids, more_ids), np.append(known_scores, more_scores)
    ids = np.union1d(dense_ids, lexical_ids)
    dense = index.scores(vector, ids)
    lexical_all = _lookup(ids, known_ids, known_scores)
    fused = convex_combination(dense, lexical_all)
    order = np.lexsort((ids, -fused))
    return _Candidates(ids[order], fused[order], dense[order], lexical_all[order])


def _lookup(ids: RowIds, known_ids: RowIds, known_scores: Floats) -> Floats:
    """The known scores of ``ids`` (n,), 0 where there is none."""
    scores = np.zeros(len(ids), np.float32)
    if len(known_ids):
        order = np.argsort(known_ids)
        place = order[np.minimum(np.searchsorted(known_ids, ids, sorter=order), len(known_ids) - 1)]
        found = known_ids[place] == ids
        scores[found] = known_scores[place[found]]
    return scores


@dataclass(slots=True)
class _Span:
    """A hit in the making: ``best`` and what was joined to it."""

    rank: int
    best: StoredPassage
    start: int
    end: int
    text: str


def _merge_and_cite(store: Store, candidates: _Candidates, query: Query) -> list[Hit]:
    """The first ``k`` hits, overlapping passages of one document joined; text is read for the survivors only."""
    count = _good_enough(candidates, query)
    spans: list[_Span] = []
    taken = 0
    while taken < count and len(spans) < query.k:
        upto = min(count, max(int(query.k * _SPARE) + 1, 2 * taken))
        for rank, passage in enumerate(store.take(candidates.row_ids[taken:upto].tolist()), start=taken):
            start, end = _left_over(passage, spans)
            if start == end or _join(passage, start, end, spans):
                continue
            if len(spans) == query.k:
                break
            text = passage.text[start - passage.start : end - passage.start]
            start += len(text) - len(text.lstrip())
            spans.append(_Span(rank, passage, start, start + len(text.strip()), text.strip()))
        taken = upto
    return [_cite(span, candidates) for span in spans]


def _good_enough(candidates: _Candidates, query: Query) -> int:
    """How many of the candidates reach ``min_score``."""
    return len(candidates.scores) if query.min_score is None else int((candidates.scores >= query.min_score).sum())


def _join(passage: StoredPassage, start: int, end: int, spans: Sequence[_Span]) -> bool:
    """Whether a span took ``passage``'s part from ``start`` to ``end``: one whose best passage it overlaps."""
    text = passage.text[start - passage.start : end - passage.start]
    for span in spans:
        if _overlap(passage, span.best):
            if end == span.start:
                span.start, span.text = start, text + span.text
                return True
            if start == span.end:
                span.end, span.text = end, span.text + text
                return True
    return False


def _left_over(passage: StoredPassage, spans: Sequence[_Span]) -> tuple[int, int]:
    """The longest part of ``passage`` that no span has; empty where that is only white space."""
    taken = sorted((span.start, span.end) for span in spans if span.best.document_id == passage.document_id)
    longest, start = (passage.start, passage.start), passage.start
    for low, high in (*taken, (passage.end, passage.end)):
        end = min(low, passage.end)
        if end - start > longest[1] - longest[0]:
            longest = start, end
        start = max(start, high)
    start, end = longest
    blank = passage.text[start - passage.start : end - passage.start].isspace()
    return (start, start) if blank else longest


def _overlap(one: StoredPassage, other: StoredPassage) -> bool:
    return one.document_id == other.document_id and one.start < other.end and other.start < one.end


def _cite(span: _Span, candidates: _Candidates) -> Hit:
    best, rank = span.best, span.rank
    return Hit(
        id=best.id,
        document_id=best.document_id,
        uri=best.uri,
        title=best.title,
        text=span.text,
        start=span.start,
        end=span.end,
        page=best.page,
        heading=best.heading,
        score=float(candidates.scores[rank]),
        scores=Scores(_at(candidates.dense, rank), _at(candidates.lexical, rank)),
        metadata=best.metadata,
    )


def _at(scores: Floats | None, rank: int) -> float | None:
    return None if scores is None or np.isnan(scores[rank]) else float(scores[rank])
