"""What a language model is given to read: numbered sources in one text, within so many tokens."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal
from urllib.parse import unquote

from embedsvc.search.expanding import Stretch
from embedsvc.search.hits import Context, Source
from embedsvc.search.terms import sentence_spans

Order = Literal["best-first", "document"]
CountTokens = Callable[[str], int]

_BETWEEN = "\n\n"


def pack(stretches: Sequence[Stretch], most_tokens: int | None, count: CountTokens, order: Order) -> Context:
    """As many of ``stretches``, which come best first, as fit in ``most_tokens``; None: all of them.

    One that does not fit is left out, and a later one that does is taken; but of the best one, so much is taken as
    fits: whole sentences from its beginning.
    """
    taken: list[Stretch] = []
    left = float("inf") if most_tokens is None else most_tokens
    for stretch in stretches:
        cost = count(_block(len(taken) + 1, stretch) + _BETWEEN)
        if cost > left and not taken:
            part = _beginning(stretch, left, count)
            if part is None:
                continue
            stretch, cost = part, count(_block(1, part))
        if cost <= left:
            taken.append(stretch)
            left -= cost
    if order == "document":
        taken = _in_document_order(taken)
    # By now others may have other markers; and for some tokenizers, the whole has more tokens than its parts.
    while taken and most_tokens is not None and count(_text(taken)) > most_tokens:
        taken.remove(max(taken, key=lambda stretch: stretch.ranks))
    there = {rank for stretch in taken for rank in stretch.ranks}
    left_out = sorted(rank + 1 for stretch in stretches for rank in stretch.ranks if rank not in there)
    text = _text(taken)
    return Context(text, count(text), tuple(map(_source, range(1, len(taken) + 1), taken)), tuple(left_out))


def _beginning(stretch: Stretch, most_tokens: float, count: CountTokens) -> Stretch | None:
    """The most whole sentences of ``stretch`` that fit, from its beginning; None: not even one does."""
    parts = [
        replace(stretch, text=stretch.text[:end], end=stretch.start + end, complete=False)
        for _, end in sentence_spans(stretch.text)
    ]
    fit = bisect.bisect_right(parts, most_tokens, key=lambda part: count(_block(1, part)))
    return parts[fit - 1] if fit else None


def _in_document_order(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Documents by their best hit; within each, in the order of its text."""
    documents = list(dict.fromkeys(stretch.document_id for stretch in stretches))
    return sorted(stretches, key=lambda stretch: (documents.index(stretch.document_id), stretch.start))


def _text(stretches: Sequence[Stretch]) -> str:
    return _BETWEEN.join(_block(marker, stretch) for marker, stretch in enumerate(stretches, start=1))


def _block(marker: int, stretch: Stretch) -> str:
    return f"[{marker}] {_name(stretch)}\n{stretch.text}"


def _name(stretch: Stretch) -> str:
    name = stretch.title or unquote(stretch.uri.rstrip("/").rpartition("/")[2])
    if stretch.heading and stretch.heading != stretch.title:
        name += f" — {stretch.heading}"
    name = " ".join(name.split())
    return name if stretch.page is None else f"{name}, page {stretch.page}"


def _source(marker: int, stretch: Stretch) -> Source:
    return Source(
        marker,
        stretch.document_id,
        stretch.uri,
        stretch.title,
        stretch.page,
        stretch.heading,
        stretch.start,
        stretch.end,
        stretch.text,
        tuple(rank + 1 for rank in stretch.ranks),
        stretch.complete,
    )
