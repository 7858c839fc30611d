"""``embedsvc index``: progress while it runs, a report at the end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from embedsvc.cli.progress import progress
from embedsvc.collection import Collection, collection_names
from embedsvc.config import Settings
from embedsvc.errors import FileTooLarge, UsageError
from embedsvc.ingest import Progress, ingest_items, ingest_paths, open_or_create
from embedsvc.outcomes import Outcome, Status, outcome_dict
from embedsvc.readers import FieldChoice, FoundFile, PathPatterns, Rejected, absolute, discover, path_or_url
from embedsvc.readers.discovery import is_url
from embedsvc.records import Source
from embedsvc.tally import Extent, Tally

STATUSES: tuple[Status, ...] = ("indexed", "replaced", "unchanged", "removed", "duplicate", "empty", "quarantined")
_ALIKE = 20
"""Documents like another one that are named on the screen."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be indexed, and how it is told. ``asked``: the settings that the caller insists on. ``report``: a file
    for the lines that ``json_lines`` prints."""

    name: str
    paths: Sequence[str]
    settings: Settings
    fields: FieldChoice
    asked: Set[str]
    selection: PathPatterns
    report: Path | None
    json_lines: bool


def summary_of(tally: Tally, name: str, version: int) -> dict[str, Any]:
    """The last line of a run's report."""
    return {
        "collection": name,
        "version": version,
        "inputs": tally.counts.total(),
        **{status: tally.counts[status] for status in STATUSES},
        "alike": tally.alike,
        "passages": tally.passages,
        "tokens": tally.tokens,
        "encoded_tokens": tally.encoded_tokens,
        "seconds": round(tally.seconds, 3),
    }


def run(order: Order, *, exact: bool, stdin_name: str = "stdin") -> bool:
    """Indexes and reports; returns whether some input failed. Paths of "-" alone: standard input.

    Raises:
        UsageError: there is nothing to index, or the report cannot be written.
    """
    tally = Tally()
    settings, selection = order.settings, order.selection
    from_stdin = _STDIN in order.paths
    if from_stdin and (len(order.paths) > 1 or exact):
        raise UsageError("Standard input (-) is indexed alone: not beside other paths, and not with --exact.")
    limit = settings.max_file_mb * 1_000_000
    source = _standard_input(stdin_name, limit) if from_stdin else None
    # Walked once more than the ingest does, for its bytes: an ETA needs to know how much there is.
    files = [] if source else [path for path in order.paths if not is_url(path)]
    sizes = {
        found.uri: found.bytes if isinstance(found, FoundFile) else 0
        for found in discover(files, max_file_bytes=limit, selection=selection)
    }
    if isinstance(source, Source):
        sizes[source.uri] = len(source.data)
    if not sizes and not exact and not source and len(files) == len(order.paths):
        raise UsageError(
            f"There is no file to index under {', '.join(map(str, order.paths))} (hidden and backup files are left "
            "out, and what the patterns of --exclude, --include and .embedsvcignore leave out)."
        )
    if exact and files and not sizes:
        check_emptying(order, files)
    moved = 0
    mentioned: list[Outcome] = []
    alike: list[Outcome] = []
    with lines_into(order) as write, _progress(sizes, quiet=order.json_lines) as (take_in, went_on):
        collection, encoder = open_or_create(order.name, settings, order.asked)
        outcomes = (
            ingest_items(collection, encoder, [source], order.fields, ahead=[source], progress=went_on)
            if source
            else ingest_paths(
                collection,
                encoder,
                order.paths,
                fields=order.fields,
                max_file_mb=settings.max_file_mb,
                exact=exact,
                selection=selection,
                progress=went_on,
            )
        )
        for outcome in outcomes:
            tally.take_in(outcome)
            write(outcome_dict(outcome))
            if not order.json_lines:
                if outcome.reason or outcome.notes:
                    mentioned.append(outcome)
                if outcome.like:
                    moved += outcome.status != "duplicate" and _is_gone(outcome.like.uri)
                    if len(alike) < _ALIKE:
                        alike.append(outcome)
            take_in(outcome)
        store = collection.store()
        summary = summary_of(tally, order.name, store.version)
        write({"summary": summary})
    if not order.json_lines:
        show_report(summary, mentioned, alike, store.count(), moved=moved, exact=exact)
    return tally.counts["quarantined"] > 0


