"""Where in a hit to look: its best sentence, and the words of the query."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from embedsvc.search.hits import Highlight, Hit
from embedsvc.search.terms import Span, query_terms, sentence_spans, term_spans

Floats = npt.NDArray[np.float32]
EncodeSentences = Callable[[Sequence[str]], Floats]
"""Sentences → unit vectors (n, dimension)."""

_POSSESSIVE = re.compile(r"(?<=\w)['’]s\b", re.IGNORECASE)
"""Its s is no word to point at."""


def highlight(
    hits: Sequence[Hit], query: str, query_vector: Floats | None, encode: EncodeSentences, most_characters: int
) -> list[Highlight]:
    """One for each hit.

    The sentences of the first hits, up to ``most_characters``, are encoded and compared with ``query_vector``
    (dimension,); None, or further down: the sentence with the most different words of the query, the first of equals.
    """
    terms = query_terms(_POSSESSIVE.sub("", query))
    sentences = [sentence_spans(hit.text) or [(0, len(hit.text))] for hit in hits]
    cosines = _cosines(hits, sentences, query_vector, encode, most_characters)
    found = []
    for rank, hit in enumerate(hits):
        words = term_spans(hit.text, terms)
        if rank < len(cosines):
            best = sentences[rank][int(np.argmax(cosines[rank]))]
        else:
            best = max(sentences[rank], key=lambda span: len({term for at, term in words if _within(at, span)}))
        found.append(
            Highlight(
                (hit.start + best[0], hit.start + best[1]),
                tuple((hit.start + start, hit.start + end) for (start, end), _ in words),
                "vector" if rank < len(cosines) else "terms",
            )
        )
    return found


def _within(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _cosines(
    hits: Sequence[Hit],
    sentences: Sequence[Sequence[Span]],
    query_vector: Floats | None,
    encode: EncodeSentences,
    most_characters: int,
) -> list[Floats]:
    """Of the sentences of the first hits, as many as may be encoded."""
    if query_vector is None:
        return []
    texts: list[str] = []
    counts: list[int] = []
    for hit, spans in zip(hits, sentences, strict=True):
        most_characters -= len(hit.text)
        if most_characters < 0:
            break
        texts += (hit.text[start:end] for start, end in spans)
        counts.append(len(spans))
    if not counts:
        return []
    return np.split(encode(texts) @ query_vector, np.cumsum(counts)[:-1])
