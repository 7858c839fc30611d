"""Which of the ranked passages become hits, besides the query: what is asked for, and whether that can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from embedsvc.errors import UsageError
from embedsvc.storage import metadata_keys

Duplicates = Literal["exact", "near", "keep"]

DOCUMENT = "document"
"""What hits are grouped by that has no field."""
_MOST_BOOSTS = 20
_MOST_FACTOR = 100.0


@dataclass(frozen=True, slots=True)
class Recency:
    """The newer, the better: ``weight``, 0 to 1, is the share of the score that the date in ``field``
    (``metadata.KEY``) makes, 1 today and half as much every ``half_life_days``. Without a date it is 0."""

    field: str
    half_life_days: float
    weight: float


@dataclass(frozen=True, slots=True)
class Preference:
    """Passages for which ``filter`` (SQL, as a query's) holds have ``factor`` times the score, in comparison."""

    filter: str
    factor: float


Boost = Recency | Preference


@dataclass(frozen=True, slots=True)
class Selection:
    """``duplicates``: passages whose text is the same (``exact``), or nearly (``near``), are one hit, or each one
    (``keep``).

    ``diversity``, 0 to 1: how much a hit's difference from those before it counts beside its score. ``group_by``:
    ``document`` or ``metadata.KEY``, of each at most ``per_group`` hits (1 where that is None). ``boosts``: what else
    counts for a passage.
    """

    duplicates: Duplicates = "exact"
    diversity: float = 0.0
    group_by: str | None = None
    per_group: int | None = None
    boosts: tuple[Boost, ...] = ()

    @property
    def is_deep(self) -> bool:
        """Whether it takes more candidates than hits."""
        return bool(self.diversity or self.group_by or self.boosts)


def boost_of(given: Mapping[str, Any]) -> Boost:
    """The boost that a JSON object asks for, by its keys: ``field``, ``half_life_days`` and ``weight``, or ``filter``
    and ``factor``.

    Raises:
        UsageError: it has other keys, lacks one, or a value is of another type.
    """
    for kind, types in ((Recency, (str, float, float)), (Preference, (str, float))):
        names = kind.__slots__
        if given.keys() == set(names):
            values = [given[name] for name in names]
            for name, value, wanted in zip(names, values, types, strict=True):
                if isinstance(value, bool) or not isinstance(value, (int, float) if wanted is float else str):
                    raise UsageError(f"{name} of a boost is {value!r}; it must be a {_TOLD[wanted]}.")
            try:
                return kind(*(wanted(value) for value, wanted in zip(values, types, strict=True)))
            except OverflowError:
                raise UsageError("A number of a boost has more than 308 digits; choose a smaller one.") from None
    raise UsageError(
        f"A boost is given {', '.join(sorted(given)) or 'nothing'}; give it either field, half_life_days and weight, "
        "or filter and factor."
    )


_TOLD = {float: "number", str: "text"}


def check_selection(wanted: Selection) -> None:
    """Raise UsageError for what is wrong with it whatever collection it is for."""
    if wanted.duplicates not in get_args(Duplicates):
        raise UsageError.of("duplicates", f"is {wanted.duplicates!r}; choose {', '.join(get_args(Duplicates))}.")
    if not 0 <= wanted.diversity <= 1:
        raise UsageError.of("diversity", f"is {wanted.diversity:g}; choose 0 (none) to 1 (nothing else counts).")
    if wanted.group_by is not None and wanted.group_by != DOCUMENT:
        try:
            metadata_keys(wanted.group_by)
        except UsageError as error:
            fault = f"is {wanted.group_by!r}; choose {DOCUMENT} or metadata.KEY. {error}"
            raise UsageError.of("group_by", fault) from None
    if wanted.per_group is not None:
        if wanted.group_by is None:
            raise UsageError.of("per_group", "is about groups: give group_by too.")
        if wanted.per_group < 1:
            raise UsageError.of("per_group", f"is {wanted.per_group}; a group has at least 1 hit.")
    _check_boosts(wanted.boosts)


def _check_boosts(boosts: Sequence[Boost]) -> None:
    if len(boosts) > _MOST_BOOSTS:
        raise UsageError(f"{len(boosts)} boosts are given; give at most {_MOST_BOOSTS}.")
    for boost in boosts:
        if isinstance(boost, Preference):
            if not 0 < boost.factor <= _MOST_FACTOR:
                raise UsageError(f"factor is {boost.factor:g}; choose above 0 and up to {_MOST_FACTOR:g}.")
            continue
        try:
            metadata_keys(boost.field)
        except UsageError as error:
            raise UsageError(f"field is {boost.field!r}; choose metadata.KEY. {error}") from None
        if not 0 <= boost.weight <= 1:
            raise UsageError(f"weight is {boost.weight:g}; the share of a date is from 0 to 1, the score has the rest.")
        if not 0 < boost.half_life_days < float("inf"):
            raise UsageError(f"half_life_days is {boost.half_life_days:g}; choose more than 0.")
    together = sum(boost.weight for boost in boosts if isinstance(boost, Recency))
    if together > 1 + 1e-9:
        raise UsageError(f"The weights of the dates are {together:g} together; they share 1 with the score.")
