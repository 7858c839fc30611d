"""OpenAI's filters over a file's attributes, in our language."""

from __future__ import annotations

from typing import Any, NoReturn

from embedsvc import conditions
from embedsvc.errors import BadFilter
from embedsvc.service.problems import Refused

_COMPARISONS = {
    "eq": "=", "ne": "!=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "in": "IN", "nin": "NOT IN",
}  # fmt: skip
_JOINS = {"and": conditions.both, "or": conditions.either}
_DEPTH = 20
_VALUES = 1000


def sql_of(filters: Any) -> str:
    """The condition that ``filters`` (JSON) is. What differs from a value, or is none of some (``ne``, ``nin``), may
    also be not there at all.

    Raises:
        Refused: it is no such filter, or cannot be expressed.
    """
    return _condition(filters, "filters", 0)


def _condition(filters: Any, where: str, depth: int) -> str:
    if depth > _DEPTH:
        _refuse(where, f"filters may be nested {_DEPTH} deep.")
    if not isinstance(filters, dict):
        _refuse(where, "a filter is an object with a type.")
    kind = filters.get("type")
    if kind in ("and", "or"):
        parts = filters.get("filters")
        if filters.keys() != {"type", "filters"} or not isinstance(parts, list) or not parts:
            _refuse(where, f"{kind!r} takes 'filters', a list of at least one, and nothing else.")
        return _JOINS[kind]([_condition(part, f"{where}.filters[{at}]", depth + 1) for at, part in enumerate(parts)])
    if not isinstance(kind, str) or kind not in _COMPARISONS:
        _refuse(where, f"its type is {kind!r}; there are {', '.join((*_COMPARISONS, *_JOINS))}.")
    if filters.keys() != {"type", "key", "value"}:
        _refuse(where, f"{kind!r} takes 'key' and 'value', and nothing else.")
    value = filters["value"]
    if kind in ("in", "nin") and not (isinstance(value, list) and 1 <= len(value) <= _VALUES):
        _refuse(where, f"its value must be a list of 1 to {_VALUES} texts or numbers.")
    if value is None or (isinstance(value, list) and None in value):
        _refuse(where, "null cannot be compared with; give a text, a number, true or false.")
    try:
        return conditions.compared(conditions.metadata(filters["key"]), _COMPARISONS[kind], value)
    except BadFilter as error:
        _refuse(where, str(error))


def _refuse(where: str, problem: str) -> NoReturn:
    raise Refused(f"{where}: {problem}", param="filters")
