"""LangChain's filters in our language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedsvc import conditions
from embedsvc.errors import BadFilter


@conditions.nesting()
def condition_of(filter: Mapping[str, Any]) -> str:
    """A filter as many stores of LangChain take it, in our language: ``{"year": 2024}``, ``{"year": {"$gte": 2020,
    "$lt": 2024}}``; of a field ``$eq``, ``$ne``, ``$gt``, ``$gte``, ``$lt``, ``$lte``, ``$in``, ``$nin``, ``$exists``,
    ``$like``; of filters ``$and``, ``$or``, ``$not``. Keys are those of the documents' metadata.

    Raises:
        BadFilter: it cannot be expressed.
    """
    if not isinstance(filter, Mapping):
        raise BadFilter(f"A filter is SQL or a dict, not {type(filter).__name__}: what Python decides cannot be sent.")
    return conditions.both([_condition(name, value) for name, value in filter.items()])


def _condition(name: str, value: Any) -> str:
    if name in ("$and", "$or"):
        if not isinstance(value, list | tuple):
            raise BadFilter(f"{name} takes a list of filters, not {value!r:.80}.")
        join = conditions.both if name == "$and" else conditions.either
        return join([condition_of(each) for each in value])
    if name == "$not":
        return conditions.neither(condition_of(value))
    if isinstance(name, str) and name.startswith("$"):
        raise BadFilter(f"There is no {name} of filters; there are $and, $or and $not.")
    field = conditions.metadata(name)
    if not isinstance(value, Mapping):
        return conditions.compared(field, "=", value)
    return conditions.both([_compared(field, operator, operand) for operator, operand in value.items()])


_COMPARISONS = {
    "$eq": "=", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<=", "$in": "IN", "$nin": "NOT IN",
}  # fmt: skip


def _compared(field: str, operator: str, value: Any) -> str:
    if operator == "$exists":
        return conditions.compared(field, "!=" if value else "=", None)
    if operator == "$like":
        return conditions.like(field, value)
    if operator not in _COMPARISONS:
        raise BadFilter(
            f"There is no {operator} of a field; there are {', '.join((*_COMPARISONS, '$exists', '$like'))}."
        )
    return conditions.compared(field, _COMPARISONS[operator], value)
