"""A vector index as an immutable value: searches never wait for changes, changes never disturb a search.

``base`` is a FAISS index over positions 0..n-1. Rows that came after it was built lie in ``fresh`` and are searched
exactly; rows that went are ``dead`` in the base and never returned. :func:`fold` makes one base of it all again.
Vectors are of unit length, so the inner product is the cosine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsvc.vectors.faiss_module import faiss_module

RowIds = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

HNSW_FROM = 50_000
"""Passages from which an index is approximate: below, exact search of all of them costs less than 5 ms."""
_HNSW_LINKS = 32
_HNSW_BUILD_DEPTH = 100
_SEARCH_DEPTHS = (32, 64, 128, 256, 512)
_RECALL_SAMPLE = 200
_FOLD_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """What to build: the least measured recall@10 that an approximate index must reach, and from how many rows."""

    target_recall: float = 0.95
    hnsw_from: int = HNSW_FROM


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """See the module. ``row_ids`` (n,) are the base positions' row ids, ``dead`` (n,) marks those that are gone.

    ``fresh_ids`` (m,) and ``fresh_vectors`` (m, dimension) are not in the base. ``recall_at_10`` was measured against
    exact search when the base was built (1.0 for ``flat``, which is exact); ``depth`` is HNSW's efSearch.
    """

    kind: str
    version: int
    base: Any
    row_ids: RowIds
    dead: npt.NDArray[np.bool_]
    fresh_ids: RowIds
    fresh_vectors: Floats
    recall_at_10: float
    recall_sample: int
    depth: int
    build_seconds: float

    @property
    def dimension(self) -> int:
        return int(self.base.d)

    def __len__(self) -> int:
        return len(self.row_ids) - int(self.dead.sum()) + len(self.fresh_ids)

    @property
    def is_loose(self) -> bool:
        """Whether rows lie beside the base, or dead in it."""
        return bool(len(self.fresh_ids) or self.dead.any())

    @property
    def bytes_per_vector(self) -> float:
        """Resident bytes of the base per vector it holds."""
        links = 2 * _HNSW_LINKS * 4 + 8 if self.kind == "hnsw" else 0
        return 4.0 * self.dimension + links + 8

    def search(self, query: Floats, k: int, among: RowIds | None = None) -> tuple[RowIds, Floats]:
        """The ``k`` nearest rows of one ``query`` (dimension,): row ids and cosines, best first.

        ``among`` (sorted row ids) restricts the search, which is exact then: a graph loses recall where what the
        filter passes lies together and far from the query (.61 recall@10 for half the rows, measured).
        """
        if among is None:
            base = self._search_base(query, k, ~self.dead if self.dead.any() else None, self.kind)
            fresh = _best(self.fresh_ids, self.fresh_vectors @ query, k)
        else:
            allowed = np.isin(self.row_ids, among) & ~self.dead
            base = self._search_base(query, k, allowed, "flat")
            passed = np.isin(self.fresh_ids, among)
            fresh = _best(self.fresh_ids[passed], self.fresh_vectors[passed] @ query, k)
        return _best(np.concatenate([base[0], fresh[0]]), np.concatenate([base[1], fresh[1]]), k)

    def scores(self, query: Floats, row_ids: RowIds) -> Floats:
        """Exact cosines of these rows with ``query`` (dimension,); NaN for a row that is not in the index."""
        scores = np.full(len(row_ids), np.nan, np.float32)
        for ids, vectors, usable in (
            (self.row_ids, self._base_vectors(), ~self.dead),
            (self.fresh_ids, self.fresh_vectors, np.ones(len(self.fresh_ids), bool)),
        ):
            if len(ids):
                order = _order(ids)
                place = np.minimum(np.searchsorted(ids, row_ids, sorter=order), len(ids) - 1)
                position = place if order is None else order[place]
                hit = (ids[position] == row_ids) & usable[position]
                scores[hit] = vectors[position[hit]] @ query
        return scores

    def _search_base(
        self, query: Floats, k: int, allowed: npt.NDArray[np.bool_] | None, kind: str
    ) -> tuple[RowIds, Floats]:
        faiss = faiss_module()
        k = min(k, len(self.row_ids))
        if not k:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        options: dict[str, Any] = {}
        bitmap = None  # kept alive while FAISS reads it
        if allowed is not None:
            bitmap = np.packbits(allowed, bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(bitmap)
        if kind == "hnsw":
            base, parameters = self.base, faiss.SearchParametersHNSW(efSearch=max(self.depth, k), **options)
        else:
            base, parameters = self._flat(), faiss.SearchParameters(**options)
        scores, positions = base.search(query[None], k, params=parameters)
        found = positions[0] >= 0
        return self.row_ids[positions[0][found]], scores[0][found]

    def _flat(self) -> Any:
        """FAISS's exact index over the base's vectors: the base itself, or what its graph stands on."""
        return faiss_module().downcast_index(self.base.storage) if self.kind == "hnsw" else self.base

    def _base_vectors(self) -> Floats:
        """The base's vectors (n, dimension) where FAISS holds them: a view, not a copy."""
        flat = self._flat()
        if not flat.ntotal:
            return np.empty((0, self.dimension), np.float32)
        view: Floats = faiss_module().rev_swig_ptr(flat.get_xb(), flat.ntotal * self.dimension)
        return view.reshape(flat.ntotal, self.dimension)

    def _all(self) -> tuple[RowIds, Floats]:
        alive = ~self.dead
        ids = np.concatenate([self.row_ids[alive], self.fresh_ids])
        return ids, np.concatenate([self._base_vectors()[alive], self.fresh_vectors])


