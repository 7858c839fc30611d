"""What a filter lets through, made ready for searching, and searched as well as all the rows are.

Few rows are all scored. Of many, a search by the codes may miss what an unfiltered one would find, above all where what
passes lies together and far from the query. So it is used only with an effort that was measured to reach the target for
these very rows; until then, all that pass are scored.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from embedsvc.vectors.faiss_module import gently
from embedsvc.vectors.index import Among, VectorIndex
from embedsvc.vectors.kinds import KINDS, Effort, bare_codes
from embedsvc.vectors.measuring import FEWEST, asked_of, recall_of
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
            copied = Copied(positions, bare_codes(segment.vectors[positions]))
        for widen in _SCANS:
            yield replace(allowed, effort=Effort(0, widen), copied=copied)


class Filters:
    """The filters asked for last, ready for an index; shared by threads."""

    def __init__(self, target: float, real: Callable[[], Floats], memory: float) -> None:
        """``real`` gives the queries (m, dimension) that were asked before. ``memory``: bytes that copies of codes may
        take in all."""
        self._target = target
        self._memory = memory
        self._real = real
        self._lock = threading.Lock()
        self._index: VectorIndex | None = None
        self._ready: dict[str, Among] = {}
        """Of ``_index`` only."""
        self._before: dict[str, tuple[VectorIndex, Among]] = {}
        """What passed of indexes that ``_index`` grew from."""
        self._matching = threading.Lock()
        """So that a filter that many ask for is evaluated once."""
        self._times: dict[str, int] = {}
        """How often each filter was asked for; the one asked for last comes last."""
        self._fitted: dict[str, dict[str, Allowed]] = {}
        """By filter and by segment: what was found to do, with the rows that passed then."""
        self._fitting: set[str] = set()
        """Being measured, or not to be measured."""
        self._doubted = False
        self._pool: ThreadPoolExecutor | None = None

    def among(self, index: VectorIndex, condition: str, matching: Callable[[int], RowIds]) -> Among:
        """What of ``index`` passes the filter called ``condition``. Where that is not known, ``matching`` gives the row
        ids that do, of rows that changed since a version (0: of all). A filter that is asked for again is measured
        meanwhile, on a thread of its own."""
        with self._lock:
            if self._index is not index:
                if self._index is not None and index.grew_from(self._index):
                    self._before |= {name: (self._index, among) for name, among in self._ready.items()}
                else:
                    self._before = {}
                self._index, self._ready = index, {}
                names = {part.segment.name for part in index.parts}
                for of_segments in self._fitted.values():
                    for gone in of_segments.keys() - names:
                        del of_segments[gone]
            known = self._ready.get(condition)
        if known is None:
            with self._matching:
                known = self._ready.get(condition) if self._index is index else None
                among = known or self._with_efforts(index, condition, self._evaluated(index, condition, matching))
                if self._index is index:
                    self._ready[condition] = among
        else:
            among = known
        with self._lock:
            times = self._times[condition] = self._times.pop(condition, 0) + 1
            while len(self._times) > _KEPT:
                oldest = next(iter(self._times))
                del self._times[oldest]
                self._ready.pop(oldest, None)
                self._before.pop(oldest, None)
                self._fitted.pop(oldest, None)
            due = times > 1 and condition not in self._fitting and any(self._unknown(index, condition, among))
            if due and (not self._doubted or len(self._real()) >= FEWEST):
                self._fitting.add(condition)
                self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="filter")
                self._pool.submit(self._fit, index, condition, among)
        return among

    def _evaluated(self, index: VectorIndex, condition: str, matching: Callable[[int], RowIds]) -> Among:
        before = self._before.get(condition)
        if before is None or not index.grew_from(before[0]):
            return index.among(matching(0))
        return index.among_since(*before, matching(before[0].version))

    def distrust(self) -> None:
        """What was measured with stand-ins does not hold: until there are enough real queries to measure with, all rows
        that pass are scored."""
        with self._lock:
            self._doubted = True
            self._fitted.clear()
            self._ready.clear()
            self._before.clear()

    def _known(self, condition: str, segment: Segment, allowed: Allowed) -> Allowed | None:
        """``allowed`` with what was found to do for the rows that passed before, while that stands."""
        found = self._fitted.get(condition, {}).get(segment.name)
        if found is None or abs(allowed.count - found.count) > _CHANGED * found.count:
            return None
        copied = found.copied
        if copied is not None:
            there = allowed.mask[copied.positions]
            if np.count_nonzero(there) < allowed.count:  # a condition that asks for the time, say
                return None
            copied = replace(copied, bitmap=None if there.all() else np.packbits(there, bitorder="little"))
        return replace(allowed, effort=found.effort, copied=copied)

    def _unknown(self, index: VectorIndex, condition: str, among: Among) -> list[bool]:
        """Of each segment, whether it has to be measured."""
        return [
            allowed.positions is None
            and part.segment.codes is not None
            and self._known(condition, part.segment, allowed) is None
            for part, allowed in zip(index.parts, among.parts, strict=True)
        ]

    def _with_efforts(self, index: VectorIndex, condition: str, among: Among) -> Among:
        parts = []
        for part, allowed in zip(index.parts, among.parts, strict=True):
            parts.append(self._known(condition, part.segment, allowed) or allowed)
        return replace(among, parts=tuple(parts))

    def _copied(self) -> int:
        """Bytes that copies of codes take."""
        with self._lock:
            found = [allowed.copied for each in self._fitted.values() for allowed in each.values()]
        return sum(copied.nbytes for copied in found if copied is not None)

    def _fit(self, index: VectorIndex, condition: str, among: Among) -> None:
        try:
            with gently():
                unknown = self._unknown(index, condition, among)
                for part, allowed, is_unknown in zip(index.parts, among.parts, unknown, strict=True):
                    if is_unknown:
                        found = fitted(part.segment, allowed, self._target, self._real(), self._memory - self._copied())
                        with self._lock:
                            self._fitted.setdefault(condition, {})[part.segment.name] = found
            with self._lock:
                ready = self._ready.get(condition)
                if ready is not None and self._index is not None:  # by now, perhaps, of a later index
                    self._ready[condition] = self._with_efforts(self._index, condition, ready)
                self._fitting.discard(condition)
        except Exception:  # the rows are all scored, as before
            log.exception("a filter could not be measured: %s", condition)
