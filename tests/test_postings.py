"""The text index: whatever happens to a collection, and in whatever order, a word is found where it stands."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embedsvc.records import make_document
from embedsvc.storage import Store, passage_table
from tests.test_storage import DIMENSION, Encoded, cut, new_store, put, remove, simple

WORDS = ("stone", "river", "cloud", "fern", "otter", "ember")
NAMES = st.integers(0, 25)
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)


def put_in_place(store: Store, *encoded: Encoded) -> Store:
    """As older releases did: a row that comes in the place of another keeps that one's row id."""
    ids = ", ".join(f"'{item[0].id}'" for item in encoded)
    merge = store._handle().merge_insert(["id"]).when_matched_update_all().when_not_matched_insert_all()
    merge.when_not_matched_by_source_delete(f"document_id IN ({ids})").execute(passage_table(encoded, DIMENSION))
    return store.latest()


def holding(store: Store, word: str) -> list[int]:
    """Sorted row ids of the passages whose text holds ``word``."""
    return sorted(passage.row_id for passage in store.take(store.row_ids().tolist()) if word in passage.text.split())


def found(store: Store, word: str) -> list[int]:
    return sorted(store.lexical(word, 10_000)[0].tolist())


def segments(store: Store) -> dict[str, int]:
    """Of each segment the number of its fragments."""
    found = [segment for index in store.dataset.describe_indices() for segment in index.segments]
    return {segment.uuid: len(segment.fragment_ids) for segment in found}


class Machine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("embedsvc.storage.store._MANY_FRAGMENTS", 3)
        self.patch.setattr("embedsvc.storage.postings._TOGETHER", 20)
        self.folder = Path(tempfile.mkdtemp())
        self.store = new_store(self.folder / "c")
        self.earlier = self.reader = self.store

    @rule(names=st.lists(NAMES, min_size=1, max_size=8, unique=True), texts=st.lists(TEXTS, min_size=8, max_size=8))
    def put(self, names: list[int], texts: list[list[str]]) -> None:
        made = (
            make_document(f"t:{name}", " ".join(text), id=str(name)) for name, text in zip(names, texts, strict=False)
        )
        self.store = put(self.store, *map(cut, made))

    @rule(name=NAMES, text=TEXTS)
    def edit_with_an_older_release(self, name: int, text: list[str]) -> None:
        self.store = put_in_place(self.store, cut(make_document(f"t:{name}", " ".join(text), id=str(name))))

    @rule(names=st.sets(NAMES, min_size=1, max_size=8))
    def delete(self, names: set[int]) -> None:
        self.store = remove(self.store, *map(str, names))

    @rule(in_passing=st.booleans())
    def maintain(self, in_passing: bool) -> None:
        self.store = self.store.maintain(in_passing=in_passing)

    @rule()
    def compact(self) -> None:
        self.store = self.store.compacted()

    @rule()
    def remember(self) -> None:
        self.earlier = self.store

    @rule()
    def restore(self) -> None:
        self.store = self.store.with_rows_of(self.earlier)

    @invariant()
    def words_are_found_where_they_stand(self) -> None:
        if hasattr(self, "store"):
            self.reader = self.reader.latest()
            for word in WORDS:
                assert found(self.store, word) == found(self.reader, word) == holding(self.store, word)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.patch.undo()
            shutil.rmtree(self.folder, ignore_errors=True)


TestWords = Machine.TestCase
TestWords.settings = settings(
    max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def stones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Four segments of ten passages each, that all hold one word."""
    monkeypatch.setattr("embedsvc.storage.postings._TOGETHER", 12)
    store = new_store(tmp_path / "c")
    for at in range(4):
        store = put(store, *(simple(f"d{at}-{n}", f"stone word{at}") for n in range(10))).maintain()
    return store


def test_segments_are_written_anew_in_parts_and_score_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedsvc.storage.postings._TOGETHER", 12)
    store = new_store(tmp_path / "c")
    for at in range(10):
        store = put(store, *(simple(f"d{at}-{n}", "stone " * (1 + n) + f"word{at} more") for n in range(5))).maintain()
    assert 5 <= len(segments(store)) <= 10  # of ten rows each, where one of fifty was
    parts = [store.lexical(query, 50) for query in ("stone", "word3 stone", "more word7")]
    whole = store.with_text_index()
    assert len(segments(whole)) == 1
    for (ids, scores), query in zip(parts, ("stone", "word3 stone", "more word7"), strict=True):
        expected_ids, expected_scores = whole.lexical(query, 50)
        assert sorted(ids.tolist()) == sorted(expected_ids.tolist())
        assert scores == pytest.approx(expected_scores)


@pytest.mark.parametrize("edited", [False, True], ids=["deleted", "edited"])
def test_what_went_does_not_count_for_long_in_how_rare_a_word_is(tmp_path: Path, edited: bool) -> None:
    store = put(
        new_store(tmp_path / "c"), *(simple(f"d{at}", f"stone {at % 3 or 'rare'}") for at in range(60))
    ).maintain()
    for edition in range(4):
        ids = [f"d{at}" for at in range(0, 60, 3)]
        store = put(store, *(simple(id, f"rare {edition}") for id in ids)) if edited else remove(store, *ids[1:])
        store = store.maintain()
    _, scores = store.lexical("rare", 60)
    _, expected = store.with_text_index().lexical("rare", 60)
    assert len(scores) == (20 if edited else 1)
    assert scores == pytest.approx(expected, rel=0.1)


def test_an_edit_has_no_segment_written_anew_but_small_ones(tmp_path: Path) -> None:
    """However often: nor do small ones pile up."""
    store = put(new_store(tmp_path / "c"), *(simple(f"d{at}", "stone") for at in range(120))).maintain()
    before = segments(store).keys()
    for at in range(12):
        store = put(store, simple(f"d{at}", f"river {at}")).maintain()
        assert segments(store).keys() > before
        assert len(segments(store)) <= 4
        assert found(store, "river") == holding(store, "river")
        assert len(found(store, "stone")) == 120 - at - 1


def test_what_was_edited_small_fragments_apart_is_put_together_by_and_by(
    stones: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of segments that saw rows that went, those where they and the small fragments are many are written anew, once."""
    monkeypatch.setattr("embedsvc.storage.store._MANY_FRAGMENTS", 3)
    [first, *others] = segments(stones)
    store = put(stones, simple("d1-0", "river"), simple("d2-0", "river"))
    store = remove(store, "d0-0", "d0-1", "d0-2")
    for at in range(4):
        store = put(store, simple(f"n{at}", "river"))
    store = store.maintain(in_passing=True)
    assert {first, *others} < segments(store).keys()
    store = put(store, *(simple(f"m{at}-{n}", "river") for at in range(3) for n in range(2)))
    store = store.maintain()
    assert first not in segments(store)
    assert {*others} < segments(store).keys()
    assert len(found(store, "stone")) == 35
    assert found(store, "river") == holding(store, "river")


def test_rows_that_an_older_release_replaced_in_place_are_found_by_their_new_words_only(stones: Store) -> None:
    store = put_in_place(stones, simple("d0-0", "river"))
    assert store.row_ids().tolist() == stones.row_ids().tolist()
    store = put(store, simple("d1-0", "river")).maintain()
    assert len(segments(store)) == 1
    assert len(found(store, "stone")) == 38
    assert found(store, "river") == holding(store, "river")
