"""The stage that reads query and passage together: the best candidates, put in order by a cross-encoder."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer

from embedsvc.encoding.cross_encoder import CrossEncoder, Logits, probabilities
from embedsvc.errors import QueryTooLong
from embedsvc.search.run import Floats, Rerank, Run, ranked, with_texts

_OVERLAP = 8
"""Windows of a long passage share one in so many tokens, so that no sentence is only seen cut."""
_PORTION = 32_000
"""Characters, or a single passage, that are tokenised at once: between two portions the time is looked at. About 15
windows of 512 tokens, 10 ms."""
_READ = 50
"""Passages that are read from the store at once."""
_AHEAD = 1
"""Portions that are tokenised while another one is encoded: the encoder is not to wait, nor is all to lie in memory."""


def rerank(run: Run) -> Run:
    """The first candidates in the order of their reranked scores, the sigmoid of the logit: of a passage that is longer
    than the window the best of its parts. The others come after them with score 0. Where the time is not enough, the
    order is left as it was, and ``late`` says so. What an earlier round read counts, and is not read
    again.

    Raises:
        QueryTooLong: the query alone fills the window. ModelError: the model failed.
    """
    wanted = run.query.rerank
    assert wanted is not None, "the stage is not wanted"
    assert wanted.depth is not None, "the query is settled"
    rows = run.row_ids.tolist()
    if run.late or not rows or not wanted.depth:  # tuned to 0: it does not pay
        return run
    if unread := [row for row in rows if row not in run.reranked][: wanted.depth - len(run.reranked)]:
        best = relevance(wanted, run.query.text, _texts(run, unread), run.started)
        if best is None:
            return replace(run, late=True)
        run = replace(run, reranked={**run.reranked, **dict(zip(unread, best.tolist(), strict=True))})
    sides: Floats = np.array([run.reranked.get(row, np.nan) for row in rows], np.float32)
    scores: Floats = np.nan_to_num(sides, nan=0.0)
    order = np.lexsort((-scores, np.isnan(sides)))
    return ranked(replace(run, rerank=sides), order, scores[order])


def _texts(run: Run, rows: Sequence[int]) -> Iterator[str]:
    for at in range(0, len(rows), _READ):
        some = rows[at : at + _READ]
        read = with_texts(run, some).texts
        yield from (read[row] for row in some)


def relevance(wanted: Rerank, query: str, texts: Iterable[str], started: float) -> Floats | None:
    """The score of each text (n,), one at least, 0 to 1: of one that is longer than the window, of its best part. None:
    the time, counted from ``started``, is up; that is noticed a portion of the texts too late at most."""
    try:
        return np.concatenate(list(_best(wanted, query, texts, started)))
    except (TimeoutError, CancelledError):
        return None


def _best(wanted: Rerank, query: str, texts: Iterable[str], started: float) -> Iterator[Floats]:
    """The scores of one portion after the other, which share batches with those of other requests.

    Raises:
        TimeoutError: the time is up.
    """
    encoder = wanted.encoder
    room = _room(encoder, query)
    waiting: deque[tuple[Future[Logits], list[int]]] = deque()

    def next_done() -> Floats:
        future, counts = waiting[0]
        scores = probabilities(future.result(_time_left(wanted, started)))[:, 0]
        waiting.popleft()
        best: Floats = np.maximum.reduceat(scores, np.cumsum([0, *counts[:-1]])).astype(np.float32)
        return best

    try:
        # The less room beside the query, the more often that is tokenised for each passage.
        for portion in _portions(texts, _PORTION * room // encoder.model.max_length):
            _time_left(wanted, started)
            windows = _windows(encoder.tokenizer, room, portion)
            pairs = [(query, window) for each in windows for window in each]
            # Cut is what the tokenizer makes of a window's edge, a token or two.
            prepared = encoder.prepare(pairs, on_overflow="truncate")
            waiting.append((encoder.submit(prepared.token_ids, limit=None).future, [len(each) for each in windows]))
            if len(waiting) > _AHEAD:
                yield next_done()
        while waiting:
            yield next_done()
    finally:
        for future, _ in waiting:
            future.cancel()  # what does not run yet leaves the queue


def _time_left(wanted: Rerank, started: float) -> float | None:
    """Seconds; None: as many as it takes.

    Raises:
        TimeoutError: there is none.
    """
    if wanted.budget_ms is None:
        return None
    left = wanted.budget_ms / 1000 - (time.perf_counter() - started)
    if left <= 0:
        raise TimeoutError
    return left


def _portions(texts: Iterable[str], most: int) -> Iterator[list[str]]:
    """``texts`` in order, ``most`` characters or one at a time."""
    portion: list[str] = []
    characters = 0
    for text in texts:
        if portion and characters + len(text) > most:
            yield portion
            portion, characters = [], 0
        portion.append(text)
        characters += len(text)
    if portion:
        yield portion


def _room(encoder: CrossEncoder, query: str) -> int:
    """Tokens of a passage that fit in the model's window beside the query.

    Raises:
        QueryTooLong: there are none.
    """
    tokenizer = encoder.tokenizer
    taken = len(tokenizer.encode(query, add_special_tokens=False).ids) + tokenizer.num_special_tokens_to_add(True)
    room = encoder.model.max_length - taken
    if room < 1:
        raise QueryTooLong(
            f"The query has {taken:,} tokens, and {encoder.model.name}, which is to rerank, takes "
            f"{encoder.model.max_length} of query and passage together.",
            None,
        )
    return room


def _windows(tokenizer: Tokenizer, room: int, texts: Sequence[str]) -> list[list[str]]:
    """Each of ``texts`` in parts of at most ``room`` tokens."""
    windows = []
    for text, encoding in zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
        offsets = encoding.offsets
        spans = _spans(len(offsets), room) if len(offsets) > room else ()
        windows.append([text[offsets[first][0] : offsets[last - 1][1]] for first, last in spans] or [text])
    return windows


def _spans(count: int, room: int) -> Iterator[tuple[int, int]]:
    step = max(1, room - room // _OVERLAP)
    for first in range(0, max(1, count - room + step), step):
        yield first, min(count, first + room)
