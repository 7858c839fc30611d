"""What a filter lets through, made ready for searching, and searched as well as all the rows are.

Few rows are all scored. Of many, a search by the codes may miss what an unfiltered one would find, above all where what
passes lies together and far from the query. So it is used only with an effort that was measured to reach the target for
these very rows; until then, all that pass are scored.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from embedsvc.vectors.background import Background
from embedsvc.vectors.index import Among, VectorIndex
from embedsvc.vectors.kinds import KINDS, Effort, bare_codes
from embedsvc.vectors.measuring import asked_of, recall_of
from embedsvc.vectors.recall import Floats
from embedsvc.vectors.segment import Allowed, Copied, RowIds, Segment

log = logging.getLogger(__name__)

_KEPT = 32
_SAMPLE = 500
_SCANS = (3, 10, 30, 100)
_SCAN_SECONDS = 5e-9, 1.5e-7
"""About what it costs to look whether a code is allowed, and to fetch and score one."""
_COPIED_SECONDS = 2.5e-8
"""About what it costs to score a code among others that are all allowed."""
_VECTOR_SECONDS = 3e-7
"""About what it costs to fetch and score a vector; most of it is waiting for memory."""
_CHANGED = 0.1
"""What was measured stands until the share of rows that pass has changed by so much."""

_background = Background("filters")


def fitted(segment: Segment, allowed: Allowed, target: float, real: Floats, memory: float) -> Allowed:
    """The allowed rows with what finds them with recall@10 of ``target`` at the least cost, for stand-ins for queries
    and, where there are enough, ``real`` (m, dimension) ones; as they were where nothing does: score them all. Their
    codes may be copied, to so many bytes of ``memory``."""
    asked = asked_of(segment, real, allowed, _SAMPLE)
    for option in _options(segment, allowed, memory):
        if recall_of(segment, option.effort, [replace(each, allowed=option) for each in asked]).low >= target:
            return option
    return allowed


def _options(segment: Segment, allowed: Allowed, memory: float) -> Iterator[Allowed]:
    """Deeper and deeper searches, while these cost less than looking at every code, or at all vectors that pass."""
    passing, count = allowed.count, len(segment)
    exact, copied = passing * _VECTOR_SECONDS, None
    fits = passing * (segment.vectors.shape[1] + 8) <= memory
    scan = passing * _COPIED_SECONDS if fits else count * _SCAN_SECONDS[0] + passing * _SCAN_SECONDS[1]
    depth = segment.effort.depth
    while depth and depth * KINDS[segment.kind].step_seconds(count) < min(scan, exact) and depth <= count:
        yield replace(allowed, effort=replace(segment.effort, depth=depth))
        depth += depth // 2 + 1
    if scan < exact:
        if fits:
            positions = np.flatnonzero(allowed.mask)
            copied = Copied(positions, bare_codes(segment.vectors, positions))
        for widen in _SCANS:
            yield replace(allowed, effort=Effort(0, widen), copied=copied)


@dataclass(slots=True, eq=False)
class _Filter:
    """What is known of one filter. ``lock`` is held while it is evaluated, so that many who ask for it do that once."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    index: VectorIndex | None = None
    among: Among | None = None
    """What passes of ``index``."""
    times: int = 0
    """How often it was asked for."""
    fitted: dict[str, Allowed] = field(default_factory=dict)
    """By segment: what was found to do, with the rows that passed then."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        parts = () if self.among is None else self.among.parts
        masks = {id(allowed.mask): allowed.nbytes for allowed in (*parts, *self.fitted.values())}
        copied = (allowed.copied for allowed in self.fitted.values())
        return sum(masks.values()) + sum(codes.nbytes for codes in copied if codes is not None)


class Filters:
    """The filters asked for last, ready for an index; shared by threads."""

    def __init__(self, target: float, real: Callable[[], Floats], memory: float) -> None:
        """``real`` gives the queries (m, dimension) that were asked before. ``memory``: bytes that what is kept of all
        filters may take; one is kept in any case."""
        self._target = target
        self._memory = memory
        self._real = real
        self._lock = threading.Lock()
        self._index: VectorIndex | None = None
        """The one asked of last."""
        self._filters: dict[str, _Filter] = {}
        """By the condition's text; the one asked for last comes last."""
        self._fitting = False

    def among(self, index: VectorIndex, condition: str, matching: Callable[[int], RowIds]) -> Among:
        """What of ``index`` passes the filter called ``condition``. Where that is not known, ``matching`` gives the row
        ids that do, of rows that changed since a version (0: of all)."""
        each = self._filter(index, condition)
        with each.lock:
            before, was = each.index, each.among  # which may be let go of at any moment
            if before is index and was is not None:
                return was
            if before is None or was is None or not index.grew_from(before):
                among = index.among(matching(0))
            else:
                among = index.among_since(before, was, matching(before.version))
            among = _with_efforts(each, index, among)
            with self._lock:
                # Not of one who still sees an older version, or segments that nobody else does any more.
                is_newest = before is None or index.version >= before.version
                if is_newest and self._index is not None and _carries_on(self._index, index):
                    each.index, each.among = index, among
        self._make_room()
        return among

    def asked(self, index: VectorIndex, condition: str) -> None:
        """A query with this filter was answered. One that is asked for again is measured in the background, one at a
        time."""
        each = self._filter(index, condition)
        each.times += 1
        if each.times < 2 or self._fitting:
            return
        if not each.lock.acquire(blocking=False):  # another query has it evaluated: the next one will see
            return
        try:
            if not any(_unknown(each, each.index, each.among)):
                return
        finally:
            each.lock.release()
        with self._lock:
            if self._fitting:
                return
            self._fitting = True
        _background.submit(lambda: self._fit(condition, each))

    def distrust(self) -> None:
        """What was measured does not hold: all rows that pass are scored until each filter is measured anew."""
        with self._lock:
            self._filters.clear()

    def turn_to(self, index: VectorIndex | None) -> None:
        """Searches use this ``index`` from now on, None: none. What is kept of one with other segments goes."""
        with self._lock:
            self._turn_to(index)

    def _turn_to(self, index: VectorIndex | None) -> None:
        before, self._index = self._index, index
        if index is None or (before is not None and not _carries_on(index, before)):
            self._let_go(index)

    def _filter(self, index: VectorIndex, condition: str) -> _Filter:
        with self._lock:
            if self._index is None or index.version > self._index.version:
                self._turn_to(index)
            each = self._filters.pop(condition) if condition in self._filters else _Filter()
            self._filters[condition] = each
            return each

    def _make_room(self) -> None:
        """Forgets the filters that were not asked for for longest."""
        with self._lock:
            taken = sum(each.nbytes for each in self._filters.values())
            while len(self._filters) > 1 and (len(self._filters) > _KEPT or taken > self._memory):
                taken -= self._filters.pop(next(iter(self._filters))).nbytes

    def _let_go(self, index: VectorIndex | None) -> None:
        """Of indexes whose segments are others: they would stay in memory, and on the disk, until their filters are
        asked for again."""
        names = set[str]() if index is None else {part.segment.name for part in index.parts}
        for each in self._filters.values():
            each.index = each.among = None
            each.fitted = {name: allowed for name, allowed in each.fitted.items() if name in names}

    @property
    def nbytes(self) -> int:
        """Bytes of memory that what is kept takes."""
        with self._lock:
            return sum(each.nbytes for each in self._filters.values())

    def _fit(self, condition: str, each: _Filter) -> None:
        try:
            with each.lock:
                index, among = each.index, each.among
                unknown = _unknown(each, index, among)
            if index is None or among is None:
                return
            for part, allowed, is_unknown in zip(index.parts, among.parts, unknown, strict=True):
                if is_unknown:
                    room = self._memory - self.nbytes
                    found = fitted(part.segment, allowed, self._target, self._real(), room)
                    with each.lock:
                        each.fitted = {**each.fitted, part.segment.name: found}  # others may be looking at it
            with each.lock:
                index, among = each.index, each.among  # of a later index, perhaps, by now
                if index is not None and among is not None:
                    each.among = _with_efforts(each, index, among)
        except Exception:  # the rows are all scored, as before
            log.exception("a filter could not be measured: %s", condition)
        finally:
            self._fitting = False


