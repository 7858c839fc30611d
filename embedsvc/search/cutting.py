"""The stage that leaves out what has too low a score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from embedsvc.search.run import Run, ranked


def cut(run: Run) -> Run:
    """The candidates from ``min_score`` on. What was not asked for yet scores no higher, so there is no more to ask
    for where some are left out."""
    least = run.query.min_score
    assert least is not None, "the stage is not wanted"
    kept = np.flatnonzero(run.scores >= least)
    more = run.more and len(kept) == len(run.scores)
    return replace(ranked(run, kept, run.scores[kept]), more=more)
