"""What every stage made of the passages, told from the runs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedsvc.search.hits import Answer, Explanation, Place, Step
from embedsvc.search.run import Floats, RowIds, Run, Span


class Traced(NamedTuple):
    """A stage that ran, its seconds, and the run that it gave back."""

    stage: str
    seconds: float
    run: Run


class _Ranking(NamedTuple):
    """Best first, (n,) each."""

    row_ids: RowIds
    scores: Floats


def explained(answer: Answer, rounds: Sequence[Sequence[Traced]], afterwards: Sequence[Traced]) -> Answer:
    """``answer`` with its explanation: the rankings are those of the last round, the times of all together. What came
    ``afterwards`` ranks nothing."""
    last = rounds[-1]
    before = [None, *(traced.run for traced in last)]
    rankings = [_rankings(traced.stage, earlier, traced.run) for earlier, traced in zip(before, last, strict=False)]
    run = last[-1].run
    shown = sorted(
        {int(row) for each in rankings for ranking in each.values() for row in ranking.row_ids[: run.query.k]}
    )
    (named,) = run.snapshot.store.columns(shown, ["id"]) if shown else ([],)
    ids = dict(zip(shown, named, strict=True))
    steps = tuple(
        Step(
            traced.stage,
            round(1000 * sum(each[at].seconds for each in rounds), 3),
            len(traced.run.spans or traced.run.row_ids),
            {name: _best(ranking, run.query.k, ids) for name, ranking in rankings[at].items()},
        )
        for at, traced in enumerate(last)
    )
    later = tuple(Step(each.stage, round(1000 * each.seconds, 3), len(each.run.hits), {}) for each in afterwards)
    together = {name: ranking for each in rankings for name, ranking in each.items()}
    hits = tuple(
        replace(hit, places=_places(span, run.spans, together))
        for hit, span in zip(answer.hits, (afterwards or last)[-1].run.spans, strict=True)
    )
    return replace(answer, hits=hits, explanation=Explanation(len(rounds), steps + later))


def _rankings(stage: str, before: Run | None, after: Run) -> dict[str, _Ranking]:
    """By name what ``stage`` ranked; nothing where it left the order as it was."""
    if before is None:
        rankings = {}
        if after.dense is not None:
            rankings["dense"] = _sorted(after.row_ids, after.dense, ~np.isnan(after.dense))
        if after.lexical is not None:
            rankings["lexical"] = _sorted(after.row_ids, after.lexical, after.lexical > 0)
        return rankings
    if after.spans is not before.spans:
        ranks = [span.rank for span in after.spans]
        own = [float(after.scores[span.rank]) if span.part is None else span.part.score for span in after.spans]
        return {stage: _Ranking(after.row_ids[ranks], np.array(own, np.float32))}
    if after.row_ids is not before.row_ids:
        return {stage: _Ranking(after.row_ids, after.scores)}
    return {}


def _sorted(row_ids: RowIds, scores: Floats, found: npt.NDArray[np.bool_]) -> _Ranking:
    """Of one side's scores, those of what it ``found``."""
    known = np.flatnonzero(found)
    order = known[np.lexsort((row_ids[known], -scores[known]))]
    return _Ranking(row_ids[order], scores[order])


def _best(ranking: _Ranking, k: int, ids: Mapping[int, str]) -> tuple[tuple[str, float], ...]:
    rows = zip(ranking.row_ids[:k].tolist(), ranking.scores[:k].tolist(), strict=True)
    return tuple((ids[row], score) for row, score in rows)


def _places(span: Span, spans: Sequence[Span], rankings: Mapping[str, _Ranking]) -> dict[str, Place]:
    places = {}
    for name, ranking in rankings.items():
        found = np.flatnonzero(ranking.row_ids == span.best.row_id)
        if len(found):  # several times where its parts were ranked, as they stand in ``spans``
            at = int(found[0]) if len(found) == 1 else spans.index(span)
            places[name] = Place(at + 1, float(ranking.scores[at]))
    return places
