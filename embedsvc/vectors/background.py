"""Work that nobody waits for, after everything else: one thread for each kind of it, which the end of the process does
not wait for either. What such work writes must be whole at any moment, as after a kill."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import NoReturn

from embedsvc.vectors.faiss_module import gently

_PARTING_SECONDS = 5.0
"""How long the end of a process waits for what is under way to notice it. FAISS's k-means and Lance's builds notice
nothing: they are left, as a kill would leave them."""


class Background:
    """Does what it is given one after the other, on a thread of its own, which the first work starts. A pool of
    concurrent.futures would finish all of it before the process ends."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Has ``work`` done; the future can be waited for, or cancelled while the work has not begun."""
        future: Future[None] = Future()
        self._waiting.put((future, work))
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
                _started.append(self)
        return future

    def _run(self) -> None:
        with gently():
            while (next_one := self._waiting.get()) is not None:
                _do(*next_one)
                del next_one  # it would be kept, with all that it works on, until there is another

    def end(self, seconds: float) -> bool:
        """Waits so long for the thread to end; whether it did."""
        self._waiting.put(None)
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()


def _do(future: Future[None], work: Callable[[], None]) -> None:
    if ending() or not future.set_running_or_notify_cancel():
        return
    try:
        work()
    except BaseException as error:  # for whoever waits
        future.set_exception(error)
    else:
        future.set_result(None)


_started: list[Background] = []
_ending = threading.Event()


def ending() -> bool:
    """Whether the process ends, so that long work should be given up."""
    return _ending.is_set()


_code = 0
"""With which the process is about to end: Python does not tell it to what runs at exit."""


def will_leave(code: int | str | None) -> None:
    """Says so before: ``code`` as SystemExit has it, a text is a failure."""
    global _code
    _code = int(code is not None) if not isinstance(code, int) else code


def leave(code: int) -> NoReturn:
    """Ends the process once its background work had a moment to end."""
    _give_up()
    _exit(code)


def _give_up() -> bool:
    """Lets what runs in the background end, for a moment; whether all of it did."""
    _ending.set()
    until = time.monotonic() + _PARTING_SECONDS
    ended = [each.end(max(0.0, until - time.monotonic())) for each in _started]
    return all(ended)


@atexit.register
def _end() -> None:
    if not _give_up():
        _exit(1 if getattr(sys, "last_value", None) else _code)


def _exit(code: int) -> NoReturn:
    """Without taking the interpreter down: a thread that came back from Lance or onnxruntime meanwhile would abort."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
