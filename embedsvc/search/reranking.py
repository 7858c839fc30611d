"""The stage that reads query and passage together: the best candidates, put in order by a cross-encoder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from embedsvc.encoding.cross_encoder import CrossEncoder, probabilities
from embedsvc.search.run import Floats, Rerank, Run, ranked, with_texts

_OVERLAP = 8
"""Windows of a long passage share one in so many tokens, so that no sentence is only seen cut."""


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
        run = with_texts(run, unread)
        best = relevance(wanted, run.query.text, [run.texts[row] for row in unread], run.started)
        if best is None:
            return replace(run, late=True)
        run = replace(run, reranked={**run.reranked, **dict(zip(unread, best.tolist(), strict=True))})
    sides: Floats = np.array([run.reranked.get(row, np.nan) for row in rows], np.float32)
    scores: Floats = np.nan_to_num(sides, nan=0.0)
    order = np.lexsort((-scores, np.isnan(sides)))
    return ranked(replace(run, rerank=sides), order, scores[order])


def relevance(wanted: Rerank, query: str, texts: Sequence[str], started: float) -> Floats | None:
    """The score of each text (n,), one at least, 0 to 1: of one that is longer than the window, of its best part. None:
    the time, counted from ``started``, is up."""
    windows = [_windows(wanted.encoder, query, text) for text in texts]
    logits = _logits(wanted, [(query, window) for each in windows for window in each], started)
    if logits is None:
        return None
    scores = probabilities(logits)[:, 0]
    best: Floats = np.maximum.reduceat(scores, np.cumsum([0, *map(len, windows[:-1])])).astype(np.float32)
    return best


def _logits(wanted: Rerank, pairs: Sequence[tuple[str, str]], started: float) -> npt.NDArray[np.float32] | None:
    """Of all pairs (n, 1), which share batches with those of other requests; None: the time is up."""
    encoder = wanted.encoder
    # Cut is what the tokenizer makes of a window's edge, a token or two.
    prepared = encoder.prepare(pairs, on_overflow="truncate")
    if wanted.budget_ms is None:
        return encoder.submit(prepared.token_ids, limit=None).future.result()
    rest = wanted.budget_ms / 1000 - (time.perf_counter() - started)
    if rest <= 0:
        return None
    future = encoder.submit(prepared.token_ids, limit=None).future
    try:
        return future.result(rest)
    except TimeoutError:
        future.cancel()  # what does not run yet leaves the queue
        return None
    except CancelledError:
        return None


def _windows(encoder: CrossEncoder, query: str, text: str) -> list[str]:
    """``text`` in parts that fit in the model's window beside the query."""
    tokenizer = encoder.tokenizer
    taken = len(tokenizer.encode(query, add_special_tokens=False).ids) + tokenizer.num_special_tokens_to_add(True)
    room = max(1, encoder.model.max_length - taken)
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    if len(offsets) <= room:
        return [text]
    return [text[offsets[first][0] : offsets[last - 1][1]] for first, last in _spans(len(offsets), room)]


def _spans(count: int, room: int) -> Iterator[tuple[int, int]]:
    step = max(1, room - room // _OVERLAP)
    for first in range(0, max(1, count - room + step), step):
        yield first, min(count, first + room)
