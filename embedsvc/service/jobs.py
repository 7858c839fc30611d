"""Ingest jobs, and others that take long: taken at once, worked off in the background, told about by any process.

<data dir>/.jobs/<id>.json            the state of one job, replaced as a whole
<data dir>/.jobs/<id>.report.jsonl    of one that puts documents in: a line for each input whose fate is decided
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from embedsvc.config import OnDuplicate
from embedsvc.encoding import Encoder
from embedsvc.errors import Busy, Conflict, EmbedsvcError, Locked, NotFound, NotReady, StorageFailure
from embedsvc.ingest import ingest_items
from embedsvc.opened import Opened
from embedsvc.outcomes import ACTIVE, Outcome, outcome_dict
from embedsvc.readers import FieldChoice, Rejected
from embedsvc.records import Document, Source
from embedsvc.service.problems import json_bytes
from embedsvc.storage import told_of_waiting
from embedsvc.storage.store import writing
from embedsvc.tally import Extent, Tally

log = logging.getLogger(__name__)

Item = Source | Document | Rejected
Progress = Callable[[int, int], None]
"""Is told how much is done, of how much; raises CancelledError when the service stops."""
Work = Callable[[Progress], dict[str, Any]]
JobStatus = Literal["queued", "waiting", "running", "done", "failed", "interrupted"]
"""``waiting``: it is its turn, and another process writes to the collection."""
_FAILED = ("quarantined", "empty")

FOLDER = ".jobs"
_ID = re.compile(r"[0-9a-f]{16}-[0-9a-f]{12}")
_KEEP = 1000
_LISTED = 100
"""Failures and notes that a job lists; of the others only the number is told."""
_SAVE_SECONDS = 0.2
_REPORT = ".report.jsonl"
_MAX_WAITING = 256
MAX_WAITING_BYTES = 1_000_000_000
"""Of the inputs of all jobs that wait: they are held in memory."""
_INTERRUPTED = "The service stopped before the job was done. What was committed stays: send it again to go on."


@dataclass
class Pace:
    """How fast a job goes: ``done`` of ``all``, of whatever its work is measured in."""

    all: float
    done: float = 0.0
    first: float | None = None
    """That was done before this job, and so says nothing of its pace."""
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def to_dict(self, tokens: int) -> dict[str, float | None]:
        if not self.all:
            return {"progress": None, "seconds": None, "tokens_per_s": None, "eta_s": None}
        seconds = (self.ended or time.monotonic()) - self.began
        now = self.done - (self.first or 0.0)
        eta = seconds * (self.all - self.done) / now if now and self.ended is None else None
        return {
            "progress": round(min(1.0, self.done / self.all), 4),
            "seconds": round(seconds, 3),
            "tokens_per_s": round(tokens / seconds, 1) if tokens and seconds else None,
            "eta_s": None if eta is None else round(eta, 1),
        }


@dataclass
class _Job:
    id: str
    collection: str
    items: Sequence[Item]
    fields: FieldChoice
    size: int
    total: int
    duplicates: OnDuplicate | None = None
    kind: str = "documents"
    work: Work | None = None
    """Of another job than one that puts documents in: what it does, and tells as ``result``."""
    status: JobStatus = "queued"
    result: dict[str, Any] | None = None
    tally: Tally = field(default_factory=Tally)
    failures: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)
    notes_left_out: int = 0
    alike: list[dict[str, Any]] = field(default_factory=list)
    pace: Pace | None = None
    """Since it is running."""
    error: str | None = None
    created: str = field(default_factory=lambda: _now())
    started: str | None = None
    finished: str | None = None
    saved: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        counts = self.tally.counts
        return {
            "job": self.id,
            "collection": self.collection,
            "kind": self.kind,
            "status": self.status,
            "total": self.total,
            "counts": dict(counts),
            "failures": self.failures,
            "failures_left_out": sum(counts[status] for status in _FAILED) - len(self.failures),
            "notes": self.notes,
            "notes_left_out": self.notes_left_out,
            "alike": self.alike,
            "alike_left_out": self.tally.alike - len(self.alike),
            "passages": self.tally.passages,
            "tokens": self.tally.tokens,
            "encoded_tokens": self.tally.encoded_tokens,
            **(self.pace or Pace(0.0)).to_dict(self.tally.encoded_tokens),
            "result": self.result,
            "error": self.error,
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
        }

    def take_in(self, outcome: Outcome) -> None:
        self.tally.take_in(outcome)
        if outcome.like is not None and len(self.alike) < _LISTED:
            self.alike.append({"uri": outcome.uri, "like": outcome.like.uri, "similarity": outcome.like.similarity})
        if outcome.status in _FAILED and len(self.failures) < _LISTED:
            self.failures.append({"uri": outcome.uri, "reason": outcome.reason or outcome.status})
        for note in outcome.notes:
            if len(self.notes) < _LISTED:
                self.notes.append({"uri": outcome.uri, "note": note})
            else:
                self.notes_left_out += 1


def _new_id() -> str:
    return f"{time.time_ns():016x}-{uuid.uuid4().hex[:12]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _size(item: Item) -> float:
    """What an input counts for in how much is done: its bytes or characters, and at least one."""
    data = item.text if isinstance(item, Document) else item.data if isinstance(item, Source) else ()
    return max(1.0, float(len(data)))


class Jobs:
    """The jobs of one data directory, and the threads of those that this process works on: one per collection."""

    def __init__(self, data_dir: Path, open_collection: Callable[[str], Opened]) -> None:
        self._folder = data_dir / FOLDER
        self._open = open_collection
        self._owner = uuid.uuid4().hex
        self._owner_file: int | None = None
        self._stopping = threading.Event()
        self._mutex = threading.Lock()
        self._queues: dict[str, deque[_Job]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._encoders: dict[str, Encoder] = {}
        self._unsaved: dict[str, _Job] = {}
        """Jobs that ended while the disk refused to take that; tried again with whatever is saved next."""
        self.inputs: Counter[tuple[str, str]] = Counter()
        """By collection and status: inputs whose fate was decided since this process began."""

    # -- asked from outside ----------------------------------------------------------------------------------------

    def submit(
        self,
        collection: str,
        items: Sequence[Item],
        fields: FieldChoice,
        size: int,
        duplicates: OnDuplicate | None = None,
    ) -> dict[str, Any]:
        """Takes ``items`` (``size`` bytes in all) to be worked off; the new job's state. ``duplicates``: otherwise than
        the settings say.

        Raises:
            Busy: too much is waiting already. NotReady: the service is stopping.
            StorageFailure: the data directory cannot be written.
        """
        return self._submit(_Job(_new_id(), collection, items, fields, size, len(items), duplicates))

    def submit_work(self, collection: str, kind: str, work: Work) -> dict[str, Any]:
        """Takes ``work`` on a collection, to be done once it is its turn; tried again while another process writes. The
        new job's state. Raises as :meth:`submit`."""
        return self._submit(_Job(_new_id(), collection, (), FieldChoice(), 0, 0, kind=kind, work=work))

    def _submit(self, job: _Job) -> dict[str, Any]:
        collection, size = job.collection, job.size
        with self._mutex:
            if self._stopping.is_set():
                raise NotReady("The service is stopping. Send this again when it is back.")
            waiting = [other for queue in self._queues.values() for other in queue]
            if len(waiting) >= _MAX_WAITING or sum(other.size for other in waiting) + size > MAX_WAITING_BYTES:
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
        if (ended := self._unsaved.get(id)) is not None:
            return ended.to_dict()
        try:
            state: dict[str, Any] = json.loads((self._folder / f"{id}.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"There is no job {id!r}. The newest {_KEEP} jobs are kept.") from None
        if state["status"] in ACTIVE and not self._is_alive(state["owner"]):
            # It may have finished between the two looks.
            state = json.loads((self._folder / f"{id}.json").read_bytes())
            if state["status"] in ACTIVE:
                state["status"], state["error"] = "interrupted", _INTERRUPTED
        del state["owner"]
        return state

    def report(self, id: str) -> bytes:
        """A job's report, as far as it has come: JSON lines.

        Raises:
            NotFound: there is no such job, or it has none.
        """
        state = self.get(id)
        try:
            return (self._folder / f"{id}{_REPORT}").read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"The job {id!r} has no report: its kind is {state['kind']}, its status {state['status']}."
            ) from None

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
            self._save_ended()
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
                with told_of_waiting(partial(self._waits, job)):
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
                extent = Extent({item.uri: _size(item) for item in job.items})
                outcomes = ingest_items(
                    opened.collection,
                    opened.encoder,
                    self._start(job, extent.all),
                    job.fields,
                    fold=False,
                    duplicates=job.duplicates,
                    ahead=job.items,
                    progress=partial(self._went_on, job, extent),
                )
                with writing(self._folder):
                    report = (self._folder / f"{job.id}{_REPORT}").open("wb", buffering=0)
                with report:
                    for outcome in outcomes:
                        job.take_in(outcome)
                        with writing(self._folder):
                            report.write(json_bytes(outcome_dict(outcome)) + b"\n")
                        self.inputs[job.collection, outcome.status] += 1
                        self._save_now_and_then(job)
                return ("interrupted", _INTERRUPTED) if self._stopping.is_set() else ("done", None)
            except CancelledError:  # the encoder was closed: the service stops
                break
            except Conflict as error:
                if job.work is not None and not isinstance(error, Locked):
                    return "failed", str(error)
                # Another process writes: the job waits for its turn, however long that takes.
                self._waits(job, str(error))
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
            job.tally.counts["done"], job.total = done, of
            if job.pace is None:
                job.pace = Pace(of, done, first=done)
            job.pace.done, job.pace.all = done, of
            self._save_now_and_then(job)

        job.status, job.started = "running", job.started or _now()
        self._save(job)
        job.result = work(told)
        return "done", None

    def _start(self, job: _Job, size: float) -> Iterator[Item]:
        # Asked for the first item only once the right to write is there.
        job.status, job.started, job.pace = "running", _now(), Pace(size)
        self._save(job)
        for item in job.items:
            if self._stopping.is_set():
                return
            yield item

    def _went_on(self, job: _Job, extent: Extent, shares: Mapping[str, float], _: int) -> None:
        extent.take_in(shares)
        if job.pace is not None:
            job.pace.done = extent.done
        self._save_now_and_then(job)

    def _waits(self, job: _Job, message: str | None) -> None:
        status: JobStatus = "waiting" if message else "running" if job.started else "queued"
        if job.status != status:
            if message:
                log.info("job %s waits: %s", job.id, message)
            job.status = status
            with suppress(StorageFailure):  # that it waits is news, and no reason to end it
                self._save(job)

    def _finish(self, job: _Job, status: JobStatus, error: str | None) -> None:
        if job.finished is not None:
            return
        job.status, job.error, job.finished = status, error, _now()
        job.items, job.work = (), None
        if job.pace is not None:
            job.pace.ended = time.monotonic()
            if status == "done":
                job.pace.done = job.pace.all
        try:
            self._save(job)
        except StorageFailure as failure:
            self._unsaved[job.id] = job
            log.error("the end of job %s is not saved yet: %s", job.id, failure)
        counts = ", ".join(f"{number} {name}" for name, number in job.tally.counts.items())
        log.info("job %s on %s: %s (%s)", job.id, job.collection, status, counts or "nothing yet")

    # -- files -----------------------------------------------------------------------------------------------------

    def _save(self, job: _Job) -> None:
        """Raises StorageFailure."""
        self._write(job)
        self._save_ended()

    def _save_now_and_then(self, job: _Job) -> None:
        if time.monotonic() - job.saved > _SAVE_SECONDS:
            self._save(job)

    def _save_ended(self) -> None:
        for ended in list(self._unsaved.values()):
            with suppress(StorageFailure):
                self._write(ended)
                self._unsaved.pop(ended.id, None)  # another thread may have been quicker

    def _write(self, job: _Job) -> None:
        temporary = self._folder / f".{job.id}.{threading.get_ident()}.tmp"
        with writing(self._folder):
            try:
                temporary.write_bytes(json_bytes({**job.to_dict(), "owner": self._owner}))
                temporary.replace(self._folder / f"{job.id}.json")
            except FileNotFoundError as error:
                raise StorageFailure(f"{self._folder} is gone, with the data folder. Mount it again.") from error
            except OSError:
                temporary.unlink(missing_ok=True)  # half a state, on a disk that may be full
                raise
        job.saved = time.monotonic()

    def _prune(self) -> None:
        old = sorted(name for name in os.listdir(self._folder) if name.endswith(".json"))[: 1 - _KEEP]  # noqa: PTH208
        active = {job.id for queue in self._queues.values() for job in queue}
        for name in old:
            if name.removesuffix(".json") not in active:
                (self._folder / name).unlink(missing_ok=True)
                (self._folder / f"{name.removesuffix('.json')}{_REPORT}").unlink(missing_ok=True)

    def _own(self) -> None:
        if self._owner_file is None:
            self._folder.mkdir(exist_ok=True)  # not its parents: a data folder that went away must not come back empty
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
