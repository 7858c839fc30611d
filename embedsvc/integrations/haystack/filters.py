"""Haystack's filters in our language."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from haystack.errors import FilterError

from embedsvc import conditions
from embedsvc.errors import BadFilter

_COMPARISONS = {"==": "=", "!=": "!=", "in": "IN", "not in": "NOT IN"}
_ORDERS = (">", ">=", "<", "<=")


class UnsupportedFilter(BadFilter, FilterError):
    """A filter that is none of Haystack's, or that cannot be expressed in our language."""


def condition_of(filters: Mapping[str, Any] | None) -> str | None:
    """``filters`` as SQL; None: there are none. ``meta.KEY`` (also ``meta.KEY.DEEPER``) are the documents' metadata,
    ``id`` their ids.

    Raises:
        UnsupportedFilter: it is none, or cannot be expressed.
    """
    if not filters:
        return None
    try:
        return _condition(filters)
    except UnsupportedFilter:
        raise
    except BadFilter as error:
        raise UnsupportedFilter(str(error)) from None


@conditions.nesting()
def _condition(filters: Any) -> str:
    if not isinstance(filters, Mapping):
        raise UnsupportedFilter(f"A filter is a dict, not {filters!r:.80}.")
    if "field" in filters:
        return _comparison(_of(filters, "field"), _of(filters, "operator"), _of(filters, "value"))
    operator, own = _of(filters, "operator"), _of(filters, "conditions")
    if operator not in ("AND", "OR", "NOT"):
        raise UnsupportedFilter(f"{operator!r} joins no conditions; there are AND, OR and NOT.")
    if not isinstance(own, list):
        raise UnsupportedFilter(f"conditions is a list of filters, not {own!r:.80}.")
    parts = [_condition(each) for each in own]
    if operator == "OR":
        return conditions.either(parts)
    return conditions.both(parts) if operator == "AND" else conditions.neither(conditions.both(parts))


def _of(filters: Mapping[str, Any], key: str) -> Any:
    if key not in filters:
        raise UnsupportedFilter(f"{key!r} is missing in {dict(filters)!r:.200}.")
    return filters[key]


def _comparison(name: str, operator: str, value: Any) -> str:
    field = _field(name)
    if operator in _ORDERS:
        return conditions.NEVER if value is None else conditions.compared(field, operator, _ordered(name, value))
    if operator not in _COMPARISONS:
        known = ", ".join((*_COMPARISONS, *_ORDERS))
        raise UnsupportedFilter(f"There is no {operator!r} of {name}; there are {known}.")
    if operator in ("in", "not in") and not isinstance(value, list):
        raise UnsupportedFilter(f"{name} {operator}: the value is a list, not {value!r:.80}.")
    return conditions.compared(field, _COMPARISONS[operator], value)


def _field(name: Any) -> str:
    if name == "id":
        return "document_id"
    if not isinstance(name, str) or name in ("content", "blob", "score", "embedding", "sparse_embedding"):
        raise UnsupportedFilter(f"Documents cannot be filtered by {name!r}; filter by meta.KEY or id.")
    return conditions.metadata(*name.removeprefix("meta.").split("."))


def _ordered(name: str, value: Any) -> Any:
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise UnsupportedFilter(
                f"{name}: {value!r:.80} is no date (ISO 8601), and other text has no order."
            ) from None
    return value
