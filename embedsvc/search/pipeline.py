"""One query through the stages, over one snapshot of a collection.

A stage is a function that takes a :class:`.run.Run` and gives back another. Which of them run is told by the query.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from embedsvc.encoding import Encoder
from embedsvc.records import Fusion, without_surrogates
from embedsvc.search.boosting import boost
from embedsvc.search.candidates import candidates, with_vectors
from embedsvc.search.citing import cite
from embedsvc.search.cutting import cut
from embedsvc.search.diversifying import diversify
from embedsvc.search.evidence import confide, gather, point_out
from embedsvc.search.explaining import Traced, explained
from embedsvc.search.folding import fold
from embedsvc.search.fusion import fuse
from embedsvc.search.grouping import group
from embedsvc.search.hits import Answer
from embedsvc.search.merging import SPARE, merge
from embedsvc.search.narrowing import CONSIDERED, narrow
from embedsvc.search.reranking import rerank
from embedsvc.search.run import Query, Run, check_query, settled
from embedsvc.search.warning import not_found, warnings_of
from embedsvc.search.wording import by_wording
from embedsvc.upkeep import Snapshot


@dataclass(frozen=True, slots=True)
class Stage:
    """``wanted``: whether a query asks for it."""

    name: str
    apply: Callable[[Run], Run]
    wanted: Callable[[Query], bool] = lambda _: True


def _has_scores(fusion: Fusion | None) -> bool:
    """Reciprocal ranks lie so close together that whatever is added to them decides alone."""
    return fusion is None or fusion.method == "convex"


STAGES = (
    Stage("candidates", candidates),
    Stage("fuse", fuse, lambda query: query.mode == "hybrid"),
    Stage("wording", by_wording, lambda query: query.mode == "hybrid" and _has_scores(query.fusion)),
    Stage("rerank", rerank, lambda query: query.rerank is not None),
    Stage("boost", boost, lambda query: bool(query.selection.boosts)),
    Stage("cut", cut, lambda query: query.min_score is not None),
    Stage("fold", fold, lambda query: query.selection.duplicates != "keep"),
    Stage("diversify", diversify, lambda query: query.selection.diversity > 0),
    Stage("group", group, lambda query: query.selection.group_by is not None),
    Stage("merge", merge, lambda query: not query.narrow),
    Stage("narrow", narrow, lambda query: bool(query.narrow)),
    Stage("cite", cite),
)
"""In the order in which they run."""
AFTERWARDS = (
    Stage("confide", confide, lambda query: query.vector is None and query.mode != "lexical"),
    Stage("highlight", point_out, lambda query: query.evidence.highlight),
    Stage("gather", gather, lambda query: query.evidence.has_context),
)
"""Once, when there are hits enough."""
_DEEP, _DEEP_PER_HIT = 100, 3
"""Candidates, at least and for each hit wanted, that there is something to choose from."""
_ENOUGH, _MOST = 400, 10_000
"""Candidates of each side: from so many on a round that adds no hit is the last; so many are never exceeded."""


def search(snapshot: Snapshot, encoder: Encoder, query: Query) -> Answer:
    """The ``k`` best hits for ``query`` in ``snapshot``.

    The encoder must have passed ``check_contract`` with the collection's contract.

    Raises:
        UsageError: k out of range, an empty query, a vector of another dimension, a vector without dense mode.
            What it is to be answered with cannot be had. A field that it names is none of the collection's.
        QueryTooLong: the text exceeds the model's window and ``on_overflow`` is ``error``.
        BadFilter: the filter is not SQL over the collection's fields.
    """
    return _answer(_begun(snapshot, encoder, query))


def search_all(snapshot: Snapshot, encoder: Encoder, queries: Sequence[Query]) -> list[Answer]:
    """The answers to several queries, in their order; raises as :func:`search`. Their texts are encoded together, which
    ``took_ms`` of the first has in it. They agree in ``on_overflow``."""
    runs = [_begun(snapshot, encoder, query) for query in queries]
    if len(runs) > 1:  # one alone is encoded while its words are looked up
        runs = with_vectors(runs)
    return [_answer(runs[0]), *(_answer(replace(run, started=time.perf_counter())) for run in runs[1:])]


def _begun(snapshot: Snapshot, encoder: Encoder, query: Query) -> Run:
    check_query(query)
    query = settled(replace(query, text=without_surrogates(query.text)), snapshot.store.tuned)
    return Run(snapshot, encoder, query, _limit(query))


def _answer(run: Run) -> Answer:
    snapshot, query, started = run.snapshot, run.query, run.started
    stages = [stage for stage in STAGES if stage.wanted(query)]
    asked, phrases = query, [] if query.mode == "dense" else snapshot.store.phrases(query.text)
    rounds = _rounds(stages, run)
    loosened = bool(phrases) and not rounds[-1][-1].run.hits
    if loosened:
        query = replace(query, text=query.text.replace('"', " "))
        rounds = _rounds(stages, Run(snapshot, run.encoder, query, _limit(query), started=started))
    found = rounds[-1][-1].run
    afterwards = _through([stage for stage in AFTERWARDS if stage.wanted(query)], found)
    done = afterwards[-1].run if afterwards else found
    took = round((time.perf_counter() - started) * 1000, 3)
    answer = Answer(
        asked.text,
        snapshot.name,
        snapshot.version,
        query.mode,
        took,
        done.hits,
        done.tokens_cut,
        done.answerable,
        done.context,
        done.late,
        (*warnings_of(found), *([not_found(phrases)] if loosened else ())),
    )
    return explained(answer, rounds, afterwards) if query.explain else answer


def _rounds(stages: Sequence[Stage], run: Run) -> list[list[Traced]]:
    """The stages, again with more candidates as long as so many are joined or left out that too few are left."""
    rounds: list[list[Traced]] = []
    before = None
    while True:
        rounds.append(_through(stages, run))
        done = rounds[-1][-1].run
        in_vain = run.limit >= _ENOUGH and len(done.hits) == before
        if len(done.hits) == run.query.k or not done.more or in_vain or run.limit >= _MOST:
            return rounds
        before = len(done.hits)
        run = replace(
            run,
            limit=min(4 * run.limit, _MOST),
            vector=done.vector,
            tokens_cut=done.tokens_cut,
            late=done.late,
            texts=done.texts,
            reranked=done.reranked,
        )


def _limit(query: Query) -> int:
    """Candidates that each side is asked for at first, for a ``query`` that leaves nothing to its collection."""
    limits = [int(query.k * (CONSIDERED if query.narrow else SPARE)) + 1]
    if query.mode == "hybrid" and query.fusion is not None:
        limits.append(query.fusion.depth)
    if query.rerank is not None and query.rerank.depth is not None:
        limits.append(query.rerank.depth)
    if query.selection.is_deep:
        limits += (_DEEP, _DEEP_PER_HIT * query.k)
    return max(limits)


def _through(stages: Sequence[Stage], run: Run) -> list[Traced]:
    traced = []
    for stage in stages:
        started = time.perf_counter()
        run = stage.apply(run)
        traced.append(Traced(stage.name, time.perf_counter() - started, run))
    return traced
