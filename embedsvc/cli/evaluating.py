"""What `embedsvc eval` does: a BEIR folder made into a collection, or a collection as it is; then the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from embedsvc.cli import output
from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.encoding import encoder_for
from embedsvc.errors import UsageError
from embedsvc.evaluate import (
    Evaluation,
    Scored,
    calibrate,
    check_cutoffs,
    check_gates,
    compare,
    evaluate,
    failed_gates,
    held_out,
    measures_of,
    questions_from,
    read_saved,
    score,
    write_saved,
)
from embedsvc.records import Calibration
from embedsvc.search import Query, check_query


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be measured. ``source`` None: sentences of the collection ``name``."""

    source: Path | None
    name: str | None
    modes: Sequence[Any]
    ks: Sequence[int]
    split: str
    narrow: bool
    sentences: int
    calibrate: bool


@dataclass(frozen=True, slots=True)
class Report:
    save: Path | None
    against: Path | None
    gates: Sequence[str]
    json: bool


def run(asked: Asked, report: Report, settings: Settings, *, passages: bool, max_tokens: int) -> int:
    """The exit code: 1 where a gate fails."""
    for mode in asked.modes:
        check_query(Query("-", mode=mode))
    check_cutoffs(asked.ks)
    # What answers are quoted is known when the questions are read; a folder has none.
    quotes = asked.name is not None and asked.source is not None and not asked.source.is_dir()
    check_gates(report.gates, measures_of(asked.ks, with_quotes=quotes), is_compared=report.against is not None)
    if len(asked.modes) > 1 and (report.save or report.against or report.gates or asked.calibrate):
        raise UsageError("A run that is kept, compared, gated or calibrated by is one: give one --mode.")
    before = None if report.against is None else read_saved(report.against)
    if asked.name is not None:
        results: Iterable[tuple[Evaluation | Scored, Calibration | None]] = _of_collection(asked, asked.name, settings)
    elif asked.source is None:
        raise UsageError("Name a BEIR folder; or the collection to ask with -c, and a CSV file of questions if any.")
    elif asked.source.is_file():
        raise UsageError(f"{asked.source} is a file. Name the collection that is to answer its questions with -c.")
    elif asked.calibrate:
        raise UsageError("A calibration is kept with a collection: name it with -c.")
    else:
        found_in_each = evaluate(
            asked.source,
            settings,
            modes=asked.modes,
            ks=asked.ks,
            passages=passages,
            split=asked.split,
            max_tokens=max_tokens,
        )
        results = ((each, None) for each in found_in_each)
    failed: list[str] = []
    for found, calibration in results:
        comparison = None if before is None else compare(before, found)
        failed = failed_gates(report.gates, found, comparison)
        value = found.to_dict()
        if comparison is not None:
            value["against"] = asdict(comparison)
        if calibration is not None:
            value["calibration"] = asdict(calibration)
        if report.gates:
            value["gates_failed"] = failed
        output.evaluation(value, report.json)
        if report.save is not None:
            write_saved(report.save, found)
    return 1 if failed else 0


def _of_collection(asked: Asked, name: str, settings: Settings) -> Iterator[tuple[Scored, Calibration | None]]:
    """What each mode finds, and what was calibrated and kept."""
    collection = Collection.open(name, settings)
    encoder = encoder_for(collection.contract, settings)
    with ExitStack() as scratch:
        if asked.source is None:
            dataset = "sentences held out"
            searched, questions = scratch.enter_context(held_out(collection, encoder, asked.sentences))
            snapshot = searched.snapshot()
        else:
            dataset = asked.source.resolve().name
            snapshot = collection.snapshot()
            questions = questions_from(asked.source, snapshot.store, split=asked.split)
        for mode in asked.modes:
            found = score(snapshot, encoder, questions, dataset=dataset, mode=mode, ks=asked.ks, narrow=asked.narrow)
            calibration = None
            if asked.calibrate:
                calibration = calibrate(snapshot, encoder, questions, mode)
                with collection.writer() as writer:
                    writer.tune(replace(writer.store.tuned, calibration=calibration))
            yield found, calibration
