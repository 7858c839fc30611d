"""The fusion and the depth of reranking that do best, chosen on one half of judged queries, proved on the other."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsvc.encoding import Encoder
from embedsvc.encoding.cross_encoder import CrossEncoder
from embedsvc.errors import UsageError
from embedsvc.evaluate.beir import Folder, corpus_id, read_folder
from embedsvc.evaluate.significance import Doubles, bootstrap_interval, randomisation_test
from embedsvc.records import Fusion, Normalisation
from embedsvc.search.candidates import candidates
from embedsvc.search.fusion import fused
from embedsvc.search.reranking import relevance
from embedsvc.search.run import RERANK_DEPTH, Floats, Query, Rerank, RowIds, Run, check_reranker
from embedsvc.upkeep import Snapshot

_FEWEST = 20
"""Queries; of fewer, no half would tell anything."""
_DEPTHS = (50, 100, 200)
_WEIGHTS = tuple(round(0.1 * step, 1) for step in range(1, 10))
_RERANK_DEPTHS = (0, 10, 20, 50, 100)
"""0: the cross-encoder does not pay."""
_NORMALISATIONS: tuple[Normalisation, ...] = ("max", "minmax", "zscore")
_CUT = 10


@dataclass(frozen=True, slots=True)
class Tuning:
    """``best`` did best on ``queries[0]`` queries. On the ``queries[1]`` others, which had no part in the choice, it
    has nDCG@10 of ``tuned`` where ``current`` has ``ndcg``. ``interval``: of the gain, 95 %, by bootstrap over queries;
    ``p_value``: by a paired randomisation test, two-sided. ``proved``: the whole interval is above 0.
    ``rerank_depth``: the best, where a cross-encoder was given; both values are then of reranked hits, now at
    ``current_rerank_depth``. ``documents_missing``: that the folder judges and its corpus does not have; they lower all
    values alike.
    """

    current: Fusion
    best: Fusion
    queries: tuple[int, int]
    ndcg: float
    tuned: float
    interval: tuple[float, float]
    p_value: float
    current_rerank_depth: int | None = None
    rerank_depth: int | None = None
    documents_missing: int = 0

    @property
    def proved(self) -> bool:
        return self.interval[0] > 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of ``embedsvc eval --tune --json``, but for what became of it."""
        return {**asdict(self), "proved": self.proved}


@dataclass(frozen=True, slots=True)
class _Found:
    """A query's candidates: scores on both sides (n,), ranks on both (n,), gain of each one's document (n,), which
    document that is (n,), and the gains of an ideal answer. ``row_ids`` (n,); ``reranked`` (n,): by the cross-encoder,
    NaN where it was not asked."""

    dense: Floats
    lexical: Floats
    ranks: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    gains: Doubles
    documents: npt.NDArray[np.int64]
    ideal: float
    text: str
    row_ids: RowIds
    reranked: Floats


def tune(
    snapshot: Snapshot, encoder: Encoder, folder: Path, split: str, cross_encoder: CrossEncoder | None = None
) -> Tuning:
    """Tries all fusions of a grid on a collection that holds the corpus of the BEIR ``folder``, and then, with the best
    one, how many hits the ``cross_encoder`` should read, which reads each of them once; changes nothing. The half that
    proves is not looked at before all is chosen.

    A query is of the first or the second half by its id, so that the same data give the same halves.

    Raises:
        NotFound, UsageError: as :func:`.evaluate.evaluate`; or there are too few queries, or none of the documents.
    """
    beir = read_folder(folder, split)
    if cross_encoder is not None:
        check_reranker(cross_encoder)
    if len(beir.queries) < _FEWEST:
        raise UsageError(f"{folder} judges {len(beir.queries)} queries; tuning takes {_FEWEST} at least.")
    halves: tuple[list[_Found], list[_Found]] = [], []
    for id, text in beir.queries.items():
        half = hashlib.blake2b(id.encode()).digest()[0] % 2
        halves[half].append(_found(snapshot, encoder, beir, id, text))
    if not all(any(each.gains.any() for each in half) for half in halves):
        raise UsageError(f"{snapshot.name!r} holds too little of {folder}: nothing can be measured.")
    chosen_on, held_out = halves
    current = snapshot.store.fusion
    before_depth = after_depth = 0
    # The current one first: another is taken only where it is better, not where it is as good.
    best = max((current, *_grid()), key=lambda fusion: _ndcgs(chosen_on, fusion).mean())
    if cross_encoder is not None:
        reader = Rerank(cross_encoder)
        before_depth = snapshot.store.tuned.rerank_depth or RERANK_DEPTH
        chosen_on = [_read(snapshot, reader, query, [(best, _RERANK_DEPTHS[-1])]) for query in chosen_on]
        # Of depths that are as good, the least.
        after_depth = max(_RERANK_DEPTHS, key=lambda depth: (_ndcgs(chosen_on, best, depth).mean(), -depth))
        both = [(best, after_depth), (current, before_depth)]
        held_out = [_read(snapshot, reader, query, both) for query in held_out]
    before, after = _ndcgs(held_out, current, before_depth), _ndcgs(held_out, best, after_depth)
    return Tuning(
        current,
        best,
        (len(chosen_on), len(held_out)),
        float(before.mean()),
        float(after.mean()),
        bootstrap_interval(after - before),
        randomisation_test(after - before),
        None if cross_encoder is None else before_depth,
        None if cross_encoder is None else after_depth,
        len({id for judged in beir.qrels.values() for id in judged} - beir.document_ids),
    )


