"""How sure it is that a hit answers: a probability, from how like it is to the query and which words they share.

A cosine means another thing for every model, a fused score for every query. What the two logistic weights here were
fitted to (Platt, "Probabilistic Outputs for Support Vector Machines", 1999) is whether a hit answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedsvc.records import Calibration, Weights
from embedsvc.search.hits import Hit
from embedsvc.search.terms import query_terms, term_spans
from embedsvc.storage import Store

_NEAR = 200
"""Characters: about a sentence."""
_RIDGE = 1.0
"""Keeps the weights finite where the pairs can be told apart without fault."""

SHIPPED = {
    # all-MiniLM-L6-v2: by benchmarks/abstention.py, of every other article of XQuAD.
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": Calibration(
        cosine=6.5221,
        words=5.4122,
        near=4.4953,
        bias=-9.4705,
        answers_from=0.204,
        queries=612,
        pairs=6066,
        auroc=0.9273,
    ),
}
"""By the hash of the model's weights."""


def signals(query: str, hits: Sequence[Hit]) -> npt.NDArray[np.float64]:
    """What is weighed, of each hit: its cosine (NaN where it was not asked for), the share of the query's words in it,
    and the largest share within ``_NEAR`` characters; shape (hits, 3)."""
    terms = query_terms(query)
    rows = []
    for hit in hits:
        # The title and the headings say what a passage is about without repeating it.
        about = {term for _, term in term_spans(f"{hit.title}\n{hit.heading or ''}", terms)}
        found = term_spans(hit.text, terms)
        there = about | {term for _, term in found}
        cosine = math.nan if hit.scores.dense is None else hit.scores.dense
        rows.append((cosine, len(there) / max(1, len(terms)), _most_together(found) / max(1, len(terms))))
    return np.array(rows, np.float64).reshape(len(hits), 3)


def _most_together(found: Sequence[tuple[tuple[int, int], str]]) -> int:
    """How many different terms stand within ``_NEAR`` characters at most."""
    most = first = 0
    inside: dict[str, int] = {}
    for (_, end), term in found:
        inside[term] = inside.get(term, 0) + 1
        while end - found[first][0][0] > _NEAR and found[first][0][1] < end:
            left = found[first][1]
            inside[left] -= 1
            if not inside[left]:
                del inside[left]
            first += 1
        most = max(most, len(inside))
    return most


def confidences(query: str, hits: Sequence[Hit], calibration: Calibration) -> list[float | None]:
    """0 to 1 for each hit; None for one without cosine."""
    values = likelihoods(signals(query, hits), calibration.weights)
    return [None if math.isnan(value) else round(float(value), 4) for value in values]


def likelihoods(rows: npt.NDArray[np.float64], weights: Weights) -> npt.NDArray[np.float64]:
    """Of the signals (n, 3) of n hits, the confidences (n,)."""
    return _sigmoid(rows @ np.array(weights[:3]) + weights[3])


def fit(rows: npt.NDArray[np.float64], answers: npt.NDArray[np.bool_]) -> Weights:
    """The weights of the signals (n, 3) and the bias under which ``answers`` (n,) are likeliest, by Newton's method.

    Raises:
        ValueError: all are answers, or none is.
    """
    if answers.all() or not answers.any():
        raise ValueError("pairs of both kinds are needed")
    inputs = np.column_stack([rows, np.ones(len(rows))])
    weights = np.zeros(4)
    penalty = np.diag([_RIDGE, _RIDGE, _RIDGE, 0.0])
    for _ in range(50):
        likely = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (answers - likely) - penalty @ weights
        curvature = (inputs * (likely * (1 - likely))[:, None]).T @ inputs + penalty
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    cosine, words, near, bias = (round(float(weight), 4) for weight in weights)
    return cosine, words, near, bias


def auroc(present: npt.NDArray[np.float64], absent: npt.NDArray[np.float64]) -> float:
    """The probability that one of ``present`` is above one of ``absent``; a tie counts one half."""
    order = np.sort(absent)
    below = np.searchsorted(order, present, "left")
    upto = np.searchsorted(order, present, "right")
    return float((below + upto).sum() / (2 * len(present) * len(absent)))


def _sigmoid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    likely: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(values, -40, 40)))
    return likely


def calibration_of(store: Store) -> Calibration | None:
    """The one that was fitted to the collection, else the one that is shipped for its model; None: there is neither."""
    return store.tuned.calibration or SHIPPED.get(store.contract.weights_hash)
