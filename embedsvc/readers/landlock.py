"""Linux's Landlock: a process gives up files, TCP and signals to others, for itself and all that it starts.

No root, no package; the kernel tells by a version number what it knows. Source: ``linux/landlock.h``,
https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""Numbers of the system calls, the same on all processors that Python runs on under Linux, but Alpha."""
_VERSION = 1
_BENEATH = 1
_EXECUTE, _WRITE, _READ, _LIST, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_CHANGE = sum(1 << bit for bit in range(4, 13))
"""Removing and making files of all kinds."""
_MOVE = 1 << 13
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE
_TCP = 1 << 0 | 1 << 1
_OTHERS = 1 << 0 | 1 << 1
"""Abstract sockets of, and signals to, processes outside."""


def version() -> int:
    """Which Landlock this kernel has; 0: none."""
    try:
        return max(0, int(_libc().syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)))
    except (OSError, AttributeError):
        return 0


def restrict(readable: Iterable[str], writable: Iterable[str]) -> None:
    """From here on only what lies below ``readable`` can be read and run, only what lies below ``writable`` written.

    What does not exist is passed over. The process must have given up new privileges. Raises OSError.
    """
    known = version()
    if not known:
        raise OSError("the kernel has no Landlock")
    optional = (_MOVE if known >= 2 else 0) | (_TRUNCATE if known >= 3 else 0)
    handled = _EXECUTE | _WRITE | _READ | _LIST | _CHANGE | optional
    attributes = struct.pack("=QQQ", handled, _TCP, _OTHERS)[: 8 if known < 4 else 16 if known < 6 else 24]
    ruleset = _call(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        for path in readable:
            _allow(ruleset, path, _EXECUTE | _READ | _LIST)
        for path in writable:
            _allow(ruleset, path, handled & ~_EXECUTE)
        _call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):  # noqa: PTH112 (of strings, before pathlib is imported)
            rights &= _OF_FILES
        _call(_ADD, ruleset, _BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc().syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
