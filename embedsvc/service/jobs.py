"""Ingest jobs, and others that take long: taken at once, worked off in the background, told about by any process.

<data dir>/.jobs/<id>.json            the state of one job, replaced as a whole
<data dir>/.jobs/<owner>.owner        locked for as long as the process lives that works on the jobs of this owner

A job whose owner's file is not locked any more will never go on: it is reported as interrupted.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from embedsvc.encoding import Encoder
from embedsvc.errors import Conflict, EmbedsvcError, Locked, NotFound, StorageFailure
from embedsvc.ingest import Outcome, ingest_items
from embedsvc.readers import FieldChoice, Rejected
from embedsvc.records import Document, Source
from embedsvc.service.opened import Opened
from embedsvc.service.problems import Busy, NotReady, json_bytes

log = logging.getLogger(__name__)

Item = Source | Document | Rejected
Progress = Callable[[int, int], None]
"""Is told how much is done, of how much; raises CancelledError when the service stops."""
Work = Callable[[Progress], dict[str, Any]]
JobStatus = Literal["queued", "running", "done", "failed", "interrupted"]

_FOLDER = ".jobs"
_ID = re.compile(r"[0-9a-f]{16}-[0-9a-f]{12}")
_KEEP = 1000
_LISTED = 100
"""Failures and notes that a job lists; of the others only the number is told."""
_SAVE_SECONDS = 0.2
_MAX_WAITING = 256
_MAX_WAITING_BYTES = 1_000_000_000
_INTERRUPTED = "The service stopped before the job was done. What was committed stays: send it again to go on."


@dataclass
class _Job:
    id: str
    collection: str
    items: Sequence[Item]
    fields: FieldChoice
    size: int
    total: int
    kind: str = "documents"
    work: Work | None = None
    """Of another job than one that puts documents in: what it does, and tells as ``result``."""
    status: JobStatus = "queued"
    result: dict[str, Any] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    failures_left_out: int = 0
    notes: list[dict[str, str]] = field(default_factory=list)
    notes_left_out: int = 0
    error: str | None = None
    created: str = field(default_factory=lambda: _now())
    started: str | None = None
    finished: str | None = None
    saved: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "job": self.id,
            "collection": self.collection,
            "kind": self.kind,
            "status": self.status,
            "total": self.total,
            "counts": self.counts,
            "failures": self.failures,
            "failures_left_out": self.failures_left_out,
            "notes": self.notes,
            "notes_left_out": self.notes_left_out,
            "result": self.result,
            "error": self.error,
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
        }

    def take_in(self, outcome: Outcome) -> None:
        self.counts[outcome.status] = self.counts.get(outcome.status, 0) + 1
        if outcome.status in ("quarantined", "empty"):
            if len(self.failures) < _LISTED:
                self.failures.append({"uri": outcome.uri, "reason": outcome.reason or outcome.status})
            else:
                self.failures_left_out += 1
        for note in outcome.notes:
            if len(self.notes) < _LISTED:
                self.notes.append({"uri": outcome.uri, "note": note})
            else:
                self.notes_left_out += 1


def _new_id() -> str:
    return f"{time.time_ns():016x}-{uuid.uuid4().hex[:12]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Jobs:
    """The jobs of one data directory, and the threads of those that this process works on: one per collection."""

    def __init__(self, data_dir: Path, open_collection: Callable[[str], Opened]) -> None:
        self._folder = data_dir / _FOLDER
        self._open = open_collection
        self._owner = uuid.uuid4().hex
        self._owner_file: int | None = None
        self._stopping = threading.Event()
        self._mutex = threading.Lock()
        self._queues: dict[str, deque[_Job]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._encoders: dict[str, Encoder] = {}
        self.inputs: Counter[tuple[str, str]] = Counter()
        """By collection and status: inputs whose fate was decided since this process began."""

    # -- asked from outside ----------------------------------------------------------------------------------------

    def submit(self, collection: str, items: Sequence[Item], fields: FieldChoice, size: int) -> dict[str, Any]:
        """Takes ``items`` (``size`` bytes in all) to be worked off; the new job's state.

        Raises:
            Busy: too much is waiting already. NotReady: the service is stopping.
            StorageFailure: the data directory cannot be written.
        """
        return self._submit(_Job(_new_id(), collection, items, fields, size, len(items)))

    def submit_work(self, collection: str, kind: str, work: Work) -> dict[str, Any]:
        """Takes ``work`` on a collection, to be done once it is its turn; tried again while another process writes. The
        new job's state. Raises as :meth:`submit`."""
        return self._submit(_Job(_new_id(), collection, (), FieldChoice(), 0, 0, kind, work))

    def _submit(self, job: _Job) -> dict[str, Any]:
        collection, size = job.collection, job.size
        with self._mutex:
            if self._stopping.is_set():
                raise NotReady("The service is stopping. Send this again when it is back.")
            waiting = [other for queue in self._queues.values() for other in queue]
            if len(waiting) >= _MAX_WAITING or sum(other.size for other in waiting) + size > _MAX_WAITING_BYTES:
                raise Busy(f"{len(waiting)} jobs are waiting, as many as fit. Send this again when one has finished.")
            try:
                self._own()
                self._prune()
                self._save(job)
            except OSError as error:
                raise StorageFailure(
                    f"{self._folder} cannot be written: {error.strerror or error}. Check permissions and space."
                ) from error
            state = job.to_dict()
            self._queues.setdefault(collection, deque()).append(job)
            if collection not in self._threads:
                thread = threading.Thread(target=self._work, args=(collection,), name=f"job-{collection}", daemon=True)
                self._threads[collection] = thread
                thread.start()
        return state

    def get(self, id: str) -> dict[str, Any]:
        """The state of a job, whichever process works or worked on it.

        Raises:
            NotFound: there is none with that id.
        """
        if not _ID.fullmatch(id):
            raise NotFound(f"There is no job {id!r}. A job's id comes with the answer to the upload.")
        try:
            state: dict[str, Any] = json.loads((self._folder / f"{id}.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"There is no job {id!r}. The newest {_KEEP} jobs are kept.") from None
        if state["status"] in ("queued", "running") and not self._is_alive(state["owner"]):
            # It may have finished between the two looks.
            state = json.loads((self._folder / f"{id}.json").read_bytes())
            if state["status"] in ("queued", "running"):
                state["status"], state["error"] = "interrupted", _INTERRUPTED
        del state["owner"]
        return state

    def stop(self, timeout: float) -> None:
        """Lets each running job finish its current commit, marks what is not done as interrupted."""
        with self._mutex:
            self._stopping.set()
            threads = list(self._threads.values())
            encoders = list(self._encoders.values())
        for encoder in encoders:
            encoder.close()
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                log.warning("%s did not stop within %g s; what it has not committed is lost", thread.name, timeout)
        with self._mutex:
            for queue in self._queues.values():
                for job in queue:
                    self._finish(job, "interrupted", _INTERRUPTED)
            if self._owner_file is not None:
                (self._folder / f"{self._owner}.owner").unlink(missing_ok=True)
                os.close(self._owner_file)
                self._owner_file = None

    # -- the work --------------------------------------------------------------------------------------------------

    def _work(self, collection: str) -> None:
        while True:
            with self._mutex:
                queue = self._queues[collection]
                if not queue:
                    del self._queues[collection], self._threads[collection]
                    self._encoders.pop(collection, None)
                    return
                job = queue[0]
            status: JobStatus
            try:
                status, error = self._run(job)
            except Exception:
                log.exception("job %s on %s failed", job.id, collection)
                status, error = "failed", f"Something went wrong inside the service; its log says what (job {job.id})."
            with self._mutex:
                self._finish(job, status, error)
                queue.popleft()

    def _run(self, job: _Job) -> tuple[JobStatus, str | None]:
        while not self._stopping.is_set():
            opened = None
            try:
                if job.work is not None:
                    return self._do(job, job.work)
                opened = self._open(job.collection)
                with self._mutex:
                    if self._stopping.is_set():
                        break
                    self._encoders[job.collection] = opened.encoder
                for outcome in ingest_items(
                    opened.collection, opened.encoder, self._start(job), job.fields, fold=False
                ):
                    job.take_in(outcome)
                    self.inputs[job.collection, outcome.status] += 1
                    if time.monotonic() - job.saved > _SAVE_SECONDS:
                        self._save(job)
                return ("interrupted", _INTERRUPTED) if self._stopping.is_set() else ("done", None)
            except CancelledError:  # the encoder was closed: the service stops
                break
            except Conflict as error:
                if job.work is not None and not isinstance(error, Locked):
                    return "failed", str(error)
                # Another process writes: the job waits for its turn, however long that takes.
                log.info("job %s waits: another process writes to %s", job.id, job.collection)
                self._stopping.wait(0.5)
            except Exception as error:
                if opened is not None and not opened.is_current():
                    return "failed", f"The collection {job.collection!r} was deleted while the job ran."
                if not isinstance(error, EmbedsvcError):
                    raise
                return "failed", str(error)
        return "interrupted", _INTERRUPTED

    def _do(self, job: _Job, work: Work) -> tuple[JobStatus, str | None]:
        def told(done: int, of: int) -> None:
            if self._stopping.is_set():
                raise CancelledError
            job.counts, job.total = {"done": done}, of
            if time.monotonic() - job.saved > _SAVE_SECONDS:
                self._save(job)

        job.status, job.started = "running", job.started or _now()
        self._save(job)
        job.result = work(told)
        return "done", None

    def _start(self, job: _Job) -> Iterator[Item]:
        # Asked for the first item only once the right to write is there.
        job.status, job.started = "running", _now()
        self._save(job)
        for item in job.items:
            if self._stopping.is_set():
                return
            yield item

    def _finish(self, job: _Job, status: JobStatus, error: str | None) -> None:
        if job.finished is not None:
            return
        job.status, job.error, job.finished = status, error, _now()
        job.items, job.work = (), None
        try:
            self._save(job)
        except OSError:
            log.exception("the state of job %s cannot be written", job.id)
        counts = ", ".join(f"{number} {name}" for name, number in job.counts.items())
        log.info("job %s on %s: %s (%s)", job.id, job.collection, status, counts or "nothing yet")

    # -- files -----------------------------------------------------------------------------------------------------

    def _save(self, job: _Job) -> None:
        temporary = self._folder / f".{job.id}.{threading.get_ident()}.tmp"
        temporary.write_bytes(json_bytes({**job.to_dict(), "owner": self._owner}))
        temporary.replace(self._folder / f"{job.id}.json")
        job.saved = time.monotonic()

    def _prune(self) -> None:
        old = sorted(name for name in os.listdir(self._folder) if name.endswith(".json"))[: 1 - _KEEP]  # noqa: PTH208
        active = {job.id for queue in self._queues.values() for job in queue}
        for name in old:
            if name.removesuffix(".json") not in active:
                (self._folder / name).unlink(missing_ok=True)

    def _own(self) -> None:
        if self._owner_file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in self._folder.glob("*.owner"):
                self._is_alive(left.stem)
            # Locked before it gets its name, so that no other process ever takes it for a dead one's.
            fresh = self._folder / f".{self._owner}.tmp"
            file = os.open(fresh, os.O_CREAT | os.O_RDWR, 0o644)
            fcntl.flock(file, fcntl.LOCK_EX)
            fresh.rename(self._folder / f"{self._owner}.owner")
            self._owner_file = file

    def _is_alive(self, owner: str) -> bool:
        """Whether the owner's process lives; the file that a dead one left is cleared away."""
        if owner == self._owner:
            return self._owner_file is not None
        try:
            file = os.open(self._folder / f"{owner}.owner", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            (self._folder / f"{owner}.owner").unlink(missing_ok=True)
            return False
        finally:
            os.close(file)
