"""A segment: many vectors that were indexed together, once, and never change.

Compressed codes in a FAISS index find candidates; the vectors themselves, memory-mapped, give their exact scores, so
what a search returns is always a cosine and never an estimate. Rows that went since are masked out, not removed.
"""

from __future__ import annotations

import functools
import math
import mmap
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsvc.config import memory_bytes
from embedsvc.vectors.faiss_module import faiss_module
from embedsvc.vectors.kinds import KINDS, Bitmap, Effort, Positions, scan_codes
from embedsvc.vectors.mapping import let_go, rows_of
from embedsvc.vectors.recall import Floats, K, Recall, nearest

RowIds = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

FLAT = "flat"
"""Kind of a segment without codes: every vector is looked at."""
_EXACT_ROWS = 4096
"""Up to so many allowed rows are all scored: 1 ms, and exact."""
_BLOCK = 10_000
_MEMORY_PARTS = 8
"""Vectors that take more than one of so many parts of the memory are not expected to be in it: asking for them costs
1 us each where they are (docs/indexes.md)."""


@dataclass(frozen=True, slots=True, eq=False)
class Copied:
    """Codes of some of a segment's rows, side by side: looking at all of them is quicker than picking them out of the
    segment's own. ``positions`` (n,) in the segment; ``bitmap`` of those that are still there, None: all."""

    positions: Positions
    codes: Any
    bitmap: Bitmap | None = None

    @property
    def nbytes(self) -> int:
        return self.positions.nbytes + len(self.positions) * int(self.codes.d)

    def search(self, queries: Floats, count: int) -> Positions:
        """As :func:`scan_codes`, in positions of the segment."""
        found = scan_codes(self.codes, queries, min(count, len(self.positions)), self.bitmap)
        return np.where(found >= 0, self.positions[found], -1)


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """Which positions (n,) of a segment may be found. ``positions`` are they where they are few, else None.

    ``effort``: what finds them well enough by their codes (those ``copied``, where they are), as measured for these
    very rows; None: not known, they are all scored.
    """

    mask: Mask
    bitmap: Bitmap
    count: int
    positions: Positions | None
    effort: Effort | None
    copied: Copied | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory, but for those of ``copied``."""
        return self.mask.nbytes + self.bitmap.nbytes + (0 if self.positions is None else self.positions.nbytes)

    @classmethod
    def of(cls, mask: Mask, effort: Effort | None = None) -> Allowed:
        count = int(np.count_nonzero(mask))
        few = np.flatnonzero(mask) if count <= _EXACT_ROWS else None
        return cls(mask, np.packbits(mask, bitorder="little"), count, few, effort)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Segment:
    """``row_ids`` (n,) of the ``vectors`` (n, dimension); a row with several vectors has its id several times, at most
    ``copies`` times. ``order`` sorts ``row_ids``, None where they are sorted. ``codes``: FAISS's index over the
    positions, None for ``flat``. ``name`` is its folder's."""

    name: str
    kind: str
    row_ids: RowIds
    order: npt.NDArray[np.intp] | None
    copies: int
    vectors: Floats
    codes: Any
    effort: Effort
    recall: Recall
    build_seconds: float

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def bytes_resident(self) -> float:
        """Bytes of memory that its codes and ``order`` take; vectors and row ids are mapped from the disk."""
        order = 0 if self.order is None else self.order.nbytes
        if self.codes is None:
            return order
        return order + len(self) * KINDS[self.kind].bytes_per_vector(len(self), self.vectors.shape[1])

    def locate(self, row_ids: RowIds) -> Positions:
        """The positions of all vectors of these rows, sorted."""
        left = np.searchsorted(self.row_ids, row_ids, "left", sorter=self.order)
        right = np.searchsorted(self.row_ids, row_ids, "right", sorter=self.order)
        places = left[left < right] if self.copies == 1 else np.concatenate([left[:0], *map(np.arange, left, right)])
        return np.sort(places if self.order is None else self.order[places])

    def places(self, row_ids: RowIds) -> Positions:
        """Of each of these rows (n,), the position of a vector of it; -1 where it is not here."""
        at = np.minimum(np.searchsorted(self.row_ids, row_ids, sorter=self.order), len(self) - 1)
        found = at if self.order is None else self.order[at]
        return np.where(self.row_ids[found] == row_ids, found, -1)

    def search(
        self,
        queries: Floats,
        k: int,
        allowed: Allowed | None,
        effort: Effort | None = None,
        *,
        in_passing: bool = False,
    ) -> tuple[RowIds, Floats]:
        """Row ids and cosines (queries, at most k), best first, of the allowed rows nearest to ``queries`` (m, d);
        -1 and -inf where there are no more. ``effort``: another than the one that met the target. ``in_passing``: of
        the vectors that are read, mapped ones are not kept in memory, which takes longer."""
        if allowed is not None and allowed.positions is not None:
            positions = np.broadcast_to(allowed.positions, (len(queries), len(allowed.positions)))
            return self.ranked(queries, positions, k, in_passing=in_passing)
        effort = effort or (self.effort if allowed is None else allowed.effort)
        if self.codes is None or effort is None:
            return self.exact(queries, k, allowed, in_passing=in_passing)
        positions = self._candidates(queries, k * self.copies, allowed, effort)
        return self.ranked(queries, positions, k, in_passing=in_passing)

    def ranked(
        self, queries: Floats, positions: Positions, k: int, *, in_passing: bool = False
    ) -> tuple[RowIds, Floats]:
        """As :meth:`search`, of the vectors at ``positions`` (m, count), -1 where there is none."""
        scores = self._scored(queries, positions, in_passing)
        if self.order is None and self.copies == 1:
            positions, scores = _foremost(positions, scores, k)
            return np.where(positions >= 0, self.row_ids[positions], -1), scores
        ids = np.where(positions >= 0, self.row_ids[positions], -1)
        return best(ids, scores, k, distinct=self.copies == 1)

    def _candidates(self, queries: Floats, k: int, allowed: Allowed | None, effort: Effort) -> Positions:
        """Positions (m, count) of what the codes say is nearest, -1 where there is no more."""
        kind, bitmap = KINDS[self.kind], None if allowed is None else allowed.bitmap
        there = len(self) if allowed is None else allowed.count
        # Measured at ten: for a lower k not less is done, for a higher one more.
        more = math.sqrt(max(1, k / K))
        count = min(max(k, int(K * effort.widen * more)), there)
        if allowed is not None and allowed.copied is not None:
            return allowed.copied.search(queries, count)
        if effort.depth:
            found = kind.search(self.codes, queries, count, int(effort.depth * more), bitmap)
            short = found[:, min(k, count) - 1] < 0
            if short.any():
                found[short] = kind.scan(self.codes, queries[short], count, bitmap)
            return found
        return kind.scan(self.codes, queries, count, bitmap)

    def exact(
        self, queries: Floats, k: int, allowed: Allowed | None, *, in_passing: bool = False
    ) -> tuple[RowIds, Floats]:
        """The exact answer, some of the rows at a time. ``in_passing``: their vectors are not kept in memory."""
        positions = None if allowed is None else np.flatnonzero(allowed.mask)
        there = len(self) if positions is None else len(positions)
        found = none_found(queries)
        for start in range(0, there, _BLOCK):
            part: slice | Positions = slice(start, start + _BLOCK)
            if positions is not None:
                part = positions[part]
            found = nearer(found, queries, self.row_ids[part], self.vectors[part], k, self.copies)
            if in_passing:
                let_go(self.vectors)
        return found

    def _scored(self, queries: Floats, positions: Positions, in_passing: bool) -> Floats:
        """Cosines (m, c) of the vectors at ``positions`` (m, c) with ``queries`` (m, dimension); -inf for -1."""
        faiss = faiss_module()
        if self.vectors.nbytes > _share_of_memory():
            _fetch(self.vectors, positions)
        if in_passing:
            some, places = np.unique(positions, return_inverse=True)
            vectors = rows_of(self.vectors, np.maximum(some, 0))
            copied = replace(self, vectors=vectors)
            scores = copied._scored(queries, places.reshape(positions.shape), in_passing=False)
            scores[positions < 0] = -np.inf
            return scores
        scores = np.empty(positions.shape, np.float32)
        positions, queries = np.ascontiguousarray(positions), np.ascontiguousarray(queries)  # for FAISS
        arrays = (faiss.swig_ptr(each) for each in (scores, queries, self.vectors, positions))
        faiss.fvec_inner_products_by_idx(*arrays, queries.shape[1], *positions.shape)
        scores[positions < 0] = -np.inf
        return scores

    def scores(self, query: Floats, row_ids: RowIds, alive: Mask | None) -> Floats:
        """Exact cosines (n,) of these rows with ``query``, of several vectors the best; -inf where it has none."""
        positions = self.locate(row_ids)
        if alive is not None:
            positions = positions[alive[positions]]
        return by_row(row_ids, self.row_ids[positions], self.vectors[positions] @ query)


