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

from embedsvc.vectors.faiss_module import gently
from embedsvc.vectors.index import Among, VectorIndex
from embedsvc.vectors.kinds import KINDS, Effort
from embedsvc.vectors.measuring import FEWEST, asked_of, recall_of
from embedsvc.vectors.recall import Floats
from embedsvc.vectors.segment import Allowed, RowIds, Segment

log = logging.getLogger(__name__)

_KEPT = 32
_SAMPLE = 500
_SCANS = (10, 30, 100)
_SCAN_SECONDS = 5e-9, 1.5e-7
"""About what it costs to look whether a code is allowed, and to fetch and score one."""
_VECTOR_SECONDS = 3e-7
"""About what it costs to fetch and score a vector; most of it is waiting for memory."""
_CHANGED = 0.1
"""What was measured stands until the share of rows that pass has changed by so much."""


def fitted(segment: Segment, allowed: Allowed, target: float, real: Floats) -> Effort | None:
    """The least effort that finds the allowed rows with recall@10 of ``target``, for stand-ins for queries and, where
    there are enough, ``real`` (m, dimension) ones; None: none does, score them all."""
    asked = asked_of(segment, real, allowed, _SAMPLE)
    for effort in _efforts(segment, allowed):
        if recall_of(segment, effort, asked).low >= target:
            return effort
    return None


def _efforts(segment: Segment, allowed: Allowed) -> Iterator[Effort]:
    """Deeper and deeper searches, while these cost less than looking at every code, or at all vectors that pass."""
    passing, count = allowed.count, len(segment)
    exact = passing * _VECTOR_SECONDS
    scan = count * _SCAN_SECONDS[0] + passing * _SCAN_SECONDS[1]
    depth = segment.effort.depth
    while depth and depth * KINDS[segment.kind].step_seconds(count) < min(scan, exact) and depth <= count:
        yield replace(segment.effort, depth=depth)
        depth += depth // 2 + 1
    if scan < exact:
        for widen in _SCANS:
            yield Effort(0, max(widen, segment.effort.widen))


class Filters:
    """The filters asked for last, ready for an index; shared by threads."""

    def __init__(self, target: float, real: Callable[[], Floats]) -> None:
        """``real`` gives the queries (m, dimension) that were asked before."""
        self._target = target
        self._real = real
        self._lock = threading.Lock()
        self._index: VectorIndex | None = None
        self._ready: dict[str, Among] = {}
        """Of ``_index`` only."""
        self._times: dict[str, int] = {}
        """How often each filter was asked for; the one asked for last comes last."""
        self._fitted: dict[tuple[str, str], tuple[float, Effort | None]] = {}
        """By filter and segment: the share of rows that passed, and what was found to do."""
        self._fitting: set[str] = set()
        """Being measured, or not to be measured."""
        self._doubted = False
        self._pool: ThreadPoolExecutor | None = None

    def among(self, index: VectorIndex, condition: str, matching: Callable[[], RowIds]) -> Among:
        """What of ``index`` passes the filter called ``condition``; ``matching`` gives the row ids where they are not
        known. A filter that is asked for again is measured meanwhile, on a thread of its own."""
        with self._lock:
            if self._index is not index:
                self._index, self._ready = index, {}
            known = self._ready.get(condition)
        among = known or self._with_efforts(index, condition, index.among(matching()))
        with self._lock:
            times = self._times[condition] = self._times.pop(condition, 0) + 1
            while len(self._times) > _KEPT:
                oldest = next(iter(self._times))
                del self._times[oldest]
                self._ready.pop(oldest, None)
            if self._index is index:
                among = self._ready.setdefault(condition, among)
            due = times > 1 and condition not in self._fitting and any(self._unknown(index, condition, among))
            if due and (not self._doubted or len(self._real()) >= FEWEST):
                self._fitting.add(condition)
                self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="filter")
                self._pool.submit(self._fit, index, condition, among)
        return among

    def distrust(self) -> None:
        """What was measured with stand-ins does not hold: until there are enough real queries to measure with, all rows
        that pass are scored."""
        with self._lock:
            self._doubted = True
            self._fitted.clear()
            self._ready.clear()

    def _known(self, condition: str, segment: Segment, allowed: Allowed) -> tuple[float, Effort | None] | None:
        found = self._fitted.get((condition, segment.name))
        share = allowed.count / len(segment)
        return found if found is not None and abs(share - found[0]) <= _CHANGED * found[0] else None

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
            known = self._known(condition, part.segment, allowed)
            parts.append(allowed if known is None else replace(allowed, effort=known[1]))
        return replace(among, parts=tuple(parts))

    def _fit(self, index: VectorIndex, condition: str, among: Among) -> None:
        try:
            with gently():
                unknown = self._unknown(index, condition, among)
                for part, allowed, is_unknown in zip(index.parts, among.parts, unknown, strict=True):
                    if is_unknown:
                        effort = fitted(part.segment, allowed, self._target, self._real())
                        with self._lock:
                            while len(self._fitted) >= 16 * _KEPT:
                                del self._fitted[next(iter(self._fitted))]
                            self._fitted[condition, part.segment.name] = allowed.count / len(part.segment), effort
            with self._lock:
                ready = self._ready.get(condition)
                if ready is not None and self._index is not None:  # by now, perhaps, of a later index
                    self._ready[condition] = self._with_efforts(self._index, condition, ready)
                self._fitting.discard(condition)
        except Exception:  # the rows are all scored, as before
            log.exception("a filter could not be measured: %s", condition)
