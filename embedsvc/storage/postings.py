"""The text index of a table: which passages hold which words.

It is Lance's, in segments, each of the passages of some fragments. What it keeps of a row that went stays in its
segment until that is written anew, and is left out of what is found for as long as Lance knows that the row went.
"""

from __future__ import annotations

from collections.abc import Collection

import lance

from embedsvc.records import Language
from embedsvc.storage.words import text_index

_NAME, _COLUMN = "text_idx", "text"
_TOGETHER, _SHARE, _GROWTH = 10_000, 1 / 8, 4
"""Passages that a segment is written of anew, at most, or the share of all passages where that is more: each takes 2.6
KB of memory meanwhile (10,000: 25 MB). And how many times as large as what is new a segment may be to be written anew
with it. Each segment that there is takes a search 0.07 ms."""
_REPLACED = "_row_created_at_version < _row_last_updated_at_version"


def build(dataset: lance.LanceDataset, language: Language) -> None:
    """Makes the index, in one segment, in place of the one there was, readable or not."""
    dataset.create_scalar_index(_COLUMN, "INVERTED", replace=True, **text_index(language))


def segments(dataset: lance.LanceDataset) -> list[set[int]]:
    """The ids of the fragments that each segment is made of, oldest segment first."""
    found = [index.segments for index in dataset.describe_indices() if index.name == _NAME]
    return [set(segment.fragment_ids) for segments in found for segment in segments]


def extend(dataset: lance.LanceDataset, language: Language) -> None:
    """Has the index cover all rows: the new ones, with those of its newest segments that are not much larger, in a
    segment. So as many are written anew at a time as there is memory for, and there are never many segments."""
    if _has_replaced_in_place(dataset):
        # Joined, 60,000 texts with the same words, 100 of them replaced, had Lance ask for 42 GB and abort the process.
        build(dataset, language)
        return
    rows = {fragment.fragment_id: fragment.count_rows() for fragment in dataset.get_fragments()}
    there = segments(dataset)
    held = [sum(rows.get(id, 0) for id in segment) for segment in there]
    size, joined = sum(rows.values()) - sum(held), 0
    if not size:
        return
    most = max(_TOGETHER, _SHARE * sum(rows.values()))
    for each in reversed(held):
        if each > _GROWTH * size or size + each > most:
            break
        size, joined = size + each, joined + 1
    staying = {id for segment in there[: len(there) - joined] for id in segment}
    if joined and staying & _with_deleted(dataset):
        # Lance would join all that such rows are in besides, however large. From the texts takes four times as long.
        _write(dataset, rows.keys() - staying, language)
    else:
        dataset.optimize.optimize_indices(index_names=[_NAME], num_indices_to_merge=joined)


def renew(dataset: lance.LanceDataset, language: Language, share: float) -> None:
    """Writes the segments anew of which more than this ``share`` of the passages went: these still count in how rare a
    word is, so in the scores of those that are there."""
    rows = {fragment.fragment_id: fragment.count_rows() for fragment in dataset.get_fragments()}
    there = segments(dataset)
    if not _with_deleted(dataset) and all(segment <= rows.keys() for segment in there):
        return
    written = [each["num_docs"] for each in dataset.stats.index_stats(_NAME)["indices"]]
    held = [sum(rows.get(id, 0) for id in segment) for segment in there]
    # One of which nothing is left cannot be taken out but by a whole index.
    if sum(size for size, left in zip(written, held, strict=True) if not left) > share * sum(written):
        build(dataset, language)
        return
    for segment, size, left in zip(there, written, held, strict=True):
        if left and size - left > share * size:
            _write(dataset, segment & rows.keys(), language)


def forget_deleted(dataset: lance.LanceDataset, fragments: Collection[int], language: Language) -> None:
    """Writes the segments anew that saw rows of ``fragments`` that went. To be done before these are compacted: Lance
    does not know of such rows any more then, and their words would be found again
    (github.com/lance-format/lance/issues/6262)."""
    there = {fragment.fragment_id for fragment in dataset.get_fragments()}
    deleted = _with_deleted(dataset).intersection(fragments)
    for segment in segments(dataset):
        if segment & deleted:
            _write(dataset, segment & there, language)


def _write(dataset: lance.LanceDataset, fragments: Collection[int], language: Language) -> None:
    """A segment of ``fragments`` in place of those that are of some of them, and of no others."""
    made = dataset.create_index_uncommitted(
        _COLUMN, "INVERTED", name=_NAME, replace=True, fragment_ids=sorted(fragments), **text_index(language)
    )
    dataset.commit_existing_index_segments(_NAME, _COLUMN, [made])


def _with_deleted(dataset: lance.LanceDataset) -> set[int]:
    """The ids of the fragments that hold rows that went."""
    return {fragment.fragment_id for fragment in dataset.get_fragments() if fragment.num_deletions}


def _has_replaced_in_place(dataset: lance.LanceDataset) -> bool:
    """Whether there are rows outside the index that were replaced and kept their ids, by which a segment that stays
    would find their old words: older releases did that."""
    held = {id for segment in segments(dataset) for id in segment}
    new = [fragment for fragment in dataset.get_fragments() if fragment.fragment_id not in held]
    replaced = new and dataset.scanner(fragments=new, filter=_REPLACED, columns=[], with_row_id=True).count_rows()
    return bool(replaced)
