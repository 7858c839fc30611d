"""The real watchfiles on real folders. Waits end with what is waited for; none is longer than a minute."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import embedsvc.watch
from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.errors import Conflict, ContractMismatch, NotFound, StorageFailure
from embedsvc.ingest import Outcome, ingest_changed, ingest_paths
from embedsvc.readers import FieldChoice, PathPatterns
from embedsvc.records import Chunking
from embedsvc.watch import RunEnded, RunFailed, watch
from tests.conftest import write_tree
from tests.fakes import FakeEncoder

LONGEST = 60.0


class Watching:
    """A watch on a thread of its own, into a collection of a fake encoder."""

    def __init__(
        self, tops: Sequence[Path], collection: Collection, fake: FakeEncoder, selection: PathPatterns
    ) -> None:
        self.collection, self.fake, self.tops, self.selection = collection, fake, tops, selection
        self.events: list[Outcome | RunEnded | RunFailed | BaseException] = []
        self.runs: list[Sequence[Path] | None] = []
        self.errors: list[Exception] = []
        """Raised by the next runs."""
        self._told: queue.Queue[Any] = queue.Queue()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _run(self, changed: Sequence[Path] | None) -> Iterator[Outcome]:
        self.runs.append(changed)
        if self.errors:
            raise self.errors.pop(0)
        to: Any = {"fields": FieldChoice(), "max_file_mb": 1, "selection": self.selection}
        encoder: Any = self.fake
        if changed is None:
            return ingest_paths(self.collection, encoder, self.tops, exact=True, **to)
        return ingest_changed(self.collection, encoder, changed, self.tops, **to)

    def _watch(self) -> None:
        try:
            for event in watch(self.tops, self._run, self.selection):
                self._told.put(event)
        except BaseException as error:
            self._told.put(error)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONGEST
        while not condition():
            assert time.monotonic() < deadline, self.events
            assert not any(isinstance(event, BaseException) for event in self.events), self.events
            try:
                self.events.append(self._told.get(timeout=0.05))
            except queue.Empty:
                continue

    def has(self, **texts: str) -> Callable[[], bool]:
        """The collection holds these documents and no others: names without suffix, texts."""

        def holds() -> bool:
            store = self.collection.store()
            return texts == {
                document.uri.rpartition("/")[2].removesuffix(".txt"): store.document_passages(document.id)[0]
                for document in store.documents()
            }

        return holds

    def ended(self) -> int:
        return sum(isinstance(event, RunEnded) for event in self.events)


@pytest.fixture
def start(here: Settings, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watching]]:
    monkeypatch.setattr(embedsvc.watch, "_FIRST_RETRY", 0.1)
    stop = threading.Event()
    changes = embedsvc.watch._Watcher.changes

    def changes_or_stop(watcher: Any) -> Any:
        if stop.is_set():
            raise KeyboardInterrupt
        return changes(watcher)

    monkeypatch.setattr(embedsvc.watch._Watcher, "changes", changes_or_stop)
    started: list[Watching] = []

    def start(*tops: Path, **selection: tuple[str, ...]) -> Watching:
        collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
        started.append(Watching(tops, collection, fake, PathPatterns(**selection)))
        return started[-1]

    yield start
    stop.set()
    for each in started:
        each.thread.join(LONGEST)
        assert not each.thread.is_alive()


def test_what_changes_is_followed_and_nothing_else_looked_at(tmp_path: Path, start: Callable[..., Watching]) -> None:
    top = write_tree(tmp_path / "top", {"a.txt": "red", "b.txt": "green", "sub/c.txt": "blue"})
    watching = start(top, exclude=("*.log",))
    watching.until(watching.has(a="red", b="green", c="blue"))
    watching.until(lambda: watching.ended() == 1)
    assert watching.runs == [None]

    write_tree(top, {"a.txt": "red red"})
    watching.until(watching.has(a="red red", b="green", c="blue"))
    assert {path for run in watching.runs[1:] for path in run or ()} == {top / "a.txt"}

    encoded = watching.fake.encoded
    (top / "sub").rename(top / "moved")  # a folder, with what is in it
    (top / "b.txt").rename(top / "moved" / "d.txt")
    watching.until(watching.has(a="red red", d="green", c="blue"))
    assert watching.fake.encoded == encoded  # text that is known is not encoded again
    assert all("/moved/" in uri for uri in uris(watching) if uri.endswith(("c.txt", "d.txt")))

    runs = len(watching.runs)
    write_tree(top, {".a.txt.swp": "x", "a.txt~": "x", "x.log": "x", "#a.txt#": "x", "new/e.txt": "white"})
    (top / "a.txt").unlink()
    watching.until(watching.has(d="green", c="blue", e="white"))
    touched = {path for run in watching.runs[runs:] for path in run or ()}
    assert touched <= {top / "a.txt", top / "new", top / "new" / "e.txt"}

    write_tree(top, {".embedsvcignore": "/new\n"})  # what is left out by now goes
    watching.until(watching.has(d="green", c="blue"))


def uris(watching: Watching) -> list[str]:
    return [document.uri for document in watching.collection.store().documents()]


def test_a_burst_is_few_runs(tmp_path: Path, start: Callable[..., Watching]) -> None:
    top = write_tree(tmp_path / "top", {"first.txt": "red"})
    watching = start(top)
    watching.until(lambda: watching.ended() == 1)
    for part in range(10):
        write_tree(top / str(part), {f"{at}.txt": "green" for at in range(100)})
    watching.until(lambda: watching.collection.store().count() == 1001)
    watching.until(lambda: watching.ended() == len(watching.runs))
    assert len(watching.runs) <= 8


def test_a_file_is_read_once_it_has_settled(tmp_path: Path, start: Callable[..., Watching]) -> None:
    top = write_tree(tmp_path / "top", {"first.txt": "red"})
    watching = start(top)
    watching.until(lambda: watching.ended() == 1)
    with (top / "slow.txt").open("w") as file:
        for _ in range(12):
            file.write("green ")
            file.flush()
            time.sleep(0.1)
    watching.until(watching.has(first="red", slow=("green " * 12).strip()))
    assert sum(isinstance(event, Outcome) and event.uri.endswith("slow.txt") for event in watching.events) <= 1


def test_a_folder_that_was_named_may_vanish_and_come_back(tmp_path: Path, start: Callable[..., Watching]) -> None:
    top = write_tree(tmp_path / "top", {"a.txt": "red", "b.txt": "green"})
    other = write_tree(tmp_path / "other", {"o.txt": "blue"})
    watching = start(top, other)
    watching.until(watching.has(a="red", b="green", o="blue"))
    top.rename(tmp_path / "away")
    write_tree(other, {"o.txt": "blue blue"})
    watching.until(watching.has(a="red", b="green", o="blue blue"))  # it may be a disk that is not mounted
    (tmp_path / "away" / "a.txt").unlink()
    (tmp_path / "away").rename(top)
    watching.until(watching.has(b="green", o="blue blue"))
    write_tree(top, {"n.txt": "white"})  # it is watched again
    watching.until(watching.has(b="green", o="blue blue", n="white"))


def test_a_file_that_was_named_is_followed_through_its_replacement(
    tmp_path: Path, start: Callable[..., Watching]
) -> None:
    top = write_tree(tmp_path / "top", {"a.txt": "red", "b.txt": "green"})
    watching = start(top / "a.txt")
    watching.until(watching.has(a="red"))
    write_tree(top, {"a.new": "white"})
    (top / "a.new").rename(top / "a.txt")  # as editors save
    watching.until(watching.has(a="white"))
    (top / "a.txt").unlink()
    watching.until(watching.has())


def test_errors_of_a_run_are_told_and_it_is_tried_again(tmp_path: Path, start: Callable[..., Watching]) -> None:
    top = write_tree(tmp_path / "top", {"a.txt": "red"})
    watching = start(top)
    watching.until(watching.has(a="red"))
    watching.errors += [Conflict("busy."), StorageFailure("full."), OSError("odd")]
    write_tree(top, {"b.txt": "green"})
    watching.until(watching.has(a="red", b="green"))
    watching.until(lambda: isinstance(watching.events[-1], RunEnded))
    failed = [event for event in watching.events if isinstance(event, RunFailed)]
    assert [event.reason for event in failed] == ["busy.", "full.", "odd"]
    assert failed[0].retry < failed[1].retry < failed[2].retry
    watching.errors.append(ContractMismatch("other model"))
    write_tree(top, {"b.txt": "blue"})
    watching.until(lambda: isinstance(watching.events[-1], ContractMismatch))  # no use in trying again


def test_between_runs_others_may_write(tmp_path: Path, start: Callable[..., Watching]) -> None:
    top = write_tree(tmp_path / "top", {"a.txt": "red"})
    watching = start(top)
    watching.until(lambda: watching.ended() == 1)
    with watching.collection.writer():  # lock_timeout is 0: it is free now
        write_tree(top, {"b.txt": "green"})
        watching.until(lambda: any(isinstance(event, RunFailed) for event in watching.events))
    watching.until(watching.has(a="red", b="green"))


def test_too_many_changes_at_once_are_a_look_at_everything(
    tmp_path: Path, start: Callable[..., Watching], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's queue may have overflowed."""
    monkeypatch.setattr(embedsvc.watch, "_MOST_CHANGES", 5)
    top = write_tree(tmp_path / "top", {"a.txt": "red"})
    watching = start(top)
    watching.until(lambda: watching.ended() == 1)
    write_tree(top, {f"{at}.txt": "green" for at in range(50)})
    watching.until(lambda: watching.collection.store().count() == 51)
    assert None in watching.runs[1:]


