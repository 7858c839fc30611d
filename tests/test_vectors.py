from __future__ import annotations

import json
import logging
import math
import os
import resource
import shutil
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedsvc.errors import EmbedsvcError, MissingDependency, StorageFailure, UsageError
from embedsvc.vectors import (
    Among,
    Filters,
    Goal,
    VectorIndex,
    apply_changes,
    building,
    faiss_module,
    filtering,
    fold,
    index_faults,
    kinds,
    load_index,
    needs_fold,
    plan,
    save_efforts,
    save_index,
    set_aside,
)
from embedsvc.vectors.kinds import Effort
from embedsvc.vectors.recall import estimate
from tests.test_storage import small_disk

__all__ = ["small_disk"]

DIMENSION = 8
LARGE = 32
"""Dimension of the sets that are large enough for an approximate index."""
KINDS = ("hnsw8", "ivfpq4")
GOALS = {
    "hnsw8": Goal(),
    # One byte too little for the kind that is preferred.
    "ivfpq4": Goal(memory=int(plan(Goal().exact + 1, LARGE, Goal()).memory) - 1),
}


def unit(count: int, seed: int, dimension: int = DIMENSION) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


Model = dict[int, np.ndarray]


def stacked(rows: Model, dimension: int = DIMENSION) -> tuple[np.ndarray, np.ndarray]:
    return ids(*rows), np.array(list(rows.values()), np.float32).reshape(len(rows), dimension)


def fresh(model: Model, version: int = 1, dimension: int = DIMENSION) -> VectorIndex:
    return apply_changes(VectorIndex.empty(dimension), *stacked(model, dimension), ids(), version)


def exact(model: Model, query: np.ndarray, k: int) -> list[tuple[int, float]]:
    """What a search must give: by falling score, equal scores by rising row id."""
    scored = sorted(((-float(np.float32(vector @ query)), row) for row, vector in model.items()))
    return [(row, -score) for score, row in scored[:k]]


def check(index: VectorIndex, model: Model, query: np.ndarray, k: int, among: list[int] | None = None) -> None:
    """``index`` gives for ``query`` what numpy gives over ``model``."""
    if among is not None:
        model = {row: model[row] for row in among if row in model}
    found_ids, found_scores = index.search(query, k, None if among is None else index.among(ids(*among)))
    wanted = exact(model, query, k)
    assert len(set(found_ids.tolist())) == len(found_ids) == len(wanted)
    assert found_scores.tolist() == sorted(found_scores.tolist(), reverse=True)
    # BLAS and FAISS add in another order: rows may swap where their scores are equal but for that.
    assert found_scores.tolist() == pytest.approx([score for _, score in wanted], abs=1e-5)
    for row, score in zip(found_ids.tolist(), found_scores.tolist(), strict=True):
        assert score == pytest.approx(float(model[row] @ query), abs=1e-5)


CHANGE = st.tuples(
    st.dictionaries(st.integers(0, 9), st.integers(0, 10_000), max_size=10),  # rows to put, seeds of their vectors
    st.sets(st.integers(0, 9), max_size=5),  # rows to delete
    st.sampled_from(["", "fold", "save and load"]),  # after it
)


@settings(max_examples=50)
@given(st.lists(CHANGE, max_size=6), st.integers(0, 99), st.integers(1, 50), st.sets(st.integers(0, 12)))
def test_any_changes_leave_an_index_that_is_exact(
    steps: list[tuple[dict[int, int], set[int], str]], seed: int, k: int, among: set[int]
) -> None:
    query = unit(1, seed)[0]
    model: Model = {}
    index = fresh(model)
    with tempfile.TemporaryDirectory() as scratch:
        for version, (put, deleted, then) in enumerate(steps, start=2):
            new = {row: unit(1, at)[0] for row, at in put.items()}
            deleted = deleted - put.keys()
            before, old_model = index, dict(model)
            index = apply_changes(index, *stacked(new), np.array(sorted(deleted), np.int64), version)
            model = {row: vector for row, vector in model.items() if row not in deleted} | new
            assert len(index) == len(model)
            assert index.version == version
            if then:
                index = fold(index, Goal(), Path(scratch))
                assert len(index) == len(model)
                assert not len(index.fresh)
                check(index, model, query, k)
            if then == "save and load":
                save_index(index, Path(scratch))
                loaded = load_index(Path(scratch), DIMENSION, newest=version)
                assert loaded is not None
                index = loaded
            check(before, old_model, query, k)  # what was there before goes on answering as before
        check(index, model, query, k)
        check(index, model, query, k, sorted(among))
        asked = np.arange(13, dtype=np.int64)
        wanted = [float(model[row] @ query) if row in model else np.nan for row in asked.tolist()]
        assert index.scores(query, asked).tolist() == pytest.approx(wanted, abs=1e-5, nan_ok=True)
        assert index.scores(query, asked[::-1].copy())[::-1].tolist() == pytest.approx(wanted, abs=1e-5, nan_ok=True)


