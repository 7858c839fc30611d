"""Values of inputs' own fields, for the stages that look at them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from embedsvc.errors import UsageError
from embedsvc.search.run import Run
from embedsvc.storage import metadata_keys

_LOOKED_AT = 100
"""Passages that are asked whether a field that no candidate has is one at all."""


def values_of(run: Run, field: str, reads: Callable[[Any], object | None], what: str) -> list[Any]:
    """Of each candidate (n,) what ``reads`` makes of its ``field`` (``metadata.KEY``); None: it has none.

    Raises:
        UsageError: not only the candidates, but none of the passages looked at has such a field that says ``what``.
    """
    keys, store = metadata_keys(field), run.snapshot.store
    found = [_value(json.loads(each or "{}"), keys) for each in store.columns(run.row_ids.tolist(), ["metadata"])[0]]
    read = [None if value is None else reads(value) for value in found]
    if read and all(value is None for value in read):
        some = [_value(each, keys) for each in store.some_metadata(f"{field} IS NOT NULL", _LOOKED_AT)]
        if not any(value is not None and reads(value) is not None for value in some):
            said = next((f", but {value!r}" for value in some if value is not None), "")
            raise UsageError(f"No passage of {run.snapshot.name!r} has {what} in {field}{said}. Name another field.")
    return read


def _value(metadata: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        metadata = metadata.get(key) if isinstance(metadata, dict) else None
    return metadata
