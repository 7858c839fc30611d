"""Questions to a segment whose exact answers are known, and how many of these an effort finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from embedsvc.vectors.kinds import HNSW8, KINDS, Effort
from embedsvc.vectors.mapping import rows_of
from embedsvc.vectors.recall import Floats, K, Recall, estimate, shares
from embedsvc.vectors.segment import Allowed, Segment

SAMPLE = 1000
"""Queries that recall is measured with."""
_AT_ONCE = 100
"""Of them, whose candidates' vectors are in memory at a time."""
FEWEST = 200
"""Real queries that an effort is chosen by, at least: of fewer, not even a perfect sample could show a usual target."""
_OTHER, _OTHER_PER_DECADE, _OTHER_LEAST = 0.56, 0.045, 0.3
"""A stand-in's share of another vector for a graph, and how much less that is of ten times as many vectors."""
_OTHER_OF_LISTS, _OTHER_OF_LISTS_PER_DECADE, _OTHER_OF_LISTS_FROM = 0.4, 0.025, 5
"""The same for lists, but more of ten times as many, from 100,000 vectors on."""


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """Queries (m, dimension) with the scores (m, 10) of their exact answers among the rows that are ``allowed``."""

    queries: Floats
    truth: Floats
    allowed: Allowed | None

    def recall(self, segment: Segment, effort: Effort | None) -> Recall:
        """What ``effort`` finds of the answers; None: that of ``allowed``."""
        found = []
        for start in range(0, max(1, len(self.queries)), _AT_ONCE):
            some = self.queries[start : start + _AT_ONCE]
            found.append(segment.search(some, K, self.allowed, effort, in_passing=True)[1])
        return estimate(shares(np.concatenate(found), self.truth))


def questions(segment: Segment, queries: Floats, allowed: Allowed | None = None) -> Questions:
    """``queries`` (m, dimension) with their exact answers."""
    return Questions(queries, segment.exact(queries, K, allowed, in_passing=True)[1], allowed)


def asked_of(segment: Segment, real: Floats, allowed: Allowed | None = None, count: int = SAMPLE) -> list[Questions]:
    """What the segment is measured with: stand-ins for queries, and ``real`` (m, dimension) ones where there are
    enough. It has its kind, and may be without codes yet."""
    asked = [questions(segment, stand_ins(segment.vectors, segment.kind, len(segment), count), allowed)]
    if len(real) >= FEWEST:
        asked.append(questions(segment, real[-count:], allowed))
    return asked


def recall_of(segment: Segment, effort: Effort | None, asked: Sequence[Questions]) -> Recall:
    """What ``effort`` finds of the answers to the questions that it does worst with."""
    return min((each.recall(segment, effort) for each in asked), key=lambda recall: recall.low)


def tuned(segment: Segment, target: float, asked: Sequence[Questions], least: Effort | None = None) -> Segment | None:
    """The segment with the least effort, from ``least`` on, that reaches recall@10 of ``target`` with 95 % confidence;
    None: none does."""
    for effort in KINDS[segment.kind].efforts(segment.codes):
        if least is None or (effort.depth, effort.widen) >= (least.depth, least.widen):
            recall = recall_of(segment, effort, asked)
            if recall.low >= target:
                return replace(segment, effort=effort, recall=recall)
    return None


def stand_ins(vectors: Floats, kind: str, among: int, count: int = SAMPLE, seed: int = 0) -> Floats:
    """``count`` stand-ins (count, dimension), or as many as there can be, for queries to an index of this ``kind`` of
    ``among`` vectors: each is about two thirds of one of the ``vectors`` (n, dimension) and a third of another.

    A vector itself is found too easily, for a graph leads straight to its neighbours, and so is what is nearer to one.
    What lies between two is harder to find in a graph the more there are, and sentences are not, while in lists it is
    the other way round: the shares are those with which as much is found of both (docs/indexes.md). Of equal vectors
    only one is taken: where most are equal, they must not hide that the others are not found.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(vectors), min(10 * count, len(vectors)), replace=False)
    several = rows_of(vectors, np.sort(chosen))
    first = np.sort(np.unique([hash(row.tobytes()) for row in several], return_index=True)[1])
    rows = several[first[:: max(1, len(first) // count)][:count]]
    decades = math.log10(among)
    other = np.float32(_OTHER_OF_LISTS + _OTHER_OF_LISTS_PER_DECADE * max(0, decades - _OTHER_OF_LISTS_FROM))
    if kind == HNSW8.name:
        other = np.float32(max(_OTHER - _OTHER_PER_DECADE * decades, _OTHER_LEAST))
    mixed = (1 - other) * rows + other * several[rng.integers(0, len(several), len(rows))]
    length = np.linalg.norm(mixed, axis=1, keepdims=True)
    result: Floats = (mixed / np.maximum(length, 1e-9)).astype(np.float32)
    return result
