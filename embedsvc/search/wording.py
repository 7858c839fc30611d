"""The stage that looks at how the best candidates word what is asked: words that follow one another in the query and in
the passage too say more than the same words apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from embedsvc.records import Fusion
from embedsvc.search.run import Floats, Run, ranked, with_texts
from embedsvc.search.terms import pairs_in, query_pairs

DEPTH = 50
"""Candidates whose text is read."""
_SHARE = 1 / 3
"""Of the lexical side's weight: the share of pairs has it, the score from before has the rest."""


def by_wording(run: Run) -> Run:
    """The candidates in the order of their scores and of how much of the query's pairs of words the best of them have.
    A query of one word stays as it is."""
    fusion = run.query.fusion
    assert fusion is not None, "the query is settled"
    pairs = query_pairs(run.query.text)
    if not pairs or not len(run.row_ids):
        return run
    rows = run.row_ids[:DEPTH].tolist()
    run = with_texts(run, rows)
    scores = reworded(run.scores, shares([run.texts[row] for row in rows], pairs), fusion)
    order = np.lexsort((run.row_ids, -scores))
    return ranked(run, order, scores[order])


def reworded(scores: Floats, best: Floats, fusion: Fusion) -> Floats:
    """The ``scores`` (n,), best first, with what the ``best`` (m,) of them get for their share of pairs."""
    weight = _SHARE * (1 - fusion.weight)
    scores = (1 - weight) * scores
    scores[: len(best)] += weight * best
    return scores


def shares(texts: Sequence[str], pairs: frozenset[tuple[str, str]]) -> Floats:
    """The share of ``pairs`` that each of the ``texts`` (n,) has, 0 to 1; one counts the more the fewer of them have
    it."""
    return shares_of([pairs_in(text, pairs) for text in texts], pairs)


def shares_of(found: Sequence[frozenset[tuple[str, str]]], pairs: frozenset[tuple[str, str]]) -> Floats:
    """The same of texts that were read before: ``found`` (n,) are the pairs that each of them has."""
    having = Counter(pair for each in found for pair in each)
    weights = {pair: math.log1p(len(found) / (having[pair] + 1)) for pair in pairs}
    return np.array([sum(weights[pair] for pair in each) for each in found], np.float32) / sum(weights.values())
