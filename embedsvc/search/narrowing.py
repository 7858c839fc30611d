"""The stage in the place of ``merge`` where parts of passages are wanted: the best ones, in whole sentences."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from embedsvc.search.hits import overlap
from embedsvc.search.run import Part, Run, Span
from embedsvc.search.terms import query_terms, sentence_spans, term_spans
from embedsvc.storage import StoredPassage, turn_at

Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

CONSIDERED = 3
"""Passages per hit wanted: a good one may have several parts, a poor one none."""
_MOST_CONSIDERED = 150
"""Passages, unless more hits are wanted: each is parted into sentences, at .3 ms."""
_SHARE = 300 / 512
"""Of the window, that a part has at most where no number of tokens is asked for."""
_WORDS = 1 / 3
"""Of a part's score, that its words have; its passage's score has the rest."""
_NEAR_TOKENS = 64
"""Half of what words are worth is what they are within so many tokens: about two sentences."""
_SATURATION = 1.2
"""How often a word has to be there to be worth half of what it can be at most; as k1 of BM25."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Passages of one document that overlap: one text, so that no sentence of it is seen twice.

    ``passages`` with their ranks, by start. Of the m sentences ``spans`` of ``text``: ``tokens`` (m + 1,) and ``words``
    (m + 1, terms of the query) before each, and ``ranks`` (m,) of the best passage that has it.
    """

    start: int
    text: str
    passages: Sequence[tuple[int, StoredPassage]]
    spans: Sequence[tuple[int, int]]
    tokens: Ints
    words: Numbers
    ranks: Ints


class _Window(NamedTuple):
    """The sentences from ``first`` to ``last``, which is not in it, of the stretch ``at``. The heap's smallest is the
    best: ``loss`` is the score, negative."""

    loss: float
    at: int
    first: int
    last: int


def narrow(run: Run) -> Run:
    """The ``k`` best parts of the best passages, best first: whole sentences that stand together, of as many tokens as
    the query's ``narrow`` says at most, unless one sentence has more. No text is in two of them.

    A part's score is two thirds that of the best passage that has some of it, and one third what the query's words in
    it are worth, in all of it and close together, compared with the best part: at most the best passage's score.
    """
    query, store = run.query, run.snapshot.store
    count = len(run.row_ids)
    most = round(_SHARE * store.chunking.window) if query.narrow is True else int(query.narrow)
    taken = min(CONSIDERED * query.k, max(query.k, _MOST_CONSIDERED))
    while True:
        passages = store.take(run.row_ids[: min(count, taken)].tolist())
        stretches = _stretches(passages, run.encoder.tokenizer, query_terms(query.text))
        windows = _best(stretches, run.scores.astype(np.float64), most, query.k)
        if len(windows) == query.k or taken >= count:
            break
        taken *= 2
    return replace(run, spans=tuple(_spans(run, stretches, windows)))


# -- sentences -------------------------------------------------------------------------------------------------------


def _stretches(passages: Sequence[StoredPassage], tokenizer: Tokenizer, terms: frozenset[str]) -> list[_Stretch]:
    joined = list(_joined(passages))
    encodings = tokenizer.encode_batch([text for text, _ in joined], add_special_tokens=False)
    order = {term: at for at, term in enumerate(sorted(terms))}
    found = []
    for (text, members), encoding in zip(joined, encodings, strict=True):
        start = members[0][1].start
        spans = sentence_spans(text) or [(0, len(text))]
        starts = np.array([low for low, _ in spans])
        words = np.zeros((len(spans) + 1, len(order)))
        for (at, _), term in term_spans(text, terms):
            words[np.searchsorted(starts, at, "right"), order[term]] += 1
        tokens = np.searchsorted([low for low, _ in encoding.offsets], [*starts[1:], len(text)])
        ranks = np.full(len(spans), len(passages))
        for rank, passage in members:
            inside = (starts >= passage.start - start) & (starts < passage.end - start)
            ranks[inside] = np.minimum(ranks[inside], rank)
        found.append(_Stretch(start, text, members, spans, np.append(0, tokens), np.cumsum(words, axis=0), ranks))
    return found


def _joined(passages: Sequence[StoredPassage]) -> Iterator[tuple[str, list[tuple[int, StoredPassage]]]]:
    """The text of passages that overlap or touch, and these by start, each with its rank."""
    text, end = "", 0
    members: list[tuple[int, StoredPassage]] = []
    for rank, passage in sorted(enumerate(passages), key=lambda each: (each[1].document_id, each[1].start)):
        if members and (passage.document_id != members[-1][1].document_id or passage.start > end):
            yield text, members
            text, members = "", []
        text += passage.text[max(0, end - passage.start) if members else 0 :]
        members.append((rank, passage))
        end = members[0][1].start + len(text)
    if members:
        yield text, members


# -- the best parts --------------------------------------------------------------------------------------------------


def _best(stretches: Sequence[_Stretch], scores: Numbers, most: int, k: int) -> list[_Window]:
    """Up to ``k`` windows of up to ``most`` tokens that share no sentence, the best first; each takes what is best of
    what those before it left."""
    weights = _weights(stretches)
    ends = [_ends(stretch.tokens, most) for stretch in stretches]
    near = [_ends(stretch.tokens, _NEAR_TOKENS) for stretch in stretches]
    whole = [
        (at, first, int(last))
        for at, each in enumerate(ends)
        for first, last in enumerate(each)
        if not first or last > each[first - 1]  # else the one before holds it
    ]
    told = [_worth(stretches[at], near[at], weights, first, last) for at, first, last in whole]
    best_words, best_score = max(told, default=0.0), float(scores.max(initial=0.0))

    def window(at: int, first: int, last: int, words: float) -> _Window:
        score = scores[stretches[at].ranks[first:last].min()]
        loss = -(1 - _WORDS) * score - _WORDS * best_score * (words / best_words if best_words else 0.0)
        return _Window(float(loss), at, first, last)

    heap = [window(*place, words) for place, words in zip(whole, told, strict=True)]
    heapq.heapify(heap)
    free = [[(0, len(each))] for each in ends]
    found: list[_Window] = []
    while heap and len(found) < k:
        best = heapq.heappop(heap)
        _, at, first, last = best
        around = next(((low, high) for low, high in free[at] if low <= first and last <= high), None)
        if around is None:
            continue
        found.append(best)
        free[at].remove(around)
        low, high = around
        # Of the windows that reached into this one, the longest on either side of it.
        cut = []
        if low < first:
            free[at].append((low, first))
            cut.append((max(low, int(np.searchsorted(ends[at], first))), first))
        if last < high:
            free[at].append((last, high))
            cut.append((last, min(int(ends[at][last]), high)))
        for place in cut:
            heapq.heappush(heap, window(at, *place, _worth(stretches[at], near[at], weights, *place)))
    return found


def _weights(stretches: Sequence[_Stretch]) -> Numbers:
    """What each of the query's words is worth (terms,): the more, the fewer of these sentences have it."""
    there = sum(((np.diff(each.words, axis=0) > 0).sum(axis=0) for each in stretches), start=np.zeros(()))
    count = sum(len(each.spans) for each in stretches)
    weights: Numbers = np.log(1 + (count - there + 0.5) / (there + 0.5))
    return weights


