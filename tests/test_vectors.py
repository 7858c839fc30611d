from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.errors import EmbedsvcError, MissingDependency, StorageFailure
from embedsvc.vectors import (
    IndexPlan,
    VectorIndex,
    apply_changes,
    build_index,
    faiss_module,
    fold,
    load_index,
    save_index,
)

FLAT = IndexPlan()
GRAPH = IndexPlan(hnsw_from=300)
DIMENSION = 8


def unit(count: int, seed: int, dimension: int = DIMENSION) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


Model = dict[int, np.ndarray]


def built(model: Model, plan: IndexPlan = FLAT, version: int = 1, dimension: int = DIMENSION) -> VectorIndex:
    vectors = np.array(list(model.values()), np.float32).reshape(len(model), dimension)
    return build_index(np.array(list(model), np.int64), vectors, version, plan)


def exact(model: Model, query: np.ndarray, k: int) -> list[tuple[int, float]]:
    """What a search must give: by falling score, equal scores by rising row id."""
    scored = sorted(((-float(np.float32(vector @ query)), row) for row, vector in model.items()))
    return [(row, -score) for score, row in scored[:k]]


def check(index: VectorIndex, model: Model, query: np.ndarray, k: int, among: list[int] | None = None) -> None:
    """``index`` gives for ``query`` what numpy gives over ``model``."""
    if among is not None:
        model = {row: model[row] for row in among if row in model}
    found_ids, found_scores = index.search(query, k, None if among is None else np.array(sorted(among), np.int64))
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
    st.booleans(),  # fold after it
)


@settings(max_examples=100)
@given(st.lists(CHANGE, max_size=6), st.integers(0, 99), st.integers(1, 50), st.sets(st.integers(0, 12)))
def test_any_changes_leave_an_index_that_is_exact(
    steps: list[tuple[dict[int, int], set[int], bool]], seed: int, k: int, among: set[int]
) -> None:
    query = unit(1, seed)[0]
    model: Model = {}
    index = built(model)
    for version, (put, deleted, folded) in enumerate(steps, start=2):
        new = {row: unit(1, at)[0] for row, at in put.items()}
        deleted = deleted - put.keys()
        before, old_model = index, dict(model)
        vectors = np.array(list(new.values()), np.float32).reshape(len(new), DIMENSION)
        index = apply_changes(
            index, np.array(list(new), np.int64), vectors, np.array(sorted(deleted), np.int64), version
        )
        model = {row: vector for row, vector in model.items() if row not in deleted} | new
        assert len(index) == len(model)
        assert index.version == version
        if folded:
            index = fold(index, FLAT)
            assert not index.is_loose
        check(before, old_model, query, k)  # what was there before goes on answering as before
    check(index, model, query, k)
    check(index, model, query, k, sorted(among))
    asked = np.arange(13, dtype=np.int64)
    wanted = [float(model[row] @ query) if row in model else np.nan for row in asked.tolist()]
    assert index.scores(query, asked).tolist() == pytest.approx(wanted, abs=1e-5, nan_ok=True)
    assert index.scores(query, asked[::-1].copy())[::-1].tolist() == pytest.approx(wanted, abs=1e-5, nan_ok=True)


@pytest.fixture(scope="module")
def graph() -> tuple[VectorIndex, Model]:
    vectors = unit(2000, 7)
    model = {
        int(row): vector for row, vector in zip(np.random.default_rng(3).permutation(2000) * 3, vectors, strict=True)
    }
    return built(model, GRAPH), model


def recall(index: VectorIndex, model: Model, queries: np.ndarray, k: int = 10, among: list[int] | None = None) -> float:
    allowed = model if among is None else {row: model[row] for row in among}
    chosen = None if among is None else np.array(sorted(among), np.int64)
    shares = []
    for query in queries:
        found, scores = index.search(query, k, chosen)
        assert set(found.tolist()) <= allowed.keys()
        assert scores.tolist() == pytest.approx([float(allowed[row] @ query) for row in found.tolist()], abs=1e-5)
        wanted = {row for row, _ in exact(allowed, query, k)}
        shares.append(len(wanted & set(found.tolist())) / len(wanted))
    return float(np.mean(shares))


def test_a_graph_reaches_its_target_and_says_what_it_measured(graph: tuple[VectorIndex, Model]) -> None:
    index, model = graph
    assert index.kind == "hnsw"
    assert index.recall_at_10 >= GRAPH.target_recall
    assert index.recall_sample >= 100
    measured = recall(index, model, unit(100, 99))
    assert measured >= GRAPH.target_recall - 0.03
    assert len(index) == 2000


