"""Keeping a collection in step with files while they change: what the system tells becomes few, small runs.

watchfiles tells what changed below folders; the paths that were named are looked at every half second besides, since
a folder that was replaced tells nothing any more. Nothing is locked between runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedsvc.errors import ContractMismatch, DamagedCollection, EmbedsvcError, NotFound, ReadError, UsageError
from embedsvc.outcomes import Outcome
from embedsvc.readers import ALL, IGNORE_FILE, PathPatterns, absolute, reach
from embedsvc.tally import Tally

Run = Callable[[Sequence[Path] | None], Iterator[Outcome]]
"""Indexes what is at or below the paths; None: everything."""
_Signature = tuple[int, ...] | None

_STEP_MS, _DEBOUNCE_MS, _LOOK_MS = 100, 400, 500
_SETTLED_SECONDS = 0.5
"""A file is read once it has kept its size and time for so long…"""
_PATIENCE_SECONDS = 30.0
"""…or was changing all the while: a log file never rests."""
_BURST_SECONDS = 5.0
"""While changes come without a pause, a run is made after so long."""
_MOST_CHANGES = 4096
"""So many at once: the kernel's queue (16,384 events, several a file) may have overflowed; watchfiles does not tell."""
_RESCAN_SECONDS = 3600.0
"""Whatever was missed (an overflow, a file system that tells nothing) is found after so long."""
_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class RunEnded:
    """``everything``: all was looked at, not only what changed."""

    tally: Tally
    seconds: float
    everything: bool


@dataclass(frozen=True, slots=True)
class RunFailed:
    """What was told before is committed; the rest is tried again after ``retry`` seconds."""

    reason: str
    retry: float


def watch(
    paths: Sequence[str | Path], run: Run, selection: PathPatterns = ALL
) -> Generator[Outcome | RunEnded | RunFailed, None, None]:
    """Runs over everything, then over what changes, without end. An error of one run is told, and it is tried again.

    Raises:
        NotFound: none of ``paths`` exists. UsageError: they cannot be watched.
        ContractMismatch, DamagedCollection: trying again would not help.
        KeyboardInterrupt: a signal came while it waited, whatever the signal's handler raised.
    """
    tops = [absolute(path) for path in paths]
    if not any(top.exists() for top in tops):
        raise NotFound(f"None of {', '.join(map(str, paths))} exists. Check the spelling.")
    with _Watcher(tops) as watcher:  # before the first run: what changes meanwhile is not missed
        pending = _Pending(everything=True)
        retry, not_before, scanned = _FIRST_RETRY, 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            if now - scanned >= _RESCAN_SECONDS:
                pending.everything = True
            ready = pending.take(now, [top for top in tops if not top.exists()]) if now >= not_before else []
            if ready is None or ready:
                failed = False
                for event in _attempt(run, ready, retry):
                    failed = isinstance(event, RunFailed)
                    yield event
                if failed:
                    pending.put_back(ready)
                    not_before, retry = time.monotonic() + retry, min(_LAST_RETRY, 2 * retry)
                else:
                    retry = _FIRST_RETRY
                if ready is None:
                    scanned = time.monotonic()
            changed, missed = watcher.changes()
            pending.everything |= missed or len(changed) > _MOST_CHANGES
            if not pending.everything:
                pending.note((path for each in changed for path in _meant(each, tops, selection)), time.monotonic())


def _attempt(run: Run, paths: Sequence[Path] | None, retry: float) -> Iterator[Outcome | RunEnded | RunFailed]:
    tally = Tally()
    try:
        for outcome in run(paths):
            tally.take_in(outcome)
            yield outcome
    except (ContractMismatch, DamagedCollection):
        raise
    except (EmbedsvcError, OSError) as error:
        yield RunFailed(str(error), retry)
    else:
        yield RunEnded(tally, tally.seconds, paths is None)


def _meant(path: Path, tops: Sequence[Path], selection: PathPatterns) -> Iterator[Path]:
    """What is to be looked at because of a change of ``path``; nothing where no walk would come to it."""
    if path.name == IGNORE_FILE:
        path = path.parent
    for top in tops:
        if top in path.parents:
            below = [path, *path.parents][: len(path.parts) - len(top.parts)]
            if any(each.is_symlink() and each.is_dir() for each in below):
                # What a link leads to may have a path of its own in the tree: only the whole walk knows.
                yield top
                return
    try:
        meant = reach(path, tops, selection) is not None
    except (OSError, ReadError):
        meant = True
    if meant:
        yield path


