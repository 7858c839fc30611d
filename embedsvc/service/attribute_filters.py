"""OpenAI's filters over a file's attributes, as SQL over the metadata of documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from embedsvc.service.problems import Refused

_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_DEPTH = 20
_VALUES = 1000
_Value = str | int | float | bool


def sql_of(filters: Any) -> str:
    """The condition that ``filters`` (JSON) is. What differs from a value, or is none of some (``ne``, ``nin``), may
    also be not there at all.

    Raises:
        Refused: it is no such filter, or cannot be expressed.
    """
    return _condition(filters, "filters", 0)


def _condition(filters: Any, where: str, depth: int) -> str:
    if depth > _DEPTH:
        _refuse(where, f"filters may be nested {_DEPTH} deep")
    if not isinstance(filters, dict):
        _refuse(where, "a filter is an object with a type")
    kind = filters.get("type")
    if kind in ("and", "or"):
        parts = filters.get("filters")
        if filters.keys() != {"type", "filters"} or not isinstance(parts, list) or not parts:
            _refuse(where, f"{kind!r} takes 'filters', a list of at least one, and nothing else")
        conditions = [_condition(part, f"{where}.filters[{at}]", depth + 1) for at, part in enumerate(parts)]
        return "(" + f" {kind.upper()} ".join(conditions) + ")"
    if kind not in _KINDS:
        _refuse(where, f"its type is {kind!r}; there are {', '.join((*_KINDS, 'and', 'or'))}")
    if filters.keys() != {"type", "key", "value"}:
        _refuse(where, f"{kind!r} takes 'key' and 'value', and nothing else")
    key, value = filters["key"], filters["value"]
    if not isinstance(key, str) or not key or '"' in key:
        _refuse(where, "its key must be a text, without double quotes")
    return _KINDS[kind](f'metadata."{key}"', value, where)


def _equal(field: str, value: Any, where: str) -> str:
    return f"{field} = {_literal(value, where)}"


def _compared(operator: str) -> Callable[[str, Any, str], str]:
    def condition(field: str, value: Any, where: str) -> str:
        if isinstance(value, bool):
            _refuse(where, "true and false have no order; compare them by eq or ne")
        return f"{field} {operator} {_literal(value, where)}"

    return condition


def _among(field: str, values: Any, where: str) -> str:
    if not isinstance(values, list) or not 1 <= len(values) <= _VALUES:
        _refuse(where, f"its value must be a list of 1 to {_VALUES} texts or numbers")
    # Of one kind each, for what the attribute is compared as follows from that.
    texts = [value for value in values if isinstance(value, str)]
    truths = [value for value in values if isinstance(value, bool)]
    others = [value for value in values if not isinstance(value, str | bool)]
    listed = [f"{field} IN ({_literals(kind, where)})" for kind in (texts, others) if kind]
    return "(" + " OR ".join([*listed, *(_equal(field, truth, where) for truth in truths)]) + ")"


def _not(condition: Callable[[str, Any, str], str]) -> Callable[[str, Any, str], str]:
    return lambda field, value, where: f"(({condition(field, value, where)}) IS NOT TRUE)"


_KINDS: dict[Any, Callable[[str, Any, str], str]] = {
    "eq": _equal,
    "ne": _not(_equal),
    **{kind: _compared(operator) for kind, operator in _COMPARISONS.items()},
    "in": _among,
    "nin": _not(_among),
}


def _literals(values: Sequence[Any], where: str) -> str:
    return ", ".join(_literal(value, where) for value in values)


def _literal(value: Any, where: str) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool):
        return str(value).upper()
    if not isinstance(value, int | float):
        _refuse(where, "its value must be a text, a number, true or false; of in and nin, a list of these")
    return repr(value)


def _refuse(where: str, problem: str) -> NoReturn:
    raise Refused(f"{where}: {problem}.", param="filters")