def check_emptying(order: Order, paths: Sequence[str | Path]) -> None:
    """Of an exact run that finds nothing under ``paths``: whether that is what was meant. Folders without a file say so
    themselves; patterns that take none of what is there rather have a slip of the pen in them.

    Raises:
        UsageError: documents that came from there would all be removed.
    """
    tops = [absolute(path) for path in paths]
    has_patterns = order.selection.exclude or order.selection.include
    if not has_patterns and not any(files for top in tops for _, _, files in os.walk(top)):
        return
    if order.name not in collection_names(order.settings.data_dir):
        return
    known = Collection.open(order.name, order.settings).store().known_documents().values()
    below = tuple(f"{top.as_uri().rstrip('/')}/" for top in tops)
    if count := sum(f"{document.source}/".startswith(below) for document in known):
        raise UsageError(
            f"No file under {', '.join(map(str, paths))} is taken, so an exact run would remove all documents that "
            f"came from there ({count:,} of collection {order.name!r}). Check the paths and patterns (--exclude, "
            f"--include, .embedsvcignore). If they are to go: embedsvc collections delete {order.name}, "
            "or delete them over REST."
        )


def _is_gone(uri: str) -> bool:
    """Whether ``uri`` is of a file, or of something in a file, that is not there any more."""
    if not uri.startswith("file://"):
        return False
    try:
        Path(path_or_url(uri.partition("!/")[0])).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, UsageError):  # of a ready-made document a uri may say anything
        pass
    return False


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


@contextmanager
def lines_into(order: Order) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What writes a line of JSON to the report, where there is one, and to stdout, where that is asked for; it is there
    at once, for whoever looks on."""
    with ExitStack() as stack:
        stream = None
        if order.report is not None:
            try:
                stream = stack.enter_context(order.report.open("w", encoding="utf-8", buffering=1))
            except OSError as error:
                raise UsageError(
                    f"The report {order.report} cannot be written: {error.strerror}. Choose another place."
                ) from error

        def write(value: dict[str, Any]) -> None:
            line = json.dumps(value)
            if stream is not None:
                print(line, file=stream)
            if order.json_lines:
                print(line, flush=True)

        yield write


def show_report(
    summary: dict[str, Any],
    mentioned: Sequence[Outcome],
    alike: Sequence[Outcome],
    stored: int,
    *,
    moved: int = 0,
    exact: bool = False,
) -> None:
    """``alike``: the first of the documents that are like another one. ``moved``: how many were indexed though they are
    like one whose file is gone; ``exact``: that one went, too."""
    from rich.console import Console
    from rich.table import Table

    from embedsvc.cli.output import printable, shown_uri

    console = Console(soft_wrap=True)
    for outcome in mentioned:
        style = {"quarantined": "red", "empty": "yellow"}.get(outcome.status, "dim")
        why = outcome.reason or "; ".join(outcome.notes)
        console.print(f"{outcome.status:<12}", style=style, end="")
        console.print(f"{shown_uri(outcome.uri)}  {printable(why)}", markup=False, highlight=False)
    for outcome in alike:
        if outcome.like:
            console.print(f"{'duplicate' if outcome.status == 'duplicate' else 'alike':<12}", style="dim", end="")
            how = f"is like {shown_uri(outcome.like.uri)} ({outcome.like.similarity:.2f})"
            if _is_gone(outcome.like.uri):
                how += ", which is no longer there" + ("" if exact else "; --exact removes it")
            console.print(f"{shown_uri(outcome.uri)}  {how}", markup=False, highlight=False)
    if (more := summary["alike"] - len(alike)) and alike:
        console.print(f"{'':<12}… and {more:,} more that are like another one; --report FILE names all", style="dim")
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    for status in STATUSES:
        if summary[status]:
            table.add_row(status, f"{summary[status]:,}")
    if moved and not exact:
        table.add_row("moved", f"{moved:,}", "of these are like a file that is no longer there: --exact removes that")
    if kept := summary["alike"] - summary["duplicate"] - moved:
        table.add_row("alike", f"{kept:,}", "of these are like another document: --duplicates drop leaves such out")
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
def _progress(sizes: Mapping[str, float], *, quiet: bool) -> Iterator[tuple[Callable[[Outcome], None], Progress]]:
    """Progress on stderr, by bytes of the files (``sizes``) and the share of each that is done: documents, passages,
    tokens/s, ETA."""
    extent = Extent(sizes)
    tally = Tally()
    with progress(quiet=quiet) as tell:
        tell(0, max(1.0, extent.all), "reading and encoding")

        def show(more_passages: int) -> None:
            pace = tally.encoded_tokens / max(1e-9, tally.seconds)
            documents, passages = tally.counts.total(), tally.passages + more_passages
            text = f"{documents:,} documents  {passages:,} passages  {pace:,.0f} tokens/s"
            tell(extent.done, max(1.0, extent.all), text)

        def went_on(shares: Mapping[str, float], more_passages: int) -> None:
            extent.take_in(shares)
            show(more_passages)

        yield tally.take_in, went_on
