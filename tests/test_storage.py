from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embedsvc.errors import Conflict, DamagedCollection, NotFound, StorageFailure
from embedsvc.records import Chunking, Contract, Document, Fusion, Heading, Passage, Tuned, make_document
from embedsvc.storage import Store, passage_table
from embedsvc.storage.store import embedded

DIMENSION = 3
CONTRACT = Contract(
    "model", "weights", "tokens", "mean", True, "q: ", "p: ", DIMENSION, "fp32", 64, ((1.0, 0.0, 0.0), (0.6, 0.8, 0.0))
)
CHUNKING = Chunking(48, 7)
Encoded = tuple[Document, list[Passage], np.ndarray]


def new_store(directory: Path, durability: Any = "os", chunking: Chunking = CHUNKING) -> Store:
    Store.create(directory, CONTRACT, chunking, durability)
    return Store.open(directory, durability)


def cut(document: Document, seed: int = 0, width: int = 12, step: int = 8) -> Encoded:
    """Windows of ``width`` characters every ``step``, without white space at their ends; vectors out of ``seed``."""
    passages: list[Passage] = []
    for low in range(0, len(document.text), step):
        piece = document.text[low : low + width]
        start = low + len(piece) - len(piece.lstrip())
        end = low + len(piece.rstrip())
        if start < end and (not passages or end > passages[-1].end):
            passages.append(Passage(len(passages), start, end, np.zeros(3, np.int32)))
    return document, passages, unit_vectors(len(passages), seed)


