"""The stage that lets no document, or other group, have more than its share of the hits."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace

import numpy as np

from embedsvc.search.fields import values_of
from embedsvc.search.hits import Extent, overlap
from embedsvc.search.run import Run, ranked
from embedsvc.search.selection import DOCUMENT


def group(run: Run) -> Run:
    """The candidates without those of a group that has ``per_group`` better ones. What lacks the field is of no group,
    and stays. A passage that overlaps a better one of its document is left out too, unless ``merge`` is off: it would
    be joined to it, and the group have fewer hits than it may. Of what is left out for either reason, the first copy
    that is not takes the place, with the score: they say the same.

    Raises:
        UsageError: no passage has the field.
    """
    if not len(run.row_ids):
        return run
    wanted = run.query.selection
    assert wanted.group_by is not None, "the stage is not wanted"
    everyone = run.unfolded or run
    rows = everyone.row_ids.tolist()
    extents = list(map(Extent._make, zip(*run.snapshot.store.columns(rows, Extent._fields), strict=True)))
    if wanted.group_by == DOCUMENT:
        names = [extent.document_id for extent in extents]
    else:
        names = values_of(everyone, wanted.group_by, _named, "a value")
    taken: dict[str, list[Extent]] = defaultdict(list)
    room: dict[str, int] = defaultdict(lambda: wanted.per_group or 1)

    def fits(at: int) -> bool:
        own = extents[at]
        free = names[at] is None or room[names[at]] > 0
        return free and not (run.query.merge and any(overlap(own, other) for other in taken[own.document_id]))

    place = {row: at for at, row in enumerate(rows)}
    kept, scores = [], []
    copies: dict[int, tuple[int, ...]] = {}
    for row, score in zip(run.row_ids.tolist(), run.scores, strict=True):
        same = (row, *run.copies.get(row, ()))
        chosen = next((each for each in same if fits(place[each])), None)
        if chosen is None:
            continue
        at = place[chosen]
        if names[at] is not None:
            room[names[at]] -= 1
        taken[extents[at].document_id].append(extents[at])
        kept.append(at)
        scores.append(score)
        copies[chosen] = tuple(each for each in same if each != chosen)
    if [rows[at] for at in kept] == run.row_ids.tolist():
        return run
    # The scores of the sides are a passage's own: those of a copy are in the run that has it still.
    return replace(ranked(everyone, np.array(kept, np.intp), np.array(scores, np.float32)), copies=copies)


def _named(value: object) -> str:
    return json.dumps(value, sort_keys=True)
