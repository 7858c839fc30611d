"""Reads every byte of a store's rows, and compares what they say with one another."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedsvc.errors import DamagedCollection
from embedsvc.records import Language
from embedsvc.storage.store import Store
from embedsvc.storage.words import says_something

_ROWS = 2048
_EDGE = r"\s.,;:!?()\"。，、；：！？"
_WORD = re.compile(rf"(?<![^{_EDGE}])[^\W\d_]{{6,20}}(?![^{_EDGE}])")
"""Letters of any script between white space or punctuation: beside anything else (a vowel sign, an accent that is a
character of its own) they may be a part of what the index takes for one word."""
_LONGEST = 39
"""Bytes of a word in UTF-8: Lance leaves longer ones out of its text index."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found wrong, as sentences that name the first place; none where all is well."""

    passages: int
    documents: int
    spans: tuple[str, ...]
    """A passage's text is not as long as its span, or not the same as its neighbour's where the two overlap."""
    order: tuple[str, ...]
    """A document's passages are not one after the other, or do not give back its text with the gaps between them."""
    metadata: tuple[str, ...]


def audit(store: Store) -> Audit:
    """Every passage of ``store``, all columns.

    Raises:
        DamagedCollection: some of it cannot be read.
    """
    numbers: dict[str, int] = {}
    spans: list[str] = []
    metadata: list[str] = []
    columns: list[tuple[npt.NDArray[np.int64], ...]] = []
    for batch in store.batches(_ROWS):
        table = pa.Table.from_batches([batch])
        ids = [numbers.setdefault(id, len(numbers)) for id in table["document_id"].to_pylist()]
        start, end = (table[name].to_numpy().astype(np.int64) for name in ("start", "end"))
        text = table["text"]
        wrong = np.flatnonzero(pc.utf8_length(text).to_numpy() != end - start)
        gap = pc.utf8_length(table["gap"]).to_numpy().astype(np.int64)
        solid = pc.and_(pc.greater(pc.utf8_length(table["gap"]), 0), pc.invert(pc.utf8_is_space(table["gap"])))
        gap[solid.to_numpy(zero_copy_only=False)] = -1
        columns.append((np.array(ids, np.int64), table["ordinal"].to_numpy().astype(np.int64), start, end, gap))
        expected = [f"{d}:{o}" for d, o in zip(table["document_id"].to_pylist(), columns[-1][1], strict=True)]
        names = table["id"].to_pylist()
        wrong = np.union1d(wrong, [at for at, name in enumerate(names) if name != expected[at]]).astype(np.int64)
        spans += [f"{names[at]} [{start[at]}:{end[at]}] does not fit its text" for at in wrong.tolist()]
        spans += _differing(columns[-1], text.to_pylist(), names)
        metadata += _not_json(table["metadata"], names)
    together = [np.concatenate(each) for each in zip(*columns, strict=True)] if columns else []
    order = _disorder(together, list(numbers)) if together else []
    return Audit(sum(len(each[0]) for each in columns), len(numbers), tuple(spans), tuple(order), tuple(metadata))


def _differing(columns: tuple[npt.NDArray[np.int64], ...], texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Passages whose text is another than that of the passage before them where the two overlap. Of passages that lie
    side by side in the table, as nearly all do."""
    document, ordinal, start, end, _ = columns
    follows = (np.diff(document) == 0) & (np.diff(ordinal) == 1) & (start[1:] < end[:-1])
    return [
        f"{names[at + 1]} differs from {names[at]} where they overlap"
        for at in np.flatnonzero(follows).tolist()
        if not texts[at].endswith(texts[at + 1][: int(end[at] - start[at + 1])])
    ]


def _not_json(column: pa.ChunkedArray, names: Sequence[str]) -> list[str]:
    plain = [value for chunk in column.chunks for value in getattr(chunk, "storage", chunk).to_pylist()]
    faults = []
    for name, value in zip(names, plain, strict=True):
        if value is not None:
            try:
                whole = isinstance(json.loads(value), dict)
            except ValueError:
                whole = False
            faults += [] if whole else [f"the metadata of {name} is not a JSON object"]
    return faults


def _disorder(columns: Sequence[npt.NDArray[np.int64]], documents: Sequence[str]) -> list[str]:
    document, ordinal, start, end, gap = columns
    by = np.lexsort((ordinal, document))
    document, ordinal, start, end, gap = (each[by] for each in (document, ordinal, start, end, gap))
    first = np.diff(document, prepend=-1) != 0
    before = np.where(first, 0, np.roll(end, 1))
    wrong = ordinal != np.where(first, 0, np.roll(ordinal, 1) + 1)
    wrong |= gap != np.maximum(0, start - before)
    wrong |= ~first & ((end <= before) | (start <= np.roll(start, 1)))
    return [
        f"the passages of document {documents[number]!r} do not follow one another"
        for number in np.unique(document[wrong]).tolist()
    ]


@dataclass(frozen=True, slots=True)
class TextIndexAudit:
    """``asked``: passages that were looked for by a word of theirs; none where no passage of the sample has a word that
    could be asked for."""

    asked: int
    faults: tuple[str, ...]
    """It cannot be read, or does not find some of them."""


def audit_text_index(store: Store, sample: int = 100) -> TextIndexAudit:
    """Looks for a ``sample`` of passages from all over the table by a word of each."""
    missed = []
    asked = 0
    try:
        for row_id, text in store.spread_texts(sample):
            word = next((word for word in _WORD.findall(text) if _is_indexed(word, store.chunking.language)), None)
            if word is not None:
                asked += 1
                if not len(store.lexical(word, 1, among=[row_id])[0]):
                    missed.append(f"{word!r} does not find row {row_id}")
    except DamagedCollection as error:
        return TextIndexAudit(asked, (str(error),))
    return TextIndexAudit(asked, tuple(missed))


def _is_indexed(word: str, language: Language) -> bool:
    return len(word.encode()) <= _LONGEST and says_something(word, language)