def _order(ids: RowIds) -> npt.NDArray[np.intp] | None:
    """Sorting permutation of ``ids``; None where they are sorted, as bases are."""
    return None if bool((ids[1:] >= ids[:-1]).all()) else np.argsort(ids)


def _best(ids: RowIds, scores: Floats, k: int) -> tuple[RowIds, Floats]:
    if len(scores) > k:
        kept = np.argpartition(-scores, k - 1)[:k]
        ids, scores = ids[kept], scores[kept]
    # Equal scores in row order, so that the same question always gets the same answer.
    order = np.lexsort((ids, -scores))
    return ids[order], scores[order]


def build_index(row_ids: RowIds, vectors: Floats, version: int, plan: IndexPlan) -> VectorIndex:
    """Builds what ``plan`` asks for over ``vectors`` (n, dimension) of unit length and measures its recall@10.

    An approximate index whose measured recall stays below the target is thrown away for an exact one.

    Source: HNSW as in Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
    Hierarchical Navigable Small World graphs", TPAMI 2020; FAISS's implementation.
    """
    faiss = faiss_module()
    started = time.perf_counter()
    order = np.argsort(row_ids, kind="stable")
    row_ids, vectors = row_ids[order], np.ascontiguousarray(vectors[order], np.float32)
    dimension = vectors.shape[1]
    exact = faiss.IndexFlatIP(dimension)
    kind, base, depth, recall, sampled = "flat", exact, 0, 1.0, 0
    if len(row_ids) >= plan.hnsw_from:
        graph = faiss.IndexHNSWFlat(dimension, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _HNSW_BUILD_DEPTH
        graph.add(vectors)
        sample = np.random.default_rng(0).choice(len(vectors), _RECALL_SAMPLE, replace=False)
        # One more than ten, for each sample finds itself, and that is no merit.
        truth = faiss.knn(vectors[sample], vectors, 11, metric=faiss.METRIC_INNER_PRODUCT)[0]
        for depth in _SEARCH_DEPTHS:
            found = graph.search(vectors[sample], 11, params=faiss.SearchParametersHNSW(efSearch=depth))[0]
            # By score, so that of equally near rows it does not matter which were found.
            hits = (found >= truth[:, -1:] - 1e-6).sum(axis=1)
            recall = float(np.mean((hits - 1).clip(0) / 10))
            if recall >= plan.target_recall:
                kind, base, sampled = "hnsw", graph, len(sample)
                break
        else:
            depth, recall = 0, 1.0
    if kind == "flat":
        exact.add(vectors)
    return VectorIndex(
        kind=kind,
        version=version,
        base=base,
        row_ids=row_ids,
        dead=np.zeros(len(row_ids), bool),
        fresh_ids=np.empty(0, np.int64),
        fresh_vectors=np.empty((0, dimension), np.float32),
        recall_at_10=recall,
        recall_sample=sampled,
        depth=depth,
        build_seconds=time.perf_counter() - started,
    )


def apply_changes(index: VectorIndex, row_ids: RowIds, vectors: Floats, deleted: RowIds, version: int) -> VectorIndex:
    """The index at a later store version: ``row_ids`` (n,) with ``vectors`` are new or replaced, ``deleted`` are gone.

    The base is shared with ``index``, which goes on answering as before.
    """
    gone = np.concatenate([row_ids, deleted])
    kept = ~np.isin(index.fresh_ids, gone)
    return replace(
        index,
        version=version,
        dead=index.dead | np.isin(index.row_ids, gone),
        fresh_ids=np.concatenate([index.fresh_ids[kept], row_ids]),
        fresh_vectors=np.concatenate([index.fresh_vectors[kept], vectors.reshape(-1, index.dimension)]),
    )


def fold(index: VectorIndex, plan: IndexPlan) -> VectorIndex:
    """One base of base, fresh and dead, when there is enough of them to be worth a build; else ``index`` itself."""
    loose = len(index.fresh_ids) + int(index.dead.sum())
    if not loose or loose < _FOLD_SHARE * len(index.row_ids):
        return index
    return build_index(*index._all(), index.version, plan)