@functools.cache
def _share_of_memory() -> int:
    return memory_bytes() // _MEMORY_PARTS


def _fetch(vectors: Floats, positions: Positions) -> None:
    """Has the system read those of the mapped ``vectors`` that are not in memory from the disk, all at once: touched
    one after the other, each would wait for the one before."""
    file = vectors.base
    if not isinstance(vectors, np.memmap) or not isinstance(file, mmap.mmap):
        return
    width = vectors.strides[0]
    starts = vectors.offset + width * np.unique(positions[positions >= 0])
    pages = starts - starts % mmap.PAGESIZE
    for page, end in zip(pages.tolist(), (starts + width).tolist(), strict=True):
        file.madvise(mmap.MADV_WILLNEED, page, end - page)


def none_found(queries: Floats) -> tuple[RowIds, Floats]:
    """Row ids and scores (m, 0), to begin with for ``queries`` (m, dimension)."""
    return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)


def nearer(
    found: tuple[RowIds, Floats], queries: Floats, row_ids: RowIds, vectors: Floats, k: int, copies: int = 1
) -> tuple[RowIds, Floats]:
    """The ``k`` best rows for each of ``queries`` (m, dimension), best first, of those that were ``found`` so far, ids
    and scores (m, at most k), and of ``row_ids`` (n,) with their ``vectors`` (n, dimension), in which an id may stand
    ``copies`` times."""
    scores, at = nearest(queries, vectors, k * copies)
    ids, scores = np.concatenate([found[0], row_ids[at]], axis=1), np.concatenate([found[1], scores], axis=1)
    return best(ids, scores, k, distinct=copies == 1)


