"""Results on the screen, or as the JSON that the design fixes."""

from __future__ import annotations

import json as _json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from embedsvc.errors import UsageError
from embedsvc.search.telling import answer_dict

if TYPE_CHECKING:
    from rich.text import Text

    from embedsvc.checks import Check
    from embedsvc.encoding.choices import Calibration
    from embedsvc.evaluate.tuning import Choice, Tuning
    from embedsvc.records import Fusion
    from embedsvc.search import Answer, Hit
    from embedsvc.storage import StoredPassage
    from embedsvc.vectors import Goal, Plan

_Value = TypeVar("_Value")

_SHOWN_CHARACTERS = 400
_SHOWN_COPIES = 3
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _print_json(value: Any) -> None:
    print(_json.dumps(value, ensure_ascii=False), flush=True)


def _console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False)


def printable(text: str) -> str:
    """``text`` without control characters: what is indexed must not steer the terminal that shows it."""
    return _CONTROL.sub("\ufffd", text)


def shown_uri(uri: str) -> str:
    """A file's uri as the path that a shell understands, below the working directory where it lies there."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return printable(uri)
    path = Path(unquote(parts.path))
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return printable(f"{path}#{unquote(parts.fragment)}" if parts.fragment else str(path))


def shown_place(passage: StoredPassage) -> str:
    return f"{shown_uri(passage.uri)} [{passage.start}:{passage.end}]"


def answer(answer: Answer, json: bool) -> None:
    for warning in answer.warnings:
        print(f"embedsvc: {printable(warning)}", file=sys.stderr)
    if json:
        _print_json(answer_dict(answer))
        return
    from rich.text import Text

    console = _console()
    for rank, hit in enumerate(answer.hits, 1):
        place = f"[{hit.start}:{hit.end}]" + (f" page {hit.page}" if hit.page else "")
        line = Text.assemble(
            (f"{rank}. ", "bold"),
            (printable(hit.title), "bold"),
            f"  {hit.score:.3f}  ",
            (f"{shown_uri(hit.uri)} {place}", "cyan"),
        )
        console.print(line)
        if hit.heading:
            console.print(Text(f"   {printable(hit.heading)}", "magenta"))
        if hit.places:
            places = (f"{name} {place.rank} ({place.score:.3f})" for name, place in hit.places.items())
            console.print(Text("   " + ", ".join(places), "dim"))
        console.print(_shown(hit), soft_wrap=False)
        for each in hit.duplicates[:_SHOWN_COPIES]:
            console.print(Text(f"   also {shown_uri(each.uri)} [{each.start}:{each.end}]", "cyan"))
        if len(hit.duplicates) > _SHOWN_COPIES:
            console.print(f"   and {len(hit.duplicates) - _SHOWN_COPIES} more", style="cyan")
    if answer.explanation is not None:
        for step in answer.explanation.steps:
            console.print(f"{step.stage:<12} {step.ms:8.1f} ms  {step.passages:5} passages", style="dim")
    if answer.rerank_late:
        console.print("There was no time to rerank: this is the order from before.", style="yellow")
    if answer.answerable is False:
        console.print("The collection does not seem to hold the answer.", style="yellow")
    count = len(answer.hits)
    console.print(
        f"{count} hit{'' if count == 1 else 's'} in {answer.took_ms:.1f} ms "
        f"({answer.mode}, {answer.collection} version {answer.version}).",
        style="dim",
    )
    if answer.context is not None:
        console.print()
        console.print(Text(_CONTROL_BUT_LINES.sub("\ufffd", answer.context.text)))
        console.print()
        for source in answer.context.sources:
            more = "" if source.complete else " (in part)"
            place = f"[{source.start}:{source.end}]{more}"
            console.print(Text(f"[{source.marker}] {shown_uri(source.uri)} {place}", "cyan"))
        left_out = ", ".join(map(str, answer.context.left_out))
        console.print(
            f"{answer.context.tokens:,} tokens." + (f" No room for the hits {left_out}." if left_out else ""),
            style="dim",
        )


def _shown(hit: Hit) -> Text:
    """The beginning of the hit's text; where it is highlighted, of its best sentence, the query's words in bold."""
    from rich.text import Text

    if hit.highlight is None:
        text = printable(" ".join(hit.text.split()))
        return Text("   " + text[:_SHOWN_CHARACTERS] + (" …" if len(text) > _SHOWN_CHARACTERS else ""))
    start, end = hit.highlight.sentence
    text = hit.text[start - hit.start : end - hit.start][:_SHOWN_CHARACTERS]
    shown = Text(printable("".join(" " if character.isspace() else character for character in text)))
    for low, high in hit.highlight.terms:
        if start <= low and high <= start + len(text):
            shown.stylize("bold", low - start, high - start)
    return Text.assemble("   ", shown, " …" if end - start > _SHOWN_CHARACTERS else "")


_SHOWN_CHANGES = 10


def evaluation(value: dict[str, Any], json: bool) -> None:
    if json:
        _print_json(value)
        return
    compared = value.pop("against", None)
    failed = value.pop("gates_failed", None)
    _pairs(value)
    if compared is not None:
        print(
            f"\nAgainst the saved run, {compared['queries']:,} queries: nDCG@10 {compared['change']:+.4f}; "
            f"{len(compared['winners'])} gained, {len(compared['losers'])} lost; chance alone gives a loss as large in "
            f"{compared['p_worse']:.1%}."
        )
        for which in ("winners", "losers"):
            for change in compared[which][:_SHOWN_CHANGES]:
                print(f"{which[:-1]:<7} {change['before']:.3f} → {change['now']:.3f}  {printable(change['query'])}")
    for each in failed or ():
        print(f"gate failed: {each}")


def tuning(found: Tuning, kept: Iterable[str], json: bool) -> None:
    """``kept``: the names of what is the collection's from now on."""
    kept = sorted(kept)
    if json:
        _print_json({**found.to_dict(), "kept": kept})
        return
    chosen_on, proved_on = found.queries
    shown: dict[str, Any] = {"queries": f"{chosen_on} to choose by, {proved_on} others to prove it"}
    if found.documents_missing:
        shown["judged, not there"] = found.documents_missing
    shown["fusion"] = _choice(found.fusion, _fusion, "fusion" in kept)
    if found.rerank_depth is not None:
        shown["rerank depth"] = _choice(found.rerank_depth, _depth, "rerank_depth" in kept)
    _pairs(shown)