def unit_vectors(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def with_finer(encoded: Encoded, seed: int = 0) -> Encoded:
    """With none, one, two, none … sub-windows of the passages."""
    document, passages, _ = encoded
    passages = [replace(passage, finer=(passage.token_ids,) * (passage.ordinal % 3)) for passage in passages]
    return document, passages, unit_vectors(sum(1 + len(passage.finer) for passage in passages), seed)


def put(store: Store, *encoded: Encoded, gone: tuple[str, ...] = ()) -> Store:
    rows = passage_table(encoded, DIMENSION, finer=store.chunking.finer > 0)
    return store.replace(rows, [*(item[0].id for item in encoded), *gone])


def remove(store: Store, *ids: str) -> Store:
    return put(store, gone=ids)


def simple(id: str, text: str, **more: Any) -> Encoded:
    """A document of one passage."""
    document = make_document(f"test:{id}", text, id=id, **more)
    return document, [Passage(0, 0, len(text), np.arange(2, dtype=np.int32))], np.eye(DIMENSION, dtype=np.float32)[:1]


def by_row(row_ids: np.ndarray, vectors: np.ndarray) -> dict[int, list[list[float]]]:
    """Of each row its vectors, in their order."""
    rows: dict[int, list[list[float]]] = {}
    for row_id, vector in zip(row_ids.tolist(), vectors.tolist(), strict=True):
        rows.setdefault(row_id, []).append(vector)
    return rows


Contents = dict[str, tuple[str, str, tuple[tuple[Any, ...], ...]]]


def contents(store: Store) -> Contents:
    """All that a store says of each document: its hash, its text, and its passages down to the vectors."""
    rows = by_row(*store.vectors())
    found = {}
    for document in store.documents():
        text, passages = store.document_passages(document.id)
        assert document.passages == len(passages)
        assert document.characters == passages[-1].end == len(text)
        found[document.id] = (document.hash, text, tuple(
            (p.id, p.uri, p.title, p.start, p.end, p.page, p.heading, p.metadata, p.text, rows.pop(p.row_id))
            for p in passages
        ))  # fmt: skip
    assert not rows, "rows that belong to no document"
    return found


def expected(model: dict[str, Encoded]) -> Contents:
    """As :func:`contents`."""

    def own(passages: list[Passage], vectors: np.ndarray) -> list[list[list[float]]]:
        ends = np.cumsum([1 + len(passage.finer) for passage in passages])
        return [part.tolist() for part in np.split(vectors, ends)[:-1]]

    return {
        id: (document.hash, document.text.rstrip(), tuple(
            (f"{id}:{p.ordinal}", document.uri, document.title, p.start, p.end, document.page_at(p.start),
             document.heading_at(p.start), document.metadata, document.text[p.start : p.end], of_passage)
            for p, of_passage in zip(passages, own(passages, vectors), strict=True)
        ))
        for id, (document, passages, vectors) in model.items()
    }  # fmt: skip


IDS = st.sampled_from(["a", "b'c", 'ü "é%_'])
TEXTS = st.text(st.sampled_from("ab \n\t.é字🙂'"), max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
METADATA = st.dictionaries(st.text(max_size=6), JSON, max_size=3)


@st.composite
def documents(draw: st.DrawFn) -> Encoded:
    id, text = draw(IDS), draw(TEXTS)
    document = make_document(
        f"test:{id}",
        text,
        id=id,
        title=draw(st.text(max_size=5)),
        page_starts=(0, max(1, len(text) // 2)) if draw(st.booleans()) else (),
        headings=(Heading(0, 1, "Top"), Heading(len(text) // 2, 2, "Ünder")) if draw(st.booleans()) else (),
        metadata=draw(METADATA),
    )
    return cut(document, draw(st.integers(0, 5)))


class StoreMachine(RuleBasedStateMachine):
    """A store against a dict of documents, through everything that may be done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Encoded] = {}
        self.pinned: list[tuple[Store, Contents]] = []

    @initialize(finer=st.sampled_from([0, 16]))
    def create(self, finer: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = new_store(self.folder / "c", chunking=replace(CHUNKING, finer=finer))
        self.pin()

    @rule()
    def pin(self) -> None:
        self.pinned.append((self.store, expected(self.model)))

    @rule(batch=st.lists(documents(), max_size=3, unique_by=lambda item: item[0].id), gone=st.lists(IDS, max_size=1))
    def replace(self, batch: list[Encoded], gone: list[str]) -> None:
        ids = {item[0].id for item in batch}
        gone = [id for id in gone if id not in ids]
        if not ids and not gone:
            return
        if self.store.chunking.finer:
            batch = [with_finer(item, seed) for seed, item in enumerate(batch)]
        before = self.store.version
        self.store = put(self.store, *batch, gone=tuple(gone))
        assert self.store.version > before
        for id in (*ids, *gone):
            self.model.pop(id, None)
        self.model |= {item[0].id: item for item in batch if item[1]}

    @rule(ids=st.lists(IDS, max_size=2))
    def delete(self, ids: list[str]) -> None:
        if ids:
            self.store = remove(self.store, *ids)
            for id in ids:
                self.model.pop(id, None)

    @rule()
    def maintain(self) -> None:
        self.store = self.store.maintain()

    @rule()
    def reopen(self) -> None:
        self.store = Store.open(self.folder / "c", "os")

    @rule(which=st.integers(0, 100))
    def difference(self, which: int) -> None:
        """What changes_since says, done to the old version's rows, gives the new version's rows."""
        old, _ = self.pinned[which % len(self.pinned)]
        rows = by_row(*old.vectors())
        changes = self.store.changes_since(old.version)
        for row_id in changes.deleted.tolist():
            rows.pop(row_id, None)
        rows |= by_row(changes.row_ids, changes.vectors)
        assert rows == by_row(*self.store.vectors())

    @rule(which=st.integers(0, 100))
    def old_versions_still_answer(self, which: int) -> None:
        old, then = self.pinned[which % len(self.pinned)]
        assert contents(old) == then
        assert old.latest().version == self.store.version

    @invariant()
    def is_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        now = expected(self.model)
        assert contents(self.store) == now
        assert self.store.known_documents() == {id: (f"test:{id}", None, hash) for id, (hash, _, _) in now.items()}
        assert self.store.count() == sum(len(passages) for _, _, passages in now.values())
        assert self.store.count_vectors() == sum(len(vectors) for _, _, vectors in self.model.values())
        assert self.store.count_documents() == len(now)
        assert self.store.latest().version == self.store.version

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=12)
TestStore = StoreMachine.TestCase


def test_a_store_comes_back_with_its_contract_and_chunking(tmp_path: Path) -> None:
    store = new_store(tmp_path / "c")
    assert (store.contract, store.chunking, store.count()) == (CONTRACT, CHUNKING, 0)


def test_a_table_of_before_there_were_sub_windows_opens_and_takes_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr("embedsvc.storage.store.asdict", lambda chunking: {"window": 48, "overlap": 7, "whole": False})
        store = new_store(tmp_path / "c")
    assert store.chunking == Chunking(48, 7, finer=0)
    assert "finer" not in store.dataset.schema.names
    store = put(store, cut(make_document("t:a", "one passage and another", id="a")))
    assert store.count_vectors() == store.count() == len(store.vectors()[0]) > 1


def test_a_table_from_before_texts_had_hashes_gets_them_when_it_is_written_to(tmp_path: Path) -> None:
    store = put(new_store(tmp_path / "c"), simple("a", "some text"))
    lance.dataset(str(store.path)).drop_columns(["text_hash"])
    store = Store.open(tmp_path / "c", "os")
    assert store.vectors_of([("", "some text")]) == {}
    later = put(store, simple("b", "other text"))
    known = later.vectors_of(("", f"{which} text") for which in ("some", "other", "no"))
    assert known.keys() == {("", "some text"), ("", "other text")}
    assert put(later, simple("c", "third text")).count() == 3


def test_a_table_tuned_before_there_was_more_than_a_fusion_keeps_it(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    store.dataset.update_schema_metadata(
        {"embedsvc.fusion": '{"method": "convex", "weight": 0.3, "normalisation": "zscore", "depth": 50}'}
    )
    store = Store.open(tmp_path / "s", "os")
    before = Fusion("convex", 0.3, "zscore", 50)
    assert store.tuned == Tuned(before)
    store = store.with_tuned(replace(store.tuned, rerank_depth=20))
    assert store.tuned == Store.open(tmp_path / "s", "os").tuned == Tuned(before, 20)


def test_known_vectors_are_given_by_what_is_embedded(tmp_path: Path) -> None:
    store = new_store(tmp_path / "c", chunking=replace(CHUNKING, finer=16))
    items = [with_finer(cut(make_document(f"t:{id}", f"{id} of some passages", id=id))) for id in ("a", "b")]
    placed = [replace(passage, context="Guide") for passage in items[1][1]]
    items[1] = items[1][0], placed, items[1][2]
    store = put(store, *items, simple("c", "text"))
    asked = [embedded(document, passage) for document, passages, _ in items for passage in passages]
    assert {context for context, _ in asked} == {"", "Guide"}
    only_placed = next(text for context, text in asked if context and text.startswith("b"))
    nowhere = [("", "nowhere"), ("Guide", "text"), ("", only_placed)]
    known = store.vectors_of([*asked, *nowhere])
    assert known.keys() == set(asked)
    stored: dict[tuple[str, str], list[bytes]] = {}
    for document, passages, vectors in items:
        parts = np.split(vectors, np.cumsum([1 + len(passage.finer) for passage in passages])[:-1])
        for passage, part in zip(passages, parts, strict=True):
            stored.setdefault(embedded(document, passage), []).append(part.tobytes())
    assert all(vectors.tobytes() in stored[what] for what, vectors in known.items())
    assert store.vectors_of(nowhere) == store.vectors_of([]) == {}
    batches = list(store.vector_batches(4))
    assert max(len(row_ids) for row_ids, _ in batches) <= 6, "a passage's vectors stay together, more or less four"
    together = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    assert all(np.array_equal(one, other) for one, other in zip(together, store.vectors(), strict=True))


def test_vectors_that_do_not_match_the_windows_are_refused() -> None:
    document, passages, vectors = with_finer(cut(make_document("t:a", "one passage and another one", id="a")))
    with pytest.raises(ValueError, match=f"{len(vectors) - 1} vectors came for {len(vectors)} windows"):
        passage_table([(document, passages, vectors[1:])], DIMENSION, finer=True)


def test_a_store_is_never_made_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("precious")
    with pytest.raises(Conflict, match="exists already"):
        new_store(tmp_path / "c")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["c", "c/mine.txt"]


@settings(max_examples=15)
@given(METADATA)
def test_any_json_comes_back_as_metadata(tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any]) -> None:
    document, *rest = simple("x", "text", metadata=metadata)
    store = put(new_store(tmp_path_factory.mktemp("json") / "c"), (document, *rest))
    row_ids, _ = store.vectors()
    assert store.take(row_ids.tolist())[0].metadata == metadata


def test_take_keeps_the_order_that_was_asked_for(tmp_path: Path) -> None:
    store = put(new_store(tmp_path / "c"), *(simple(f"d{at}", f"text {at}") for at in range(6)))
    row_ids = store.vectors()[0].tolist()
    mixed = [row_ids[at] for at in (4, 0, 5, 2)]
    taken = store.take(mixed)
    assert [passage.row_id for passage in taken] == mixed
    assert {passage.row_id: passage.text for passage in taken} == {
        row_id: store.take([row_id])[0].text for row_id in mixed
    }


@given(
    text=st.text("ab 🦊\n", min_size=1, max_size=60).filter(str.strip),
    start=st.integers(0, 70),
    width=st.integers(0, 70),
)
def test_a_part_of_a_document_is_that_of_its_text(text: str, start: int, width: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = put(new_store(Path(folder) / "c"), cut(make_document("test:x", text, id="x")))
        whole, passages = store.document_passages("x")
        part = store.document_part("x", start, start + width)
    assert part.text == whole[start : start + width]
    assert part.length == len(whole)
    assert part.start == min(start, len(whole))
    end = part.start + len(part.text)
    assert [each.id for each in part.passages] == [
        each.id for each in passages if each.start < end and part.start < each.end
    ]


def test_a_document_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="it's"):
        new_store(tmp_path / "c").document_passages("it's")
    with pytest.raises(NotFound):
        new_store(tmp_path / "d").document_part("it's", 0, 9)


def row_ids(store: Store) -> dict[str, int]:
    return {passage.id: passage.row_id for passage in store.take(store.vectors()[0].tolist())}


def test_row_ids_stay_through_maintenance_but_not_where_a_document_is_replaced(tmp_path: Path) -> None:
    store = put(new_store(tmp_path / "c"), simple("a", "one"), simple("b", "two"))
    before = row_ids(store)
    store = put(store, simple("b", "changed"))
    after = row_ids(store)
    assert after["a:0"] == before["a:0"]
    assert after["b:0"] not in before.values()
    store = store.maintain()
    assert row_ids(store) == after
    assert row_ids(store.compacted()) == after


def test_maintenance_leaves_what_searches_keep_in_memory(tmp_path: Path) -> None:
    store = put(new_store(tmp_path / "c"), *(simple(f"d{n}", f"word{n} and word{n + 1}") for n in range(200)))
    found = store.lexical("word5", 1)[0].tolist()
    maintained = store.maintain()
    assert maintained.dataset.session().is_same_as(store.dataset.session())
    assert maintained.lexical("word5", 1)[0].tolist() == found


def test_changes_tell_inserted_replaced_and_deleted_rows(tmp_path: Path) -> None:
    def two(id: str, seed: int) -> Encoded:
        return cut(make_document(f"test:{id}", "twenty characters....", id=id), seed, width=14, step=11)

    old = put(new_store(tmp_path / "c"), two("stays", 1), two("changes", 2), two("shrinks", 3), two("goes", 4))
    rows = {passage.id: passage.row_id for passage in old.take(old.vectors()[0].tolist())}
    assert len(rows) == 8
    changed, shrunk, new = two("changes", 5), simple("shrinks", "short"), simple("new", "new")
    store = put(put(old, changed, shrunk), new, gone=("goes",)).maintain()
    changes = store.changes_since(old.version)
    by_row = dict(zip(changes.row_ids.tolist(), changes.vectors.tolist(), strict=True))
    now = row_ids(store)
    assert by_row == {
        now["changes:0"]: changed[2][0].tolist(), now["changes:1"]: changed[2][1].tolist(),
        now["shrinks:0"]: shrunk[2][0].tolist(), now["new:0"]: new[2][0].tolist(),
    }  # fmt: skip
    assert sorted(changes.deleted.tolist()) == sorted(row for id, row in rows.items() if not id.startswith("stays"))


def test_pages_of_documents_fit_together(tmp_path: Path) -> None:
    same = [
        (replace(document, uri="test:same"), *rest) for document, *rest in (simple(f"s{at}", "x") for at in range(9))
    ]
    store = put(new_store(tmp_path / "c"), *same, simple("a", "red"), simple("z", "blue"))
    everything = store.documents()
    assert [document.id for document in everything] == ["a", *(f"s{at}" for at in range(9)), "z"]
    assert [document for start in range(0, 12, 2) for document in store.documents(start, 2)] == everything
    assert store.documents(2**63 - 1, 100) == []


# -- lexical search -----------------------------------------------------------------------------------------------


@pytest.fixture
def animals(tmp_path: Path) -> Store:
    store = put(
        new_store(tmp_path / "c"),
        simple("cat", "The cats were running after mice", metadata={"legs": 4}),
        simple("crow", "A crow runs nowhere, it flies", metadata={"legs": 2}),
    ).maintain()
    # Not in the text index yet: found all the same.
    return put(store, simple("snake", "A snake never ran", metadata={"legs": 0}))


def names(store: Store, found: tuple[np.ndarray, np.ndarray]) -> list[str]:
    return [passage.document_id for passage in store.take(found[0].tolist())]


def test_lexical_search_knows_stems_and_is_best_first(animals: Store) -> None:
    assert set(names(animals, animals.lexical("run", 10))) == {"cat", "crow"}
    assert names(animals, animals.lexical("flying crows", 10)) == ["crow"]
    assert names(animals, animals.lexical("snakes", 10)) == ["snake"]
    assert names(animals, animals.lexical("walrus", 10)) == []
    ids, scores = animals.lexical("cat running mouse mice crow", 10)
    assert names(animals, (ids, scores)) == ["cat", "crow"]
    assert scores[0] > scores[1] > 0
    assert len(animals.lexical("run", 1)[0]) == 1


@pytest.mark.parametrize("query", ['cat\'s "run"', "-cat +run", "(", "cat AND", "*", "title:cat", "'; DROP", "🙂"])
def test_lexical_search_takes_any_text_as_words(animals: Store, query: str) -> None:
    assert set(names(animals, animals.lexical(query, 10))) <= {"cat", "crow"}


def test_restricting_a_lexical_search_keeps_its_scores(animals: Store) -> None:
    free = dict(zip(*(part.tolist() for part in animals.lexical("running crows and cats", 10)), strict=True))
    assert len(free) == 2
    for row_id, score in free.items():
        ids, scores = animals.lexical("running crows and cats", 10, among=[row_id])
        assert ids.tolist() == [row_id]
        assert scores.tolist() == pytest.approx([score])
    ids, scores = animals.lexical("running crows and cats", 10, where="metadata.legs = 2")
    assert names(animals, (ids, scores)) == ["crow"]
    assert scores.tolist() == pytest.approx([free[ids[0]]])
    assert len(animals.lexical("running", 10, among=[])[0]) == 0
    # The restriction comes before the limit.
    assert names(animals, animals.lexical("running crow cat", 1, where="document_id = 'crow'")) == ["crow"]


WORDS = ("river", "stone", "cloud", "tiger")
PUT = st.dictionaries(
    st.sampled_from("abcdefgh"), st.lists(st.sampled_from(WORDS), min_size=1).map(" ".join), min_size=1
)
REMOVE = st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=2)
FIVE = {id: f"stone {id}" for id in "abcde"}


@settings(max_examples=30)
@given(st.lists(PUT | REMOVE | st.just("maintain"), max_size=12))
@example([FIVE, "maintain", {"f": "river"}, {"b"}, "maintain"])
@example([FIVE, "maintain", {"b": "cloud", "f": "river"}, {"a"}, "maintain", {"c"}, {"d": "stone"}, "maintain"])
def test_lexical_search_finds_what_is_there_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[str, str] | set[str] | str]
) -> None:
    store = new_store(tmp_path_factory.mktemp("lexical") / "c")
    model: dict[str, str] = {}
    for step in steps:
        if isinstance(step, dict):
            store = put(store, *(simple(id, text) for id, text in step.items()))
            model |= step
        elif isinstance(step, set):
            store = remove(store, *step)
            model = {id: text for id, text in model.items() if id not in step}
        else:
            store = store.maintain()
    for word in WORDS:
        ids, _ = store.lexical(word, 100)
        assert {passage.document_id for passage in store.take(ids.tolist())} == {
            id for id, text in model.items() if word in text
        }


# -- durability ---------------------------------------------------------------------------------------------------


def all_files(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*") if path.is_file()}


def some_rows(store: Store) -> Store:
    """Enough small commits for maintenance to fold fragments together."""
    for number in range(4):
        store = put(store, simple(f"x{number}", f"text {number}"))
    return store


@pytest.mark.parametrize(
    "work",
    [
        lambda store: put(store, simple("b", "more"), simple("a", "other")),
        lambda store: remove(store.maintain(), "a"),
        lambda store: store.maintain(),
    ],
    ids=["replace", "delete", "maintain"],
)
def test_a_commit_is_on_the_disk_before_it_is_acknowledged_and_its_data_before_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Store], Store]
) -> None:
    root = tmp_path / "c"
    store = some_rows(put(new_store(root, "fsync"), simple("a", "text")))
    synced: list[str] = []
    real = os.fsync
    before = all_files(root)

    def manifests() -> set[str]:
        return {file for file in all_files(root) - before if file.endswith(".manifest")}

    def recording(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if path.endswith((".lance", ".arrow")):
            assert manifests() <= set(synced), "a manifest came before the data that it names was on the disk"
        synced.append(path)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    work(store)
    assert manifests()
    new = {file for file in all_files(root) - before if not file.endswith("latest_version_hint.json")}
    assert new <= set(synced)
    assert {str(Path(file).parent) for file in new} <= set(synced), "the folders that name the new files"
    assert any(file.endswith((".lance", ".arrow")) for file in new)


def test_a_new_store_is_synced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inodes: set[int] = set()
    real = os.fsync

    def recording(descriptor: int) -> None:
        inodes.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    Store.create(tmp_path / "c", CONTRACT, CHUNKING, "fsync")
    wanted = [tmp_path, *(tmp_path / "c").rglob("*")]
    assert [path for path in wanted if path.stat().st_ino not in inodes] == []


def test_durability_os_leaves_it_to_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("synced"))
    remove(put(new_store(tmp_path / "c", "os"), simple("a", "text")), "a").maintain()


def test_a_version_whose_deletions_are_gone_is_told_and_not_put_back(tmp_path: Path) -> None:
    store = put(new_store(tmp_path / "c"), *(simple(f"d{at}", "stone") for at in range(4)))
    old = remove(store, "d1")
    now = remove(put(old, simple("d2", "river")), "d3")
    assert now.fault_of(old.version) is None
    for fragment in old.dataset.get_fragments():
        (old.path / fragment.deletion_file()).unlink()
    assert "_deletions" in (now.fault_of(old.version) or "")
    with pytest.raises(DamagedCollection):
        now.with_rows_of(Store.open(tmp_path / "c").at(old.version))
    assert Store.open(tmp_path / "c").version == now.version


def test_a_version_from_before_there_were_hashes_is_put_back(tmp_path: Path) -> None:
    store = put(new_store(tmp_path / "c"), simple("a", "stone"), simple("b", "river"))
    dataset = lance.dataset(str(store.path))
    dataset.drop_columns(["text_hash", "turns"])
    old = Store.open(tmp_path / "c")
    now = put(old, simple("a", "fern"))
    assert contents(now.with_rows_of(old)) == contents(store)


# -- when the disk refuses ----------------------------------------------------------------------------------------

FULL = (
    "LanceError(IO): Generic LocalFileSystem error: Unable to write: No space left on device (os error 28), /x/y.rs:1:2"
)
READ_ONLY = "LanceError(IO): Unable to create file: Read-only file system (os error 30), /rustc/a/lance/src/io.rs:50:11"
OTHER = "LanceError(IO): Generic LocalFileSystem error: Input/output error (os error 5), /root/x/src/io.rs:50:11"


@pytest.mark.parametrize(
    ("text", "says"), [(FULL, "is full"), (READ_ONLY, "cannot be written"), (OTHER, "Input/output error")]
)
def test_what_the_disk_refuses_is_a_storage_failure_and_the_last_version_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    store = put(new_store(tmp_path / "c"), simple("a", "text"))
    before = contents(store)

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise OSError(text)

    with monkeypatch.context() as broken:
        broken.setattr(lance.LanceDataset, "commit", refuse)
        broken.setattr(lance.LanceDataset, "delete", refuse)
        for work in (lambda: put(store, simple("a", "new")), lambda: remove(store, "a")):
            with pytest.raises(StorageFailure, match=says) as raised:
                work()
            assert ".rs:" not in str(raised.value)
            assert str(tmp_path / "c") in str(raised.value)
    reopened = Store.open(tmp_path / "c")
    assert reopened.version == store.version
    assert contents(reopened) == before
    assert contents(put(reopened, simple("a", "new")))["a"][1] == "new"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a file system here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    store = put(new_store(small_disk / "c"), simple("a", "text"))
    before = contents(store)
    noise = np.random.default_rng(0)
    big = [simple(f"big{at}", "".join(map(chr, noise.integers(0x4E00, 0x9FFF, 20_000).tolist()))) for at in range(100)]
    with pytest.raises(StorageFailure, match=r"is full.*free some space"):
        put(store, *big)
    reopened = Store.open(small_disk / "c")
    assert contents(reopened) == before

    def fill(store: Store) -> None:
        for item in big:
            store = put(store, item)

    with pytest.raises(StorageFailure, match="is full"):
        fill(reopened)
    survivors = contents(Store.open(small_disk / "c"))
    assert survivors["a"] == before["a"]
    assert all(len(text) == 20_000 for id, (_, text, _) in survivors.items() if id != "a")


def test_a_read_only_disk(small_disk: Path) -> None:
    store = put(new_store(small_disk / "c"), simple("a", "text"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageFailure, match="cannot be written"):
        put(store, simple("a", "new"))
    with pytest.raises(StorageFailure, match="cannot be written"):
        new_store(small_disk / "other")
    assert contents(Store.open(small_disk / "c"))["a"][1] == "text"


def test_a_place_where_no_folder_can_be_made() -> None:
    with pytest.raises(StorageFailure, match="/proc/nowhere cannot be made"):
        new_store(Path("/proc/nowhere/c"))


# -- damage -------------------------------------------------------------------------------------------------------


def newest_manifest(root: Path) -> Path:
    # Lance names manifests so that the newest sorts first.
    return min(root.rglob("*.manifest"), key=lambda path: path.name)


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: newest_manifest(root).write_bytes(b"junk"),
        lambda root: newest_manifest(root).write_bytes(b""),
        lambda root: [path.unlink() for path in root.rglob("*.manifest")],
    ],
    ids=["altered", "empty", "missing"],
)
def test_a_damaged_table_is_said_to_be_damaged(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    put(new_store(tmp_path / "c"), simple("a", "text"))
    damage(tmp_path / "c")
    with pytest.raises(DamagedCollection, match="cannot be read") as raised:
        Store.open(tmp_path / "c")
    assert ".rs:" not in str(raised.value)


@pytest.mark.parametrize("read", [
    lambda store: store.matching("uri = 'a'"), lambda store: store.lexical("text", 5, where="tokens > 1"),
])  # fmt: skip
def test_damage_is_not_taken_for_a_bad_filter(tmp_path: Path, read: Callable[[Store], object]) -> None:
    store = put(new_store(tmp_path / "c"), simple("a", "text"))
    for file in (store.path / "data").iterdir():
        file.unlink()
    with pytest.raises(DamagedCollection, match="collections repair c "):
        read(Store.open(tmp_path / "c"))


def test_maintenance_and_reading_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Other threads go on searching through the very store that is being maintained."""
    rows = passage_table([simple(f"d{at}", f"word {at}") for at in range(50)], DIMENSION)
    store = new_store(tmp_path / "c").replace(rows, ["none"])
    done = threading.Event()

    def read() -> int:
        rounds = 0
        while not done.is_set():
            ids = store.lexical("word", 100)[0]
            assert len(store.take(ids.tolist())) == store.latest().count() == 50
            rounds += 1
        return rounds

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            for _ in range(30):
                store.keep(store.version)
                store.clean_up()
                for tag in store.dataset.tags.list():  # the first time is what Lance does otherwise
                    lance.dataset(str(store.path)).tags.delete(tag)
        finally:
            done.set()
        assert all(reader.result() for reader in readers)


def test_a_table_of_another_layout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("embedsvc.storage.store.FORMAT", "999")
        new_store(tmp_path / "c")
    with pytest.raises(DamagedCollection, match="has layout 999"):
        Store.open(tmp_path / "c")


def test_a_table_of_somebody_else_is_not_taken_for_ours(tmp_path: Path) -> None:
    import pyarrow as pa

    lance.write_dataset(pa.table({"x": [1]}), str(tmp_path / "c" / "passages.lance"))
    with pytest.raises(DamagedCollection):
        Store.open(tmp_path / "c")


def test_a_table_that_cannot_be_opened_just_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_store(tmp_path / "c")

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise OSError("LanceError(IO): Unable to open file: Too many open files (os error 24), /x/local.rs:1:2")

    monkeypatch.setattr(lance, "dataset", refuse)
    with pytest.raises(StorageFailure, match="Too many open files"):
        Store.open(tmp_path / "c")


@pytest.mark.parametrize("kept", [True, False])
def test_the_kept_version_outlives_a_clean_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    monkeypatch.setattr("embedsvc.storage.store._KEEP_VERSIONS", timedelta(0))
    earlier = put(new_store(tmp_path / "c"), simple("a", "one"))
    old = put(earlier, simple("b", "two"))
    store = put(put(old, simple("a", "other"), gone=("b",)), simple("c", "three")).maintain()
    if kept:
        for version in (earlier.version, old.version):
            store.keep(version)
        store.keep_only([old.version])
    store.clean_up()
    assert contents(Store.open(tmp_path / "c")).keys() == {"a", "c"}
    with pytest.raises((ValueError, OSError, RuntimeError)):
        store.changes_since(earlier.version)
    if kept:
        changes = store.changes_since(old.version)
        assert (len(changes.row_ids), len(changes.deleted)) == (2, 2)
    else:
        with pytest.raises((ValueError, OSError, RuntimeError)):
            store.changes_since(old.version)