def test_now_and_then_everything_is_looked_at(
    tmp_path: Path, start: Callable[..., Watching], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedsvc.watch, "_RESCAN_SECONDS", 0.1)
    watching = start(write_tree(tmp_path / "top", {"a.txt": "red"}))
    watching.until(lambda: watching.runs[:3] == [None] * 3)


def test_nothing_to_watch(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        next(watch([tmp_path / "nowhere"], lambda changed: iter(())))


@contextmanager
def process(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], dict[str, Any]]]]:
    """With what reads its lines up to one that has a key."""
    command = [sys.executable, "-m", "embedsvc", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        alarm = threading.Timer(2 * LONGEST, running.kill)
        alarm.start()

        def read(key: str) -> dict[str, Any]:
            assert running.stdout
            while line := running.stdout.readline():
                if key in (found := json.loads(line)):
                    return dict(found)
            raise AssertionError(running.stderr and running.stderr.read())

        try:
            yield running, read
        finally:
            alarm.cancel()
            running.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_with_a_report(tmp_path: Path, number: int) -> None:
    top = write_tree(tmp_path / "top", {"a.txt": "Rivers flow."})
    to = ("--watch", "--json", "-c", "c", "--data-dir", top / "data", "--report", top / "report.jsonl")
    with process("index", top, *to) as (running, read):  # what it writes itself lies in the watched folder
        assert read("run")["run"]["indexed"] == 1
        write_tree(top, {"b.txt": "Stones lie."})
        line = read("uri")
        assert (line["uri"], line["status"]) == ((top / "b.txt").as_uri(), "indexed")
        assert read("run")["run"]["indexed"] == 1
        os.kill(running.pid, number)
        summary = read("summary")["summary"]
        assert (summary["indexed"], summary["quarantined"]) == (2, 0)
        assert running.wait(LONGEST) == 0
        assert running.stderr
        assert running.stderr.read() == ""