def by_row(asked: RowIds, ids: RowIds, scores: Floats) -> Floats:
    """For each of the rows ``asked`` (n,), the best of the ``scores`` (m,) that are its by ``ids`` (m,); -inf: none."""
    result = np.full(len(asked), -np.inf, np.float32)
    order = np.argsort(asked, kind="stable")
    np.maximum.at(result, order[np.searchsorted(asked, ids, sorter=order)], scores)
    return result


def _foremost(positions: Positions, scores: Floats, k: int) -> tuple[Positions, Floats]:
    """As :func:`best`, of positions (m, n) below 2**31, in the order of which their ids are, each once.

    A score and its position make one whole number, which numpy sorts in a tenth of the time that two keys take it.
    """
    bits = scores.view(np.int32)
    falling = np.where(bits < 0, bits & 0x7FFFFFFF, ~bits)  # the order of numbers is that of floats, turned round
    keys = (falling.astype(np.int64) << 32) | (positions & 0xFFFFFFFF)
    if keys.shape[1] > 4 * k:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    keys = np.sort(keys, axis=1)[:, :k]
    falling, positions = (keys >> 32).astype(np.int32), keys.astype(np.int32).astype(np.int64)
    return positions, np.where(falling < 0, ~falling, falling | np.int32(-(2**31))).view(np.float32)


def best(ids: RowIds, scores: Floats, k: int, *, distinct: bool) -> tuple[RowIds, Floats]:
    """Of ids and scores (m, n), the ``k`` best in each line, best first; equal scores in the order of ids, so that the
    same question always gets the same answer. Where ids may repeat (not ``distinct``), each counts once."""
    count = ids.shape[1]
    if distinct and count > 4 * k:
        least = np.partition(scores, count - k, axis=1)[:, count - k, None]
        # As many as the line with the most that tie with its k-th best needs.
        kept = int((scores >= least).sum(axis=1).max())
        chosen = np.argpartition(-scores, min(kept, count) - 1, axis=1)[:, :kept]
        ids, scores = np.take_along_axis(ids, chosen, 1), np.take_along_axis(scores, chosen, 1)
    order = np.lexsort((ids, -scores), axis=-1)
    if distinct:
        order = order[:, :k]
    ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    return (ids, scores) if distinct else _once(ids, scores, k)


def _once(ids: RowIds, scores: Floats, k: int) -> tuple[RowIds, Floats]:
    """The first ``k`` in each line of ids and scores (m, n), best first, but for ids that came before in the line."""
    by_id = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, by_id, 1)
    again = np.zeros(ids.shape, bool)
    np.put_along_axis(again, by_id[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    ids, scores = np.where(again, -1, ids), np.where(again, -np.inf, scores).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
