"""A run that was saved, and another one beside it: who won, who lost, and whether that is chance."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from embedsvc.encoding.files import write_json
from embedsvc.errors import NotFound, UsageError
from embedsvc.evaluate.significance import randomisation_test

_GATE = re.compile(r"\s*([a-z_@0-9]+)\s*>=\s*(\d+\.?\d*|\.\d+)\s*")
NO_WORSE = "no-worse"
_CHANCE = 0.05
"""A loss that chance alone would give more often than this is none."""


class Measured(Protocol):
    """What was measured, of either kind of evaluation."""

    @property
    def dataset(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def measures(self) -> Mapping[str, float]: ...
    @property
    def texts(self) -> Mapping[str, str]: ...
    @property
    def each(self) -> Mapping[str, float]: ...
    @property
    def found(self) -> Mapping[str, Sequence[str]]: ...


@dataclass(frozen=True, slots=True)
class Saved:
    """A run as it is kept in a file."""

    dataset: str
    mode: str
    measures: Mapping[str, float]
    texts: Mapping[str, str]
    each: Mapping[str, float]
    found: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Change:
    """nDCG@10 of one query, before and now."""

    query: str
    before: float
    now: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """``winners`` and ``losers``: queries that gained or lost, the most first; of ``queries`` that both runs have.
    ``change``: of their mean nDCG@10; ``p_worse``: how often chance alone gives a loss as large."""

    queries: int
    change: float
    p_worse: float
    winners: tuple[Change, ...]
    losers: tuple[Change, ...]


def write_saved(file: Path, run: Measured) -> None:
    """Raises UsageError: the file cannot be written."""
    saved = Saved(run.dataset, run.mode, run.measures, run.texts, run.each, run.found)
    try:
        write_json(file, asdict(saved))
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror or error}.") from error


def read_saved(file: Path) -> Saved:
    """
    Raises:
        NotFound: there is none. UsageError: it is not what :func:`write_saved` wrote.
    """
    try:
        saved = Saved(**json.loads(file.read_bytes()))
        if not all(isinstance(value, int | float) for value in saved.each.values()):
            raise ValueError("scores that are no numbers")
    except FileNotFoundError:
        raise NotFound(f"There is no {file}. Save a run there first: embedsvc eval … --save-run {file}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is not a run that eval --save-run wrote ({error}).") from None
    return saved


def compare(before: Saved, now: Measured) -> Comparison:
    """
    Raises:
        UsageError: the two have no query in common.
    """
    common = [id for id in now.each if id in before.each]
    if not common:
        raise UsageError(
            f"The saved run ({before.dataset}) and this one ({now.dataset}) have no query in common: nothing can be "
            "compared."
        )
    changes = [Change(now.texts[id], before.each[id], now.each[id]) for id in common]
    differences = np.array([change.now - change.before for change in changes])
    order = np.argsort(differences, kind="stable")
    return Comparison(
        len(common),
        round(float(differences.mean()), 5),
        round(randomisation_test(differences, losses_only=True), 4),
        tuple(changes[at] for at in order[::-1] if differences[at] > 0),
        tuple(changes[at] for at in order if differences[at] < 0),
    )


def check_gates(gates: Sequence[str], measures: Collection[str], *, is_compared: bool) -> None:
    """Raise UsageError for a gate that is none, or is on none of the ``measures`` that will be taken."""
    for gate in gates:
        if gate == NO_WORSE:
            if not is_compared:
                raise UsageError(f"--gate {NO_WORSE} is against a saved run: give --against FILE too.")
        elif (parsed := _GATE.fullmatch(gate)) is None:
            raise UsageError(f"{gate!r} is no gate. Write ndcg@10>=0.7, or {NO_WORSE} with --against FILE.")
        elif parsed[1] not in measures:
            raise UsageError(f"{gate}: {parsed[1]} is not measured here; {', '.join(measures)} are.")


def failed_gates(gates: Sequence[str], run: Measured, comparison: Comparison | None) -> list[str]:
    """What of ``gates`` the run does not pass, and why.

    Raises:
        UsageError: one names a measure that was not taken.
    """
    failed = []
    for gate in gates:
        if gate == NO_WORSE:
            if comparison is not None and comparison.change < 0 and comparison.p_worse < _CHANCE:
                failed.append(f"nDCG@10 changed by {comparison.change:+.4f} (p = {comparison.p_worse:.3f})")
            continue
        parsed = _GATE.fullmatch(gate)
        assert parsed is not None, "check_gates comes first"
        name, least = parsed[1], float(parsed[2])
        if name not in run.measures:
            raise UsageError(f"{gate}: {name} was not measured; {', '.join(run.measures)} were.")
        if run.measures[name] < least:
            failed.append(f"{name} is {run.measures[name]:.4f}, not {least:g} or more")
    return failed
