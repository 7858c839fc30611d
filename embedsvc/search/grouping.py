"""The stage that lets no document, or other group, have more than its share of the hits."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np

from embedsvc.search.fields import values_of
from embedsvc.search.run import Run, ranked
from embedsvc.search.selection import DOCUMENT


def group(run: Run) -> Run:
    """The candidates without those of a group that has ``per_group`` better ones. What lacks the field is of no group,
    and stays. A passage that overlaps a better one of its document is left out too, unless ``merge`` is off: it would
    be joined to it, and the group have fewer hits than it may.

    Raises:
        UsageError: no passage has the field.
    """
    if not len(run.row_ids):
        return run
    wanted, rows = run.query.selection, run.row_ids.tolist()
    assert wanted.group_by is not None, "the stage is not wanted"
    documents, starts, ends = run.snapshot.store.columns(rows, ["document_id", "start", "end"])
    names = documents if wanted.group_by == DOCUMENT else values_of(run, wanted.group_by, _named, "a value")
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    room: dict[str, int] = defaultdict(lambda: wanted.per_group or 1)
    kept = []
    for at, (name, document, start, end) in enumerate(zip(names, documents, starts, ends, strict=True)):
        if name is not None and not room[name]:
            continue
        if run.query.merge and any(start < high and low < end for low, high in spans[document]):
            continue
        if name is not None:
            room[name] -= 1
        spans[document].append((start, end))
        kept.append(at)
    order = np.array(kept, np.intp)
    return run if len(order) == len(rows) else ranked(run, order, run.scores[order])


def _named(value: object) -> str:
    return json.dumps(value, sort_keys=True)
