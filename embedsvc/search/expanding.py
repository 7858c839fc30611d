"""Hits with what stands around them: neighbouring passages, the section, the document."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from embedsvc.search.hits import Hit
from embedsvc.storage import PassagePlace, Store

Expand = Literal["neighbours", "section", "document"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of a document, its text ``text`` of the document from ``start`` to ``end``, around the hits ``ranks``
    (from 0). ``complete``: whether it reaches as far as was asked for."""

    document_id: str
    uri: str
    title: str
    page: int | None
    heading: str | None
    start: int
    end: int
    text: str
    ranks: tuple[int, ...]
    complete: bool = True


def stretches_of(hits: Sequence[Hit]) -> list[Stretch]:
    """The hits as they are."""
    return [
        Stretch(hit.document_id, hit.uri, hit.title, hit.page, hit.heading, hit.start, hit.end, hit.text, (rank,))
        for rank, hit in enumerate(hits)
    ]


def expand(store: Store, hits: Sequence[Hit], how: Expand | None, most_tokens: float) -> list[Stretch]:
    """The hits with their surroundings (None: as they are), best first; those of one document that come to overlap or
    to touch are one.

    They grow passage by passage on both sides, the best hit first, as long as all together have about ``most_tokens``
    of the collection's tokens, the hits' own included: a document may be larger than any reader's memory. Of what is
    left out no text is read. A section is the passages that begin under the hit's heading or one below it.
    """
    outlines = store.outlines({hit.document_id for hit in hits})
    own = [_tokens(outlines[hit.document_id], hit.start, hit.end) for hit in hits]
    left = most_tokens - sum(own)
    grown: list[Stretch] = []
    for stretch, hit in zip(stretches_of(hits), hits, strict=True):
        places = outlines[hit.document_id]
        start, end, complete = _grow(places, stretch, _wanted(places, hit, how), left)
        left += _tokens(places, hit.start, hit.end) - _tokens(places, start, end)
        grown.append(replace(stretch, start=start, end=end, complete=complete))
    merged = _merge(grown, outlines)
    runs = [_overlapping(outlines[each.document_id], each.start, each.end) for each in merged]
    texts = store.texts_of(runs)
    found = []
    for each, run, text in zip(merged, runs, texts, strict=True):
        each = replace(each, text=text[each.start - run[0].start : each.end - run[0].start])
        # Else it begins where its hit does, amid a passage.
        if first := next((place for place in run if place.start == each.start), None):
            each = replace(each, page=first.page, heading=first.heading)
        found.append(each)
    return found


def _wanted(places: Sequence[PassagePlace], hit: Hit, how: Expand | None) -> tuple[int, int]:
    """The characters that the hit is to be expanded to."""
    if how is None:
        return hit.start, hit.end
    if how == "document":
        return places[0].start, places[-1].end
    if how == "neighbours":
        before = bisect.bisect_left(places, hit.start, key=lambda place: place.start) - 1
        after = bisect.bisect_right(places, hit.end, key=lambda place: place.end)
        return (
            places[before].start if before >= 0 else hit.start,
            places[after].end if after < len(places) else hit.end,
        )
    first = last = next(at for at, place in enumerate(places) if place.id == hit.id)
    while first and _under(places[first - 1].heading, hit.heading):
        first -= 1
    while last + 1 < len(places) and _under(places[last + 1].heading, hit.heading):
        last += 1
    return min(places[first].start, hit.start), max(places[last].end, hit.end)


def _under(heading: str | None, other: str | None) -> bool:
    return heading == other or (heading is not None and other is not None and heading.startswith(f"{other} > "))


def _grow(
    places: Sequence[PassagePlace], hit: Stretch, wanted: tuple[int, int], tokens: float
) -> tuple[int, int, bool]:
    """Start and end, and whether these are the ones that were wanted: others where that would take more ``tokens``."""
    low = bisect.bisect_left(places, hit.start, key=lambda place: place.start) - 1
    high = bisect.bisect_right(places, hit.end, key=lambda place: place.end)
    start, end = hit.start, hit.end
    forth = back = True
    while forth or back:
        if forth := forth and high < len(places) and places[high].end <= wanted[1]:
            cost = _tokens(places[high : high + 1], end, places[high].end)
            if forth := cost <= tokens:
                end, high, tokens = places[high].end, high + 1, tokens - cost
        if back := back and low >= 0 and places[low].start >= wanted[0]:
            cost = _tokens(places[low : low + 1], places[low].start, start)
            if back := cost <= tokens:
                start, low, tokens = places[low].start, low - 1, tokens - cost
    return start, end, (start, end) == wanted


def _tokens(places: Sequence[PassagePlace], start: int, end: int) -> float:
    """About how many tokens the document has from ``start`` to ``end``, by the share of each passage that is new."""
    tokens = 0.0
    for place in _overlapping(places, start, end):
        new = min(end, place.end) - max(start, place.start)
        if new > 0:
            tokens += place.tokens * new / (place.end - place.start)
            start = max(start, place.end)
    return tokens


def _overlapping(places: Sequence[PassagePlace], start: int, end: int) -> Sequence[PassagePlace]:
    first = bisect.bisect_right(places, start, key=lambda place: place.end)
    return places[first : bisect.bisect_left(places, end, key=lambda place: place.start)]


def _merge(stretches: Sequence[Stretch], outlines: dict[str, list[PassagePlace]]) -> list[Stretch]:
    merged: list[Stretch] = []
    for each in stretches:
        for other in [other for other in merged if other.document_id == each.document_id]:
            low, high = sorted((other, each), key=lambda stretch: stretch.start)
            between = _overlapping(outlines[each.document_id], low.end, high.start) if low.end < high.start else ()
            if not between:
                merged.remove(other)
                each = replace(
                    min(other, each, key=lambda stretch: stretch.ranks),
                    start=low.start,
                    end=max(low.end, high.end),
                    ranks=tuple(sorted((*other.ranks, *each.ranks))),
                    complete=other.complete and each.complete,
                )
        merged.append(each)
    return sorted(merged, key=lambda stretch: stretch.ranks)
