"""What the process that reads files gives up before it sees the first: memory without end, the network, other files.

Each step is tried for itself, since what a system allows differs; :func:`confine` tells which took. The kernel's own
means hold whatever code a file may bring to run. The audit hook holds Python code only, but does so everywhere.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from embedsvc.readers import landlock

_MEGABYTE = 1_000_000
_PROCESSES = 128
"""Processes and threads that may be there at once; a converter of office files has some twenty."""
_FILES = 256
_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CAPABILITIES = 0x20080522
_READABLE = """
    /bin /sbin /lib /lib32 /lib64 /usr /opt /nix /gnu /snap /proc /sys /dev/null /dev/zero /dev/random /dev/urandom
    /etc/alternatives /etc/fonts /etc/java /etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d /etc/libreoffice
    /etc/localtime /etc/locale.alias /etc/mime.types /etc/ssl/openssl.cnf /etc/timezone /var/cache/fontconfig
"""
"""Programs, libraries, fonts. Not among them: anybody's documents, passwords and keys."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NETWORK = ("socket.", "urllib.Request", "ftplib.", "smtplib.", "http.client.")
_TWO_PATHS = frozenset({"os.rename", "os.link"})
_ONE_PATH = frozenset(
    {"os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime", "os.setxattr"}
)
_STARTS = frozenset({"os.fork", "os.forkpty", "os.exec", "os.system", "os.spawn", "pty.spawn"})


def confine(folder: str, memory_mb: int) -> dict[str, str]:
    """Gives up what reading does not need; ``folder`` is the one place where files may be written.

    Returns what holds for ``memory``, ``network``, ``files`` and ``processes``, in words; absent: nothing does.
    """
    held: dict[str, str] = {}
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("1000")  # where memory runs out, this process goes first
    own_space = _unshare()
    if own_space:
        held["network"] = "by the kernel (a network of its own)"
    _limit(memory_mb, held, own_space=own_space)
    if _give_up_files(folder):
        held["files"] = f"by the kernel (Landlock {landlock.version()})"
        if landlock.version() >= 4:
            held.setdefault("network", "TCP by the kernel (Landlock), the rest in Python")
    if sys.platform == "linux":
        _give_up_powers()
    sys.addaudithook(_Guard(os.path.realpath(folder)))
    held.setdefault("network", "in Python code only")
    held.setdefault("files", "in Python code only, writing only")
    return held


def cpu_seconds(seconds: int | None) -> None:
    """Lets this process go on for ``seconds`` more of processor time, None: for ever; then the kernel ends it."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        soft = hard if seconds is None else int(used.ru_utime + used.ru_stime) + seconds + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _limit(memory_mb: int, held: dict[str, str], *, own_space: bool) -> None:
    try:
        import resource
    except ImportError:
        return
    limits = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": _FILES}
    if memory_mb:
        limits |= {"RLIMIT_AS": memory_mb * _MEGABYTE, "RLIMIT_FSIZE": memory_mb * _MEGABYTE}
    if own_space:  # elsewhere those of all the user's processes would be counted
        limits["RLIMIT_NPROC"] = _PROCESSES
    for name, most in limits.items():
        with suppress(AttributeError, ValueError, OSError):
            number = getattr(resource, name)
            hard = resource.getrlimit(number)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(number, (most, most))
            if name == "RLIMIT_AS":
                held["memory"] = f"{memory_mb} MB"
            if name == "RLIMIT_NPROC" and os.getuid():  # the kernel counts none of root's
                held["processes"] = f"{_PROCESSES}"


def _unshare() -> bool:
    """Moves into a network that leads nowhere; a user namespace makes that possible for everybody."""
    if sys.platform != "linux":
        return False
    user, group = os.getuid(), os.getgid()
    if _libc().unshare(_NEW_USER | _NEW_NET | _NEW_IPC):
        return False
    with suppress(OSError):  # without it files have no owner to be made by: only a converter would notice
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123
                file.write(text)
    return True


def _give_up_files(folder: str) -> bool:
    if sys.platform != "linux" or _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    try:
        landlock.restrict(_own_places(), [folder, "/dev/null"])
    except OSError:
        return False
    return True


def _own_places() -> Iterator[str]:
    """Where programs and libraries lie, those of this Python among them."""
    yield from _READABLE.split()
    yield from (sys.prefix, sys.base_prefix, sys.exec_prefix)
    for places in (sys.path, *(os.environ.get(name, "").split(os.pathsep) for name in ("PATH", "LD_LIBRARY_PATH"))):
        yield from (place for place in places if os.path.isabs(place))  # noqa: PTH117 (strings, see landlock)


def _give_up_powers() -> None:
    """Capabilities: root's, or those that a namespace of one's own brings. Also asks to end with the parent."""
    libc = _libc()
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    with suppress(AttributeError):
        libc.capset(header, none)
    # Last: a change of credentials takes it back.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class _Guard:
    """The audit hook. A program may be started, since a converter may be one: what the kernel holds, holds it too."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = bool(set(mode or "") & set("wax+")) or bool((flags or 0) & _WRITING)
            if writes:
                self._check(event, path)
        elif event in _ONE_PATH:
            self._check(event, arguments[0])
        elif event in _TWO_PATHS:
            self._check(event, arguments[0])
            self._check(event, arguments[1])
        elif event == "os.symlink":
            self._check(event, arguments[1])
        elif event.startswith(_NETWORK) and event not in ("socket.gethostname",):
            raise PermissionError(f"{event}: readers of files have no network")
        elif event in _STARTS:
            raise PermissionError(f"{event}: readers of files do not fork")
        elif event in ("os.kill", "os.killpg"):
            pid = arguments[0]
            if pid <= 1 or os.getsid(pid) != os.getsid(0):
                raise PermissionError(f"{event}: readers of files signal their own programs only")

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return  # it is open already
        whole = os.path.realpath(os.fsdecode(path))
        if whole not in (self._folder, os.devnull) and not whole.startswith(f"{self._folder}/"):
            raise PermissionError(f"{event}: readers of files write to their own folder only, not to {whole}")