def _choice(choice: Choice[_Value], told: Callable[[_Value], str], is_kept: bool) -> dict[str, str]:
    low, high = choice.interval
    gain = f"{choice.after - choice.before:+.4f}, 95 %: {low:+.4f} to {high:+.4f}, p = {choice.p_value:.3f}"
    return {
        "now": told(choice.current),
        "best": told(choice.best),
        "nDCG@10": f"{choice.before:.4f} now, {choice.after:.4f} then",
        "gain": gain,
        "kept": "yes" if is_kept else "no" if choice.proved else "no: the gain is not proved",
    }


def _depth(depth: int) -> str:
    return f"{depth:,}" if depth else "0: do not rerank"


def _fusion(fusion: Fusion) -> str:
    how = f"convex, {fusion.normalisation}" if fusion.method == "convex" else fusion.method
    return f"{how}, weight {fusion.weight:g}, depth {fusion.depth}"


def checks(results: Sequence[Check], json: bool) -> None:
    if json:
        _print_json({"ok": all(check.ok for check in results), "checks": [asdict(check) for check in results]})
        return
    from rich.text import Text

    console = _console()
    for check in results:
        mark = ("ok    ", "green") if check.ok else ("FAILED", "bold red")
        console.print(Text.assemble(mark, f"  {check.name}: {check.detail}"))


def collections(values: Sequence[dict[str, Any]], data_dir: Path, json: bool) -> None:
    if json:
        _print_json({"collections": values})
        return
    from rich.table import Table

    if not values:
        _console().print(f"There are no collections in {data_dir}. Make one: embedsvc index PATH -c NAME")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("name", "documents", "passages", "model", "index", "MB"):
        table.add_column(column, justify="left" if column in ("name", "model", "index") else "right")
    for value in values:
        if "error" in value:
            table.add_row(value["name"], "", "", value["error"], "", "")
            continue
        table.add_row(
            value["name"],
            f"{value['documents']:,}",
            f"{value['passages']:,}",
            f"{value['contract']['model']} {value['contract']['dtype']}",
            value["index"]["kind"],
            f"{value['bytes'] / 1e6:,.1f}",
        )
    _console().print(table)


def collection(value: dict[str, Any], json: bool) -> None:
    if json:
        _print_json(value)
    else:
        _pairs(value)


_COUNT = re.compile(r"(\d[\d,_]*(?:\.\d+)?(?:e\d\d?)?)\s*([kMB]?)")
_UNITS = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9}