def _ends(tokens: Ints, most: int) -> Ints:
    """For each sentence (m,), the first one that does not fit with it into ``most`` tokens, which itself does."""
    ends = np.searchsorted(tokens, tokens[:-1] + most, "right") - 1
    return np.maximum(ends, np.arange(1, len(tokens)))


def _worth(stretch: _Stretch, near: Ints, weights: Numbers, first: int, last: int) -> float:
    """Of the words from ``first`` to ``last``, the mean of what all and what the best of those close together have."""
    firsts = np.arange(first, last)
    lasts = np.minimum(near[first:last], last)
    counts = stretch.words[np.append(lasts, last)] - stretch.words[np.append(firsts, first)]
    worth = (counts / (counts + _SATURATION)) @ weights
    return float((worth[:-1].max() + worth[-1]) / 2)


# -- citations -------------------------------------------------------------------------------------------------------


def _spans(run: Run, stretches: Sequence[_Stretch], windows: Sequence[_Window]) -> Iterator[Span]:
    beginnings = []
    for _, at, first, _ in windows:
        stretch = stretches[at]
        start = stretch.start + stretch.spans[first][0]
        beginnings.append(next(passage for _, passage in reversed(stretch.passages) if passage.start <= start))
    known = run.snapshot.store.turns([passage.row_id for passage in beginnings])
    for (loss, at, first, last), passage, turns in zip(windows, beginnings, known, strict=True):
        stretch = stretches[at]
        low, high = stretch.spans[first][0], stretch.spans[last - 1][1]
        rank = int(stretch.ranks[first:last].min())
        start = stretch.start + low
        place = turn_at(passage, turns, start)
        best = next(each for number, each in stretch.passages if number == rank)
        part = Part(-loss, place.page, place.heading)
        span = Span(rank, best, start, stretch.start + high, stretch.text[low:high], part)
        had = [each.row_id for _, each in sorted(stretch.passages, key=lambda each: each[0]) if overlap(each, span)]
        yield replace(span, rows=tuple(had), copies=tuple(copy for row in had for copy in run.copies.get(row, ())))
