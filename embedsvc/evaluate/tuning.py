"""The fusion and the depth of reranking that do best, chosen on one half of judged queries, proved on the other."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Generic, TypeVar

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
from embedsvc.search.run import Floats, Query, Rerank, RowIds, Run, check_reranker, rerank_depth
from embedsvc.search.terms import pairs_in, query_pairs
from embedsvc.search.wording import DEPTH, reworded, shares_of
from embedsvc.upkeep import Snapshot

_FEWEST = 20
"""Queries; of fewer, no half would tell anything."""
_DEPTHS = (50, 100, 200)
_WEIGHTS = tuple(round(0.1 * step, 1) for step in range(1, 10))
_RERANK_DEPTHS = (0, 10, 20, 50, 100)
"""0: the cross-encoder does not pay."""
_NORMALISATIONS: tuple[Normalisation, ...] = ("max", "minmax", "zscore")
_CUT = 10

_Value = TypeVar("_Value")
Pairs = frozenset[tuple[str, str]]
"""Of stems that follow one another."""


@dataclass(frozen=True, slots=True)
class Choice(Generic[_Value]):
    """``best`` did best on some queries. On others, which had no part in the choice, it has nDCG@10 of ``after`` where
    ``current`` has ``before``. ``interval``: of the gain, 95 %, by bootstrap over queries; ``p_value``: by a paired
    randomisation test, two-sided. ``proved``: the whole interval is above 0.
    """

    current: _Value
    best: _Value
    before: float
    after: float
    interval: tuple[float, float]
    p_value: float

    @property
    def proved(self) -> bool:
        return self.interval[0] > 0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "proved": self.proved}


@dataclass(frozen=True, slots=True)
class Tuning:
    """``fusion``: without reranking. ``rerank_depth``: of hits fused by what is best by then, where a cross-encoder was
    given; 0: it does not pay. ``queries``: how many they were chosen on, and proved on. ``documents_missing``: that the
    folder judges and its corpus does not have; they lower all values alike.
    """

    fusion: Choice[Fusion]
    rerank_depth: Choice[int] | None
    queries: tuple[int, int]
    documents_missing: int

    @property
    def proved(self) -> dict[str, Any]:
        """What is proved to be better than now, by its name in :class:`.records.Tuned`."""
        choices = {"fusion": self.fusion, "rerank_depth": self.rerank_depth}
        return {name: choice.best for name, choice in choices.items() if choice is not None and choice.proved}

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of ``embedsvc eval --tune --json``, but for what became of it."""
        depth = None if self.rerank_depth is None else self.rerank_depth.to_dict()
        return {**asdict(self), "fusion": self.fusion.to_dict(), "rerank_depth": depth}


@dataclass(frozen=True, slots=True)
class _Found:
    """A query's candidates: scores on both sides (n,), ranks on both (n,), gain of each one's document (n,), which
    document that is (n,), and the gains of an ideal answer. ``row_ids`` (n,); ``reranked`` (n,): by the cross-encoder,
    NaN where it was not asked. ``pairs`` of the query's words, and those that each of them is ``having`` (n,)."""

    dense: Floats
    lexical: Floats
    ranks: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    gains: Doubles
    documents: npt.NDArray[np.int64]
    ideal: float
    text: str
    row_ids: RowIds
    reranked: Floats
    pairs: Pairs
    having: tuple[Pairs, ...]


def tune(
    snapshot: Snapshot, encoder: Encoder, folder: Path, split: str, cross_encoder: CrossEncoder | None = None
) -> Tuning:
    """Tries all fusions of a grid on a collection that holds the corpus of the BEIR ``folder``; and then, with the best
    one if that is proved, else the current one, how many hits the ``cross_encoder`` should read. Changes nothing. Each
    is proved by itself, on the half that had no part in choosing it.

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
    # The current one first: another is taken only where it is better, not where it is as good.
    best = max((current, *_grid()), key=lambda fusion: _ndcgs(chosen_on, fusion).mean())
    fusion = _proof(current, best, _ndcgs(held_out, current), _ndcgs(held_out, best))
    depth = None
    if cross_encoder is not None:
        now = rerank_depth(_CUT, snapshot.store.tuned)
        depth = _depth(snapshot, Rerank(cross_encoder), halves, best if fusion.proved else current, now)
    missing = {id for judged in beir.qrels.values() for id in judged} - beir.document_ids
    return Tuning(fusion, depth, (len(chosen_on), len(held_out)), len(missing))


def _depth(
    snapshot: Snapshot, reader: Rerank, halves: tuple[list[_Found], list[_Found]], fusion: Fusion, current: int
) -> Choice[int]:
    """How many hits, fused by ``fusion``, the ``reader`` should read. It reads each of them once."""
    chosen_on = [_read(snapshot, reader, query, fusion, _RERANK_DEPTHS) for query in halves[0]]
    # Of depths that are as good, the least.
    best = max(_RERANK_DEPTHS, key=lambda depth: (_ndcgs(chosen_on, fusion, depth).mean(), -depth))
    held_out = [_read(snapshot, reader, query, fusion, (current, best)) for query in halves[1]]
    return _proof(current, best, _ndcgs(held_out, fusion, current), _ndcgs(held_out, fusion, best))


def _proof(current: _Value, best: _Value, before: Doubles, after: Doubles) -> Choice[_Value]:
    gains = after - before
    return Choice(
        current,
        best,
        float(before.mean()),
        float(after.mean()),
        bootstrap_interval(gains),
        randomisation_test(gains),
    )


def _grid() -> list[Fusion]:
    convex = [Fusion("convex", *each) for each in product(_WEIGHTS, _NORMALISATIONS, _DEPTHS)]
    return convex + [Fusion("rrf", weight, depth=depth) for weight, depth in product(_WEIGHTS, _DEPTHS)]


def _found(snapshot: Snapshot, encoder: Encoder, beir: Folder, id: str, text: str) -> _Found:
    query = Query(text, k=_CUT, on_overflow="truncate")
    run = candidates(Run(snapshot, encoder, query, max(*_DEPTHS, snapshot.store.fusion.depth)))
    assert run.dense is not None
    assert run.lexical is not None
    passages = snapshot.store.take(run.row_ids.tolist())
    named = [corpus_id(passage.document_id, passage.uri, beir.document_ids) for passage in passages]
    pairs = query_pairs(text)
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
        pairs,
        tuple(pairs_in(passage.text, pairs) for passage in passages) if pairs else (),
    )


def _read(snapshot: Snapshot, reader: Rerank, query: _Found, fusion: Fusion, depths: Sequence[int]) -> _Found:
    """``query`` with the cross-encoder's scores of what is among its first hits at any of the ``depths``."""
    read = np.unique(np.concatenate([_order(query, fusion, depth)[:depth] for depth in depths]))
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
    """Places of the candidates in the order in which a search has them, fused and by their wording: of those that the
    sides bring, which is more where more are to be read."""
    depth = max(fusion.depth, rerank_depth)
    brought = np.flatnonzero((query.ranks[0] < depth) | ((query.ranks[1] < depth) & (query.lexical > 0)))
    scores = fused(query.dense[brought], query.lexical[brought], fusion)
    order = np.argsort(-scores, kind="stable")
    if query.pairs and fusion.method == "convex":  # as the stage `wording`, with texts read once for all fusions
        best = shares_of([query.having[place] for place in brought[order[:DEPTH]]], query.pairs)
        scores = reworded(scores[order], best, fusion)
        order = order[np.lexsort((order, -scores))]
    return brought[order]


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
