"""LlamaIndex's filters in our language."""

from __future__ import annotations

from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from embedsvc.errors import BadFilter
from embedsvc.integrations import conditions

_ORDERS = (FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT, FilterOperator.LTE)


def condition_of(filters: MetadataFilters | None) -> str | None:
    """``filters`` as SQL, None: there are none. ``not``: none of them holds.

    Raises:
        BadFilter: they cannot be expressed: what lists in metadata contain cannot be asked for.
    """
    return _condition(filters) if filters is not None and filters.filters else None


def _condition(filters: MetadataFilters) -> str:
    parts = [
        _condition(each) if isinstance(each, MetadataFilters) else _comparison(each, conditions.metadata(each.key))
        for each in filters.filters
    ]
    match filters.condition:
        case FilterCondition.OR:
            return conditions.either(parts)
        case FilterCondition.NOT:
            return conditions.neither(conditions.either(parts))
    return conditions.both(parts)


def _comparison(filter: MetadataFilter, field: str) -> str:
    operator, value = filter.operator, filter.value
    match operator:
        case FilterOperator.EQ:
            return conditions.equal(field, value)
        case FilterOperator.NE:
            return conditions.neither(conditions.equal(field, value))
        case FilterOperator.IN:
            return conditions.among(field, _listed(filter, value))
        case FilterOperator.NIN:
            return conditions.neither(conditions.among(field, _listed(filter, value)))
        case FilterOperator.TEXT_MATCH:
            return conditions.has_text(field, value)
        case FilterOperator.TEXT_MATCH_INSENSITIVE:
            return conditions.has_text(field, value, any_case=True)
        case _ if operator in _ORDERS:
            return conditions.compared(field, operator.value, value)
    raise BadFilter(
        f"{filter.key} {operator.value}: whether a list is empty, or what it contains, cannot be asked for. Keep it in "
        "a field of its own."
    )


def _listed(filter: MetadataFilter, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadFilter(f"{filter.key} {filter.operator.value} takes a list, not {value!r:.80}.")
    return value
