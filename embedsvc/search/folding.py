"""The stage that tells a text once: passages that say the same become one, which knows the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from embedsvc.duplicates import alike
from embedsvc.search.hits import Extent, overlap
from embedsvc.search.run import Run, ranked, with_texts

_SCREEN = 0.8
"""Cosine below which two passages are not compared."""
_COMPARED = 500
"""Of the best candidates, that are compared with one another."""


def fold(run: Run) -> Run:
    """The candidates without those whose text is that of a better one, or nearly where that is asked for; ``copies``
    of the better one are they. Passages that overlap are none: they are joined later."""
    groups = [group for group in _alike(run) if len(group) > 1]
    if not groups:
        return run
    rows = [int(run.row_ids[at]) for group in groups for at in group]
    columns = run.snapshot.store.columns(rows, Extent._fields)
    extents = dict(zip(rows, map(Extent._make, zip(*columns, strict=True)), strict=True))
    copies: dict[int, list[int]] = defaultdict(list)
    folded = []
    for group in groups:
        kept: list[int] = []
        for at in group:
            row = int(run.row_ids[at])
            if kept and not any(overlap(extents[row], extents[other]) for other in kept):
                copies[kept[0]].append(row)
                folded.append(at)
            else:
                kept.append(row)
    order = np.delete(np.arange(len(run.row_ids)), folded)
    told = {row: tuple(others) for row, others in copies.items()}
    return replace(ranked(run, order, run.scores[order]), copies=told, unfolded=run)


def _alike(run: Run) -> Sequence[Sequence[int]]:
    """Places in the ranking of candidates that say the same, in groups, each in its order."""
    store, rows = run.snapshot.store, run.row_ids.tolist()
    by_length: dict[int, list[int]] = defaultdict(list)
    for at, (start, end) in enumerate(zip(*store.columns(rows, ["start", "end"]), strict=True) if rows else ()):
        by_length[end - start].append(at)
    # Only of those as long as another the text is read.
    several = {rows[at] for group in by_length.values() if len(group) > 1 for at in group}
    texts = with_texts(run, sorted(several)).texts
    by_text: dict[str | int, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        by_text[texts[row] if row in several else at].append(at)
    same = list(by_text.values())
    return same if run.query.selection.duplicates == "exact" else _nearly(replace(run, texts=texts), same)


def _nearly(run: Run, same: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """The groups joined, each to the first that its text is like: no chain of small changes makes two texts one. What
    vectors tell apart is not compared, and no text is read twice, however many others are close to it."""
    first = [group[0] for group in same[:_COMPARED]]
    if not first:
        return same
    rows = run.row_ids[first].tolist()
    vectors = run.snapshot.store.own_vectors(rows)
    close = vectors @ vectors.T >= _SCREEN
    read = np.flatnonzero(close.sum(axis=1) > 1)
    like_one_another = np.zeros_like(close)
    close_rows = [rows[at] for at in read]
    texts = with_texts(run, close_rows).texts
    like_one_another[np.ix_(read, read)] = alike([texts[row] for row in close_rows])
    like_one_another &= close
    joined: dict[int, list[int]] = {}
    for at in range(len(first)):
        like = next((each for each in like_one_another[at, :at].nonzero()[0].tolist() if each in joined), None)
        if like is None:
            joined[at] = list(same[at])
        else:
            joined[like] = sorted([*joined[like], *same[at]])
    return [*joined.values(), *same[_COMPARED:]]
