"""The vector index of a collection as an immutable value: searches never wait for changes, nor see half of one.

Rows lie in segments, which were built once and are only read, or are *fresh*: in memory, searched exactly. A small
collection has only fresh rows, and its index is exact. :func:`fold` makes a segment of the fresh ones and joins it with
segments that are not much larger, so that a row is indexed again a few times while a collection grows and there are
never many segments (the log-structured merge of O'Neil et al., Acta Informatica 1996, as in Lucene).
Vectors are of unit length, so the inner product is the cosine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedsvc.errors import StorageFailure, UsageError
from embedsvc.vectors.building import build_segment
from embedsvc.vectors.fresh import Fresh
from embedsvc.vectors.gpu import search
from embedsvc.vectors.kinds import blocks, carry_on
from embedsvc.vectors.mapping import BLOCK, let_go
from embedsvc.vectors.measuring import asked_of, recall_of, tuned
from embedsvc.vectors.planner import DISK, Goal, plan
from embedsvc.vectors.recall import EXACT, Floats, Recall
from embedsvc.vectors.segment import FLAT, Allowed, Mask, RowIds, Segment, best

_GROWTH = 4
"""A fold takes in the segments that are up to so many times as large as what it has already."""
_DEAD_SHARE = 0.2
"""A segment with more dead rows than this is built anew."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A segment, and which of its rows are still there; ``alive`` None: all."""

    segment: Segment
    alive: Allowed | None

    def __len__(self) -> int:
        return len(self.segment) if self.alive is None else self.alive.count

    def rows(self) -> Iterator[tuple[RowIds, Floats]]:
        """Row ids and vectors of those that are there, some at a time; only these are kept in memory."""
        for start in range(0, len(self.segment), BLOCK):
            part = slice(start, start + BLOCK)
            ids, vectors = self.segment.row_ids[part], self.segment.vectors[part]
            if self.alive is None:
                yield ids, vectors
            else:
                yield ids[self.alive.mask[part]], vectors[self.alive.mask[part]]
            let_go(self.segment.vectors)


@dataclass(frozen=True, slots=True, eq=False)
class Among:
    """The rows that a filter lets through, as :meth:`VectorIndex.among` makes it of row ids, for that index only."""

    parts: tuple[Allowed, ...]
    fresh: Mask