def _grid() -> list[Fusion]:
    convex = [Fusion("convex", *each) for each in product(_WEIGHTS, _NORMALISATIONS, _DEPTHS)]
    return convex + [Fusion("rrf", weight, depth=depth) for weight, depth in product(_WEIGHTS, _DEPTHS)]


def _found(snapshot: Snapshot, encoder: Encoder, beir: Folder, id: str, text: str) -> _Found:
    query = Query(text, k=_CUT, on_overflow="truncate")
    run = candidates(Run(snapshot, encoder, query, max(*_DEPTHS, snapshot.store.fusion.depth)))
    assert run.dense is not None
    assert run.lexical is not None
    named = [
        corpus_id(passage.document_id, passage.uri, beir.document_ids)
        for passage in snapshot.store.take(run.row_ids.tolist())
    ]
    judged = beir.qrels[id]
    return _Found(
        run.dense,
        run.lexical,
        (_ranks(run.dense), _ranks(run.lexical)),
        np.array([judged.get(name, 0) for name in named], np.float64),
        np.unique(named, return_inverse=True)[1],
        _discounted(sorted((float(gain) for gain in judged.values()), reverse=True)),
        text,
        run.row_ids,
        np.full(len(run.row_ids), np.nan, np.float32),
    )


def _read(snapshot: Snapshot, reader: Rerank, query: _Found, wanted: Sequence[tuple[Fusion, int]]) -> _Found:
    """``query`` with the cross-encoder's scores of the first hits, so many for each fusion."""
    first = [_order(query, fusion, depth)[:depth] for fusion, depth in wanted]
    read = np.unique(np.concatenate(first))
    if not len(read):
        return query
    texts = [passage.text for passage in snapshot.store.take(query.row_ids[read].tolist())]
    scores = relevance(reader, query.text, texts, time.perf_counter())
    assert scores is not None, "there is no time limit"
    reranked = query.reranked.copy()
    reranked[read] = scores
    return replace(query, reranked=reranked)


def _ranks(scores: Floats) -> npt.NDArray[np.int64]:
    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-np.nan_to_num(scores), kind="stable")] = np.arange(len(scores))
    return ranks


def _ndcgs(queries: Sequence[_Found], fusion: Fusion, rerank_depth: int = 0) -> Doubles:
    """nDCG@10 of each query (n,), a document ranking as its best passage, and the first ``rerank_depth`` passages by
    the cross-encoder."""
    return np.array([_ndcg(query, fusion, rerank_depth) for query in queries])


def _order(query: _Found, fusion: Fusion, rerank_depth: int) -> RowIds:
    """Places of the candidates in the order of their fused scores: of those that the sides bring, which is more where
    more are to be read."""
    depth = max(fusion.depth, rerank_depth)
    brought = np.flatnonzero((query.ranks[0] < depth) | ((query.ranks[1] < depth) & (query.lexical > 0)))
    return brought[np.argsort(-fused(query.dense[brought], query.lexical[brought], fusion), kind="stable")]


def _ndcg(query: _Found, fusion: Fusion, rerank_depth: int) -> float:
    if not len(query.row_ids) or not query.ideal:
        return 0.0
    order = _order(query, fusion, rerank_depth)
    read = order[:rerank_depth]
    order = np.concatenate([read[np.argsort(-query.reranked[read], kind="stable")], order[rerank_depth:]])
    first = np.sort(np.unique(query.documents[order], return_index=True)[1])[:_CUT]
    return _discounted(query.gains[order[first]].tolist()) / query.ideal


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / float(np.log2(rank + 2)) for rank, gain in enumerate(gains[:_CUT]))
