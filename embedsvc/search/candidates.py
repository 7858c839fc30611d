"""The first stage: what each side that is asked returns, scored by all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from embedsvc.encoding import Encoder
from embedsvc.errors import UsageError
from embedsvc.search.run import Floats, Query, RowIds, Run
from embedsvc.search.terms import first_words, is_only_punctuation

_SCORE_ALL = 20_000
"""Up to so many passages, BM25 gives the scores of all that match at once: 0.4 ms more than for the best 100 of 5,183,
where a second question about the candidates of the dense side alone costs 1.5 to 2.5 ms."""

_MOST_WORDS = 400
"""Of a query that are looked up: the first 100 words of abstracts take 4 ms in SciFact, 400 take 150, and what 10,000
take nobody has waited for."""

_NONE: RowIds = np.empty(0, np.int64)
_NO_SCORES: Floats = np.empty(0, np.float32)

# The lexical side runs in Lance, outside the GIL, while this thread encodes the query.
_lexical_pool = ThreadPoolExecutor(max(4, 2 * (os.cpu_count() or 1)), thread_name_prefix="lexical")


def candidates(run: Run) -> Run:
    """The ``limit`` best of each side that is asked; of one side alone in its order, of both in that of the rows."""
    query, snapshot, limit = run.query, run.snapshot, run.limit
    if query.vector is None and is_only_punctuation(query.text):  # a vector of it would be as near to anything
        return replace(run, dense=_NO_SCORES, lexical=_NO_SCORES, more=False)
    words, words_cut = first_words(query.text, _MOST_WORDS)
    run = replace(run, words_cut=0 if query.mode == "dense" else words_cut)
    if query.mode == "lexical":
        ids, scores = snapshot.lexical(words, limit, query.filter)
        return replace(run, row_ids=ids, scores=scores, lexical=scores, more=len(ids) >= limit)
    if query.mode == "dense":
        run = _with_vector(run)
        ids, scores = snapshot.nearest(_vector(run), limit, query.filter)
        return replace(run, row_ids=ids, scores=scores, dense=scores, more=len(ids) >= limit)
    wanted = limit if len(snapshot.index) > _SCORE_ALL else max(limit, len(snapshot.index))
    asked = _lexical_pool.submit(snapshot.lexical, words, wanted, query.filter)
    run = _with_vector(run)
    # A phrase has to be there: then the dense side ranks what holds it, and brings nothing of its own.
    by_phrase = bool(snapshot.store.phrases(words))
    dense_ids = _NONE if by_phrase else snapshot.nearest(_vector(run), limit, query.filter)[0]
    known_ids, known_scores = asked.result()
    lexical_ids = known_ids[:limit]
    # What one side alone returned is scored by the other side too: both know how, cheaply and exactly.
    if len(known_ids) == limit:
        only_dense = np.setdiff1d(dense_ids, lexical_ids)
        more_ids, more_scores = snapshot.store.lexical(words, max(1, len(only_dense)), among=only_dense.tolist())
        known_ids, known_scores = np.append(known_ids, more_ids), np.append(known_scores, more_scores)
    ids = np.union1d(dense_ids, lexical_ids)
    dense = snapshot.index.scores(_vector(run), ids)
    lexical = _lookup(ids, known_ids, known_scores)
    return replace(run, row_ids=ids, scores=dense, dense=dense, lexical=lexical, more=len(ids) >= limit)


def _with_vector(run: Run) -> Run:
    """``run`` with the query's vector, and how many tokens were cut from its text."""
    if run.vector is not None:  # of an earlier round, or encoded with others'
        return run
    query = run.query
    if query.vector is not None:
        return replace(run, vector=_unit(query, run.encoder))
    encoded = run.encoder.encode_texts([query.text], kind="query", on_overflow=query.on_overflow)
    return replace(run, vector=encoded.vectors[0], tokens_cut=encoded.cut_tokens[0])


def with_vectors(runs: Sequence[Run]) -> list[Run]:
    """``runs``, which have the encoder and ``on_overflow`` in common, with the vectors of the texts that need one: in
    batches, and where there are several cores, as many at once."""
    need = [at for at, run in enumerate(runs) if run.query.vector is None and run.query.mode != "lexical"]
    if not need:
        return list(runs)
    first, texts = runs[need[0]], [runs[at].query.text for at in need]
    encoded = first.encoder.encode_texts(texts, kind="query", on_overflow=first.query.on_overflow)
    done = list(runs)
    for at, vector, cut in zip(need, encoded.vectors, encoded.cut_tokens, strict=True):
        done[at] = replace(runs[at], vector=vector, tokens_cut=cut)
    return done


def _vector(run: Run) -> Floats:
    assert run.vector is not None
    return run.vector


def _unit(query: Query, encoder: Encoder) -> Floats:
    array = np.asarray(query.vector, np.float32)
    if len(array) != encoder.dimension:
        raise UsageError(
            f"The query vector has {len(array)} dimensions; the collection's model, {encoder.model.name}, "
            f"has {encoder.dimension}."
        )
    norm = np.linalg.norm(array)
    if not np.isfinite(norm) or norm == 0:
        raise UsageError("The query vector is zero or not finite; its direction is what is searched for.")
    unit: Floats = array / norm
    return unit


def _lookup(ids: RowIds, known_ids: RowIds, known_scores: Floats) -> Floats:
    """The known scores of ``ids`` (n,), 0 where there is none."""
    scores = np.zeros(len(ids), np.float32)
    if len(known_ids):
        order = np.argsort(known_ids)
        place = order[np.minimum(np.searchsorted(known_ids, ids, sorter=order), len(known_ids) - 1)]
        found = known_ids[place] == ids
        scores[found] = known_scores[place[found]]
    return scores