@dataclass(frozen=True, slots=True, eq=False)
class VectorIndex:
    """See the module. ``version`` is the store's; ``folded`` the version at which no row was fresh."""

    dimension: int
    version: int
    folded: int
    parts: tuple[Part, ...]
    fresh: Fresh

    @classmethod
    def empty(cls, dimension: int) -> VectorIndex:
        return cls(dimension, 0, 0, (), Fresh.empty(dimension))

    def __len__(self) -> int:
        """Vectors that can be found."""
        return sum(map(len, self.parts)) + len(self.fresh)

    @property
    def kind(self) -> str:
        """That of its largest segment; ``flat``, which is exact, where there is none."""
        return max(self.parts, key=len).segment.kind if self.parts else "flat"

    @property
    def is_exact(self) -> bool:
        """Whether every vector is looked at."""
        return all(part.segment.codes is None for part in self.parts)

    @property
    def recall(self) -> Recall:
        """As measured when the segments were built: of several, each counts by its rows, the fresh ones as exact."""
        if not self.parts:
            return EXACT
        weights = np.array([*map(len, self.parts), len(self.fresh)]) / max(1, len(self))
        measured = [*(part.segment.recall for part in self.parts), EXACT]
        mean, low, high = (
            float(weights @ [getattr(recall, name) for recall in measured]) for name in ("mean", "low", "high")
        )
        return Recall(mean, low, high, sum(recall.sample for recall in measured))

    @property
    def build_seconds(self) -> float:
        return sum(part.segment.build_seconds for part in self.parts)

    @property
    def bytes_resident(self) -> float:
        """Bytes of memory that searching takes; what is mapped from the disk does not count."""
        return sum(part.segment.bytes_resident for part in self.parts) + self.fresh.nbytes

    @property
    def bytes_per_vector(self) -> float:
        return self.bytes_resident / max(1, len(self))

    def among(self, row_ids: RowIds) -> Among:
        """``row_ids`` (n,) made ready for :meth:`search`; worth keeping as long as this index is."""
        parts = []
        for part in self.parts:
            mask = np.isin(part.segment.row_ids, row_ids)
            parts.append(Allowed.of(mask if part.alive is None else mask & part.alive.mask))
        return Among(tuple(parts), np.isin(self.fresh.row_ids, row_ids))

    def grew_from(self, before: VectorIndex) -> bool:
        """Whether it has the rows of ``before``, but for those that went, at the same places."""
        if self.version < before.version:
            return False
        same = [part.segment.name for part in self.parts] == [part.segment.name for part in before.parts]
        return same and self.fresh.grew_from(before.fresh)

    def among_since(self, before: VectorIndex, among: Among, row_ids: RowIds) -> Among:
        """What passes of this index, which grew from ``before`` where ``among`` passed: also the ``row_ids`` (n,) of
        rows that are new or replaced since then."""
        parts = []
        for part, was, allowed in zip(self.parts, before.parts, among.parts, strict=True):
            if part.alive is not None and part.alive is not was.alive:
                allowed = Allowed.of(allowed.mask & part.alive.mask)
            parts.append(allowed)
        later = np.isin(self.fresh.row_ids[before.fresh.count :], row_ids)
        return Among(tuple(parts), np.concatenate([among.fresh, later]))

    def few(self, among: Among, most: int) -> RowIds | None:
        """The ids of the rows that ``among`` has, where they are at most ``most``."""
        fresh = self.fresh.alive & among.fresh
        if sum(allowed.count for allowed in among.parts) + np.count_nonzero(fresh) > most:
            return None
        found = [part.segment.row_ids[allowed.mask] for part, allowed in zip(self.parts, among.parts, strict=True)]
        return np.unique(np.concatenate([*found, self.fresh.row_ids[fresh]]))

    def passing(self, row_ids: RowIds, among: Among) -> Mask:
        """Which of these rows (n,) ``among`` has."""
        passes = np.isin(row_ids, self.fresh.row_ids[self.fresh.alive & among.fresh])
        for part, allowed in zip(self.parts, among.parts, strict=True):
            places = part.segment.places(row_ids)
            here = places >= 0
            passes[here] |= allowed.mask[places[here]]
        return passes

    def search(self, query: Floats, k: int, among: Among | None = None) -> tuple[RowIds, Floats]:
        """The ``k`` nearest rows of one ``query`` (dimension,): row ids and cosines, best first.

        A row that has several vectors counts once, with its best. ``among`` restricts the search; the recall is not
        lower for it.
        """
        ids, scores = self.search_many(query[None], k, among)
        found = ids[0] >= 0
        return ids[0][found], scores[0][found]

    def search_many(self, queries: Floats, k: int, among: Among | None = None) -> tuple[RowIds, Floats]:
        """As :meth:`search`, of ``queries`` (m, dimension): (m, at most k), -1 and -inf where there are no more."""
        allowed: Sequence[Allowed | None] = [part.alive for part in self.parts] if among is None else among.parts
        found = [search(part.segment, queries, k, rows) for part, rows in zip(self.parts, allowed, strict=True)]
        if self.fresh.count or not found:
            found.append(self.fresh.search(queries, k, None if among is None else among.fresh))
        if len(found) == 1:
            return found[0]
        ids, scores = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        return best(ids, scores, k, distinct=True)

    def exact(self, queries: Floats, k: int, among: Among | None = None) -> tuple[RowIds, Floats]:
        """As :meth:`search_many`, by looking at every vector that may be found."""
        allowed: Sequence[Allowed | None] = [part.alive for part in self.parts] if among is None else among.parts
        found = [part.segment.exact(queries, k, rows) for part, rows in zip(self.parts, allowed, strict=True)]
        found.append(self.fresh.search(queries, k, None if among is None else among.fresh))
        ids, scores = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        return best(ids, scores, k, distinct=True)

    def scores(self, query: Floats, row_ids: RowIds) -> Floats:
        """Exact cosines of these rows (n,) with ``query`` (dimension,); NaN for a row that is not in the index."""
        scores = self.fresh.scores(query, row_ids)
        for part in self.parts:
            alive = None if part.alive is None else part.alive.mask
            scores = np.maximum(scores, part.segment.scores(query, row_ids, alive))
        scores[scores == -np.inf] = np.nan
        return scores


def apply_changes(index: VectorIndex, row_ids: RowIds, vectors: Floats, deleted: RowIds, version: int) -> VectorIndex:
    """The index at a later store version: ``row_ids`` (n,) with ``vectors`` are new or replaced, ``deleted`` are gone.

    Costs as much as the change is large, but for a byte for each row of a segment that lost some. ``index`` goes on
    answering as before.
    """
    gone = np.union1d(row_ids, deleted)
    parts = []
    for part in index.parts:
        positions = part.segment.locate(gone)
        if len(positions):
            mask = np.ones(len(part.segment), bool) if part.alive is None else part.alive.mask.copy()
            mask[positions] = False
            part = Part(part.segment, alive_rows(part.segment, mask))
        parts.append(part)
    vectors = vectors.reshape(-1, index.dimension)
    if not all(np.isfinite(some).all() for some in blocks(vectors)):
        vectors = np.nan_to_num(vectors, nan=0, posinf=0, neginf=0)
    fresh = index.fresh.changed(row_ids, vectors, gone)
    return replace(index, version=version, parts=tuple(parts), fresh=fresh)