@dataclass(slots=True)
class _Change:
    signature: _Signature
    since: float
    """When it was first seen so."""
    first: float


@dataclass(slots=True)
class _Pending:
    """Changes that wait until they have settled."""

    everything: bool = False
    _changes: dict[Path, _Change] = field(default_factory=dict)
    _latest: float = 0.0

    def note(self, paths: Iterator[Path], now: float) -> None:
        for path in paths:
            self._latest = now
            if path not in self._changes:
                self._changes[path] = _Change(_signature(path), now, now)

    def take(self, now: float, missing: Sequence[Path]) -> list[Path] | None:
        """The paths that are ready; None: everything is to be looked at. What lies in a folder that was named and is
        ``missing`` waits: it may be a disk that is not mounted."""
        if self.everything:
            self.everything = False
            self._changes.clear()
            return None
        if not self._changes:
            return []
        oldest = min(change.first for change in self._changes.values())
        if now - self._latest < _SETTLED_SECONDS and now - oldest < _BURST_SECONDS:
            return []
        ready = []
        for path, change in self._changes.items():
            signature = _signature(path)
            if signature != change.signature:
                change.signature, change.since = signature, now
            settled = now - change.since >= _SETTLED_SECONDS or now - change.first >= _PATIENCE_SECONDS
            if settled and not any(top in path.parents for top in missing):
                ready.append(path)
        for path in ready:
            del self._changes[path]
        return ready

    def put_back(self, paths: Sequence[Path] | None) -> None:
        if paths is None:
            self.everything = True
        else:
            self.note(iter(paths), time.monotonic())


def _signature(path: Path) -> _Signature:
    """None where there is nothing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class _Watcher:
    """Tells changes of ``tops``: of folders by watchfiles, of files by looking at them, since editors put a new file
    into the place of the old one."""

    def __init__(self, tops: Sequence[Path]) -> None:
        self._tops = tops
        self._folders: dict[Path, _Signature] = {}
        self._files = {top: _signature(top) for top in tops if not top.is_dir()}
        self._told: Iterator[set[tuple[Any, str]]] | None = None
        self._open()

    def __enter__(self) -> _Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def changes(self) -> tuple[set[Path], bool]:
        """What changed within half a second; and whether changes may have been missed."""
        if self._told is None:
            time.sleep(_LOOK_MS / 1000)
            changed: set[Path] = set()
        else:
            try:
                changed = {Path(path) for _, path in next(self._told)}
            except (OSError, RuntimeError):  # it broke
                self._open()
                return set(), True
        for top in self._tops:
            if top in self._files and not top.is_dir() and (signature := _signature(top)) != self._files[top]:
                self._files[top] = signature
                changed.add(top)
        before, self._folders = self._folders, self._present()
        if any(before.get(top) != identity for top, identity in self._folders.items()):
            # The system goes on watching the folder that was there before, wherever it is now.
            self._open()
            return set(), True
        # A folder that was named and is gone may be a disk that is not mounted: what is stored of it stays.
        return {
            path for path in changed if path in self._files or path not in self._tops or path in self._folders
        }, False

    def _present(self) -> dict[Path, _Signature]:
        found = ((top, _signature(top)) for top in self._tops if top.is_dir())
        return {top: signature[:2] for top, signature in found if signature}

    def _open(self) -> None:
        from watchfiles import watch as told

        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every batch, also of what is left out
        self._close()
        self._folders = self._present()
        if not self._folders:
            return
        opened = told(
            *self._folders,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
            raise_interrupt=True,
            ignore_permission_denied=True,
        )
        try:
            # Only now is anything watched; what this tells is in the look at everything that follows.
            next(opened)
            self._told = opened
        except FileNotFoundError:  # vanished in between: the next look finds it gone
            self._folders = {}
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"{', '.join(map(str, self._folders))} cannot be watched: {error}. Where there are more folders than "
                "the system watches, raise fs.inotify.max_user_watches, or watch fewer."
            ) from error

    def _close(self) -> None:
        told, self._told = self._told, None
        if told is not None and hasattr(told, "close"):
            told.close()