@pytest.fixture(scope="module")
def model() -> Model:
    # Near each other in groups of ten, as the passages of a text are: of evenly scattered ones, none is near another.
    rng = np.random.default_rng(7)
    topics = np.repeat(unit(600, 7, LARGE), 10, axis=0)
    vectors = topics + rng.normal(size=topics.shape).astype(np.float32) * (0.5 / np.sqrt(LARGE))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return dict(zip((rng.permutation(6000) * 3).tolist(), vectors, strict=True))


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest, model: Model, tmp_path_factory: pytest.TempPathFactory) -> VectorIndex:
    """An approximate index of ``model``."""
    index = fold(fresh(model, 1, LARGE), GOALS[request.param], tmp_path_factory.mktemp(request.param))
    assert index.kind == request.param
    return index


def near(model: Model, count: int, seed: int) -> np.ndarray:
    """Queries that lie beside some of the vectors."""
    rng = np.random.default_rng(seed)
    chosen = np.array(list(model.values()))[rng.choice(len(model), count)]
    queries = chosen + rng.normal(size=chosen.shape).astype(np.float32) * (0.3 / np.sqrt(LARGE))
    return (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)


def recall(index: VectorIndex, model: Model, queries: np.ndarray, k: int = 10, among: list[int] | None = None) -> float:
    """Recall@k against numpy; scores must be true, and nothing found that is not there or not allowed."""
    rows, vectors = stacked(model if among is None else {row: model[row] for row in among}, LARGE)
    order = np.argsort(rows)
    rows, vectors = rows[order], vectors[order]
    chosen = None if among is None else index.among(ids(*sorted(among)))
    shares = []
    for query in queries:
        found, scores = index.search(query, k, chosen)
        truth = vectors @ query
        place = np.searchsorted(rows, found)
        assert (rows[np.minimum(place, len(rows) - 1)] == found).all()
        assert scores == pytest.approx(truth[place], abs=1e-5)
        wanted = min(k, len(rows))
        assert len(set(found.tolist())) == len(found) == wanted
        shares.append((scores >= np.sort(truth)[-wanted] - 1e-6).mean())
    return float(np.mean(shares))


def test_an_approximate_index_reaches_its_target_and_says_what_it_measured(built: VectorIndex, model: Model) -> None:
    assert built.recall.low >= 0.95
    assert built.recall.low <= built.recall.mean <= built.recall.high
    assert built.recall.sample >= 500
    assert recall(built, model, near(model, 200, 99)) >= 0.95
    assert len(built) == len(model)
    assert built.bytes_per_vector < 4 * LARGE + (300 if built.kind == "hnsw8" else 0)


@pytest.mark.parametrize("k", [1, 3, 10, 100, 1000])
def test_any_k_is_answered_in_full(built: VectorIndex, model: Model, k: int) -> None:
    # Measured at ten. Codes of 4 bits for three of 32 dimensions tell little of who is the hundredth.
    least = 0.95 if k <= 10 else 0.9 if built.kind == "hnsw8" else 0.6
    assert recall(built, model, near(model, 30, k), k) >= least


def test_queries_together_get_what_each_gets_alone(built: VectorIndex, model: Model) -> None:
    queries = near(model, 20, 4)
    many_ids, many_scores = built.search_many(queries, 7)
    for query, row_ids, scores in zip(queries, many_ids, many_scores, strict=True):
        alone_ids, alone_scores = built.search(query, 7)
        assert row_ids.tolist() == alone_ids.tolist()
        assert scores.tolist() == pytest.approx(alone_scores.tolist(), abs=1e-6)


def test_vectors_read_in_passing_give_the_same_answers(built: VectorIndex, model: Model) -> None:
    segment, queries = built.parts[0].segment, near(model, 30, seed=9)
    for effort in (None, Effort(0, 3)):
        plain = segment.search(queries, 10, None, effort)
        passing = segment.search(queries, 10, None, effort, in_passing=True)
        assert all(map(np.array_equal, plain, passing))


