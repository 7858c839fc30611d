"""Conditions of our filter language, put together from the filters of another: a framework's, or OpenAI's.

Every one is true or false of a passage, never NULL, so that NOT means what it says there: a document that lacks a field
does not have the value that was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

from embedsvc.errors import BadFilter

ALWAYS, NEVER = "1 = 1", "1 = 0"
OPERATORS = ("=", "!=", ">", ">=", "<", "<=", "IN", "NOT IN")


def says_something(condition: str | None) -> bool:
    """Whether what a filter became is a condition: not where there was none in it. Such a filter finds all, but nobody
    who deletes or changes by it means all."""
    return condition not in (None, ALWAYS)


@contextmanager
def nesting() -> Iterator[None]:
    """Around what follows a filter down into those that are in it. Raises BadFilter: it does not end."""
    try:
        yield
    except RecursionError:
        raise BadFilter("The filter is nested too deep; write it with fewer filters in one another.") from None


def metadata(*keys: str) -> str:
    """The field of an input's own to which these keys lead, outermost first.

    Raises:
        BadFilter: a key that a filter cannot name.
    """
    for key in keys:
        if not isinstance(key, str) or not key or '"' in key:
            raise BadFilter(f"A filter cannot name the metadata {key!r}: it is empty, no text, or has double quotes.")
    return ".".join(("metadata", *(f'"{key}"' for key in keys)))


def compared(field: str, operator: str, value: Any) -> str:
    """``operator``: one of ``OPERATORS``. A field equals None, or is among values with None, where it has no value; a
    list equals each value that is in it. What has no value differs from all others, and is not in any order. Text has
    the order of its letters: dates, where all are written in one way (ISO 8601), that of time.

    Raises:
        BadFilter: there is no such operator, or the value is none for it.
    """
    match operator:
        case "=":
            return f"{field} IS NULL" if value is None else f"({field} = {_literal(field, value)}) IS TRUE"
        case "IN":
            return _among(field, value)
        case "!=":
            return neither(compared(field, "=", value))
        case "NOT IN":
            return neither(_among(field, value))
        case _ if operator not in OPERATORS:
            raise BadFilter(f"There is no {operator} of {field}; there are {', '.join(OPERATORS)}.")
    if isinstance(value, bool):
        raise BadFilter(f"{field} {operator} {value}: true and false have no order, but may be equal.")
    return f"({field} {operator} {_literal(field, value)}) IS TRUE"


def _among(field: str, values: Any) -> str:
    if not isinstance(values, list | tuple | set):
        raise BadFilter(f"{field} takes a list of values, not {values!r:.80}.")
    # Of one type each, for as what the field is read follows from that.
    kinds: dict[type, list[str]] = {}
    for value in values:
        if value is not None:
            kinds.setdefault(str if isinstance(value, date) else type(value), []).append(_literal(field, value))
    alternatives = [f"({field} IN ({', '.join(literals)})) IS TRUE" for literals in kinds.values()]
    return either([*alternatives, *([compared(field, "=", None)] if None in values else [])])


def has_text(field: str, text: Any, *, any_case: bool = False) -> str:
    """``text`` stands somewhere in ``field``."""
    if not isinstance(text, str):
        raise BadFilter(f"{field}: {text!r} is no text to look for.")
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("'", "''")
    return f"({field} {'ILIKE' if any_case else 'LIKE'} '%{escaped}%') IS TRUE"


def like(field: str, pattern: Any) -> str:
    """SQL's LIKE: ``%`` stands for any letters, ``_`` for one."""
    if not isinstance(pattern, str):
        raise BadFilter(f"{field}: {pattern!r} is no pattern.")
    return f"({field} LIKE {_literal(field, pattern)}) IS TRUE"


def both(conditions: Sequence[str]) -> str:
    """All of them hold."""
    return _joined(" AND ", conditions) or ALWAYS


def either(conditions: Sequence[str]) -> str:
    """One of them holds, at least."""
    return _joined(" OR ", conditions) or NEVER


def neither(condition: str) -> str:
    """It does not hold."""
    return f"NOT ({condition})"


def _joined(word: str, conditions: Sequence[str]) -> str:
    return f"({word.join(conditions)})" if len(conditions) > 1 else "".join(conditions)


def _literal(field: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, date):  # datetime is one
        value = value.isoformat()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise BadFilter(f"{field}: {value!r:.80} cannot be compared with; give a text, a number, a date, true or false.")
