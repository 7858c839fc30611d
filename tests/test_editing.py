"""Documents deleted, and given other metadata, by their ids or by a condition."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc import editing
from embedsvc.checks import check_collection
from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.editing import chosen, delete_document, delete_many, put_over, set_metadata
from embedsvc.errors import BadFilter, Conflict, UsageError
from embedsvc.maintenance import restore
from embedsvc.records import Chunking
from embedsvc.storage import Store
from tests.test_collection import FAKE
from tests.test_storage import simple, unit_vectors


@pytest.fixture
def collection(here: Settings) -> Collection:
    """40 documents of a passage each; every one has its place and one of two kinds in its metadata."""
    made = Collection.create("c", FAKE, Chunking(64, 8), here)
    vectors = unit_vectors(40, 7)
    with made.writer() as writer:
        writer.replace(
            [
                (
                    *simple(f"d{at}", f"Passage {at}", metadata={"at": at, "kind": "ab"[at % 2]})[:2],
                    vectors[at : at + 1],
                )
                for at in range(40)
            ]
        )
    return made


def metadata(collection: Collection, *ids: str) -> list[Any]:
    found = collection.store().metadata_of(ids)
    return [found[id] for id in ids]


# -- which documents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "condition", "expected"),
    [
        (["d3", "none", "d1", "d3"], None, {"d1", "d3"}),
        ([], None, set()),
        (None, "metadata.at >= 38", {"d38", "d39"}),
        (["d3", "d39", "none"], "metadata.at >= 38", {"d39"}),
        ([], "TRUE", set()),
        (None, "TRUE", {f"d{at}" for at in range(40)}),
    ],
)
def test_documents_are_chosen_by_ids_by_a_condition_or_by_both(
    collection: Collection, ids: list[str] | None, condition: str | None, expected: set[str]
) -> None:
    found = chosen(collection.store(), ids, condition)
    assert (set(found), len(found)) == (expected, len(expected))


@pytest.mark.parametrize(
    ("ids", "condition", "kind", "told"),
    [
        (None, None, UsageError, "by ids, by a filter, or both. If all are: filter TRUE"),
        (None, "", BadFilter, "filter is empty, so no document is meant. If all are: TRUE"),
        (["d1"], " \n", BadFilter, "filter is empty"),
        (None, "metadata.at >", BadFilter, "metadata.at >"),
        (["d1"], "no_such_field = 1", BadFilter, "no_such_field"),
        (None, "-- TRUE", BadFilter, "exactly one condition"),
    ],
)
def test_what_chooses_none_is_refused_and_nothing_is_changed(
    collection: Collection, ids: list[str] | None, condition: str | None, kind: type[UsageError], told: str
) -> None:
    version = collection.store().version
    for edit in (delete_many, partial(set_metadata, change=put_over({"x": 1}))):
        with pytest.raises(kind, match=told) as caught:
            edit(collection, ids=ids, condition=condition)
        assert type(caught.value) is kind
    assert collection.store().version == version


# -- deleting ----------------------------------------------------------------------------------------------------------


def test_documents_are_deleted_by_a_condition_in_one_commit(collection: Collection) -> None:
    assert delete_many(collection, condition="metadata.kind = 'a' AND metadata.at < 10") == 5
    assert collection.store().count_documents() == 35
    assert delete_many(collection, ["d1", "d2", "d12"], "metadata.at > 1") == 1
    assert delete_many(collection, condition="metadata.at < 0") == 0
    assert delete_many(collection, condition="TRUE") == 34
    assert collection.store().count() == 0


@pytest.mark.parametrize("by", [{"condition": "TRUE"}, {"ids": [f"d{at}" for at in range(40)]}])
def test_what_deletes_all_is_seen_at_once_and_can_be_put_back(
    collection: Collection, monkeypatch: pytest.MonkeyPatch, by: dict[str, Any]
) -> None:
    before = collection.snapshot()  # whose index is brought in step
    named = []
    monkeypatch.setattr(Store, "replace", lambda *given: named.append(given))
    assert delete_many(collection, **by) == 40
    assert not named  # of so many ids, a condition takes 100 MB
    after = collection.snapshot()
    assert (after.store.count(), len(after.index), len(after.store.lexical("passage", 10)[0])) == (0, 0, 0)
    assert restore(collection, version=before.version).changed
    assert collection.store().known_documents() == before.store.known_documents()
    assert len(collection.snapshot().nearest(np.eye(1, 3, dtype=np.float32)[0], 40)[0]) == 40


def test_who_deletes_nothing_waits_for_nobody(collection: Collection, here: Settings) -> None:
    other = Collection.open("c", here)
    with other.writer():
        assert delete_many(collection, condition="metadata.at < 0") == delete_many(collection, ["none"]) == 0
        assert set_metadata(collection, put_over({"x": 1}), condition="metadata.at < 0") == 0
        with pytest.raises(Conflict):
            delete_many(collection, condition="metadata.at = 0")
        with pytest.raises(Conflict):
            set_metadata(collection, put_over({"x": 1}), ["d0"])


# -- metadata ----------------------------------------------------------------------------------------------------------


def test_metadata_are_put_over_those_that_are_there(collection: Collection) -> None:
    before = collection.snapshot()
    over = put_over({"team": "support", "at": {"n": [1, None]}, "kind": None})
    assert set_metadata(collection, over, ["d3", "d7", "none"]) == 2
    after = collection.snapshot()
    assert metadata(collection, "d3", "d8") == [{"team": "support", "at": {"n": [1, None]}}, {"at": 8, "kind": "a"}]
    assert len(after.store.matching("metadata.team = 'support'")) == 2
    # Vectors are those that they were; whoever compares hashes sees which documents changed.
    now = {passage.id: passage.row_id for passage in after.store.take(after.store.row_ids().tolist())}
    then = {passage.id: passage.row_id for passage in before.store.take(before.store.row_ids().tolist())}
    assert now.keys() == then.keys()
    assert (after.store.own_vectors(list(now.values())) == before.store.own_vectors([then[id] for id in now])).all()
    changed = before.store.known_documents().items() ^ after.store.known_documents().items()
    assert {id for id, _ in changed} == {"d3", "d7"}
    failing = [check.name for check in check_collection("c", collection.settings, thorough=True) if not check.ok]
    assert failing == ["c: contract"]  # there is no such model


def test_searches_see_other_metadata_at_once(collection: Collection) -> None:
    def found(condition: str) -> int:
        return len(collection.snapshot().nearest(np.eye(1, 3, dtype=np.float32)[0], 40, condition)[0])

    assert (found("metadata.kind = 'a'"), found("metadata.kind = 'c'")) == (20, 0)
    assert set_metadata(collection, put_over({"kind": "c"}), condition="metadata.kind = 'a' AND metadata.at < 10") == 5
    assert (found("metadata.kind = 'a'"), found("metadata.kind = 'c'")) == (15, 5)


def test_one_change_after_the_other_leaves_the_text_index_to_one_of_many(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedsvc.collection._TIDY_EVERY", 8)
    unindexed = []
    for at in range(19):
        assert set_metadata(collection, put_over({"x": at}), [f"d{at}"], maintain="seldom") == 1
        store = collection.store()
        unindexed.append(store.dataset.stats.index_stats("text_idx")["num_unindexed_rows"])
        assert len(store.lexical("passage", 100)[0]) == 40 - at  # each once, before and after
        delete_document(collection, f"d{39 - at}")
    assert 3 <= max(unindexed) < 8
    assert {id: collection.store().metadata_of([id])[id]["x"] for id in ("d0", "d18")} == {"d0": 0, "d18": 18}
    set_metadata(collection, put_over({"x": 0}), ["d20"])
    assert collection.store().dataset.stats.index_stats("text_idx")["num_unindexed_rows"] == 0


def test_what_a_document_has_already_is_not_written(collection: Collection) -> None:
    assert set_metadata(collection, put_over({"kind": "a"}), condition="TRUE") == 20
    version = collection.store().version
    assert set_metadata(collection, put_over({"kind": "a", "none": None}), condition="TRUE") == 0
    assert set_metadata(collection, put_over({}), condition="TRUE") == 0
    assert collection.store().version == version
    assert set_metadata(collection, put_over({"at": True}), ["d1"]) == 1  # which Python takes for 1


def test_many_documents_are_written_in_parts(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "_PART", 15)
    heard = []

    def told(done: int, of: int) -> None:
        heard.append((done, of))
        if heard == [(15, 40), (30, 40)]:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        set_metadata(collection, put_over({"x": 1}), condition="TRUE", told=told)
    assert collection.store().count_documents("metadata.x = 1") == 30
    assert set_metadata(collection, put_over({"x": 1}), condition="TRUE", told=told) == 10
    assert heard == [(15, 40), (30, 40), (15, 40), (30, 40), (40, 40)]
    assert collection.store().count_documents("metadata.x = 1") == 40


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
METADATA = st.dictionaries(st.sampled_from("abcd"), JSON)


@given(METADATA, METADATA)
def test_putting_over_is_like_a_dicts_update_but_for_none(own: dict[str, Any], given: dict[str, Any]) -> None:
    over = put_over(given)(own)
    assert over == {
        **{key: own[key] for key in own.keys() - given.keys()},
        **{k: v for k, v in given.items() if v is not None},
    }
    assert put_over(given)(over) == over


def test_lone_surrogates_are_put_in_as_they_are_in_new_documents(collection: Collection) -> None:
    assert set_metadata(collection, put_over({"kind": "\ud800x"}), ["d1"]) == 1
    assert metadata(collection, "d1") == [{"at": 1, "kind": "\ufffdx"}]
