"""JSON Lines: one Document per line. A bad line costs that line only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from embedsvc.errors import DamagedFile
from embedsvc.readers.decoding import decode
from embedsvc.readers.items import FieldChoice, Means, Rejected
from embedsvc.readers.rows import Record, documents
from embedsvc.records import Document, Source


def read_jsonl(source: Source, fields: FieldChoice, means: Means) -> Iterator[Document | Rejected]:
    """A Document or a Rejected per line that is not blank. NaN and Infinity become null: they are no JSON."""
    decoded = decode(source.data, source.uri)
    yield from documents(source, lines(decoded.text, decoded.notes, source, means), fields)


def lines(
    text: str, notes: tuple[str, ...], source: Source, means: Means
) -> Iterator[tuple[int, Record, tuple[str, ...]] | Rejected]:
    """The record on each line that is not blank."""
    for number, (line, end) in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        means.reached(end / len(text))
        try:
            value = loads(line)
            problem = "" if isinstance(value, dict) else f"it is a JSON {kind(value)}, not an object"
        except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
            value, problem = None, f"it is not JSON ({error})"
        if problem:
            yield Rejected(
                f"{source.uri}#line-{number}",
                DamagedFile(f"{source.uri}, line {number}: {problem}. Correct that line, then index the file again."),
                placed=True,
            )
        else:
            yield number, value, notes


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """The lines of ``text``, and where each ends, without a second copy of it. Only "\\n" ends one: strings may hold
    U+2028 as it is."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end], end
        start = end + 1


def loads(text: str) -> Any:
    """The JSON value in ``text``; NaN and Infinity become null.

    Raises:
        ValueError, RecursionError: it is not JSON, or nested too deep.
    """
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def kind(value: Any) -> str:
    kinds = {str: "string", int: "number", float: "number", bool: "boolean", list: "array"}
    return kinds.get(type(value), "null")
