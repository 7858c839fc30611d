"""One query through the stages, over one snapshot of a collection.

A stage is a function that takes a :class:`.run.Run` and gives back another. Which of them run is told by the query.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from embedsvc.encoding import Encoder
from embedsvc.records import Fusion, without_surrogates
from embedsvc.search.candidates import candidates
from embedsvc.search.citing import cite
from embedsvc.search.evidence import confide, gather, point_out
from embedsvc.search.explaining import Traced, explained
from embedsvc.search.fusion import fuse
from embedsvc.search.merging import SPARE, merge
from embedsvc.search.reranking import rerank
from embedsvc.search.run import Answer, Query, Run, check_query
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
    Stage("merge", merge),
    Stage("cite", cite),
)
"""In the order in which they run."""
AFTERWARDS = (
    Stage("confide", confide, lambda query: query.vector is None and query.mode != "lexical"),
    Stage("highlight", point_out, lambda query: query.evidence.highlight),
    Stage("gather", gather, lambda query: query.evidence.has_context),
)
"""Once, when there are hits enough."""


def search(snapshot: Snapshot, encoder: Encoder, query: Query) -> Answer:
    """The ``k`` best hits for ``query`` in ``snapshot``.

    The encoder must have passed ``check_contract`` with the collection's contract.

    Raises:
        UsageError: k out of range, an empty query, a vector of another dimension, a vector without dense mode.
            What it is to be answered with cannot be had.
        QueryTooLong: the text exceeds the model's window and ``on_overflow`` is ``error``.
        BadFilter: the filter is not SQL over the collection's fields.
    """
    started = time.perf_counter()
    check_query(query)
    fusion = query.fusion or snapshot.store.fusion
    query = replace(query, text=without_surrogates(query.text), fusion=fusion)
    stages = [stage for stage in STAGES if stage.wanted(query)]
    limit = max(int(query.k * SPARE) + 1, query.rerank.depth if query.rerank else 0)
    run = Run(snapshot, encoder, query, max(fusion.depth, limit) if query.mode == "hybrid" else limit)
    rounds = []
    while True:
        rounds.append(_through(stages, run))
        done = rounds[-1][-1].run
        if len(done.hits) == query.k or not done.more:
            break
        # So many were joined that too few are left.
        run = replace(run, limit=4 * run.limit, vector=done.vector, tokens_cut=done.tokens_cut)
    afterwards = _through([stage for stage in AFTERWARDS if stage.wanted(query)], done)
    done = afterwards[-1].run if afterwards else done
    took = round((time.perf_counter() - started) * 1000, 3)
    answer = Answer(
        query.text,
        snapshot.name,
        snapshot.version,
        query.mode,
        took,
        done.hits,
        done.tokens_cut,
        done.answerable,
        done.context,
        done.late,
    )
    return explained(answer, rounds, afterwards) if query.explain else answer


def _through(stages: Sequence[Stage], run: Run) -> list[Traced]:
    traced = []
    for stage in stages:
        started = time.perf_counter()
        run = stage.apply(run)
        traced.append(Traced(stage.name, time.perf_counter() - started, run))
    return traced
