"""Where in a hit to look: its best sentence, and the words of the query."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsvc.records import HEADING_PARTED_BY
from embedsvc.search.hits import Highlight, Hit
from embedsvc.search.terms import Span, heading_spans, query_terms, sentence_spans, term_spans, words_of
from embedsvc.storage import Turn

Floats = npt.NDArray[np.float32]
EncodeSentences = Callable[[Sequence[str]], Floats]
"""Sentences → unit vectors (n, dimension)."""

_POSSESSIVE = re.compile(r"(?<=\w)['’]s\b", re.IGNORECASE)
"""Its s is no word to point at."""
_ABOVE = 0.5
"""What a word of the query in the heading above a sentence is worth, of one in the sentence itself."""


@dataclass(frozen=True, slots=True)
class _Sentences:
    """The ``spans`` (m) of a hit's text that may be its best, and how much of each of the query's n words each has,
    ``words`` (m, n): 1, or less where only the heading above has it. ``found``: all of the query's words in the hit."""

    spans: Sequence[Span]
    words: Floats
    found: Sequence[Span]


def highlight(
    hits: Sequence[Hit],
    turns: Sequence[Sequence[Turn]],
    query: str,
    query_vector: Floats | None,
    encode: EncodeSentences,
    most_characters: int,
) -> list[Highlight]:
    """One for each hit, in which page and heading change at its ``turns``, which come in order.

    The best sentence is the one with the most of the query's words, each the more worth the fewer sentences have it;
    of the first hits, up to ``most_characters``, that share and the cosine of sentence and ``query_vector``
    (dimension,), where there is one, are added up. A heading is the best only of a hit that is nothing else.
    """
    terms = sorted(query_terms(_POSSESSIVE.sub("", query)))
    looked = [_sentences(hit, own, terms) for hit, own in zip(hits, turns, strict=True)]
    cosines = _cosines(hits, looked, query_vector, encode, most_characters)
    weights = _weights([each.words for each in looked], len(terms))
    made = []
    for rank, (hit, own, each) in enumerate(zip(hits, turns, looked, strict=True)):
        worth = each.words @ weights
        low, high = each.spans[int(np.argmax(worth + cosines[rank] if rank < len(cosines) else worth))]
        place = _place(hit, own, hit.start + low)
        made.append(
            Highlight(
                (hit.start + low, hit.start + high),
                tuple((hit.start + start, hit.start + end) for start, end in each.found),
                "vector" if rank < len(cosines) else "terms",
                place.page,
                place.heading,
            )
        )
    return made


def _sentences(hit: Hit, turns: Sequence[Turn], terms: Sequence[str]) -> _Sentences:
    spans = sentence_spans(hit.text) or [(0, len(hit.text))]
    found = term_spans(hit.text, frozenset(terms))
    starts, column = [start for start, _ in spans], {term: at for at, term in enumerate(terms)}
    words = np.zeros((len(spans), len(terms)), np.float32)
    for (at, _), term in found:
        words[np.searchsorted(starts, at, "right") - 1, column[term]] = 1
    headings = set(_headings(hit, turns, spans))
    above, was_heading = np.zeros(len(terms), np.float32), False
    for row, span in enumerate(spans):
        if is_heading := span in headings:  # one right below another is read with it
            above = np.maximum(above if was_heading else 0, _ABOVE * words[row])
        else:
            words[row] = np.maximum(words[row], above)
        was_heading = is_heading
    rows = [row for row, span in enumerate(spans) if span not in headings] or list(range(len(spans)))
    return _Sentences([spans[row] for row in rows], words[rows], [span for span, _ in found])


def _headings(hit: Hit, turns: Sequence[Turn], spans: Sequence[Span]) -> Iterator[Span]:
    """Those of ``spans`` that are headings of the document, or its title: its reader knows them, whatever its format;
    a comment in code may look like one. Behind marked ones may be more, such as an address."""
    paths = (hit.title, hit.heading, *(turn.heading for turn in turns))
    titles = {tuple(words_of(title)) for path in paths if path for title in path.split(HEADING_PARTED_BY)} - {()}
    lengths, marked = {len(title) for title in titles}, set(heading_spans(hit.text))
    longest = 2 * max((len(" ".join(title)) for title in titles), default=0)  # with all its signs, about
    for start, end in spans:
        if end - start > longest and (start, end) not in marked:
            continue
        words = tuple(words_of(hit.text[start:end]))
        if words in titles or ((start, end) in marked and any(words[:length] in titles for length in lengths)):
            yield start, end


def _weights(words: Sequence[Floats], count: int) -> Floats:
    """What each of the query's ``count`` words is worth, all together 1."""
    sentences = sum(map(len, words))
    having = sum(((each == 1).sum(axis=0) for each in words), start=np.zeros(count))
    weights: Floats = np.log(1 + (sentences - having + 0.5) / (having + 0.5)).astype(np.float32)
    return weights / weights.sum() if count else weights


def _place(hit: Hit, turns: Sequence[Turn], start: int) -> Turn:
    """Page and heading that hold at the character ``start``."""
    place = Turn(hit.start, hit.page, hit.heading)
    for turn in turns:
        if hit.start < turn.start <= start:
            place = turn
    return place


def _cosines(
    hits: Sequence[Hit],
    looked: Sequence[_Sentences],
    query_vector: Floats | None,
    encode: EncodeSentences,
    most_characters: int,
) -> list[Floats]:
    """Of the sentences of the first hits, as many as may be encoded."""
    if query_vector is None:
        return []
    texts: list[str] = []
    counts: list[int] = []
    for hit, each in zip(hits, looked, strict=True):
        most_characters -= len(hit.text)
        if most_characters < 0:
            break
        texts += (hit.text[start:end] for start, end in each.spans)
        counts.append(len(each.spans))
    if not counts:
        return []
    return np.split(encode(texts) @ query_vector, np.cumsum(counts)[:-1])
