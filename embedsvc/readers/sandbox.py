"""Reading files that nobody vouches for: in a process of its own (:mod:`.worker`), which a file may crash, exhaust or
take over without harm to this one.

The process reads many files. A new one takes its place when it ends, when it has read its number, when it has grown.
"""

from __future__ import annotations

import fcntl
import functools
import json
import logging
import math
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import embedsvc
from embedsvc.errors import ReaderCrashed, ReaderOutOfMemory, ReadError, ReaderTimeout, UsageError
from embedsvc.readers.frames import (
    About,
    Malformed,
    document_from,
    error_from,
    part_of_text,
    receive,
    rejected_from,
    request,
    share_from,
)
from embedsvc.readers.items import FieldChoice, Limits, Rejected
from embedsvc.readers.scratch import Scratch
from embedsvc.records import Document, Source

log = logging.getLogger(__name__)

_COMMAND: Sequence[str] = (sys.executable, "-P", "-m", "embedsvc.readers.worker")
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Of the environment. Keys, passwords and proxies are not a reader's business."""
_MEGABYTE = 1_000_000
_FILES = 5000
"""Files that one process reads."""
_GROWN, _SMALL = 500 * _MEGABYTE, 100 * _MEGABYTE
"""Of address space: then the process has kept too much of the files before. Less where a quarter of what is allowed is
less, but more than all readers take."""
_START_SECONDS = 60.0
_LOOK_SECONDS = 0.2
"""After so long at the most it is noticed that somebody closed the sandbox."""
_EXIT_SECONDS = 2.0
_NEARLY = 0.7
"""A process that crashed when it had so much of its memory crashed for want of more."""
_NO_MEMORY = re.compile(rb"MemoryError|bad_alloc|[Oo]ut of memory|Cannot allocate memory")
_PIPE = 1 << 20
_BLOCK = 1 << 18
_PER_BYTE = 16
"""What is sent of a file may have so many times its size, besides the memory that reading it may take."""
_LOGGED = 20
_LONGEST_LINE = 20_000
_LAST_WORDS = 2000
_CLOSED = "the sandbox is closed"


class Sandbox:
    """Reads one source at a time. ``close`` may be called from any thread, and ends a reading that is under way.
    ``share``: of the source under way, what is read with the item that it gave last; 1 where there is none.

    The process is started by the first source. ``command`` does, with its arguments behind it.
    """

    def __init__(self, limits: Limits = Limits(), command: Sequence[str] | None = None) -> None:
        self._limits = limits
        self._command = command
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._closed = False
        self.share = 1.0

    def read(self, source: Source, fields: FieldChoice) -> Iterator[Document | Rejected]:
        """As :func:`~embedsvc.readers.formats.read`.

        What came before a crash or a limit stands: each is a whole document, and the error that follows tells the
        caller that there may be more.

        Raises:
            ReadError: also ReaderCrashed, ReaderTimeout, ReaderOutOfMemory.
            UsageError: no process can be started.
        """
        while True:
            worker = self._ready()
            fresh, given = not worker.files, False
            try:
                for item, self.share in worker.read(source, fields):
                    given = True
                    yield item
                return
            except (ReaderCrashed, ReaderOutOfMemory):
                if self._closed:
                    raise RuntimeError(_CLOSED) from None
                # It may have been the files before: this one is judged by a process that has read no other.
                if fresh or given or worker.idle:  # idle: it says so itself, of whatever is the matter
                    raise
            finally:
                self.share = 1.0
                if not worker.idle:
                    worker.end()

    def held(self) -> Mapping[str, str]:
        """What the process says that it is kept from, see :func:`~embedsvc.readers.confinement.confine`."""
        return self._ready().held

    def close(self) -> None:
        with self._lock:
            self._closed = True
            worker = self._worker
        if worker is not None:
            worker.end()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self) -> _Worker:
        if self._closed:
            raise RuntimeError(_CLOSED)
        if self._worker is not None and not self._worker.is_fit():
            self._worker.end()
            self._worker = None
        if self._worker is None:
            worker = _Worker(self._command or _COMMAND, self._limits)
            with self._lock:
                self._worker = worker
            if self._closed:  # meanwhile, by another thread
                worker.end()
                raise RuntimeError(_CLOSED)
            worker.await_start()
        return self._worker


