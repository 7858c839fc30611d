"""Progress on stderr: a bar for whoever looks on, a line a minute for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TELL_SECONDS = 60.0
"""Between two lines where nobody looks on: a log of a night has a few hundred."""

Tell = Callable[[float, float, str], None]
"""Is told how much is done, of how much, and in words how it goes."""


@contextmanager
def progress(*, quiet: bool) -> Iterator[Tell]:
    """What shows it, with the time that is left. What is done at the first call was so before, and says nothing of the
    pace."""
    if quiet:
        yield lambda done, total, text: None
    elif sys.stderr.isatty():
        with _bar() as tell:
            yield tell
        sys.stderr.flush()
    else:
        yield _lines()


def _lines() -> Tell:
    started = told = time.monotonic()
    first: float | None = None

    def tell(done: float, total: float, text: str) -> None:
        nonlocal told, first
        now = time.monotonic()
        if first is None:
            first = done
            return
        if now - told < TELL_SECONDS:
            return
        told = now
        pace = (done - first) / (now - started)
        eta = f", about {(total - done) / pace / 60:,.0f} min left" if pace > 0 else ""
        print(f"{time.strftime('%H:%M:%S')}  {done / total:.0%}  {text}{eta}", file=sys.stderr, flush=True)

    return tell


@contextmanager
def _bar() -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("reading and encoding", total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)