def settings(rows: Sequence[dict[str, Any]], json: bool) -> None:
    """``rows``: ``name``, ``value`` and ``from`` of each setting; of some, what the value ``means``."""
    if json:
        _print_json({"settings": [{**row, "value": _told(row["value"])} for row in rows]})
        return
    from rich.table import Table

    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for row in rows:
        value = (
            _json.dumps(row["value"])
            if isinstance(row["value"], bool)
            else ""
            if row["value"] is None
            else str(row["value"])
        )
        if "means" in row:
            value += f" ({row['means']})"
        style = "dim" if row["from"] == "default" else None
        table.add_row(row["name"], printable(value), printable(row["from"]), style=style)
    _console().print(table)


def _told(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def parsed_count(text: str) -> int:
    """A number of things as people write it: ``180000``, ``180,000``, ``250k``, ``1.5M``, ``1e9``.

    Raises:
        UsageError: it is none.
    """
    found = _COUNT.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is not a number of passages. Write 180000, 250k or 10M.")
    return int(float(found[1].replace(",", "").replace("_", "")) * _UNITS[found[2]])


def plan(count: int, dimension: int, goal: Goal, planned: Plan, cores: int, json: bool) -> None:
    from embedsvc.vectors import FLAT, has_card

    value = {
        "passages": count,
        "dimension": dimension,
        "kind": planned.kind,
        "target_recall": goal.target_recall,
        "memory_mb": round(planned.memory / 1e6, 1),
        "memory_allowed_mb": round(goal.memory / 1e6),
        "disk_mb": round(planned.disk / 1e6, 1),
        "build_seconds": round(planned.seconds / cores, 1),
        "cores": cores,
        "gpu": has_card(),
    }
    notes = []
    if planned.least > goal.memory:  # the service serves it all the same
        notes.append(
            f"No kind fits: {math.ceil(planned.least / 1e6):,} MB would do for one. Searches read the disk, and keep "
            "of it what memory_mb says. Raise index_memory_mb, or put less into one collection."
        )
    if planned.kind == FLAT and planned.memory > goal.memory:
        notes.append(
            f"{min(count, goal.exact):,} passages are searched exactly, and that takes more than is allowed. Lower "
            "exact_passages, or raise index_memory_mb."
        )
    if planned.kind == FLAT and count > goal.exact:
        notes.append(
            "No sample of queries could show such a target_recall: every search looks at all vectors, on the disk. "
            "With .99 or less there is an index."
        )
    if notes:
        value["note"] = " ".join(notes)
    if json:
        _print_json(value)
    else:
        _pairs(value)


def message(text: str, value: dict[str, Any], json: bool) -> None:
    if json:
        _print_json(value)
    else:
        print(text)


def _pairs(value: dict[str, Any], prefix: str = "") -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            _pairs(item, f"{prefix}{key}.")
        else:
            print(f"{prefix + key:<36}{_rounded(item)}")


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


def calibration(found: Calibration, json: bool) -> None:
    if json:
        _print_json(asdict(found))
        return
    from rich.table import Table

    lengths = sorted({length for candidate in found.candidates for length in candidate.tokens_per_s})
    table = Table(
        "runtime", "dtype", *(f"{length} tokens" for length in lengths), "cosine", "", box=None, pad_edge=False
    )
    for candidate in found.candidates:
        chosen = (candidate.runtime, candidate.dtype) == (found.runtime, found.dtype)
        speeds = [f"{candidate.tokens_per_s[length]:,.0f}/s" if candidate.tokens_per_s else "" for length in lengths]
        cosine = "" if candidate.mean_cosine is None else f"{candidate.mean_cosine:.4f}"
        table.add_row(
            candidate.runtime, candidate.dtype, *speeds, cosine, candidate.refusal or ("chosen" if chosen else "")
        )
    console = _console()
    console.print(f"{printable(found.model)} on {found.machine}: tokens per second by length of text")
    console.print(table)


def models(found: Sequence[dict[str, Any]], json: bool) -> None:
    if json:
        _print_json({"models": found})
        return
    console = _console()
    for entry in found:
        dtypes = ", ".join(sorted(set(entry["exports"])))
        prepared = f"{dtypes}, {entry['bytes'] / 1e6:.0f} MB" if dtypes else "not prepared"
        console.print(f"{printable(entry['name'])}  ({prepared})", markup=False)


def model(facts: dict[str, Any], measured: Calibration | None, json: bool) -> None:
    if json:
        _print_json(facts)
        return
    console = _console()
    for key, value in facts.items():
        if key != "calibration" and value not in ("", (), None):
            console.print(f"{key:<16}{printable(str(value))}", markup=False)
    if measured is None:
        console.print(f"not measured on this machine: embedsvc models add {printable(facts['name'])}", markup=False)
    else:
        calibration(measured, json=False)