def test_a_graph_with_changes_neither_forgets_nor_keeps(graph: tuple[VectorIndex, Model]) -> None:
    index, model = graph
    rows = sorted(model)
    gone, replaced = rows[:300], rows[300:350]
    fresh = dict(zip([*replaced, *range(1, 100, 3)], unit(83, 21), strict=True))
    changed = apply_changes(index, np.array(list(fresh), np.int64), np.array(list(fresh.values())), np.array(gone), 2)
    now = {row: vector for row, vector in model.items() if row not in gone} | fresh
    assert len(changed) == len(now)
    assert recall(changed, now, unit(40, 5)) >= 0.95
    for row, vector in list(fresh.items())[::10]:
        assert changed.search(vector, 1)[0].tolist() == [row]
    assert fold(changed, GRAPH) is not changed
    assert not fold(changed, GRAPH).is_loose
    assert recall(fold(changed, GRAPH), now, unit(40, 6)) >= 0.95


def test_a_graph_with_few_changes_is_not_built_again(graph: tuple[VectorIndex, Model]) -> None:
    changed = apply_changes(graph[0], ids(7), unit(1, 1), ids(), 2)
    assert fold(changed, GRAPH) is changed


@pytest.mark.parametrize("share", [1, 20, 500, 1500])
@pytest.mark.parametrize("correlated", [False, True])
def test_a_filter_never_lowers_recall(graph: tuple[VectorIndex, Model], share: int, correlated: bool) -> None:
    index, model = graph
    for query in unit(30, 8):
        # Correlated: what passes is what lies farthest from the query, where a graph's search never comes.
        chosen = sorted(model, key=lambda row: model[row] @ query if correlated else row)[:share]
        assert recall(index, model, query[None], among=chosen) == 1.0


def test_a_graph_that_cannot_reach_the_target_is_not_used() -> None:
    model = dict(enumerate(unit(500, 4)))
    impossible = built(model, IndexPlan(target_recall=1.01, hnsw_from=10))
    assert impossible.kind == "flat"
    assert impossible.recall_at_10 == 1.0
    check(impossible, model, unit(1, 5)[0], 10)


def test_an_empty_index_answers_with_nothing() -> None:
    index = built({})
    query = unit(1, 0)[0]
    assert [part.tolist() for part in index.search(query, 5)] == [[], []]
    assert [part.tolist() for part in index.search(query, 5, ids(1, 2))] == [[], []]
    assert np.isnan(index.scores(query, ids(1))).all()
    assert len(index) == 0


def test_one_vector() -> None:
    model = {5: unit(1, 1)[0]}
    check(built(model), model, unit(1, 2)[0], 3)


def test_equal_vectors_come_in_the_order_of_their_rows() -> None:
    same = unit(1, 1)[0]
    index = built(dict.fromkeys((9, 3, 7, 1, 5), same))
    assert index.search(same, 5, ids(1, 3, 5, 7, 9))[0].tolist() == [1, 3, 5, 7, 9]
    assert index.search(same, 5)[0].tolist() == [1, 3, 5, 7, 9]
    more = apply_changes(index, ids(4, 2), np.array([same, same]), ids(1), 2)
    assert more.search(same, 10)[0].tolist() == [2, 3, 4, 5, 7, 9]


def test_rows_that_went_have_no_score() -> None:
    model = dict(enumerate(unit(4, 1)))
    index = apply_changes(built(model), ids(2), unit(1, 9), ids(0), 2)
    scores = index.scores(model[1], ids(0, 1, 2, 3, 4))
    assert np.isnan(scores).tolist() == [True, False, False, False, True]
    assert scores[2] == pytest.approx(float(unit(1, 9)[0] @ model[1]), abs=1e-6)


def test_many_equal_vectors_in_a_graph() -> None:
    model = dict.fromkeys(range(400), unit(1, 1)[0]) | dict(enumerate(unit(50, 3), start=400))
    index = built(model, GRAPH)
    _, scores = index.search(model[0], 10)
    assert scores.tolist() == pytest.approx([1.0] * 10, abs=1e-5)


# -- on the disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [FLAT, GRAPH], ids=["flat", "hnsw"])
def test_what_was_saved_is_loaded(tmp_path: Path, plan: IndexPlan) -> None:
    model = {row * 2: vector for row, vector in enumerate(unit(400, 3))}
    index = built(model, plan, version=4)
    save_index(index, tmp_path)
    loaded = load_index(tmp_path, DIMENSION, newest=9)
    assert loaded is not None
    for name in ("kind", "version", "recall_at_10", "recall_sample", "depth"):
        assert getattr(loaded, name) == getattr(index, name), name
    for query in unit(5, 2):
        assert [part.tolist() for part in loaded.search(query, 7)] == [part.tolist() for part in index.search(query, 7)]
    changed = apply_changes(loaded, ids(1), unit(1, 77), ids(0), 5)
    assert len(changed) == 400
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


def test_an_empty_index_is_saved_and_loaded(tmp_path: Path) -> None:
    save_index(built({}), tmp_path)
    loaded = load_index(tmp_path, DIMENSION, newest=1)
    assert loaded is not None
    assert len(loaded) == 0


