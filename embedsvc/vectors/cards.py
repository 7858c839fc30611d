"""This process's way to the machine's GPUs: requests of all threads to the one owner (:mod:`.owner`), in batches."""

from __future__ import annotations

import logging
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsvc.vectors.kinds import Positions
from embedsvc.vectors.owner import Channel

log = logging.getLogger(__name__)

_BATCH = 4096
"""Queries that go to the owner together, at most, unless one request has more."""
_SEARCH_SECONDS, _MAKE_SECONDS = 30, 3600
"""After so long without an answer the card counts as gone."""
_SERVE = "import sys; from embedsvc.vectors.owner import serve; serve(*map(int, sys.argv[1:]))"
_COMMAND = (sys.executable, "-c", _SERVE)


class CardError(Exception):
    """The owner could not do it, or is gone."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    about: dict[str, Any]
    queries: npt.NDArray[Any] | None = None
    future: Future[Positions] = field(default_factory=Future)

    def goes_with(self, other: _Job) -> bool:
        """Whether both are searches of the same segment with the same depth."""
        return {**self.about, "count": 0} == {**other.about, "count": 0}


class Cards:
    """One thread speaks to the owner: queries that come while it is busy share its next batch. The owner is started by
    the first request; ``command`` does, with the numbers of a channel's files behind it. After the first failure of a
    search, or of the owner itself, everything is refused. Safe to use from any thread."""

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self.failed = False
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="card", daemon=True).start()

    def ask(self, queries: npt.NDArray[Any] | None = None, **about: Any) -> Future[Positions]:
        """Puts a request to the owner in the queue, without a lock. Its future may raise CardError, and be cancelled.

        Of ``queries`` (m, dimension) to a ``segment``, as its kind takes them, it gives ``count`` positions each, (m,
        count).
        """
        job = _Job(about, queries)
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Ends the owner; what is asked from here on is refused."""
        self.failed = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _run(self) -> None:
        waiting: list[_Job] = []
        while True:
            if not waiting:
                waiting.append(self._jobs.get())
            with suppress(queue.Empty):
                while True:
                    waiting.append(self._jobs.get_nowait())
            batch, waiting = _first_batch(waiting)
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                self._answer(batch)
            except Exception as error:
                if not isinstance(error, CardError) and not self.failed:
                    self._fail(error)
                for job in batch:
                    job.future.set_exception(CardError(str(error)))

    def _answer(self, batch: list[_Job]) -> None:
        about = batch[0].about
        given = [job.queries for job in batch if job.queries is not None]
        if given:
            about = about | {"count": max(job.about["count"] for job in batch)}
        channel = self._connected()
        channel.send(about, given)
        reply, found = channel.receive(_SEARCH_SECONDS if given else _MAKE_SECONDS)
        if "error" in reply:
            # What is too large for the card leaves it as it was.
            raise RuntimeError(reply["error"]) if given else CardError(reply["error"])
        ends = np.cumsum([len(some) for some in given])[:-1]
        for job, some in zip(batch, np.split(found, ends) if given else [found], strict=True):
            job.future.set_result(some[:, : job.about["count"]].copy() if given else some)

    def _connected(self) -> Channel:
        if self.failed:
            raise CardError("it has failed before")
        if self._channel is None:
            ours, theirs = socket.socketpair()
            memory = os.memfd_create("queries")
            self._channel = Channel(ours.detach(), memory)
            with theirs:
                files = (theirs.fileno(), memory)
                self._process = subprocess.Popen(
                    [*self._command, *map(str, files)],
                    pass_fds=files,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for us; it ends when we do
                )
        return self._channel

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        code = None if self._process is None else self._process.returncode
        reason = str(error) or type(error).__name__
        log.warning("the GPU is not used any more, the CPU searches (%s; its owner's exit code: %s)", reason, code)


def _first_batch(waiting: list[_Job]) -> tuple[list[_Job], list[_Job]]:
    """The first job with those that can share its batch, and the others, in their order."""
    first, taken, left = waiting[0], waiting[:1], []
    size = 0 if first.queries is None else len(first.queries)
    for job in waiting[1:]:
        if job.queries is not None and job.goes_with(first) and size + len(job.queries) <= _BATCH:
            taken.append(job)
            size += len(job.queries)
        else:
            left.append(job)
    return taken, left
