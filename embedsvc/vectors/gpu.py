"""Searching and building on the machine's GPUs, for as long as they work; the CPU's index is there for all else.

A segment lies on the disk in its CPU form, whoever built it. Large segments that are asked for often are put on the
cards as well, by the owner (:mod:`.owner`), and used there with an effort that was measured to find as much as the
CPU's. The card gives candidates, which are scored with the vectors themselves as the CPU's are. Filters, many rows that
went, very many hits: the CPU answers. What fails on a card is logged once, and answered by the CPU from there on.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedsvc.config import usable_cores
from embedsvc.vectors.cards import CardError, Cards
from embedsvc.vectors.faiss_module import faiss_module, gently
from embedsvc.vectors.kinds import Effort, build_hnsw
from embedsvc.vectors.measuring import Questions, questions, stand_ins
from embedsvc.vectors.owner import CAGRA16, FLAT16, IVFPQ8, CardKind
from embedsvc.vectors.recall import Floats, K, estimate, shares
from embedsvc.vectors.segment import Allowed, RowIds, Segment

log = logging.getLogger(__name__)

_LEAST = 100_000
"""Vectors of a segment below which the CPU is quick enough."""
_KINDS = (CAGRA16, FLAT16, IVFPQ8)
"""Fastest first: of 500,000 vectors an H100 answered 358,000, 54,000 and 42,000 queries/s (docs/indexes.md)."""
_ASKED = 200
"""Queries to a segment that make it worth a place on a card: not for one search from the command line."""
_PATIENCE = 5.0
"""Seconds that a search waits for the card, which may have begun to build something just before."""
_ALLOWED = 0.8
"""Share of the rows that must be allowed: a card does not know which are, and gives twice as many candidates."""


@dataclass(frozen=True, slots=True)
class _Place:
    kind: CardKind
    effort: Effort


def _file(vectors: Floats) -> Path:
    """Where ``vectors`` are mapped from. Raises CardError: they are not."""
    if not isinstance(vectors, np.memmap):
        raise CardError("its vectors are not in a file")
    return Path(str(vectors.filename))


def _key(segment: Segment) -> str:
    """What the cards call it. One with other efforts has the same name: it is placed anew, with an effort that finds as
    much, and must not go from the cards with the one before, which somebody may still be searching."""
    return f"{segment.name}-{id(segment):x}"


def _cpu_seconds(segment: Segment, queries: Floats) -> float:
    """What ``queries`` would take with all cores, by what they take with the threads that this one may use."""
    threads: int = faiss_module().omp_get_max_threads()
    started = time.perf_counter()
    segment.search(queries, K, None)
    return (time.perf_counter() - started) * threads / usable_cores()


class OnCards:
    """Which segments lie on the cards. Safe to use from any thread."""

    def __init__(self, cards: Cards) -> None:
        self._cards = cards
        self._lock = threading.Lock()
        self._making = 0
        self._asked: Counter[str] = Counter()
        self._places: dict[str, _Place] = {}
        """By the segment's key, as ``_asked``."""

    def search(self, segment: Segment, queries: Floats, k: int, allowed: Allowed | None) -> tuple[RowIds, Floats]:
        """As :meth:`Segment.search`, which is asked where no card can answer."""
        place = self._place_of(segment, len(queries))
        share = 1.0 if allowed is None else allowed.count / len(segment)
        if place is None or share < _ALLOWED:
            return segment.search(queries, k, allowed)
        more = math.sqrt(max(1, k / K))  # as on the CPU
        count = max(k * segment.copies, int(K * place.effort.widen * more))
        fetched = count if allowed is None else 2 * count
        if fetched > place.kind.most:
            return segment.search(queries, k, allowed)
        depth = int(place.effort.depth * more)
        asked = place.kind.asked(queries)
        answer = self._cards.ask(asked, do="search", segment=_key(segment), depth=depth, count=fetched)
        try:
            found = answer.result(_PATIENCE)
        except (CardError, TimeoutError):
            answer.cancel()
            return segment.search(queries, k, allowed)
        if allowed is not None:
            found = np.where(allowed.mask[found], found, -1)
        ids, scores = segment.ranked(queries, found, k)
        short = (found >= 0).sum(axis=1) < count
        if short.any():
            ids[short], scores[short] = segment.search(queries[short], k, allowed)
        return ids, scores

    def holds(self, segment: Segment) -> bool:
        """Whether the segment lies on the cards."""
        return _key(segment) in self._places

    def build(self, vectors: Floats, go_on: Callable[[], None]) -> Any:
        """The codes of ``hnsw8`` over ``vectors`` (n, dimension), with CAGRA's graph for the lowest layer.

        Raises:
            CardError: there is no graph to be had.
        """
        file = _file(vectors).with_name("links.npy")
        try:
            self._make(do="build", vectors=str(_file(vectors)), links=str(file))
            links = np.load(file, mmap_mode="r", allow_pickle=False)
            if links.min() < 0 or links.max() >= len(vectors):
                raise CardError("a link leads nowhere")  # FAISS would follow it
            return build_hnsw(vectors, go_on, links)
        finally:
            file.unlink(missing_ok=True)

    def _make(self, **about: Any) -> None:
        """Has something made; meanwhile the CPU searches, for the card would answer late. Raises CardError."""
        with self._lock:
            self._making += 1
        try:
            self._cards.ask(**about).result()
        finally:
            with self._lock:
                self._making -= 1

    def _place_of(self, segment: Segment, queries: int) -> _Place | None:
        """Where the segment can be searched now; one that is asked for often enough is placed meanwhile."""
        key = _key(segment)
        with self._lock:
            if self._cards.failed or self._making:
                return None
            if key not in self._asked:
                weakref.finalize(segment, self.drop, key).atexit = False
            before = self._asked[key]
            self._asked[key] += queries
            if before < _ASKED <= before + queries:
                threading.Thread(target=self.put, args=(segment, _KINDS), name="placing", daemon=True).start()
            return self._places.get(key)

    def put(self, segment: Segment, kinds: Sequence[CardKind]) -> None:
        """Tries one kind after the other, until one fits, finds as much as the CPU, and is quicker."""
        name, key = segment.name, _key(segment)
        asked: Questions | None = None
        try:
            with gently():
                for kind in kinds:
                    try:
                        self._make(do="place", segment=key, kind=kind.name, vectors=str(_file(segment.vectors)))
                        asked = asked or questions(segment, stand_ins(segment.vectors, segment.kind, len(segment)))
                        self._places[key] = self._measured(segment, kind, asked)
                        return
                    except CardError as error:
                        log.info("%s does not go onto a card as %s: %s", name, kind.name, error)
        except Exception:  # the CPU searches, as before
            log.exception("%s could not be put on a card", name)

    def _measured(self, segment: Segment, kind: CardKind, asked: Questions) -> _Place:
        """The least effort with which a card finds as much as the CPU does of the answers to the same questions: what
        the segment says of itself may be of others, that people asked. Raises CardError: none does, or the CPU is
        quicker."""
        key, recall, seconds = _key(segment), None, 0.0
        wanted, on_cpu = asked.recall(segment, segment.effort), _cpu_seconds(segment, asked.queries)
        for effort in kind.efforts:
            count = K * max(effort.widen, segment.copies)
            if count > kind.most:
                break
            started = time.perf_counter()
            queries = kind.asked(asked.queries)
            request = self._cards.ask(queries, do="search", segment=key, depth=effort.depth, count=count)
            found = segment.ranked(asked.queries, request.result(), K)[1]
            seconds = time.perf_counter() - started
            recall = estimate(shares(found, asked.truth))
            if recall.low < wanted.low:
                continue
            if seconds > on_cpu:
                break
            log.info("%s lies on a card as %s: recall@10 %.3f", segment.name, kind.name, recall.mean)
            return _Place(kind, effort)
        self._cards.ask(do="drop", segment=key)
        if recall is None:
            raise CardError("it cannot give as many")
        there, here = (f"{each.mean:.3f} in {1000 * s:.0f} ms" for each, s in ((recall, seconds), (wanted, on_cpu)))
        raise CardError(f"recall@10 of {there}, on the CPU {here}")

    def drop(self, key: str) -> None:
        """Takes a segment off the cards. Without a lock: it runs wherever Python collects what nobody has any more."""
        place, asked = self._places.pop(key, None), self._asked.pop(key, 0)
        if place is not None or asked >= _ASKED:
            self._cards.ask(do="drop", segment=key)