def test_vectors_that_do_not_fit_into_memory_are_found_all_the_same(
    built: VectorIndex, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = near(model, 20, 4)
    expected = [part.tolist() for part in built.search_many(queries, 7)]
    monkeypatch.setattr("embedsvc.vectors.segment._share_of_memory", lambda: 0)
    assert [part.tolist() for part in built.search_many(queries, 7)] == expected
    assert recall(built, model, queries[:5], 1000) >= 0.6  # the last vectors of the file, too


def test_changes_are_neither_forgotten_nor_kept(built: VectorIndex, model: Model, tmp_path: Path) -> None:
    rows = sorted(model)
    gone, replaced = rows[:300], rows[300:350]
    new = dict(zip([*replaced, *range(1, 100, 3)], unit(83, 21, LARGE), strict=True))
    changed = apply_changes(built, *stacked(new, LARGE), ids(*gone), 2)
    now = {row: vector for row, vector in model.items() if row not in gone} | new
    assert len(changed) == len(now)
    assert recall(changed, now, near(now, 60, 5)) >= 0.95
    for row, vector in list(new.items())[::10]:
        assert changed.search(vector, 1)[0].tolist() == [row]
    assert not needs_fold(changed, Goal())
    folded = fold(changed, GOALS[built.kind], tmp_path)
    assert len(folded) == len(now)
    assert len(folded.parts) == 2  # what is 70 times as large is left alone
    assert recall(folded, now, near(now, 60, 6)) >= 0.95


def test_a_segment_with_many_dead_rows_is_built_anew(built: VectorIndex, model: Model, tmp_path: Path) -> None:
    gone = sorted(model)[: len(model) // 4]
    changed = apply_changes(built, *stacked({}, LARGE), ids(*gone), 2)
    assert needs_fold(changed, Goal())
    folded = fold(changed, GOALS[built.kind], tmp_path)
    now = {row: vector for row, vector in model.items() if row not in gone}
    assert [len(part.segment) for part in folded.parts] == [len(now)]
    assert recall(folded, now, near(now, 60, 6)) >= 0.95


def test_small_segments_are_joined_and_large_ones_left(tmp_path: Path) -> None:
    index = VectorIndex.empty(DIMENSION)
    sizes = []
    for step in range(12):
        index = apply_changes(index, np.arange(step * 10, step * 10 + 10), unit(10, step), ids(), step + 1)
        index = fold(index, Goal(), tmp_path)
        sizes.append(sorted(len(part) for part in index.parts))
    assert sizes[:6] == [[10], [20], [30], [40], [50], [10, 50]]
    assert max(map(len, sizes)) <= 2
    assert sum(sizes[-1]) == 120


@pytest.mark.parametrize("share", [1, 20, 500, 4500])
@pytest.mark.parametrize("correlated", [False, True])
def test_a_filter_never_lowers_recall(built: VectorIndex, model: Model, share: int, correlated: bool) -> None:
    for query in near(model, 10, 8):
        # Correlated: what passes is what lies farthest from the query, where a graph's search never comes.
        chosen = sorted(model, key=lambda row: model[row] @ query if correlated else row)[:share]
        assert recall(built, model, query[None], among=chosen) >= 0.9
    assert recall(built, model, near(model, 50, 9), among=sorted(model)[:share]) >= 0.95


def test_a_target_that_cannot_be_shown_makes_the_index_exact(
    tmp_path: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        index = fold(fresh(model, 1, LARGE), Goal(target_recall=1.0), tmp_path)
    assert index.kind == "flat"
    assert index.recall.low == 1.0
    assert "searched exactly" in caplog.text
    assert recall(index, model, near(model, 10, 5)) == 1.0
    assert recall(index, model, near(model, 10, 5), among=sorted(model)[:4500]) == 1.0


def test_the_best_of_several_vectors_of_a_row_counts_once(tmp_path: Path, model: Model) -> None:
    rows, vectors = stacked(model, LARGE)
    rows = np.sort(rows // 3 // 4)  # four vectors each
    index = apply_changes(VectorIndex.empty(LARGE), rows, vectors, ids(), 1)
    folded = fold(index, Goal(), tmp_path)
    assert folded.parts[0].segment.copies == 4
    shares = []
    for query in near(model, 30, 2):
        truth = np.full(rows.max() + 1, -2.0)
        np.maximum.at(truth, rows, vectors @ query)
        wanted = np.sort(truth)[::-1][:10]
        for each in (index, folded):
            found, scores = each.search(query, 10)
            assert len(set(found.tolist())) == 10
            assert (scores <= truth[found] + 1e-5).all()  # the best of a row's may be among what a graph misses
            share = (scores >= wanted[-1] - 1e-6).mean()
            assert each is folded or (share == 1 and scores == pytest.approx(truth[found], abs=1e-5))
            shares.append(share)
            assert each.scores(query, found[::-1].copy())[::-1] == pytest.approx(scores, abs=1e-5)
        gone = apply_changes(folded, *stacked({}, LARGE), found[:1], 2)
        assert len(gone) == len(folded) - 4
        assert found[0] not in gone.search(query, 10)[0]
    assert np.mean(shares) >= 0.95


def test_an_empty_index_answers_with_nothing() -> None:
    index = fresh({})
    query = unit(1, 0)[0]
    assert [part.tolist() for part in index.search(query, 5)] == [[], []]
    assert [part.tolist() for part in index.search(query, 5, index.among(ids(1, 2)))] == [[], []]
    assert np.isnan(index.scores(query, ids(1))).all()
    assert len(index) == 0
    assert index.recall.mean == 1.0


def test_an_index_emptied_by_deletes(built: VectorIndex, model: Model, tmp_path: Path) -> None:
    emptied = apply_changes(built, *stacked({}, LARGE), ids(*model), 2)
    for index in (emptied, fold(emptied, Goal(), tmp_path)):
        assert len(index) == 0
        assert [part.tolist() for part in index.search(near(model, 1, 1)[0], 5)] == [[], []]


def test_equal_vectors_come_in_the_order_of_their_rows() -> None:
    same = unit(1, 1)[0]
    index = fresh(dict.fromkeys((9, 3, 7, 1, 5), same))
    assert index.search(same, 5, index.among(ids(1, 3, 5, 7, 9)))[0].tolist() == [1, 3, 5, 7, 9]
    assert index.search(same, 5)[0].tolist() == [1, 3, 5, 7, 9]
    assert index.search(same, 2)[0].tolist() == [1, 3]
    more = apply_changes(index, ids(4, 2), np.array([same, same]), ids(1), 2)
    assert more.search(same, 10)[0].tolist() == [2, 3, 4, 5, 7, 9]


def test_rows_that_went_have_no_score() -> None:
    model = dict(enumerate(unit(4, 1)))
    index = apply_changes(fresh(model), ids(2), unit(1, 9), ids(0), 2)
    scores = index.scores(model[1], ids(0, 1, 2, 3, 4))
    assert np.isnan(scores).tolist() == [True, False, False, False, True]
    assert scores[2] == pytest.approx(float(unit(1, 9)[0] @ model[1]), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_by_the_thousand(tmp_path: Path, kind: str) -> None:
    model = dict.fromkeys(range(3000), unit(1, 1, LARGE)[0]) | dict(enumerate(unit(50, 3, LARGE), start=3000))
    index = fold(fresh(model, 1, LARGE), GOALS[kind], tmp_path)
    _, scores = index.search(model[0], 10)
    assert scores.tolist() == pytest.approx([1.0] * 10, abs=1e-5)
    assert index.search(model[3007], 1)[0].tolist() == [3007]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_vectors_without_a_direction_are_nobodys_neighbours(tmp_path: Path, model: Model, value: float) -> None:
    bad = dict.fromkeys(range(100_001, 100_004), np.full(LARGE, value, np.float32))
    index = fold(fresh(model | bad, 1, LARGE), Goal(), tmp_path)
    assert recall(index, model, near(model, 20, 5)) >= 0.95
    changed = apply_changes(index, *stacked({100_005: np.full(LARGE, value, np.float32)}, LARGE), ids(), 2)
    assert recall(changed, model, near(model, 20, 5)) >= 0.95


# -- filters ------------------------------------------------------------------------------------------------------


def settled(filters: Filters) -> None:
    """Waits for what is measured in the background."""
    filtering._background.submit(lambda: None).result(60)


def ask(filters: Filters, index: VectorIndex, name: str, rows: list[int]) -> Among:
    """As a search does."""
    among = filters.among(index, name, lambda _: ids(*rows))
    filters.asked(index, name)
    return among


def test_a_filter_that_is_asked_again_is_measured_and_then_searched_by_codes(built: VectorIndex, model: Model) -> None:
    rows = sorted(model)[:5000]
    filters = Filters(0.95, lambda: np.empty((0, LARGE), np.float32), 10**9)
    assert ask(filters, built, "some", rows).parts[0].effort is None  # not measured: all that pass are scored
    first = ask(filters, built, "some", rows)
    settled(filters)
    again = ask(filters, built, "some", [])  # the rows are known
    assert again is not first
    assert again.parts[0].effort is not None
    passing = {row: model[row] for row in rows}
    for query in near(passing, 40, 3):
        ids_, scores = built.search(query, 10, again)
        assert set(ids_.tolist()) <= passing.keys()
        assert scores.tolist() == pytest.approx([float(model[row] @ query) for row in ids_.tolist()], abs=1e-5)
    queries = near(passing, 100, 4)
    truth = np.sort(queries @ np.array(list(passing.values())).T, axis=1)[:, -10:]
    found = built.search_many(queries, 10, again)[1]
    assert np.mean((found >= truth[:, :1] - 1e-6).sum(axis=1).clip(max=10) / 10) >= 0.94


def test_what_was_measured_for_a_filter_stands_after_a_commit(built: VectorIndex, model: Model) -> None:
    rows = sorted(model)[:5000]
    filters = Filters(0.95, lambda: np.empty((0, LARGE), np.float32), 10**9)
    for _ in range(2):
        ask(filters, built, "some", rows)
    settled(filters)
    later = apply_changes(built, *stacked({1: near(model, 1, 1)[0]}, LARGE), ids(), 2)
    assert ask(filters, later, "some", rows).parts[0].effort is not None
    assert ask(filters, later, "other", rows).parts[0].effort is None
    # Far fewer pass by now: what was measured says nothing of them.
    much_later = apply_changes(later, *stacked({}, LARGE), ids(*rows[:800]), 3)
    assert ask(filters, much_later, "some", rows[800:]).parts[0].effort is None


def test_few_rows_are_scored_and_not_measured(built: VectorIndex, model: Model) -> None:
    filters = Filters(0.95, lambda: np.empty((0, LARGE), np.float32), 10**9)
    for _ in range(3):
        among = ask(filters, built, "few", sorted(model)[:30])
    assert among.parts[0].effort is None
    assert among.parts[0].positions is not None
    assert recall(built, model, near(model, 5, 5), among=sorted(model)[:30]) == 1.0


def test_copying_codes_takes_little_more_memory_than_they_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what Python takes: a block of vectors, not all that pass. FAISS holds the codes."""
    monkeypatch.setattr(kinds, "BLOCK", 1000)
    monkeypatch.setattr(kinds, "_RANGED", 1000)
    np.save(tmp_path / "vectors.npy", unit(20_000, 1, LARGE))
    vectors, chosen = np.load(tmp_path / "vectors.npy", mmap_mode="r"), np.arange(0, 20_000, 2)
    tracemalloc.start()
    try:
        codes = kinds.bare_codes(vectors, chosen)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert codes.ntotal == len(chosen)
    assert peak < 2 * len(chosen) * LARGE
    found = kinds.scan_codes(codes, vectors[chosen[5000:5100]], 1, None)
    assert (found[:, 0] == np.arange(5000, 5100)).mean() > 0.95


def test_vectors_set_aside_are_not_in_memory_and_folded_as_others(tmp_path: Path) -> None:
    vectors, rows = unit(20_000, 1, LARGE), np.arange(20_000)
    batches = ((rows[at : at + 500], vectors[at : at + 500]) for at in range(0, len(rows), 500))
    tracemalloc.start()
    try:
        row_ids, aside = set_aside(batches, LARGE, tmp_path)
        index = apply_changes(VectorIndex.empty(LARGE), row_ids, aside, ids(), 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < vectors.nbytes / 2
    folded = fold(index, Goal(), tmp_path)
    assert (row_ids == rows).all()
    assert (aside == vectors).all()
    assert [path.name for path in tmp_path.iterdir()] == [part.segment.name for part in folded.parts]
    assert (folded.exact(vectors[::1000], 1)[0][:, 0] == rows[::1000]).all()


def test_nothing_set_aside_is_nothing(tmp_path: Path) -> None:
    row_ids, aside = set_aside([], LARGE, tmp_path)
    assert (row_ids.shape, aside.shape) == ((0,), (0, LARGE))


def test_a_full_disk_is_told_by_what_cannot_be_set_aside(small_disk: Path) -> None:
    batches = ((np.arange(1000), unit(1000, at, LARGE)) for at in range(100))
    with pytest.raises(StorageFailure, match=f"{small_disk}.*No space left"):
        set_aside(batches, LARGE, small_disk)
    assert not list(small_disk.iterdir())


def test_only_the_last_filters_are_kept(built: VectorIndex) -> None:
    filters = Filters(0.95, lambda: np.empty((0, LARGE), np.float32), 10**9)
    for at in range(40):
        ask(filters, built, str(at), [0])
    asked = []
    for at in (0, 39):
        filters.among(built, str(at), lambda _, at=at: asked.append(at) or ids(0))  # type: ignore[misc]
    assert asked == [0]


def test_filters_are_kept_within_their_memory(built: VectorIndex) -> None:
    least = built.among(ids(0)).parts[0].nbytes
    filters = Filters(0.95, lambda: np.empty((0, LARGE), np.float32), 3 * least)
    for at in range(10):
        ask(filters, built, str(at), [0])
    assert 1 <= len(filters._filters) <= 3
    assert "9" in filters._filters
    tight = Filters(0.95, lambda: np.empty((0, LARGE), np.float32), 1)
    assert [len(ask(tight, built, name, [0]).parts) for name in ("a", "b")] == [1, 1]
    assert list(tight._filters) == ["b"]


def test_a_filter_whose_rows_cannot_be_told_is_not_remembered(built: VectorIndex) -> None:
    filters = Filters(0.95, lambda: np.empty((0, LARGE), np.float32), 10**9)

    def fails(_: int) -> np.ndarray:
        raise UsageError("no SQL")

    with pytest.raises(UsageError):
        filters.among(built, "bad", fails)
    assert len(ask(filters, built, "bad", [0]).parts) == 1


# -- the plan -----------------------------------------------------------------------------------------------------


def test_the_plan_takes_the_fastest_kind_that_fits() -> None:
    assert plan(100, 384, Goal()).kinds == ()
    assert plan(10**6, 384, Goal(memory=10**9)).kinds == ("hnsw8", "ivfpq4", "disk-ivfrq")
    assert plan(10**7, 384, Goal(memory=2 * 10**9)).kinds == ("ivfpq4", "disk-ivfrq")
    assert plan(10**7, 384, Goal(memory=10**8)).kinds == ("disk-ivfrq",)
    assert plan(10**6, 384, Goal(memory=10**9)).memory <= 0.8e9
    assert plan(10**7, 384, Goal(memory=2 * 10**9)).memory <= 1.3e9


def test_a_budget_that_is_too_small_for_any_kind_is_served_from_the_disk() -> None:
    planned = plan(10**7, 384, Goal(memory=10**7))
    assert planned.kinds == ("disk-ivfrq",)
    assert planned.least > 10**7
    enough = plan(10**7, 384, Goal(memory=math.ceil(planned.least)))
    assert (enough.kind, enough.least) == ("disk-ivfrq", planned.least)


# -- on the disk --------------------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(built: VectorIndex, model: Model, tmp_path: Path) -> None:
    index = fold(
        apply_changes(fresh(model, 4, LARGE), ids(), unit(0, 1, LARGE), ids(0, 3), 5), GOALS[built.kind], tmp_path
    )
    index = apply_changes(index, ids(), unit(0, 1, LARGE), ids(6, 9, 12), 6)
    save_index(index, tmp_path)
    loaded = load_index(tmp_path, LARGE, newest=9)
    assert loaded is not None
    for name in ("kind", "version", "recall", "bytes_per_vector"):
        assert getattr(loaded, name) == getattr(index, name), name
    assert len(loaded) == len(model) - 5
    for query in near(model, 5, 2):
        assert [part.tolist() for part in loaded.search(query, 7)] == [part.tolist() for part in index.search(query, 7)]
    changed = apply_changes(loaded, ids(1), unit(1, 77, LARGE), ids(15), 7)
    assert len(changed) == len(model) - 5
    again = load_index(tmp_path, LARGE, newest=9, known=changed)
    assert again is None  # nothing newer is there


@pytest.mark.parametrize("error", [BlockingIOError, None])
def test_what_the_system_has_to_read_from_the_disk_is_loaded_too(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError] | None
) -> None:
    index = fold(fresh(model, 1, LARGE), GOALS["hnsw8"], tmp_path)
    save_index(index, tmp_path)

    def not_cached(*_: object) -> int:
        if error:
            raise error
        return 0

    monkeypatch.setattr("os.preadv", not_cached)
    loaded = load_index(tmp_path, LARGE, newest=9)
    assert loaded is not None
    query = near(model, 1, 2)[0]
    assert [part.tolist() for part in loaded.search(query, 7)] == [part.tolist() for part in index.search(query, 7)]


def version_of(index: VectorIndex | None) -> int | None:
    return index and index.version


def saved(model: Model, folder: Path, version: int = 1) -> VectorIndex:
    index = fold(fresh(model, version), Goal(), folder)
    save_index(index, folder)
    return index


def test_the_latest_that_is_not_too_new_is_loaded_and_only_if_it_helps(tmp_path: Path) -> None:
    for version in (3, 5):
        saved({version: unit(1, 1)[0]}, tmp_path, version)
    assert version_of(load_index(tmp_path, DIMENSION, newest=9)) == 5
    assert version_of(load_index(tmp_path, DIMENSION, newest=4)) == 3
    assert version_of(load_index(tmp_path, DIMENSION, newest=2)) is None
    assert version_of(load_index(tmp_path / "nowhere", DIMENSION, newest=9)) is None
    older = load_index(tmp_path, DIMENSION, newest=4)
    assert older is not None
    later = apply_changes(older, ids(9), unit(1, 1), ids(), 7)  # newer than what is saved, but with a row beside
    assert version_of(load_index(tmp_path, DIMENSION, 9, known=later)) == 5
    assert load_index(tmp_path, DIMENSION, 9, known=load_index(tmp_path, DIMENSION, 9)) is None


def test_what_is_open_already_is_not_opened_again(tmp_path: Path) -> None:
    first = saved(dict(enumerate(unit(60, 1))), tmp_path, 3)
    more = apply_changes(first, np.arange(60, 62), unit(2, 9), ids(1), 4)
    save_index(fold(more, Goal(), tmp_path), tmp_path)
    loaded = load_index(tmp_path, DIMENSION, 4, known=first)
    assert loaded is not None
    assert first.parts[0].segment in [part.segment for part in loaded.parts]
    assert len(loaded) == 61


def test_old_versions_and_their_segments_go_but_for_the_one_before(tmp_path: Path) -> None:
    names = {}
    for version in (1, 2, 10, 11):
        index = saved({version: unit(1, 1)[0]}, tmp_path, version)
        names[version] = index.parts[0].segment.name
    (tmp_path / ".segment-left-by-a-kill.tmp").mkdir()
    saved({12: unit(1, 1)[0]}, tmp_path, 12)
    left = {path.name for path in tmp_path.iterdir()}
    assert {"11", "12", names[11]} < left
    assert len(left) == 4
    assert index.search(unit(1, 1)[0], 1)[0].tolist() == [11]  # what is open stays open


def test_saving_over_the_same_version_replaces_it(tmp_path: Path) -> None:
    saved({1: unit(1, 1)[0]}, tmp_path)
    saved({2: unit(1, 1)[0]}, tmp_path)
    loaded = load_index(tmp_path, DIMENSION, newest=1)
    assert loaded is not None
    assert loaded.search(unit(1, 1)[0], 5)[0].tolist() == [2]


def test_the_files_of_a_version_are_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By inode, for folders are renamed once they are whole."""
    before, after, sync = set[int](), set[int](), os.fsync

    def told(descriptor: int) -> None:
        (after if (tmp_path / "2").exists() else before).add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", told)
    index = fold(fresh(dict(enumerate(unit(60, 1))), 1), Goal(), tmp_path)
    index = apply_changes(index, *stacked({}), ids(3), 2)
    save_index(index, tmp_path, durability="os")
    shutil.rmtree(tmp_path / "2")
    assert not before
    save_index(index, tmp_path)
    written = {path.stat().st_ino for path in tmp_path.rglob("*")}
    assert len(written) == 7  # vectors, row ids, who is alive, two manifests, two folders
    assert written <= before
    assert tmp_path.stat().st_ino in after
    for save in (save_index, save_efforts):  # over what is there
        after.clear()
        save(replace(index, folded=2), tmp_path)
        assert (tmp_path / "2" / "index.json").stat().st_ino in after


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "faiss").write_text("a file where the folder should be")
    with pytest.raises(StorageFailure, match="built again from the store"):
        fold(fresh({1: unit(1, 1)[0]}), Goal(), tmp_path / "faiss")
    with pytest.raises(StorageFailure, match="built again from the store"):
        save_index(VectorIndex.empty(DIMENSION), tmp_path / "faiss")


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, model: Model) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(StorageFailure, match="Nothing is lost"):
            fold(fresh(model, 1, LARGE), Goal(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(tmp_path.iterdir()) == []


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Of the one file called that below a folder."""

    def damage(folder: Path) -> None:
        (file,) = folder.rglob(name)
        file.write_bytes(change(file.read_bytes()))

    return damage


def manifest(name: str, **values: Any) -> Callable[[Path], None]:
    return edit(name, lambda data: json.dumps({**json.loads(data), **values}).encode())


def remove(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (found,) = folder.rglob(name)
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    return damage


def flip(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "codes cut in half": edit("codes.faiss", half),
    "codes altered by a bit": edit("codes.faiss", flip),
    "codes empty": edit("codes.faiss", lambda data: b""),
    "codes missing": remove("codes.faiss"),
    "vectors cut in half": edit("vectors.npy", half),
    "vectors altered": edit("vectors.npy", flip),
    "vectors missing": remove("vectors.npy"),
    "row ids altered": edit("row_ids.npy", flip),
    "row ids missing": remove("row_ids.npy"),
    "segment missing": remove("segment-" + "?" * 32),
    "segment's manifest cut short": edit("segment.json", half),
    "segment's manifest missing": remove("segment.json"),
    "segment's manifest without a key": edit("segment.json", lambda data: data.replace(b'"kind"', b'"kin"')),
    "segment of an unknown kind": manifest("segment.json", kind="hnsw99"),
    "manifest cut short": edit("index.json", half),
    "manifest no JSON object": edit("index.json", lambda data: b"[]"),
    "manifest without a key": edit("index.json", lambda data: data.replace(b'"segments"', b'"s"')),
    "manifest missing": remove("index.json"),
    "of another FAISS": manifest("segment.json", faiss="0.0.1"),
    "of another version": manifest("index.json", version=77),
    "who is alive altered": edit("*.alive.npy", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "who is alive missing": remove("*.alive.npy"),
}


@pytest.fixture(scope="module")
def sound(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved index of version 3, which has a dead row."""
    folder = tmp_path_factory.mktemp("sound")
    index = fold(fresh(dict(list(model.items())[:1000]), 2, LARGE), Goal(), folder)
    save_index(apply_changes(index, ids(), unit(0, 1, LARGE), index.parts[0].segment.row_ids[-1:], 3), folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_not_as_it_was_written_is_not_used(
    tmp_path: Path, sound: Path, damage: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(sound, tmp_path / "faiss")
    assert load_index(tmp_path / "faiss", LARGE, newest=3) is not None
    damage(tmp_path / "faiss")
    with caplog.at_level(logging.WARNING):
        assert load_index(tmp_path / "faiss", LARGE, newest=3) is None
    assert "built again" in caplog.text


def test_large_files_are_summed_up_while_they_are_written_and_not_read_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_WHOLE", 0)
    monkeypatch.setattr(building, "_SPOTS", 2)
    with monkeypatch.context() as patch:
        read = []
        read_of = building._checksum

        def told(file: Path, *, whole: bool = False) -> dict[str, int]:
            read.append(whole)
            return read_of(file, whole=whole)

        patch.setattr(building, "_checksum", told)
        index = fold(fresh(model, 1, LARGE), GOALS["hnsw8"], tmp_path)
        save_index(index, tmp_path)
        assert read
        assert not any(read)
    assert index_faults(tmp_path, LARGE, None) == []
    (codes,) = tmp_path.rglob("codes.faiss")
    content = bytearray(codes.read_bytes())
    content[len(content) // 2] ^= 1
    codes.write_bytes(content)
    assert load_index(tmp_path, LARGE, newest=1) is not None  # it is in none of the places that are looked at
    assert index_faults(tmp_path, LARGE, None) == [f"{codes.parent.name}/codes.faiss is not what was written"]


def test_an_index_of_another_dimension_is_not_used(sound: Path) -> None:
    assert load_index(sound, LARGE + 1, newest=3) is None


def test_without_faiss_the_message_names_the_extras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependency, match=r"embedsvc\[cpu\].*embedsvc\[gpu\]") as raised:
        faiss_module()
    assert isinstance(raised.value, EmbedsvcError)
    with pytest.raises(MissingDependency):
        fold(fresh({1: unit(1, 1)[0]}), Goal(), tmp_path)


@given(
    st.lists(st.floats(0, 1).map(lambda share: round(10 * share) / 10), min_size=1, max_size=300),
)
def test_an_interval_holds_its_mean_and_is_never_certain_of_a_sample(found: list[float]) -> None:
    told = estimate(np.array(found))
    assert 0 <= told.low <= told.mean <= told.high <= 1
    assert told.sample == len(found)
    assert told.low < 1


def test_more_queries_make_the_interval_narrower() -> None:
    some = np.tile([1.0, 0.9, 1.0, 0.8], 10)
    few, many = estimate(some), estimate(np.tile(some, 20))
    assert few.mean == many.mean == pytest.approx(0.925)
    assert many.high - many.low < (few.high - few.low) / 4 + 0.01
    assert few.low < 0.925 < few.high


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        chance = rng.beta(20, 1.2, 500)  # queries differ in how hard they are
        told = estimate(rng.binomial(10, chance) / 10)
        inside += told.low <= 20 / 21.2 <= told.high
    assert inside / 400 >= 0.92
