"""``embedsvc index --watch``: one line per run, a report at the end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from embedsvc.cli import indexing
from embedsvc.config import Settings
from embedsvc.errors import UsageError
from embedsvc.ingest import Outcome, ingest_changed, ingest_paths, open_or_create
from embedsvc.readers import FieldChoice, Selection, absolute
from embedsvc.readers.web import is_url
from embedsvc.watch import RunEnded, RunFailed, watch


def run(
    name: str,
    paths: Sequence[str],
    settings: Settings,
    fields: FieldChoice,
    asked: Set[str],
    *,
    selection: Selection,
    report: Path | None,
    json_lines: bool,
) -> bool:
    """Indexes and goes on until a signal comes; returns whether some input cannot be read by then."""
    from embedsvc.cli import Stopped

    if urls := [path for path in paths if is_url(path)]:
        raise UsageError(f"{urls[0]} cannot be watched: nothing tells when a page changes. Index it now and then.")
    started = time.monotonic()
    collection, encoder = open_or_create(name, settings, asked)
    tops = [absolute(path) for path in paths]

    def once(changed: Sequence[Path] | None) -> Iterator[Outcome]:
        limit = settings.max_file_mb
        if changed is None:
            return ingest_paths(
                collection, encoder, tops, fields=fields, max_file_mb=limit, exact=True, selection=selection
            )
        return ingest_changed(collection, encoder, changed, tops, fields=fields, max_file_mb=limit, selection=selection)

    counts: Counter[str] = Counter()
    passages = tokens = encoded = 0
    failed: set[str] = set()
    with indexing.lines_into(report) as write:
        selection = replace(selection, never=_outputs(report))
        try:
            with closing(watch(tops, once, selection)) as events:
                for event in events:
                    if isinstance(event, Outcome):
                        counts[event.status] += 1
                        passages, tokens = passages + event.passages, tokens + event.tokens
                        encoded += event.encoded_tokens
                        (failed.add if event.status == "quarantined" else failed.discard)(event.uri)
                        line = json.dumps(indexing.line_of(event))
                        write(line)
                        if json_lines:
                            print(line, flush=True)
                    else:
                        _tell(event, json_lines)
        except (KeyboardInterrupt, Stopped):
            pass  # that is how a watch ends
        store = collection.store()
        summary = indexing.summary_of(name, store.version, counts, passages, tokens, encoded, started)
        write(json.dumps({"summary": summary}))
    if json_lines:
        print(json.dumps({"summary": summary}), flush=True)
    else:
        indexing.show_report(summary, (), store.count())
    return bool(failed)


def _tell(event: RunEnded | RunFailed, json_lines: bool) -> None:
    """Errors go to stderr; of a run that found nothing new nothing is told."""
    if isinstance(event, RunFailed):
        print(f"embedsvc: {event.reason} Trying again in {event.retry:g} s.", file=sys.stderr, flush=True)
        return
    told = {status: event.counts[status] for status in indexing.STATUSES if event.counts[status]}
    if json_lines:
        about = {**told, "passages": event.passages, "seconds": round(event.seconds, 3), "all": event.everything}
        print(json.dumps({"run": about}), flush=True)
    elif event.everything or told.keys() - {"unchanged"}:
        what = ", ".join(f"{count:,} {status}" for status, count in told.items()) or "nothing there yet"
        print(f"{time.strftime('%H:%M:%S')}  {what}  ({event.passages:,} passages, {event.seconds:.1f} s)", flush=True)


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
