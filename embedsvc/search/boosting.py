"""The stage in which more than the query counts: dates, and what a filter prefers."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np

from embedsvc.search.fields import values_of
from embedsvc.search.run import Floats, Run, ranked
from embedsvc.search.selection import Preference, Recency

_PART_OF_A_DATE = re.compile(r"(\d{4})(-\d{2})?")
_DAY = 86_400


def boost(run: Run) -> Run:
    """The candidates in the order of their boosted scores, 0 to 1; equal ones as they were.

    A score is ``(1 - weights) * score + weights @ recency`` times the factors of the filters that hold for it, over
    those factors that are above 1, together: so nothing exceeds 1, and whatever had the better score among passages of
    the same dates and filters has it still.

    Raises:
        BadFilter, UsageError: of a filter; a field that no passage has a date in.
    """
    scores = relevance(run)
    weight, bonus = 0.0, np.zeros_like(scores)
    factors = np.ones_like(scores)
    for each in run.query.selection.boosts:
        if isinstance(each, Preference):
            passes = np.isin(run.row_ids, run.snapshot.store.matching(each.filter, among=run.row_ids.tolist()))
            factors *= np.where(passes, each.factor, 1) / max(1, each.factor)
        else:
            weight += each.weight
            bonus += each.weight * _recency(run, each)
    scores = (((1 - weight) * scores + bonus) * factors).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    return ranked(run, order, scores[order])


def relevance(run: Run) -> Floats:
    """The scores of the candidates (n,) within 0 and 1, to be weighed against others of that range: below 0 they are 0,
    and where some are above 1, as those of BM25, all are divided by the best."""
    scores: Floats = np.maximum(np.nan_to_num(run.scores), 0)
    scores /= max(1, scores.max(initial=0))
    return scores


def _recency(run: Run, boost: Recency) -> Floats:
    """Of each candidate (n,) 1 for today, and half as much for every half-life before."""
    now = datetime.now(UTC)
    moments = values_of(run, boost.field, moment, "a date (ISO 8601, as 2024-05-31)")
    ages = (None if each is None else max(0.0, (now - each).total_seconds() / _DAY) for each in moments)
    return np.array([0 if age is None else 0.5 ** (age / boost.half_life_days) for age in ages], np.float32)


def moment(value: Any) -> datetime | None:
    """The moment at which the date or time begins that ``value`` tells by ISO 8601, also a year or a month alone; where
    it tells no zone, in UTC. None: it tells none.

    >>> moment("2024-05"), moment(2024) == moment("2024-01-01T01:00:00+01:00"), moment("May")
    (datetime.datetime(2024, 5, 1, 0, 0, tzinfo=datetime.timezone.utc), True, None)
    """
    text = str(value).strip()
    if part := _PART_OF_A_DATE.fullmatch(text):
        text = f"{part[1]}{part[2] or '-01'}-01"
    try:
        told = datetime.fromisoformat(text)
        return told.replace(tzinfo=UTC) if told.tzinfo is None else told
    except ValueError:
        return None
