"""``embedsvc index --watch``: one line per run, a report at the end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedsvc.cli.indexing import STATUSES, Order, check_emptying, lines_into, show_report, summary_of
from embedsvc.errors import UsageError
from embedsvc.ingest import ingest_changed, ingest_paths, open_or_create
from embedsvc.outcomes import Outcome, outcome_dict
from embedsvc.readers import absolute, discover
from embedsvc.readers.discovery import is_url
from embedsvc.tally import Tally
from embedsvc.watch import RunEnded, RunFailed, watch


def run(order: Order) -> bool:
    """Indexes and goes on until a signal comes; returns whether some input cannot be read by then."""
    from embedsvc.cli import Stopped

    if urls := [path for path in order.paths if is_url(path)]:
        raise UsageError(f"{urls[0]} cannot be watched: nothing tells when a page changes. Index it now and then.")
    if "-" in order.paths:
        raise UsageError("Standard input (-) cannot be watched: it is read once.")
    tally = Tally()
    tops = [absolute(path) for path in order.paths]
    limit = order.settings.max_file_mb * 1_000_000
    if next(discover(tops, max_file_bytes=limit, selection=order.selection), None) is None:
        check_emptying(order, tops)
    collection, encoder = open_or_create(order.name, order.settings, order.asked)
    failed: set[str] = set()
    with lines_into(order) as write:
        selection = replace(order.selection, never=_outputs(order.report))

        def once(changed: Sequence[Path] | None) -> Iterator[Outcome]:
            how: Any = {
                "fields": order.fields,
                "max_file_mb": order.settings.max_file_mb,
                "selection": selection,
            }
            if changed is None:
                return ingest_paths(collection, encoder, tops, exact=True, **how)
            return ingest_changed(collection, encoder, changed, tops, **how)

        try:
            with closing(watch(tops, once, selection)) as events:
                for event in events:
                    if isinstance(event, Outcome):
                        tally.take_in(event)
                        (failed.add if event.status == "quarantined" else failed.discard)(event.uri)
                        write(outcome_dict(event))
                    else:
                        _tell(event, order.json_lines)
        except (KeyboardInterrupt, Stopped):
            pass  # that is how a watch ends
        store = collection.store()
        summary = summary_of(tally, order.name, store.version)
        write({"summary": summary})
    if not order.json_lines:
        show_report(summary, (), (), store.count())
    return bool(failed)


def _tell(event: RunEnded | RunFailed, json_lines: bool) -> None:
    """Errors go to stderr; of a run that found nothing new nothing is told."""
    if isinstance(event, RunFailed):
        print(f"embedsvc: {event.reason} Trying again in {event.retry:g} s.", file=sys.stderr, flush=True)
        return
    counts, passages = event.tally.counts, event.tally.passages
    told: dict[str, int] = {status: counts[status] for status in STATUSES if counts[status]}
    if json_lines:
        about = {**told, "passages": passages, "seconds": round(event.seconds, 3), "all": event.everything}
        print(json.dumps({"run": about}), flush=True)
    elif event.everything or told.keys() - {"unchanged"}:
        what = ", ".join(f"{count:,} {status}" for status, count in told.items()) or "nothing there yet"
        print(f"{time.strftime('%H:%M:%S')}  {what}  ({passages:,} passages, {event.seconds:.1f} s)", flush=True)


def _outputs(report: Path | None) -> frozenset[tuple[int, int]]:
    """Files that we write ourselves: where they lie in a watched folder, each line would bring the next."""
    found = set()
    outputs: list[int | Path] = [1, 2, *([report] if report else [])]
    for each in outputs:
        try:
            status = os.stat(each)  # noqa: PTH116 (descriptors, too)
        except OSError:
            continue
        found.add((status.st_dev, status.st_ino))
    return frozenset(found)
