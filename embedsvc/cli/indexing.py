"""``embedsvc index``: progress while it runs, a report at the end."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from embedsvc.config import Settings
from embedsvc.errors import FileTooLarge, UsageError
from embedsvc.ingest import Outcome, ingest_items, ingest_paths, open_or_create
from embedsvc.readers import FieldChoice, FoundFile, Rejected, Selection, discover
from embedsvc.readers.web import is_url
from embedsvc.records import Source

FIXED = frozenset({"model", "dtype", "chunk_tokens", "overlap", "finer_tokens"})
"""Flags that a collection, once made, must agree with."""


def run(
    name: str,
    paths: Sequence[str],
    settings: Settings,
    fields: FieldChoice,
    asked: Set[str],
    *,
    selection: Selection,
    exact: bool,
    report: Path | None,
    json_lines: bool,
    stdin_name: str = "stdin",
) -> bool:
    """Indexes and reports; returns whether some input failed. ``paths`` of "-" alone: standard input. ``report``: a
    file for the lines that ``json_lines`` prints.

    Raises:
        UsageError: there is nothing to index, or ``report`` cannot be written.
    """
    started = time.monotonic()
    from_stdin = _STDIN in paths
    if from_stdin and (len(paths) > 1 or exact):
        raise UsageError("Standard input (-) is indexed alone: not beside other paths, and not with --exact.")
    limit = settings.max_file_mb * 1_000_000
    source = _standard_input(stdin_name, limit) if from_stdin else None
    # Walked once more than the ingest does, for its bytes: an ETA needs to know how much there is.
    files = [] if source else [path for path in paths if not is_url(path)]
    sizes = {
        found.uri: found.bytes if isinstance(found, FoundFile) else 0
        for found in discover(files, max_file_bytes=limit, selection=selection)
    }
    if not sizes and not exact and not source and len(files) == len(paths):
        raise UsageError(
            f"There is no file to index under {', '.join(map(str, paths))} (hidden and backup files are left out, "
            "and what the patterns of --exclude, --include and .embedsvcignore leave out)."
        )
    counts: Counter[str] = Counter()
    passages = tokens = encoded = 0
    mentioned: list[Outcome] = []
    with lines_into(report) as write, _progress(sizes, quiet=json_lines) as advance:
        collection, encoder = open_or_create(name, settings, asked)
        outcomes = (
            ingest_items(collection, encoder, [source], fields)
            if source
            else ingest_paths(
                collection,
                encoder,
                paths,
                fields=fields,
                max_file_mb=settings.max_file_mb,
                exact=exact,
                selection=selection,
            )
        )
        for outcome in outcomes:
            counts[outcome.status] += 1
            passages += outcome.passages
            tokens += outcome.tokens
            encoded += outcome.encoded_tokens
            line = json.dumps(line_of(outcome))
            write(line)
            if json_lines:
                print(line, flush=True)
            elif outcome.reason or outcome.notes:
                mentioned.append(outcome)
            advance(outcome)
        store = collection.store()
        summary = summary_of(name, store.version, counts, passages, tokens, encoded, started)
        write(json.dumps({"summary": summary}))
    if json_lines:
        print(json.dumps({"summary": summary}), flush=True)
    else:
        show_report(summary, mentioned, store.count())
    return counts["quarantined"] > 0


_STDIN = "-"


def _standard_input(name: str, limit: int) -> Source | Rejected:
    """What stands in standard input, under a uri of its own: the same name is the same document next time."""
    uri = f"stdin:{quote(name, errors='replace')}"
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        return Rejected(
            uri,
            FileTooLarge(
                f"{uri}: it has more than the limit of {limit / 1e6:,.0f} MB. "
                "Raise --max-file-mb (setting max_file_mb), or split it."
            ),
        )
    return Source(uri, name, data)


STATUSES = ("indexed", "replaced", "unchanged", "removed", "empty", "quarantined")


def summary_of(
    name: str, version: int, counts: Counter[str], passages: int, tokens: int, encoded: int, started: float
) -> dict[str, Any]:
    return {
        "collection": name,
        "version": version,
        "inputs": sum(counts.values()),
        **{status: counts[status] for status in STATUSES},
        "passages": passages,
        "tokens": tokens,
        "encoded_tokens": encoded,
        "seconds": round(time.monotonic() - started, 3),
    }


def line_of(outcome: Outcome) -> dict[str, Any]:
    return {
        "uri": outcome.uri,
        "status": outcome.status,
        "passages": outcome.passages,
        "tokens": outcome.tokens,
        "encoded_tokens": outcome.encoded_tokens,
        "seconds": round(outcome.seconds, 4),
        "reason": outcome.reason,
        "notes": list(outcome.notes),
    }


@contextmanager
def lines_into(file: Path | None) -> Iterator[Callable[[str], None]]:
    """What writes a line to ``file``, where there is one; it is there at once, for whoever looks on."""
    if file is None:
        yield lambda line: None
        return
    try:
        stream = file.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UsageError(f"The report {file} cannot be written: {error.strerror}. Choose another place.") from error
    with stream:
        yield lambda line: print(line, file=stream)


def show_report(summary: dict[str, Any], mentioned: Sequence[Outcome], stored: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from embedsvc.cli.output import printable, shown_uri

    console = Console(soft_wrap=True)
    for outcome in mentioned:
        style = {"quarantined": "red", "empty": "yellow"}.get(outcome.status, "dim")
        why = (outcome.reason or "; ".join(outcome.notes)).replace(f"{outcome.uri}: ", "")
        console.print(f"{outcome.status:<12}", style=style, end="")
        console.print(f"{shown_uri(outcome.uri)}  {printable(why)}", markup=False, highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    for status in STATUSES:
        if summary[status]:
            table.add_row(status, f"{summary[status]:,}")
    console.print(table)
    seconds = summary["seconds"]
    encoded = summary["encoded_tokens"]
    rate = f", {encoded / seconds:,.0f} tokens/s" if encoded and seconds else ""
    known = f", {encoded:,} of them new" if encoded < summary["tokens"] else ""
    console.print(
        f"{summary['passages']:,} passages from {summary['tokens']:,} tokens{known}, in {seconds:.1f} s{rate}. "
        f"Collection {summary['collection']} now holds {stored:,} passages.",
        highlight=False,
    )


@contextmanager
def _progress(sizes: dict[str, int], *, quiet: bool) -> Iterator[Any]:
    """A progress bar on stderr, by bytes of the files that are done, with tokens/s and ETA; none into a pipe."""
    if quiet or not sys.stderr.isatty():
        yield lambda outcome: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    left = dict(sizes)
    started = time.monotonic()
    tokens = inputs = passages = 0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("reading and encoding", total=max(1, sum(sizes.values())))

        def advance(outcome: Outcome) -> None:
            nonlocal tokens, inputs, passages
            tokens += outcome.encoded_tokens
            inputs += 1
            passages += outcome.passages
            rate = tokens / max(1e-9, time.monotonic() - started)
            bar.update(
                task,
                advance=left.pop(outcome.uri.partition("#")[0].partition("!/")[0], 0),
                description=f"{inputs:,} inputs  {passages:,} passages  {rate:,.0f} tokens/s",
            )

        yield advance
    sys.stderr.flush()