def _carries_on(index: VectorIndex, before: VectorIndex) -> bool:
    """Whether it has the rows of ``before`` at the same places, in the very same segments."""
    segments, were = ([part.segment for part in each.parts] for each in (index, before))
    return segments == were and index.grew_from(before)


def _known(each: _Filter, segment: Segment, allowed: Allowed) -> Allowed | None:
    """``allowed`` with what was found to do for the rows that passed before, while that stands."""
    found = each.fitted.get(segment.name)
    if found is None or abs(allowed.count - found.count) > _CHANGED * found.count:
        return None
    copied = found.copied
    if copied is not None:
        there = allowed.mask[copied.positions]
        if np.count_nonzero(there) < allowed.count:  # others pass by now: rows were replaced
            return None
        copied = replace(copied, bitmap=None if there.all() else np.packbits(there, bitorder="little"))
    return replace(allowed, effort=found.effort, copied=copied)


def _unknown(each: _Filter, index: VectorIndex | None, among: Among | None) -> list[bool]:
    """Of each segment, whether it has to be measured. ``index`` and ``among`` are those of ``each``, read once: whoever
    puts another index in its place lets go of them at any moment."""
    if index is None or among is None:
        return []
    return [
        allowed.effort is None
        and allowed.positions is None
        and part.segment.codes is not None
        and _known(each, part.segment, allowed) is None
        for part, allowed in zip(index.parts, among.parts, strict=True)
    ]


def _with_efforts(each: _Filter, index: VectorIndex, among: Among) -> Among:
    known = (_known(each, part.segment, allowed) for part, allowed in zip(index.parts, among.parts, strict=True))
    return replace(among, parts=tuple(new or old for new, old in zip(known, among.parts, strict=True)))
