"""Rows that no segment holds yet: in memory, searched exactly. A small collection has no others."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from embedsvc.vectors.recall import Floats, products
from embedsvc.vectors.segment import Mask, RowIds, best, by_row


@dataclass(slots=True)
class _Room:
    """Arrays with room at the end, which the versions of a :class:`Fresh` that follow each other share."""

    ids: RowIds
    vectors: Floats
    used: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def append(self, at: int, ids: RowIds, vectors: Floats) -> bool:
        """Writes behind the first ``at`` rows; False where another version has done so already, or it is full."""
        if not len(ids):
            return True  # who gave the arrays may have kept them from being written
        with self.lock:
            if at != self.used or at + len(ids) > len(self.ids):
                return False
            self.ids[at : at + len(ids)] = ids
            self.vectors[at : at + len(ids)] = vectors
            self.used += len(ids)
            return True


@dataclass(frozen=True, slots=True, eq=False)
class Fresh:
    """An immutable value: the first ``count`` rows of ``room``, but for those that have gone (``alive`` (count,))."""

    room: _Room
    count: int
    alive: Mask
    distinct: bool

    @classmethod
    def empty(cls, dimension: int) -> Fresh:
        return cls(_Room(np.empty(0, np.int64), np.empty((0, dimension), np.float32), 0), 0, np.empty(0, bool), True)

    @property
    def row_ids(self) -> RowIds:
        return self.room.ids[: self.count]

    @property
    def vectors(self) -> Floats:
        return self.room.vectors[: self.count]

    def __len__(self) -> int:
        return int(np.count_nonzero(self.alive))

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes, room for more rows among them."""
        return self.room.ids.nbytes + self.room.vectors.nbytes + self.alive.nbytes

    def grew_from(self, before: Fresh) -> bool:
        """Whether the rows of ``before`` are its first ones."""
        return self.room is before.room and self.count >= before.count

    def rows(self) -> tuple[RowIds, Floats]:
        """Row ids (n,) and vectors (n, dimension) of those that are there."""
        if self.alive.all():
            return self.row_ids, self.vectors
        return self.row_ids[self.alive], self.vectors[self.alive]

    def changed(self, row_ids: RowIds, vectors: Floats, gone: RowIds) -> Fresh:
        """Without the rows ``gone``, and with ``row_ids`` (n,) at ``vectors`` (n, dimension), both its own from
        now on. Adding n rows costs about as much as n rows, however many there are already."""
        alive = self.alive & ~np.isin(self.row_ids, gone) if self.count and len(gone) else self.alive
        room, count = self.room, self.count
        if count > 2 * np.count_nonzero(alive) or not room.append(count, row_ids, vectors):
            kept_ids, kept_vectors = self.row_ids[alive], self.vectors[alive]
            count = len(kept_ids)
            if count:
                size = max(1024, 2 * (count + len(row_ids)))
                room = _Room(np.empty(size, np.int64), np.empty((size, vectors.shape[1]), np.float32), count)
                room.ids[:count], room.vectors[:count] = kept_ids, kept_vectors
                room.append(count, row_ids, vectors)
            else:
                room = _Room(row_ids, vectors, len(row_ids))
            alive = np.ones(count, bool)
        distinct = self.distinct and len(np.unique(row_ids)) == len(row_ids)
        return Fresh(room, count + len(row_ids), np.concatenate([alive, np.ones(len(row_ids), bool)]), distinct)

    def search(self, queries: Floats, k: int, passed: Mask | None) -> tuple[RowIds, Floats]:
        """As :meth:`Segment.search`, exact. ``passed`` (count,): which rows a filter lets through."""
        allowed = self.alive if passed is None else self.alive & passed
        scores = products(queries, self.vectors)
        if not allowed.all():
            scores[:, ~allowed] = -np.inf
        ids, scores = best(np.broadcast_to(self.row_ids, scores.shape), scores, k, distinct=self.distinct)
        return np.where(scores == -np.inf, -1, ids), scores

    def scores(self, query: Floats, row_ids: RowIds) -> Floats:
        """Cosines (n,) of these rows with ``query``, of several vectors the best; -inf for one that is not here."""
        here = np.flatnonzero(self.alive & np.isin(self.row_ids, row_ids))
        return by_row(row_ids, self.row_ids[here], self.vectors[here] @ query)
