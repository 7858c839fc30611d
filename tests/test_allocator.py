"""What is freed goes back to the system: seen by glibc's own count of the blocks that it has mapped apart."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes

libc = ctypes.CDLL(None)
if not hasattr(libc, "mallinfo2"):
    raise SystemExit(77)

class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", *"abcdef")]

libc.mallinfo2.restype = Counts
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]

def mapped_apart(size):
    before = libc.mallinfo2().hblks
    block = libc.malloc(size)
    found = libc.mallinfo2().hblks - before
    libc.free(block)
    return found

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024

from embedsvc.allocator import give_back_memory, trim

assert mapped_apart(30_000_000)
assert not mapped_apart(5_000_000)  # what this is about: one large block was freed, so smaller ones are not any more
give_back_memory()
assert mapped_apart(30_000_000)
assert mapped_apart(7_000_000)  # more than what lies free in the heap by now

libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
blocks = [libc.malloc(100_000) for _ in range(1000)]
for block in blocks:
    libc.memset(block, 1, 100_000)
for block in blocks[:-1]:  # the last one holds the heap's end where it is
    libc.free(block)
full = resident()
trim()
assert full - resident() > 80_000_000
"""


def test_blocks_are_given_back_whatever_was_freed_before_and_lies_behind() -> None:
    code = subprocess.run([sys.executable, "-c", _PROGRAM], check=False).returncode
    if code == 77:
        pytest.skip("no glibc, or one before 2.33")
    assert code == 0
