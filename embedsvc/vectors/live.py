"""Whether the queries that people ask are answered as well as was measured when the index was built.

A few of them are searched for again, exactly, on one thread in the background, which rests most of the time. How much
of the exact answers was found is the recall of live queries; the queries are kept, to measure later efforts with.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from embedsvc.vectors.background import Background
from embedsvc.vectors.measuring import FEWEST
from embedsvc.vectors.recall import Floats, K, Recall, estimate, shares
from embedsvc.vectors.segment import RowIds

log = logging.getLogger(__name__)

_TOGETHER = 32
"""Queries that are searched for exactly in one pass over the vectors, at most."""
_PATIENCE = 5.0
"""Seconds that a query waits for others to share its pass."""
_ROUND_SECONDS = 1.0
"""A round ends after the pass that takes it past this."""
_REST = 49
"""A round is followed by so many times its length of rest: the cost stays below 2 % of a core."""
_REMEMBERED = 1000

# One for all collections of a process, however many there are.
_background = Background("live-recall")


class Searched(Protocol):
    """An index as far as its recall is concerned: see VectorIndex. Each has its own kind of filter."""

    @property
    def is_exact(self) -> bool: ...
    def search(self, query: Floats, k: int, among: Any) -> tuple[RowIds, Floats]: ...
    def exact(self, queries: Floats, k: int, among: Any) -> tuple[RowIds, Floats]: ...


Present = Callable[[str | None], tuple[Searched, Any] | None]
"""The index that is searched now, and what in it passes a condition (None: all); None where none is any more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A query (dimension,) that was asked for its ``k`` best, of what passes ``condition``. Not in which index: that
    would stay in memory, and on the disk, for as long as it waits."""

    query: Floats
    k: int
    condition: str | None
    since: float


class Live:
    """The live queries of one collection; shared by threads."""

    def __init__(
        self,
        share: float,
        target: float,
        file: Path,
        dimension: int,
        present: Present,
        fell_short: Callable[[bool], object],
    ) -> None:
        """``share`` of the queries is looked at; they are kept in ``file``. On the background thread, ``present`` is
        asked what to search in, and ``fell_short`` is called when the recall of unfiltered (False) or filtered (True)
        ones is below ``target`` with 95 % confidence.
        """
        self._share = share
        self._target = target
        self._file = file
        self._present = present
        self._fell_short = fell_short
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._busy = False
        self._rest_until = 0.0
        self._seen: deque[tuple[Floats, float, bool]] = _read(file, dimension)
        """Query, which share of its exact answer was found, and whether it was filtered. NaN: by another index."""

    def saw(self, index: Searched, query: Floats, k: int, condition: str | None) -> None:
        """``query`` (dimension,) was searched for in ``index``, among what passes ``condition``. Costs next to nothing,
        and never fails."""
        if index.is_exact or random.random() >= self._share:
            return
        now = time.monotonic()
        with self._lock:
            if len(self._waiting) < _TOGETHER:
                self._waiting.append(_Waiting(query, k, condition, now))
            full = len(self._waiting) == _TOGETHER or now - self._waiting[0].since >= _PATIENCE
            if self._busy or now < self._rest_until or not full:
                return
            self._busy = True
        _background.submit(self._round)

    def queries(self) -> Floats:
        """Those asked last (n, dimension)."""
        with self._lock:
            return np.array([query for query, _, _ in self._seen], np.float32)

    def recall(self, *, filtered: bool) -> Recall | None:
        """Of the queries looked at last, with a filter or without; None where there were none. Rows that came since and
        folds are no reason to forget them, efforts that were raised are."""
        with self._lock:
            found = [share for _, share, with_filter in self._seen if with_filter is filtered and share == share]
        return estimate(np.array(found)) if found else None

    def start_anew(self) -> None:
        """The index is another now; the queries stay, for it to be measured with."""
        with self._lock:
            self._waiting = []
            self._seen = deque(((query, np.nan, filtered) for query, _, filtered in self._seen), _REMEMBERED)

    def _round(self) -> None:
        started = time.perf_counter()
        try:
            with self._lock:
                waiting, self._waiting = self._waiting, []
            self._look_at(waiting)
            self._judge()
        except Exception:
            log.exception("the recall of live queries could not be measured")
        finally:
            with self._lock:
                self._rest_until = time.monotonic() + _REST * (time.perf_counter() - started)
                self._busy = False

    def _look_at(self, waiting: list[_Waiting]) -> None:
        """Measures those that share a condition in one pass, pass by pass."""
        started = time.perf_counter()

        def condition_of(each: _Waiting) -> tuple[bool, str]:
            return each.condition is not None, each.condition or ""

        for _, group in groupby(sorted(waiting, key=condition_of), key=condition_of):
            together = list(group)
            condition = together[0].condition
            present = self._present(condition)
            if present is None or present[0].is_exact:
                return
            index, among = present
            truth = index.exact(np.stack([each.query for each in together]), K, among)[1]
            for each, exact in zip(together, truth, strict=True):
                found, wanted = index.search(each.query, each.k, among)[1], min(K, each.k)
                share = float(shares(found[None, :wanted], exact[None, :wanted])[0])
                self._remember(each.query, share, condition is not None)
            if time.perf_counter() - started > _ROUND_SECONDS:
                break

    def _remember(self, query: Floats, share: float, filtered: bool) -> None:
        """Once, however often it is asked: a few favourites would make the interval narrower than it is."""
        same = query.tobytes(), filtered
        with self._lock:
            others = [seen for seen in self._seen if (seen[0].tobytes(), seen[2]) != same]
            self._seen = deque([*others, (query, share, filtered)], _REMEMBERED)

    def _judge(self) -> None:
        self._write()
        for filtered in (False, True):
            recall = self.recall(filtered=filtered)
            if recall is not None and recall.sample >= FEWEST and recall.high < self._target:
                log.warning(
                    "recall@10 of the last %d live queries%s is %.3f (%.3f to %.3f), below the target of %g",
                    *(recall.sample, " with a filter" if filtered else "", recall.mean, recall.low, recall.high),
                    self._target,
                )
                self.start_anew()
                self._fell_short(filtered)

    def _write(self) -> None:
        """So that they outlast the process. Of several processes the last one wins; where the disk refuses, it is for
        this process alone."""
        with self._lock:
            seen = tuple(self._seen)
        if not seen:
            return
        queries, found, filtered = zip(*seen, strict=True)
        temporary = self._file.with_name(f".{self._file.stem}.{uuid.uuid4().hex}.npz")
        with suppress(OSError):
            try:
                np.savez(temporary, queries=np.stack(queries), shares=np.array(found), filtered=np.array(filtered))
                temporary.rename(self._file)
            finally:
                temporary.unlink(missing_ok=True)


def _read(file: Path, dimension: int) -> deque[tuple[Floats, float, bool]]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            queries, found, filtered = stored["queries"], stored["shares"].tolist(), stored["filtered"].tolist()
        if queries.shape == (len(found), dimension):
            return deque(zip(queries, found, filtered, strict=True), _REMEMBERED)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # none yet, or not what was written
        pass
    return deque(maxlen=_REMEMBERED)
