"""How the C library hands memory back to the system, for processes that work through the night."""

from __future__ import annotations

import ctypes
import os

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGE = 128_000
_UNUSED = 8_000_000


def give_back_memory() -> None:
    """From now on, what a large block took goes back to the system when it is freed. Nothing happens without glibc.

    By itself glibc maps blocks apart from one another only where they are larger than any that was freed before, up to
    32 MB. So after the first large one the buffers of every commit come from its heaps, lie between small things that
    stay, and leave holes: 10,000 passages left 200 MB of them beside the 80 that were in use. Blocks are apart from
    128 KB on: were it 1 MB, 41,000 passages would leave 30 MB more. And it has eight heaps for each core, of which
    every thread leaves its holes in one: 40,000 passages, 70 MB of them after :func:`trim`, 40 where there are no more
    heaps than cores. Arrow has an allocator of its own, which keeps some of what it freed: 24 MB. So it gets glibc's,
    where it is not loaded yet.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, _UNUSED)
        mallopt(_ARENA_MAX, len(os.sched_getaffinity(0)))


def trim() -> None:
    """Gives back at once what lies free within the heaps, between what is in use. Nothing happens without glibc."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