def alive_rows(segment: Segment, mask: Mask) -> Allowed:
    """Only these rows of a segment are there: what went is met but not found, so the search tries harder by as much."""
    share = max(1 - _DEAD_SHARE, np.count_nonzero(mask) / len(mask))
    return Allowed.of(mask, replace(segment.effort, depth=math.ceil(segment.effort.depth / share)))


def needs_fold(index: VectorIndex, goal: Goal) -> bool:
    """Whether there is enough beside the segments, or dead in them, to be worth a build."""
    return len(index.fresh) > goal.exact or bool(_worn(index, goal))


def _worn(index: VectorIndex, goal: Goal, dead_share: float = _DEAD_SHARE) -> list[Part]:
    """Segments with too many dead rows, or that were built for a lower target."""
    return [
        part
        for part in index.parts
        if len(part) < (1 - dead_share) * len(part.segment) or part.segment.recall.low < goal.target_recall
    ]


def with_segments(index: VectorIndex, changed: Mapping[str, Segment]) -> VectorIndex:
    """The index with other efforts in the segments of these names."""
    parts = []
    for part in index.parts:
        segment = changed.get(part.segment.name)
        if segment is not None:
            part = Part(segment, None if part.alive is None else alive_rows(segment, part.alive.mask))
        parts.append(part)
    return replace(index, parts=tuple(parts))


def raised(index: VectorIndex, target: float, real: Floats) -> dict[str, Segment]:
    """The segments with more effort, for ``real`` queries (m, dimension) find less than ``target`` with theirs. One
    that no effort helps is searched exactly, and keeps the recall that its codes had: it is due to be built anew."""
    changed = {}
    for part in index.parts:
        segment = part.segment
        if segment.codes is not None:
            asked = asked_of(segment, real)
            harder = tuned(segment, target, asked, least=segment.effort)
            changed[segment.name] = harder or replace(
                segment, kind=FLAT, codes=None, recall=recall_of(segment, segment.effort, asked)
            )
    return changed


def fold(
    index: VectorIndex,
    goal: Goal,
    folder: Path,
    real: Floats | None = None,
    go_on: Callable[[], None] = carry_on,
    *,
    dead_share: float = _DEAD_SHARE,
) -> VectorIndex:
    """The same rows, with the fresh ones in a segment, under ``folder``, that takes in those not much larger and those
    with more than ``dead_share`` dead rows. Old segments stay on the disk, and ``index`` goes on answering. ``real``,
    ``go_on``: as in :func:`build`.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    joined, size = _worn(index, goal, dead_share), len(index.fresh)
    size += sum(map(len, joined))
    for part in sorted(index.parts, key=len):
        if part not in joined and len(part) <= _GROWTH * size:
            joined.append(part)
            size += len(part)
    # Rows that keep coming have rising ids: the segment needs no order of its own then.
    joined.sort(key=lambda part: int(part.segment.row_ids[0]))
    kept = tuple(part for part in index.parts if part not in joined)
    fresh = Fresh.empty(index.dimension)
    if not size:
        return replace(index, parts=kept, fresh=fresh, folded=index.version)

    def rows() -> Iterator[tuple[RowIds, Floats]]:
        for part in joined:
            yield from part.rows()
        yield index.fresh.rows()

    made = build(rows(), size, index.dimension, goal, folder, real, go_on, beside=sum(map(len, kept)))
    return replace(index, parts=(*kept, Part(made, None)), fresh=fresh, folded=index.version)


def build(
    rows: Iterator[tuple[RowIds, Floats]],
    count: int,
    dimension: int,
    goal: Goal,
    folder: Path,
    real: Floats | None = None,
    go_on: Callable[[], None] = carry_on,
    *,
    beside: int = 0,
) -> Segment:
    """A segment of ``count`` rows, of the kind that fits all of the collection: these and the ones ``beside`` them.

    ``real``: queries (m, dimension) that were asked before, to measure its recall with. ``go_on`` is called now and
    then; what it raises ends the work and leaves nothing behind.

    Raises:
        StorageFailure: the disk is full or not writable. UsageError: no kind fits the memory.
    """
    planned = plan(max(count + beside, goal.exact + 1), dimension, goal)
    if planned.kind == DISK:
        raise UsageError(f"the codes of {count + beside:,} vectors are past index_memory_mb")
    try:
        real = np.empty((0, dimension), np.float32) if real is None else real
        kinds = [kind for kind in planned.kinds if kind != DISK]
        return build_segment(rows, count, dimension, kinds, goal.target_recall, folder, real, go_on)
    except (OSError, RuntimeError) as error:
        raise StorageFailure(
            f"The vector index could not be written under {folder}: {error}. "
            "Nothing is lost, it is built again from the store."
        ) from error


def of_segment(segment: Segment, version: int) -> VectorIndex:
    """The index of one segment that holds all of a store version."""
    dimension = segment.vectors.shape[1]
    return VectorIndex(dimension, version, version, (Part(segment, None),), Fresh.empty(dimension))