@functools.cache
def on_cards() -> OnCards | None:
    """This process's; None, and one log line, where FAISS sees no card."""
    if not has_card():
        log.info("no GPU for the vector index (none is there, or FAISS is built without): the CPU searches")
        return None
    return OnCards(Cards())


def has_card() -> bool:
    """Whether large collections may be searched and indexed on a GPU here."""
    return bool(faiss_module().get_num_gpus())


def search(segment: Segment, queries: Floats, k: int, allowed: Allowed | None) -> tuple[RowIds, Floats]:
    """As :meth:`Segment.search`, on a card where the segment is approximate, large, and lies on one."""
    there = on_cards() if segment.codes is not None and len(segment) >= _LEAST else None
    return segment.search(queries, k, allowed) if there is None else there.search(segment, queries, k, allowed)


def build_on_card(vectors: Floats, go_on: Callable[[], None]) -> Any:
    """The codes of ``hnsw8`` over the memory-mapped ``vectors`` (n, dimension), linked on a card. None where that
    cannot be: the CPU builds then. ``go_on`` is called now and then by what the CPU does."""
    there = on_cards() if len(vectors) >= _LEAST else None
    try:
        return None if there is None else there.build(vectors, go_on)
    except CardError as error:
        log.info("the CPU builds the index: %s", error)
        return None
