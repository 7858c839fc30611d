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
    FilterOperator.CONTAINS: "=",  # a list equals each value that is in it
    FilterOperator.ANY: "IN",
}


@conditions.nesting()
def condition_of(filters: MetadataFilters | None) -> str | None:
    """``filters`` as SQL, None: there are none. ``not``: none of them holds.

    Raises:
        BadFilter: they cannot be expressed: whether a list is empty cannot be asked for.
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
    if operator == FilterOperator.ALL:
        values = value if isinstance(value, list) else [value]
        return conditions.both([conditions.compared(field, "=", each) for each in values])
    if operator not in _COMPARISONS:
        raise BadFilter(
            f"{filter.key} {operator.value}: whether a list is empty cannot be asked for. Keep that in a field of its "
            "own."
        )
    return conditions.compared(field, _COMPARISONS[operator], value)