def test_the_latest_that_is_not_too_new_is_loaded_and_only_if_it_helps(tmp_path: Path) -> None:
    for version in (3, 5):
        save_index(built({version: unit(1, 1)[0]}, version=version), tmp_path)

    def version_of(index: VectorIndex | None) -> int | None:
        return index and index.version

    assert version_of(load_index(tmp_path, DIMENSION, newest=9)) == 5
    assert version_of(load_index(tmp_path, DIMENSION, newest=4)) == 3
    assert version_of(load_index(tmp_path, DIMENSION, newest=2)) is None
    assert version_of(load_index(tmp_path, DIMENSION, 9, known=built({}, version=4))) == 5
    assert version_of(load_index(tmp_path, DIMENSION, 9, known=built({}, version=5))) is None
    assert version_of(load_index(tmp_path / "nowhere", DIMENSION, newest=9)) is None


def test_old_versions_go_but_for_the_one_before(tmp_path: Path) -> None:
    for version in (1, 2, 10, 11):
        save_index(built({}, version=version), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"10", "11"}


def test_saving_over_the_same_version_replaces_it(tmp_path: Path) -> None:
    save_index(built({1: unit(1, 1)[0]}), tmp_path)
    save_index(built({2: unit(1, 1)[0]}), tmp_path)
    loaded = load_index(tmp_path, DIMENSION, newest=1)
    assert loaded is not None
    assert loaded.row_ids.tolist() == [2]


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "faiss").write_text("a file where the folder should be")
    with pytest.raises(StorageFailure, match="built again from the store"):
        save_index(built({}), tmp_path / "faiss")


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def manifest(**values: Any) -> Callable[[Path], None]:
    return edit("index.json", lambda data: json.dumps({**json.loads(data), **values}).encode())


def flip(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "index cut short": edit("index.faiss", lambda data: data[: len(data) // 2]),
    "index altered by a bit": edit("index.faiss", flip),
    "index empty": edit("index.faiss", lambda data: b""),
    "index missing": lambda folder: (folder / "index.faiss").unlink(),
    "row ids altered": edit("row_ids.npy", flip),
    "row ids missing": lambda folder: (folder / "row_ids.npy").unlink(),
    "manifest cut short": edit("index.json", lambda data: data[:40]),
    "manifest no JSON object": edit("index.json", lambda data: b"[]"),
    "manifest without a key": edit("index.json", lambda data: data.replace(b'"kind"', b'"kin"')),
    "manifest missing": lambda folder: (folder / "index.json").unlink(),
    "folder empty": lambda folder: [path.unlink() for path in folder.iterdir()],
    "of another FAISS": manifest(faiss="0.0.1"),
    "of another version": manifest(version=77),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_not_as_it_was_written_is_not_used(
    tmp_path: Path, damage: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    save_index(built(dict(enumerate(unit(50, 1))), version=3), tmp_path)
    damage(tmp_path / "3")
    with caplog.at_level(logging.WARNING):
        assert load_index(tmp_path, DIMENSION, newest=3) is None
    assert "built again" in caplog.text


def test_an_index_of_another_dimension_is_not_used(tmp_path: Path) -> None:
    save_index(built({1: unit(1, 1)[0]}), tmp_path)
    assert load_index(tmp_path, DIMENSION + 1, newest=1) is None


@pytest.mark.parametrize("damage", [*DAMAGE.values(), shutil.rmtree], ids=[*DAMAGE, "folder missing"])
def test_a_collection_builds_an_unusable_index_again(library: Path, damage: Callable[[Path], Any]) -> None:
    settings = Settings(data_dir=library)
    before = Collection.open("library", settings).snapshot()
    damage(library / "library" / "faiss" / str(before.version))
    after = Collection.open("library", settings).snapshot()
    row_ids, vectors = after.store.vectors()
    assert len(after.index) == len(row_ids) == len(before.index)
    for row_id, vector in zip(row_ids.tolist(), vectors, strict=True):
        found, scores = after.index.search(vector, 1)
        assert found.tolist() == [row_id]
        assert scores[0] == pytest.approx(1, abs=1e-3)


def test_an_unusable_index_is_written_again_by_the_next_writer(library: Path) -> None:
    collection = Collection.open("library", Settings(data_dir=library))
    shutil.rmtree(library / "library" / "faiss")
    with collection.writer():
        pass
    saved = load_index(library / "library" / "faiss", 384, newest=collection.snapshot().version)
    assert saved is not None
    assert len(saved) == collection.snapshot().store.count()


def test_without_faiss_the_message_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependency, match=r"embedsvc\[cpu\].*embedsvc\[gpu\]") as raised:
        faiss_module()
    assert isinstance(raised.value, EmbedsvcError)
    with pytest.raises(MissingDependency):
        build_index(ids(1), unit(1, 1), 1, replace(FLAT))
