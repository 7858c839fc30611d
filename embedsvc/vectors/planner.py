"""Which kind of index fits a collection: the fastest whose memory is within the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from embedsvc.vectors.kinds import HNSW8, IVFPQ4
from embedsvc.vectors.segment import FLAT

DISK = "disk-ivfrq"
"""The store's own index, of which only what a search needs is read: for collections whose codes are past memory."""
_DISK_CACHE = 64_000_000
"""Bytes that the store may keep of it."""

_PREFERENCE = (HNSW8, IVFPQ4)
"""Fastest first."""
_BUILD_SECONDS = {HNSW8.name: 4.5e-5, IVFPQ4.name: 6.4e-6, DISK: 8.5e-6}
"""Of one core, per vector of 384 dimensions and per doubling of their number (benchmarks/index.py)."""
_SHOWN = 0.996
"""Where a thousand queries find all there is, the interval of recall begins here: more cannot be shown."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What an index must reach (recall@10, with 95 % confidence) and may take (bytes of memory).

    ``exact``: up to so many vectors are searched exactly, which takes about 1 ms for 8,192.
    """

    target_recall: float = 0.95
    memory: int = 4_000_000_000
    exact: int = 8192


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be built: ``kinds`` in the order in which they are tried, and what the first one takes.

    ``memory`` and ``disk`` are bytes, ``seconds`` those of one core. ``least``: bytes of memory that some kind would do
    with; where that is more than the goal allows, it is ``DISK`` all the same, which reads more of the disk then.
    """

    kinds: tuple[str, ...]
    memory: float
    disk: float
    seconds: float
    least: float = 0.0

    @property
    def kind(self) -> str:
        return self.kinds[0] if self.kinds else FLAT


def plan(count: int, dimension: int, goal: Goal) -> Plan:
    """What to build for ``count`` vectors."""
    raw = 4.0 * dimension * count
    if count <= goal.exact:
        return Plan((), raw, 0, 0)
    # Rows that are not in a segment yet are kept as they are; those that are, are mapped from the disk.
    fresh = 2 * 4.0 * dimension * goal.exact
    needs = {kind.name: fresh + count * kind.bytes_per_vector(count, dimension) for kind in _PREFERENCE}
    needs[DISK] = _DISK_CACHE + 4.0 * dimension * disk_lists(count)
    kinds = tuple(name for name, memory in needs.items() if memory <= goal.memory) or (DISK,)
    if goal.target_recall > _SHOWN:
        return Plan((), fresh, raw + 8 * count, 0)
    least = min(needs.values())
    memory = needs[kinds[0]]
    seconds = count * math.log2(count) * dimension / 384 * _BUILD_SECONDS[kinds[0]]
    if kinds[0] == DISK:
        return Plan(kinds, memory, count * (dimension / 8 + 16), seconds, least)
    return Plan(kinds, memory, raw + 8 * count + memory - fresh, seconds, least)


def disk_lists(count: int) -> int:
    """Inverted lists of the ``DISK`` kind: with enough vectors to train each, and not more than help."""
    return max(1, min(count // 256, int(2.5 * math.sqrt(count)), 8192))