class _Late(Exception):
    """Its time is up."""


class _TooMuch(Exception):
    """It sends more than can be of one file."""


class _Worker:
    """One process. ``idle``: it waits for a source. ``files``: how many it has read."""

    def __init__(self, command: Sequence[str], limits: Limits) -> None:
        self._limits = limits
        self._scratch = Scratch()
        # Ctrl-C is for us: the process has a session of its own.
        self._process = subprocess.Popen(
            [*command, json.dumps(asdict(limits)), self._scratch.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=self._scratch.path,
            env=_environment(self._scratch.path),
            start_new_session=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._pipes = [pipe.fileno() for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)]
        self._input, self._output, self._errors = self._pipes
        self._errors_end = False
        for pipe in self._pipes:
            os.set_blocking(pipe, False)
            with suppress(AttributeError, OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        self._lock = threading.Lock()
        self._ended = self._reading = self._recognising = False
        self._largest = 0
        self._last_words = b""
        self._buffer, self._at = b"", 0
        self._left = _START_SECONDS
        self._allowed = float(_MEGABYTE)
        self._logged = 0
        self.idle = False
        self.files = 0
        self.held: Mapping[str, str] = {}

    # -- from start to end ---------------------------------------------------------------------------------------------

    def await_start(self) -> None:
        """Raises UsageError: it does not come up."""
        try:
            about, _ = receive(self._take)
            held = about["held"]
            self.held = {str(key): str(value) for key, value in held.items()}
        except (EOFError, OSError, Malformed, LookupError, AttributeError, _Late, _TooMuch):
            self._await_exit()
            self._listen()
            self.end()
            last = self._last_words.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise UsageError(
                f"The process that reads files does not start ({self._how()}{': ' * bool(last)}{last}). It may take at "
                f"most {self._limits.memory_mb} MB of memory; raise reader_memory_mb if that is too little."
            ) from None
        _tell_once(tuple(sorted(self.held.items())))
        self.idle = True

    def is_fit(self) -> bool:
        """Whether it can be given another source."""
        return self.idle and self.files < _FILES and not self._has_exited() and not self._has_grown()

    def end(self) -> None:
        """Ends it and all that it has started, and clears away what it left."""
        with self._lock:
            if self._ended:
                return
            self._ended, self.idle = True, False
            # Not waited for yet, so the number is still its own.
            for kill in (os.killpg, os.kill):
                with suppress(OSError):
                    kill(self._process.pid, signal.SIGKILL)
            for pid in _of_session(self._process.pid):  # a converter has a group of its own
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            if not self._reading:
                self._close_pipes()
        self._scratch.remove()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()

    def _has_exited(self) -> bool:
        if self._ended or not hasattr(os, "waitid"):  # macOS: it is noticed when it is spoken to
            return self._ended
        # Not waited for: whoever ends it does that.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def _has_grown(self) -> bool:
        share = self._limits.memory_mb * _MEGABYTE // 4 or _GROWN
        return self._size() > max(_SMALL, min(_GROWN, share))

    def _size(self) -> int:
        """Bytes of address space that it has; 0 where the system does not tell (no Linux)."""
        try:
            return int(Path(f"/proc/{self._process.pid}/statm").read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return 0

    def _await_exit(self) -> None:
        """Its output has ended, so it should within a moment: by itself, for how it does is to be told."""
        deadline = time.monotonic() + _EXIT_SECONDS
        with suppress(OSError):
            while not self._has_exited() and time.monotonic() < deadline:
                time.sleep(0.005)

    def _how(self) -> str:
        code = self._process.returncode
        if code >= 0:
            return f"exit code {code}"
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"

    # -- a source ------------------------------------------------------------------------------------------------------

    def read(self, source: Source, fields: FieldChoice) -> Iterator[tuple[Document | Rejected, float]]:
        """Items, and what share of the source is read with each."""
        self.idle, self._reading = False, True
        self._left = self._limits.timeout_s or math.inf
        self._recognising = False
        self._allowed = (self._limits.memory_mb * _MEGABYTE or math.inf) + _PER_BYTE * len(source.data)
        self._logged = self._largest = 0
        self._last_words = b""
        try:
            self._send(*request(source, fields))
            while (item := self._item(source)) is not None:
                yield item
        except _Late:
            self.end()
            raise self._timeout(source) from None
        except _TooMuch:
            raise _out_of_memory(source, self._limits) from None
        except Malformed as error:
            raise _crash(source, f"answered with what is no answer: {error}") from None
        except (EOFError, OSError):
            raise self._crashed(source) from None
        finally:
            with self._lock:
                self._reading = False
                if self._ended:
                    self._close_pipes()

    def _crashed(self, source: Source) -> ReadError:
        self._await_exit()
        self._listen()
        self.end()
        if self._process.returncode == -signal.SIGXCPU:
            return self._timeout(source)
        # A library that gets no memory seldom says so: it crashes.
        large = self._limits.memory_mb and self._largest > _NEARLY * self._limits.memory_mb * _MEGABYTE
        if large or _NO_MEMORY.search(self._last_words):
            return _out_of_memory(source, self._limits)
        return _crash(source, f"ended with {self._how()}")

    def _item(self, source: Source) -> tuple[Document | Rejected, float] | None:
        """The next item; None at the end. Raises ReadError: what the source ends with instead."""
        while True:
            about, body = receive(self._take)
            match about.get("kind"):
                case "document":
                    texts = [part_of_text(body)]
                    for _ in range(1, _parts(about)):
                        more, body = receive(self._take)
                        if more:
                            raise self._cut_short(more, source)
                        texts.append(part_of_text(body))
                    text = texts[0] if len(texts) == 1 else "".join(texts)
                    return document_from(about, text, source), share_from(about)
                case "rejected":
                    return rejected_from(about, source), share_from(about)
                case "recognising":
                    self._give_time()
                case "log":
                    self._log(about)
                case "end":
                    self.files += 1
                    if "class" in about:
                        raise self._error(about, source)
                    self._rest()
                    return None
                case _:
                    raise Malformed("a message of no known kind")

    def _give_time(self) -> None:
        """Once for a source, however many pictures it has: it is the worker that says so, which is not trusted."""
        if self._limits.ocr_languages is not None and not self._recognising:
            self._recognising = True
            self._left += self._limits.ocr_timeout_s or math.inf

    def _timeout(self, source: Source) -> ReaderTimeout:
        if not self._recognising:
            return _timeout(source, self._limits.timeout_s, "reader_timeout_s")
        return _timeout(source, self._limits.ocr_timeout_s, "ocr_timeout_s")

    def _error(self, about: About, source: Source) -> ReadError:
        """What the source ended with."""
        error = error_from(about)
        if isinstance(error, ReaderOutOfMemory):
            return _out_of_memory(source, self._limits)  # it may still hold what it could not use: it is not idle
        self._rest()
        return error

    def _cut_short(self, about: About, source: Source) -> Exception:
        """What a text ended with before its last part."""
        if about.get("kind") == "end" and "class" in about:
            return self._error(about, source)
        return Malformed("a text that ends too early")

    def _rest(self) -> None:
        self._tidy()
        self.idle = True

    def _log(self, about: About) -> None:
        level, text = about.get("level"), about.get("text")
        if isinstance(level, int) and isinstance(text, str) and self._logged < _LOGGED:
            self._logged += 1
            log.log(min(level, logging.ERROR), "%s", text[:_LONGEST_LINE])

    def _tidy(self) -> None:
        """What one file left behind is not for the next."""
        with os.scandir(self._scratch.path) as left:
            for entry in left:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink(missing_ok=True)

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def _send(self, *pieces: bytes) -> None:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                self._wait(self._input, select.POLLOUT)
                with suppress(BlockingIOError):
                    view = view[os.write(self._input, view[:_BLOCK]) :]

    def _take(self, size: int) -> bytes:
        """The next ``size`` bytes. Memory is taken as they come: the number may be a lie. Raises EOFError."""
        self._allowed -= size
        if self._allowed < 0:
            raise _TooMuch
        taken = bytearray()
        while True:
            some = self._buffer[self._at : self._at + size - len(taken)]
            self._at += len(some)
            if len(some) == size:
                return some
            taken += some
            if len(taken) == size:
                return bytes(taken)
            self._wait(self._output, select.POLLIN)
            self._buffer, self._at = os.read(self._output, _BLOCK), 0
            if not self._buffer:
                raise EOFError

    def _wait(self, pipe: int, event: int) -> None:
        """Until ``pipe`` is ready. Only here does its time run: while the caller is slow, the process waits."""
        poll = select.poll()
        poll.register(pipe, event)
        if not self._errors_end:
            poll.register(self._errors, select.POLLIN)
        while True:
            if self._ended:
                raise EOFError
            started = time.monotonic()
            ready = dict(poll.poll(1000 * min(_LOOK_SECONDS, max(0.0, self._left))))
            self._left -= time.monotonic() - started
            if self._errors in ready:
                self._listen()
                if self._errors_end:
                    poll.unregister(self._errors)
            if pipe in ready:
                return
            if self._left <= 0:
                raise _Late
            self._largest = max(self._largest, self._size())

    def _listen(self) -> None:
        """Takes what it has printed, for the log."""
        try:
            said = os.read(self._errors, _BLOCK)
        except OSError:
            return
        self._errors_end = not said
        self._last_words = (self._last_words + said)[-_LAST_WORDS:]
        if log.isEnabledFor(logging.DEBUG):
            for line in said[:_LONGEST_LINE].decode("utf-8", "replace").splitlines():
                log.debug("worker: %s", line)


def _of_session(leader: int) -> Iterator[int]:
    """The processes of a session; none where the system does not tell (no Linux)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):  # it has just ended
            if int(stat.read_bytes().rpartition(b")")[2].split()[3]) == leader:
                yield int(stat.parent.name)


def _parts(about: About) -> int:
    parts = about.get("parts")
    if type(parts) is not int or parts < 1:
        raise Malformed("a text without parts")
    return parts


def _environment(folder: str) -> dict[str, str]:
    root = Path(embedsvc.__file__).resolve().parents[1]
    # It sees the modules that this process sees, but not those of the current folder, nor beside a script: what lies in
    # the same place as documents may be one.
    beside = {Path.cwd(), Path(sys.argv[0]).resolve().parent} - {root}
    modules = dict.fromkeys([root, *(path for path in map(Path.resolve, map(Path, sys.path)) if path not in beside)])
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        "PYTHONPATH": os.pathsep.join(map(str, modules)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "HOME": folder,
        "TMPDIR": folder,
        # Every thread of glibc would reserve its own.
        "MALLOC_ARENA_MAX": "2",
    }


@functools.cache
def _tell_once(held: tuple[tuple[str, str], ...]) -> None:
    log.log(*_told(dict(held)))


def _told(held: Mapping[str, str]) -> tuple[int, str]:
    """The log's line on what holds the process."""
    weak = ["memory"] * ("memory" not in held)
    weak += [name for name in ("network", "files") if not held.get(name, "").startswith("by the kernel")]
    if not weak:
        return logging.DEBUG, f"files are read in a sandbox: {described(held)}"
    return logging.INFO, f"the sandbox in which files are read is weaker here ({', '.join(weak)}): {described(held)}"


def described(held: Mapping[str, str]) -> str:
    """What :meth:`Sandbox.held` gives, in a line."""
    return "; ".join(
        f"{name} {held.get(name, 'without a limit')}" for name in ("memory", "network", "files", "processes")
    )


def _timeout(source: Source, seconds: int, setting: str) -> ReaderTimeout:
    return ReaderTimeout(
        f"{source.uri}: reading it takes longer than {seconds} s. Raise {setting}, or split the file, or convert it to "
        "text with another program."
    )


def _out_of_memory(source: Source, limits: Limits) -> ReaderOutOfMemory:
    return ReaderOutOfMemory(
        f"{source.uri}: reading it takes more than {limits.memory_mb} MB of memory. Raise reader_memory_mb, or split "
        "the file, or convert it to text."
    )


def _crash(source: Source, what: str) -> ReaderCrashed:
    return ReaderCrashed(
        f"{source.uri}: the process that read it {what}. Convert the file with another program, or raise "
        "reader_memory_mb if it is large. If other programs open it, please report this as a bug, with the file."
    )
