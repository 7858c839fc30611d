"""How much of the exact answer an approximate one has, and how sure one can be of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsvc.vectors.faiss_module import faiss_module

Floats = npt.NDArray[np.float32]

K = 10
"""Recall is measured at this many neighbours."""
_Z = 1.96
_SAME = 1e-6
"""Scores that differ by less count as equal: of equally near vectors it does not matter which were found."""


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall@10, its 95 % confidence interval, and over how many queries it was measured (0: exact by construction)."""

    mean: float
    low: float
    high: float
    sample: int


EXACT = Recall(1.0, 1.0, 1.0, 0)


def estimate(shares: npt.NDArray[np.floating]) -> Recall:
    """The recall of which ``shares`` (queries,), each found over wanted, are a sample.

    Source: Wilson's score interval with an effective number of trials, for the ten neighbours of one query are not
    ten independent ones (Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", Survey Methodology 1998). Unlike mean and deviation, it does not
    call a perfect sample certain.
    """
    queries = len(shares)
    if not queries:
        return EXACT
    mean = float(np.mean(shares))
    binomial = mean * (1 - mean) / (K * queries)
    variance = float(np.var(shares, ddof=1)) / queries if queries > 1 else math.inf
    effect = min(float(K), max(1.0, variance / binomial)) if binomial > 0 else float(K)
    trials = K * queries / effect
    centre = (mean + _Z**2 / (2 * trials)) / (1 + _Z**2 / trials)
    half = _Z / (1 + _Z**2 / trials) * math.sqrt(mean * (1 - mean) / trials + _Z**2 / (4 * trials**2))
    return Recall(mean, max(0.0, centre - half), min(1.0, centre + half), queries)


def shares(found: Floats, truth: Floats) -> npt.NDArray[np.float64]:
    """Per query, which share of the exact answer's scores ``truth`` (queries, n) is reached by ``found`` (queries,
    any); both best first. Of rows with less than n neighbours, -inf fills ``truth`` up."""
    wanted = np.isfinite(truth).sum(axis=1)
    least = np.where(np.isfinite(truth), truth, np.inf).min(axis=1, initial=np.inf)
    hits = np.minimum((found >= least[:, None] - _SAME).sum(axis=1), wanted)
    result: npt.NDArray[np.float64] = np.where(wanted > 0, hits / np.maximum(wanted, 1), 1.0)
    return result


def nearest(queries: Floats, vectors: Floats, k: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Exact scores and positions (queries, k) of the best among ``vectors`` (n, dimension), best first."""
    faiss = faiss_module()
    found: tuple[Floats, npt.NDArray[np.int64]] = faiss.knn(
        queries, vectors, min(k, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT
    )
    return found


def products(queries: Floats, vectors: Floats) -> Floats:
    """Inner products (m, n). Those of one query are computed on this thread alone: BLAS would share them among all
    cores and wait for the one that is busy with something else, and memory is what limits them."""
    if len(queries) > 1 or not len(vectors):
        together: Floats = queries @ vectors.T
        return together
    faiss = faiss_module()
    scores = np.empty((1, len(vectors)), np.float32)
    query, vectors = np.ascontiguousarray(queries), np.ascontiguousarray(vectors)
    arrays = (faiss.swig_ptr(each) for each in (scores, query, vectors))
    faiss.fvec_inner_products_ny(*arrays, vectors.shape[1], len(vectors))
    return scores
