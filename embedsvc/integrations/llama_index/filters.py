"""LlamaIndex's filters in our language."""

from __future__ import annotations

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from embedsvc import conditions
from embedsvc.errors import BadFilter

_COMPARISONS = {
    FilterOperator.EQ: "=",
    FilterOperator.NE: "!=",
    FilterOperator.GT: ">",
    FilterOperator.GTE: ">=",
    FilterOperator.LT: "<",
    FilterOperator.LTE: "<=",
    FilterOperator.IN: "IN",
    FilterOperator.NIN: "NOT IN",
}


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
    if operator in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE):
        return conditions.has_text(field, value, any_case=operator == FilterOperator.TEXT_MATCH_INSENSITIVE)
    if operator not in _COMPARISONS:
        raise BadFilter(
            f"{filter.key} {operator.value}: whether a list is empty, or what it contains, cannot be asked for. Keep "
            "it in a field of its own."
        )
    return conditions.compared(field, _COMPARISONS[operator], value)
