from __future__ import annotations

import dataclasses
import errno
import io
import os
import sys
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

import embedsvc.ingest
from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.encoding import Encoder, load_encoder
from embedsvc.encoding.choices import Calibration, record
from embedsvc.encoding.machine import machine
from embedsvc.errors import (
    Conflict,
    ContractMismatch,
    NeedsOcr,
    NotFound,
    ReaderOutOfMemory,
    ReadError,
    ReaderTimeout,
    StorageFailure,
    UsageError,
)
from embedsvc.ingest import Outcome, ingest_changed, ingest_items, ingest_paths, open_or_create
from embedsvc.readers import FieldChoice, PathPatterns, Rejected, discover
from embedsvc.readers.sandbox import Sandbox
from embedsvc.records import Chunking, Document, Heading, Source, make_document
from embedsvc.storage import Store
from embedsvc.tally import Tally
from embedsvc.unread import INPUTS
from tests.conftest import write_tree
from tests.fakes import WORDS, FakeEncoder
from tests.tiny_models import make_bert

TREE = {
    "a.txt": "The first file speaks of rivers.",
    "b.md": "# Stones\n\nThe second file speaks of stones.",
    "sub/c.txt": "The third file speaks of vitamins.",
    "records.jsonl": '{"id": "x", "text": "Record x: budgets."}\n{"id": "y", "text": "Record y: ledgers."}\n',
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree", TREE)


@pytest.fixture
def collection(here: Settings, encoder: Encoder) -> Collection:
    return Collection.create("c", encoder.contract, Chunking(64, 8), here)


def run(collection: Collection, encoder: Any, *paths: Path, exact: bool = False) -> dict[str, Outcome]:
    """Outcomes by the last part of their uri."""
    outcomes = list(ingest_paths(collection, encoder, paths, fields=FieldChoice(), max_file_mb=1, exact=exact))
    by_name = {outcome.uri.rpartition("/")[2]: outcome for outcome in outcomes}
    assert len(by_name) == len(outcomes), "an input with two outcomes"
    return by_name


def statuses(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: outcome.status for name, outcome in outcomes.items()}


def texts(collection: Collection) -> dict[str, str]:
    store = collection.snapshot().store
    return {document.uri.rpartition("/")[2]: store.document_passages(document.id)[0] for document in store.documents()}


NAMES = {"a.txt", "b.md", "c.txt", "records.jsonl#x", "records.jsonl#y"}


def test_a_tree_is_indexed_and_then_unchanged(
    collection: Collection, encoder: Encoder, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(collection, encoder, tree)
    assert statuses(first) == dict.fromkeys(NAMES, "indexed")
    assert all(outcome.passages == 1 and outcome.tokens > 3 and outcome.reason is None for outcome in first.values())
    assert texts(collection)["a.txt"] == TREE["a.txt"]
    version = collection.snapshot().version
    encoded: list[Any] = []
    monkeypatch.setattr(Encoder, "encode", _counting(Encoder.encode, encoded))
    again = run(collection, encoder, tree, exact=True)
    assert encoded == []
    assert set(statuses(again).values()) == {"unchanged"}
    assert {name for name in again if not name.endswith(".jsonl")} >= {"a.txt", "b.md", "c.txt"}
    assert collection.snapshot().version <= version + 1  # maintenance at most


def test_an_unchanged_document_tells_the_passages_that_it_has(
    here: Settings, fake: FakeEncoder, tmp_path: Path
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(8, 0), here)
    lines = [f'{{"id": "{count}", "text": "{"red " * count}"}}\n' for count in (4, 20)]
    tree = write_tree(tmp_path / "tree", {"a.txt": "green " * 30, "r.jsonl": "".join(lines)})
    first = run(collection, fake, tree)
    assert first["a.txt"].passages > first["r.jsonl#20"].passages > first["r.jsonl#4"].passages == 1
    (tree / "r.jsonl").write_text("".join(reversed(lines)))  # another hash, so that it is read
    for changed in (True, False):
        again = run(collection, fake, tree)
        assert set(statuses(again).values()) == {"unchanged"}, changed
        assert {name: each.passages for name, each in again.items()} == {
            name: each.passages for name, each in first.items()
        }
    tally = Tally()
    for outcome in again.values():
        tally.take_in(outcome)
    assert tally.passages == 0  # of what was put in


def _names_read(monkeypatch: pytest.MonkeyPatch, work: Any) -> list[str]:
    """Of the files that are read into text meanwhile."""
    read, names = Sandbox.read, []

    def reading(sandbox: Sandbox, source: Source, fields: FieldChoice) -> Any:
        names.append(source.name)
        return read(sandbox, source, fields)

    with monkeypatch.context() as patched:
        patched.setattr(Sandbox, "read", reading)
        work()
    return names


def test_an_unchanged_file_is_not_read_into_text_again(
    here: Settings, fake: FakeEncoder, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    run(collection, fake, tree)
    assert _names_read(monkeypatch, lambda: run(collection, fake, tree)) == []


def contained(tmp_path: Path) -> Path:
    tree = write_tree(tmp_path / "tree", {"blank.txt": " \n", "r.jsonl": '{"id": "1", "text": "red"}\n'})
    archive(tree / "z.zip", {"a.txt": "green", "song.mp3": "la", "none.txt": ""})
    return tree


CONTAINED = {
    "blank.txt": "empty", "r.jsonl#1": "unchanged", "a.txt": "unchanged", "song.mp3": "quarantined",
    "none.txt": "empty",
}  # fmt: skip


def test_what_holds_many_documents_or_none_is_not_read_again_either(
    here: Settings, fake: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = contained(tmp_path)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    first = run(collection, fake, tree)
    with monkeypatch.context() as patched:
        patched.setattr(Sandbox, "read", _fails)
        again = run(collection, fake, tree, exact=True)
    assert statuses(again) == CONTAINED
    for name in ("blank.txt", "song.mp3", "none.txt"):
        assert (again[name].reason, again[name].notes) == (first[name].reason, first[name].notes)
    archive(tree / "z.zip", {"song.mp3": "la"})
    assert statuses(run(collection, fake, tree, exact=True))["a.txt"] == "removed"
    assert texts(collection) == {"r.jsonl#1": "red"}


def _without_a_document(collection: Collection, file: Path) -> None:
    with collection.writer() as writer:
        writer.replace((), [each.id for each in collection.store().documents() if each.uri.endswith("a.txt")])


@pytest.mark.parametrize(
    "change",
    [
        _without_a_document,
        lambda _, file: file.write_bytes(b"no database" * 99),
        lambda collection, _: setattr(collection, "settings", replace(collection.settings, ocr_languages="deu")),
    ],
    ids=["documents deleted", "file damaged", "read otherwise"],
)
def test_an_archive_is_read_again_where_that_may_give_something_else(
    here: Settings, fake: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    tree = contained(tmp_path)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    run(collection, fake, tree)
    change(collection, here.data_dir / "c" / INPUTS)
    names = _names_read(monkeypatch, lambda: run(collection, fake, tree))
    assert "z.zip" in names
    assert texts(collection).keys() == {"a.txt", "r.jsonl#1"}
    assert _names_read(monkeypatch, lambda: run(collection, fake, tree)) == []


@pytest.mark.parametrize("error", [ReaderTimeout, ReaderOutOfMemory, NeedsOcr])
def test_what_may_be_read_another_day_is_tried_again(
    here: Settings, fake: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[ReadError]
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    tree = contained(tmp_path)
    (tree / "r.jsonl").unlink()
    (tree / "blank.txt").unlink()

    def failing(_: Sandbox, source: Source, fields: FieldChoice) -> Iterator[Rejected]:
        yield Rejected(f"{source.uri}!/a.txt", error("not today"))

    with monkeypatch.context() as patched:
        patched.setattr(Sandbox, "read", failing)
        assert statuses(run(collection, fake, tree)) == {"a.txt": "quarantined"}
    assert statuses(run(collection, fake, tree))["a.txt"] == "indexed"


@pytest.mark.parametrize("exact_passages", [1, 1000])  # with a saved index, and without
def test_a_run_that_finds_nothing_new_starts_no_reader_and_reads_no_vectors(
    here: Settings, fake: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact_passages: int
) -> None:
    files = write_tree(tmp_path / "tree", {f"{at}.txt": f"red {at}" for at in range(5)})
    collection = Collection.create(
        "c", fake.contract, Chunking(64, 8), replace(here, exact_passages=exact_passages, target_recall=0.5)
    )
    run(collection, fake, files)
    fake.encoded = 0
    for name in ("vectors", "vector_batches", "changes_since"):
        monkeypatch.setattr(Store, name, _fails)
    monkeypatch.setattr("embedsvc.readers.sandbox._Worker", _fails)
    reopened = Collection.open("c", collection.settings)
    assert set(statuses(run(reopened, fake, files, exact=True)).values()) == {"unchanged"}
    assert fake.encoded == 0
    assert reopened.upkeep.loaded is None


def _fails(*_: Any, **__: Any) -> Any:
    raise AssertionError("this is not needed")


def test_the_vectors_of_sub_windows_stay_with_a_passage_that_did_not_change(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(34, 0, finer=10), here)
    words = [f"word{at}" for at in range(96)]
    names = iter(range(99))

    def put(words: list[str]) -> int:
        """Windows encoded for the document."""
        fake.encoded = 0
        document = make_document("d", " ".join(words), id="d", metadata={"version": next(names)})
        assert [outcome.passages for outcome in ingest_items(collection, fake, [document], FieldChoice())] == [3]  # type: ignore[arg-type]
        return fake.encoded

    each = 1 + 7  # 32 tokens: 7 windows of 8, four apart
    assert put(words) == 3 * each
    before = collection.store().vectors()[1]
    assert put(words) == 0
    assert np.array_equal(collection.store().vectors()[1], before)
    assert put([*words[:-1], "other"]) == each
    after = collection.snapshot()
    assert len(after.index) == after.store.count_vectors() == 3 * each
    ids, vectors = after.store.vectors()
    ordinals = [passage.id for passage in after.store.take(ids.tolist())]
    for at in (0, 1):
        assert np.array_equal(vectors[[id == f"d:{at}" for id in ordinals]], before[each * at : each * (at + 1)])


def test_a_text_is_encoded_once_in_whichever_documents_it_is(here: Settings, fake: FakeEncoder) -> None:
    """In one batch, in batches under way together, in a later run, under another name, with other metadata."""
    here = replace(here, commit_tokens=40)
    collection = Collection.create("c", fake.contract, Chunking(12, 0), here)
    parts = [" ".join(f"part{part}word{at}" for at in range(10)) for part in range(6)]

    def put(**documents: list[str]) -> int:
        fake.encoded = 0
        made = [make_document(id, " ".join(texts), id=id) for id, texts in documents.items()]
        outcomes = list(ingest_items(collection, fake, made, FieldChoice()))  # type: ignore[arg-type]
        assert sum(outcome.encoded_tokens for outcome in outcomes) == 10 * fake.encoded
        return fake.encoded

    assert put(**{f"d{at}": [parts[at % 3], parts[(at + 1) % 3]] for at in range(12)}) == 3
    assert put(moved=[parts[0], parts[1]], longer=[parts[2], parts[3]]) == 1
    assert put(d0=[parts[4], parts[0]], d1=[parts[4], parts[4], parts[5]]) == 2
    row_ids, vectors = collection.store().vectors()
    by_text: dict[str, set[bytes]] = {}
    for passage, vector in zip(collection.store().take(row_ids.tolist()), vectors, strict=True):
        by_text.setdefault(passage.text, set()).add(vector.tobytes())
    assert by_text.keys() == set(parts)
    assert all(len(same) == 1 for same in by_text.values())


def test_a_moved_file_keeps_its_vectors(
    collection: Collection, encoder: Encoder, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(collection, encoder, tree)
    encoded: list[Any] = []
    monkeypatch.setattr(Encoder, "submit", _counting(Encoder.submit, encoded))
    (tree / "a.txt").rename(tree / "moved.txt")
    moved = run(collection, encoder, tree, exact=True)
    assert (moved["moved.txt"].status, moved["a.txt"].status) == ("indexed", "removed")
    assert moved["moved.txt"].encoded_tokens == 0 < moved["moved.txt"].tokens
    assert encoded == []
    assert texts(collection)["moved.txt"] == TREE["a.txt"]


def test_what_is_reused_is_known_by_its_context_too(here: Settings, fake: FakeEncoder) -> None:
    """A text is encoded once for each place that is said of it, and found again under that."""
    collection = Collection.create("c", fake.contract, Chunking(64, 8, context="title+headings"), here)

    def put(id: str, title: str, heading: str = "") -> int:
        fake.encoded = 0
        headings = (Heading(0, 1, heading),) if heading else ()
        document = make_document(f"t:{id}", "white white", id=id, title=title, headings=headings)
        assert [outcome.passages for outcome in ingest_items(collection, fake, [document], FieldChoice())] == [1]  # type: ignore[arg-type]
        return fake.encoded

    assert [put("a", "red"), put("b", "red"), put("c", "green"), put("d", "red", "green")] == [1, 0, 1, 1]
    assert [put("a", "green"), put("e", "", "red"), put("f", "")] == [0, 0, 1]
    row_ids, vectors = collection.store().vectors()
    found = {
        passage.id: vector for passage, vector in zip(collection.store().take(row_ids.tolist()), vectors, strict=True)
    }
    for id, said in {"a": "green", "b": "red", "c": "green", "d": "red green", "e": "red", "f": ""}.items():
        (expected,) = fake.encode_texts([f"{said} white white"], kind="passage").vectors
        np.testing.assert_allclose(found[f"{id}:0"], expected, atol=1e-6)
    assert {passage.text for passage in collection.store().take(row_ids.tolist())} == {"white white"}


def test_a_moved_file_that_has_no_title_keeps_its_vectors_where_titles_are_embedded(
    here: Settings, fake: FakeEncoder, tree: Path
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8, context="title+headings"), here)
    run(collection, fake, tree)
    fake.encoded = 0
    (tree / "a.txt").rename(tree / "moved to here.txt")
    assert run(collection, fake, tree, exact=True)["moved%20to%20here.txt"].status == "indexed"
    assert fake.encoded == 0


def test_every_sub_window_stands_behind_the_context(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(34, 0, finer=10, context="title"), here)
    document = make_document("t:d", "green " * 70, id="d", title="red")
    for outcome in ingest_items(collection, fake, [document], FieldChoice()):  # type: ignore[arg-type]
        assert outcome.encoded_tokens > outcome.tokens
    _, vectors = collection.store().vectors()
    assert len(vectors) > collection.store().count() > 2
    assert (vectors[:, WORDS.index("red")] > 0).all()


def _counting(encode: Any, encoded: list[Any]) -> Any:
    def counting(self: Encoder, token_ids: Any, *, kind: str) -> Any:
        encoded.extend(token_ids)
        return encode(self, token_ids, kind=kind)

    return counting


def test_only_what_changed_is_encoded(here: Settings, fake: FakeEncoder, tree: Path) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    run(collection, fake, tree)
    assert fake.encoded == 5
    (tree / "a.txt").write_text("red and green")
    (tree / "new.txt").write_text("blue")
    (tree / "sub/c.txt").unlink()
    fake.encoded = 0
    outcomes = statuses(run(collection, fake, tree))
    assert fake.encoded == 2
    assert outcomes["a.txt"] == "replaced"
    assert outcomes["new.txt"] == "indexed"
    assert outcomes["b.md"] == "unchanged"
    assert "c.txt" not in outcomes
    now = texts(collection)
    assert now["a.txt"] == "red and green"
    assert now["c.txt"] == TREE["sub/c.txt"], "what vanished stays unless --exact"
    row_ids, vectors = collection.snapshot().store.vectors()
    by_uri = {p.uri.rpartition("/")[2]: v for p, v in zip(collection.snapshot().store.take(row_ids.tolist()), vectors)}  # noqa: B905
    assert by_uri["a.txt"].tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0, 0])
    assert by_uri["new.txt"].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("place", ["begin", "middle", "end"])
def test_of_a_changed_document_only_changed_passages_are_encoded(
    here: Settings, fake: FakeEncoder, tmp_path: Path, place: str
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    words = ("red", "green", "blue", "white")
    lines = [" ".join(words[(line >> at) % 4] for at in range(0, 12, 2)) + f" {line}.\n" for line in range(1000)]
    (tmp_path / "book.txt").write_text("".join(lines))
    whole = run(collection, fake, tmp_path)["book.txt"].passages
    assert whole > 100
    lines.insert({"begin": 0, "middle": 500, "end": 1000}[place], "A red line more.\n")
    (tmp_path / "book.txt").write_text("".join(lines))
    fake.encoded = 0
    assert run(collection, fake, tmp_path)["book.txt"].status == "replaced"
    assert 1 <= fake.encoded <= (2 if place == "end" else whole // 4)
    # What was taken over is what encoding all of it anew would have given.
    afresh = Collection.create("d", fake.contract, Chunking(64, 8), here)
    run(afresh, fake, tmp_path)
    assert passages_and_vectors(collection) == passages_and_vectors(afresh)


def passages_and_vectors(collection: Collection) -> dict[str, tuple[Any, ...]]:
    store = collection.snapshot().store
    row_ids, vectors = store.vectors()
    taken = zip(store.take(row_ids.tolist()), vectors.tolist(), strict=True)
    return {passage.id: (passage.start, passage.end, passage.text, vector) for passage, vector in taken}


def test_a_collection_below_the_given_path_is_not_indexed(here: Settings, fake: FakeEncoder, tree: Path) -> None:
    inside = dataclasses.replace(here, data_dir=tree)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), inside)
    assert statuses(run(collection, fake, tree)) == dict.fromkeys(NAMES, "indexed")
    assert set(statuses(run(collection, fake, tree, exact=True)).values()) == {"unchanged"}


def test_one_file_has_one_uri_however_its_path_is_written(
    here: Settings, fake: FakeEncoder, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    run(collection, fake, tree)
    monkeypatch.chdir(tree / "sub")
    again = run(collection, fake, Path(".."), exact=True)
    assert set(statuses(again).values()) == {"unchanged"}
    assert set(texts(collection)) == NAMES


def test_a_reader_that_breaks_costs_its_file_only(
    here: Settings, fake: FakeEncoder, tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = (
        "from embedsvc.readers import markdown, worker\n"
        "def broken(source, fields):\n"
        "    raise RecursionError('too deep')\n"
        "markdown.read_markdown = broken\n"
        "worker.main()\n"
    )
    monkeypatch.setattr("embedsvc.readers.sandbox._COMMAND", (sys.executable, "-c", program))
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    outcomes = run(collection, fake, tree)
    assert statuses(outcomes) == {name: "quarantined" if name == "b.md" else "indexed" for name in NAMES}
    assert "RecursionError: too deep" in (outcomes["b.md"].reason or "")
    assert any("Traceback" in record.message for record in caplog.records), "the log has the traceback"


def test_exact_keeps_what_lies_below_a_folder_that_cannot_be_read(
    here: Settings, fake: FakeEncoder, tree: Path
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    run(collection, fake, tree)
    (tree / "sub" / "c.txt").unlink()
    (tree / "sub").rmdir()
    (tree / "sub").symlink_to(tree / "sub")  # unreadable for root, too
    (tree / "a.txt").unlink()
    outcomes = statuses(run(collection, fake, tree, exact=True))
    assert outcomes["sub"] == "quarantined"
    assert outcomes["a.txt"] == "removed"
    assert set(texts(collection)) == NAMES - {"a.txt"}


def test_exact_removes_what_vanished_below_the_given_paths_only(
    here: Settings, fake: FakeEncoder, tmp_path: Path
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    one = write_tree(
        tmp_path / "one", {"keep.txt": "red", "gone.txt": "green", "r.jsonl": '{"id": 1, "text": "white"}\n'}
    )
    other = write_tree(tmp_path / "one-more", {"far.txt": "blue"})
    run(collection, fake, one, other)
    for file in (one / "gone.txt", one / "r.jsonl", other / "far.txt"):
        file.unlink()
    assert statuses(run(collection, fake, one, exact=True)) == {
        "keep.txt": "unchanged", "gone.txt": "removed", "r.jsonl#1": "removed",
    }  # fmt: skip
    assert set(texts(collection)) == {"keep.txt", "far.txt"}
    assert len(collection.snapshot().index) == 2


def test_exact_removes_what_is_left_out_by_now(here: Settings, fake: FakeEncoder, tree: Path) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)

    def again(exact: bool, *patterns: str) -> dict[str, str]:
        selection = PathPatterns(exclude=patterns)
        outcomes = ingest_paths(
            collection,
            fake,
            [tree],
            fields=FieldChoice(),
            max_file_mb=1,
            exact=exact,
            selection=selection,  # type: ignore[arg-type]
        )
        return {outcome.uri.rpartition("/")[2]: outcome.status for outcome in outcomes}

    assert set(again(True)) == NAMES
    assert set(again(False, "*.txt")) == NAMES - {"a.txt", "c.txt"}
    assert set(texts(collection)) == NAMES
    assert again(True, "sub/")["c.txt"] == "removed"
    write_tree(tree, {".embedsvcignore": "*.jsonl\n"})
    gone = again(True)
    assert {name for name, status in gone.items() if status == "removed"} == {"records.jsonl#x", "records.jsonl#y"}
    assert set(texts(collection)) == {"a.txt", "b.md", "c.txt"}


def test_only_what_changed_is_looked_at(
    here: Settings, fake: FakeEncoder, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    run(collection, fake, tree)
    (tree / "sub").rename(tree / "moved")
    (tree / "a.txt").unlink()
    changed = [tree / name for name in ("sub", "moved", "a.txt", "a.txt~", "never")]
    listed: list[Path] = []
    listdir = os.listdir

    def listing(folder: Path) -> list[str]:
        listed.append(folder)
        return listdir(folder)

    monkeypatch.setattr("embedsvc.readers.discovery.os.listdir", listing)
    fake.encoded = 0
    outcomes = list(ingest_changed(collection, fake, changed, [tree], fields=FieldChoice(), max_file_mb=1))  # type: ignore[arg-type]
    assert sorted((outcome.uri.removeprefix(tree.as_uri()), outcome.status) for outcome in outcomes) == [
        ("/a.txt", "removed"), ("/moved/c.txt", "indexed"), ("/sub/c.txt", "removed"),
    ]  # fmt: skip
    assert [folder for folder in listed if folder.is_relative_to(tree)] == [tree / "moved"]
    assert fake.encoded == 0  # what is moved keeps its vectors
    assert set(texts(collection)) == NAMES - {"a.txt"}


def test_exact_from_the_root(
    here: Settings, fake: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    tree = write_tree(tmp_path / "t", {"keep.txt": "red", "gone.txt": "green"})
    run(collection, fake, tree)
    (tree / "gone.txt").unlink()
    monkeypatch.setattr("embedsvc.ingest.discover", lambda paths, **limits: discover([tree], **limits))
    assert statuses(run(collection, fake, Path("/"), exact=True)) == {"keep.txt": "unchanged", "gone.txt": "removed"}


def test_exact_with_one_file_touches_no_other(here: Settings, fake: FakeEncoder, tmp_path: Path) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    files = write_tree(tmp_path / "t", {"a.jsonl": '{"id": "1", "text": "red"}\n', "a.jsonl.txt": "green"})
    run(collection, fake, files)
    (files / "a.jsonl.txt").unlink()
    (files / "a.jsonl").write_text('{"id": "2", "text": "blue"}\n')
    assert statuses(run(collection, fake, files / "a.jsonl", exact=True)) == {
        "a.jsonl#2": "indexed", "a.jsonl#1": "removed",
    }  # fmt: skip
    assert set(texts(collection)) == {"a.jsonl#2", "a.jsonl.txt"}


def test_a_record_goes_when_its_file_comes_without_it(here: Settings, fake: FakeEncoder, tmp_path: Path) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    file = tmp_path / "r.jsonl"
    file.write_text('{"id": "1", "text": "red"}\n{"id": "2", "text": "green"}\n{"id": "3", "text": "blue"}\n')
    run(collection, fake, file)
    fake.encoded = 0
    file.write_text('{"id": "2", "text": "green"}\n{"id": "3", "text": "white"}\n')
    assert statuses(run(collection, fake, file)) == {
        "r.jsonl#1": "removed", "r.jsonl#2": "unchanged", "r.jsonl#3": "replaced",
    }  # fmt: skip
    assert fake.encoded == 1
    assert texts(collection) == {"r.jsonl#2": "green", "r.jsonl#3": "white"}


@pytest.mark.parametrize("exact", [False, True])
def test_while_a_record_cannot_be_read_none_of_its_file_is_removed(
    here: Settings, fake: FakeEncoder, tmp_path: Path, exact: bool
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    file = tmp_path / "r.jsonl"
    file.write_text('{"id": "1", "text": "red"}\n{"id": "2", "text": "green"}\n')
    run(collection, fake, file)
    file.write_text('{"id": "1", "text": \n{"id": "2", "text": "blue"}\n')
    outcomes = statuses(run(collection, fake, file, exact=exact))
    assert Counter(outcomes.values()) == {"quarantined": 1, "replaced": 1}
    assert texts(collection) == {"r.jsonl#1": "red", "r.jsonl#2": "blue"}


def archive(file: Path, members: dict[str, str]) -> None:
    with zipfile.ZipFile(file, "w") as made:
        for name, text in members.items():
            made.writestr(name, text)


def test_a_member_that_is_never_read_keeps_no_other_that_went(
    here: Settings, fake: FakeEncoder, tmp_path: Path
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    file = tmp_path / "z.zip"
    records = '{"id": "1", "text": "white"}\n{"id": "2", "text": "red"}\n'
    archive(file, {"a.txt": "red", "b.txt": "green", "song.mp3": "la", "c.txt": "blue", "r.jsonl": records})
    run(collection, fake, file)
    archive(file, {"a.txt": "red", "song.mp3": "la", "c.txt": "\0\1\2" * 99, "r.jsonl": '{"id": "1"\n'})
    assert statuses(run(collection, fake, file, exact=True)) == {
        "a.txt": "unchanged", "b.txt": "removed", "song.mp3": "quarantined", "c.txt": "quarantined",
        "r.jsonl#line-1": "quarantined",
    }  # fmt: skip
    # What cannot be read is kept, also where it cannot be told which record it is.
    assert texts(collection) == {"a.txt": "red", "c.txt": "blue", "r.jsonl#1": "white", "r.jsonl#2": "red"}


def test_of_an_archive_that_is_cut_short_nothing_is_removed(here: Settings, fake: FakeEncoder, tmp_path: Path) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    file = tmp_path / "t.tar"
    with tarfile.open(file, "w") as made:
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_text("red " * 200)
            made.add(tmp_path / name, name)
    run(collection, fake, file)
    file.write_bytes(file.read_bytes()[:2000])
    assert run(collection, fake, file, exact=True)["t.tar"].status == "quarantined"
    assert texts(collection).keys() == {"a.txt", "b.txt"}


@pytest.mark.parametrize("exact", [False, True])
def test_a_file_that_cannot_be_read_any_more_keeps_what_is_stored(
    here: Settings, fake: FakeEncoder, tree: Path, exact: bool
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    run(collection, fake, tree)
    before = texts(collection)
    for name in ("a.txt", "records.jsonl"):
        (tree / name).unlink()
        (tree / name).symlink_to(tree / name)  # unreadable for root, too
    outcomes = run(collection, fake, tree, exact=exact)
    assert outcomes["a.txt"].status == outcomes["records.jsonl"].status == "quarantined"
    assert (outcomes["a.txt"].reason or "").startswith("unreadable: ")
    assert texts(collection) == before


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_a_file_without_text_is_empty_and_its_old_passages_go(
    here: Settings, fake: FakeEncoder, tree: Path, text: str
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    (tree / "always.txt").write_text(text)
    assert run(collection, fake, tree)["always.txt"].status == "empty"
    (tree / "a.txt").write_text(text)
    outcome = run(collection, fake, tree)["a.txt"]
    assert outcome.status == "empty"
    assert outcome.reason
    assert outcome.passages == 0
    assert set(texts(collection)) == NAMES - {"a.txt"}
    assert len(collection.snapshot().index) == 4


def test_bad_files_are_quarantined_and_the_rest_goes_on(here: Settings, fake: FakeEncoder, tree: Path) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    (tree / "junk.txt").write_bytes(bytes(range(256)) * 40)
    (tree / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing more")
    (tree / "broken.docx").write_bytes(b"PK\x03\x04 cut short")
    (tree / "big.txt").write_bytes(b"word " * 300_000)
    os.mkfifo(tree / "pipe.txt")
    (tree / "loop").symlink_to(tree)
    (tree / "dangling.txt").symlink_to(tree / "nowhere")
    (tree / "half.jsonl").write_text('{"id": "ok", "text": "red"}\nnot json\n{"id": "no text", "year": 3}\n')
    outcomes = run(collection, fake, tree)
    bad = {name: (outcome.reason or "").partition(":")[0] for name, outcome in outcomes.items()
           if outcome.status == "quarantined"}  # fmt: skip
    for outcome in outcomes.values():  # the uri is told beside it
        assert tree.as_uri() not in (outcome.reason or "")
    assert (outcomes["half.jsonl#line-2"].reason or "").startswith("damaged: line 2: ")
    assert bad.pop("half.jsonl#line-2") == "damaged"
    assert bad.pop("half.jsonl#no%20text") == "missing_field"
    assert bad == {
        "junk.txt": "binary", "broken.pdf": "damaged", "broken.docx": "damaged", "big.txt": "too_large",
        "pipe.txt": "unsupported", "loop": "unreadable", "dangling.txt": "unreadable",
    }  # fmt: skip
    assert set(texts(collection)) == NAMES | {"half.jsonl#ok"}


def test_the_second_of_two_documents_with_one_id_is_quarantined(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    twins = [
        make_document("t:1", "red", id="same"),
        make_document("t:2", "green", id="same"),
        make_document("t:3", "blue"),
    ]
    outcomes = list(ingest_items(collection, fake, twins, FieldChoice()))  # type: ignore[arg-type]
    assert {(outcome.uri, outcome.status) for outcome in outcomes} == {
        ("t:1", "indexed"), ("t:2", "quarantined"), ("t:3", "indexed"),
    }  # fmt: skip
    assert "duplicate" in str([outcome.reason for outcome in outcomes])
    assert collection.snapshot().store.document_passages("same")[0] == "red"


def test_uploads_are_read_like_files(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    items = [Source("upload:a.md", "a.md", b"# Red\n\ngreen"), Source("upload:b.pdf", "b.pdf", b"junk")]
    for wanted in ("indexed", "unchanged"):
        outcomes = list(ingest_items(collection, fake, items, FieldChoice()))  # type: ignore[arg-type]
        assert {outcome.uri: outcome.status for outcome in outcomes} == {
            "upload:a.md": wanted,
            "upload:b.pdf": "quarantined",
        }


def test_ready_documents_are_replaced_by_content(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)

    def put(document: Document) -> str:
        [outcome] = ingest_items(collection, fake, [document], FieldChoice())  # type: ignore[arg-type]
        return outcome.status

    assert put(make_document("t:1", "red", metadata={"year": 1})) == "indexed"
    assert put(make_document("t:1", "red", metadata={"year": 1})) == "unchanged"
    assert put(make_document("t:1", "red", metadata={"year": 2})) == "replaced"
    assert collection.snapshot().store.take(collection.snapshot().store.vectors()[0].tolist())[0].metadata == {
        "year": 2
    }


def test_notes_say_what_reading_changed(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    [outcome] = ingest_items(collection, fake, [make_document("t:1", "red \ud800")], FieldChoice())  # type: ignore[arg-type]
    assert outcome.status == "indexed"
    assert "surrogate" in " ".join(outcome.notes)


def test_tokens_that_no_vector_sees_are_noted(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(10, 0, whole=True), here)
    [outcome] = ingest_items(collection, fake, [make_document("t:1", "red " * 30)], FieldChoice())  # type: ignore[arg-type]
    assert (outcome.passages, outcome.tokens) == (1, 30)
    assert "22 of 30 tokens" in " ".join(outcome.notes)


def test_a_missing_path_is_quarantined_and_what_was_stored_of_it_stays(
    here: Settings, fake: FakeEncoder, tree: Path
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    run(collection, fake, tree)
    (tree / "sub").rename(tree.parent / "unmounted")
    outcomes = run(collection, fake, tree / "a.txt", tree / "sub", exact=True)
    assert statuses(outcomes) == {"a.txt": "unchanged", "sub": "quarantined"}
    assert "tree/sub does not exist" in str(outcomes["sub"].reason)
    assert set(texts(collection)) == NAMES
    with pytest.raises(NotFound, match="tree/sub does not exist"):
        run(collection, fake, tree / "sub", exact=True)


def test_a_document_that_only_looks_as_if_it_came_from_a_file_is_not_removed_with_it(
    here: Settings, fake: FakeEncoder, tmp_path: Path
) -> None:
    """Origin is what was read, not how a uri is written."""
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    file = tmp_path / "manual.md"
    file.write_text("red")
    own = [
        make_document("manual.md#intro", "green", id="of an upload"),
        make_document(f"{file.as_uri()}#intro", "blue", id="of a file"),
        make_document(f"{tmp_path.as_uri()}/sub/x.md", "white", id="below the folder"),
    ]
    list(ingest_items(collection, fake, own, FieldChoice()))  # type: ignore[arg-type]
    list(ingest_items(collection, fake, [Source("manual.md", "manual.md", b"red")], FieldChoice()))  # type: ignore[arg-type]
    run(collection, fake, tmp_path, exact=True)
    assert {document.id for document in own} < collection.store().known_documents().keys()


def test_what_is_said_of_an_input_is_kept_with_its_documents(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    records = b'{"id": "a", "text": "red", "year": 1}\n{"id": "b", "text": "blue", "year": 2}\n'

    def put(**metadata: Any) -> Counter[str]:
        items = [Source("r.jsonl", "r.jsonl", records, metadata)]
        return Counter(outcome.status for outcome in ingest_items(collection, fake, items, FieldChoice()))  # type: ignore[arg-type]

    assert put(team="x") == {"indexed": 2}
    assert put(team="x") == {"unchanged": 2}
    own = collection.store().metadata_of(collection.store().known_documents())
    assert sorted(own.values(), key=str) == [{"year": 1, "team": "x"}, {"year": 2, "team": "x"}]
    assert put(year=3) == {"replaced": 2}
    own = collection.store().metadata_of(collection.store().known_documents())
    assert list(own.values()) == [{"year": 3}, {"year": 3}]


def test_of_two_inputs_with_one_name_only_the_first_is_taken(here: Settings, fake: FakeEncoder) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)

    def put(*texts: bytes) -> list[str]:
        items = [Source("a.txt", "a.txt", text) for text in texts]
        return [outcome.status for outcome in ingest_items(collection, fake, items, FieldChoice())]  # type: ignore[arg-type]

    assert put(b"red") == ["indexed"]
    # The second is what the store had before, but not what it has now.
    assert Counter(put(b"blue", b"red")) == {"replaced": 1, "quarantined": 1}
    assert texts(collection) == {"a.txt": "blue"}


# -- durable before it is told ------------------------------------------------------------------------------------


def small_commits(here: Settings) -> Settings:
    return Settings(data_dir=here.data_dir, lock_timeout=0.0, commit_tokens=4)


def test_what_is_told_is_committed(here: Settings, fake: FakeEncoder, tmp_path: Path) -> None:
    files = write_tree(tmp_path / "t", {f"{at}.txt": "red green blue" for at in range(12)})
    settings = small_commits(here)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    versions = set()
    for outcome in ingest_paths(collection, fake, [files], fields=FieldChoice(), max_file_mb=1):  # type: ignore[arg-type]
        store = Collection.open("c", settings).snapshot().store  # as another process sees it
        versions.add(store.version)
        assert outcome.uri in {document.uri for document in store.documents()}
    assert len(versions) >= 3, "there was one commit only"


def test_a_run_that_is_left_early_frees_the_lock_and_keeps_what_was_told(
    here: Settings, fake: FakeEncoder, tmp_path: Path
) -> None:
    files = write_tree(tmp_path / "t", {f"{at}.txt": f"red green blue {at}" for at in range(30)})
    settings = small_commits(here)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    outcomes = ingest_paths(collection, fake, [files], fields=FieldChoice(), max_file_mb=1)  # type: ignore[arg-type]
    assert isinstance(outcomes, Iterator)
    told = [next(outcomes).uri for _ in range(3)]
    with pytest.raises(Conflict, match="Another process is writing to the collection 'c'"):
        run(Collection.open("c", settings), fake, files)
    outcomes.close()  # type: ignore[attr-defined]
    snapshot = Collection.open("c", settings).snapshot()
    assert set(told) <= {document.uri for document in snapshot.store.documents()}
    assert len(snapshot.index) == snapshot.store.count() < 30
    done = statuses(run(Collection.open("c", settings), fake, files))
    assert Counter(done.values())["unchanged"] >= 3
    assert Collection.open("c", settings).snapshot().store.count_documents() == 30


def test_an_error_in_the_encoder_ends_the_run_and_frees_the_lock(
    here: Settings, fake: FakeEncoder, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)

    def fail(*arguments: Any, **options: Any) -> Any:
        raise MemoryError("no more")

    with monkeypatch.context() as broken:
        broken.setattr(fake, "encode", fail)
        with pytest.raises(MemoryError, match="no more"):
            run(collection, fake, tree)
    assert set(statuses(run(collection, fake, tree)).values()) == {"indexed"}


def test_an_error_of_the_disk_ends_the_run_and_what_was_told_stands(
    here: Settings, fake: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    files = write_tree(tmp_path / "t", {f"{at}.txt": f"red green blue {at}" for at in range(20)})
    settings = small_commits(here)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    real, calls = lance.LanceDataset.commit, []

    def third_fails(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    told: list[Outcome] = []
    with monkeypatch.context() as broken:
        broken.setattr(lance.LanceDataset, "commit", third_fails)
        with pytest.raises(StorageFailure, match="full"):
            told.extend(ingest_paths(collection, fake, [files], fields=FieldChoice(), max_file_mb=1))  # type: ignore[arg-type]
    assert told
    assert {outcome.uri for outcome in told} == {
        document.uri for document in Collection.open("c", settings).snapshot().store.documents()
    }
    run(collection, fake, files)
    assert collection.snapshot().store.count_documents() == 20


def test_a_search_in_mid_ingest_sees_whole_documents_only(here: Settings, fake: FakeEncoder, tmp_path: Path) -> None:
    """Every document's passages all say the same edition, at every moment of replacing them."""

    def edition(word: str) -> dict[str, str]:
        return {f"{at}.txt": f"{word} " * 60 for at in range(10)}

    settings = small_commits(here)
    collection = Collection.create("c", fake.contract, Chunking(12, 0), settings)
    run(collection, fake, write_tree(tmp_path / "t", edition("red")))
    write_tree(tmp_path / "t", edition("green"))
    seen = set()
    for _ in ingest_paths(collection, fake, [tmp_path / "t"], fields=FieldChoice(), max_file_mb=1):  # type: ignore[arg-type]
        snapshot = collection.snapshot()
        assert len(snapshot.index) == snapshot.store.count()
        for document in snapshot.store.documents():
            text, _ = snapshot.store.document_passages(document.id)
            assert text in {("red " * 60).rstrip(), ("green " * 60).rstrip()}
            seen.add(text.split()[0])
    assert seen == {"red", "green"}


# -- model and chunking -------------------------------------------------------------------------------------------


def test_another_encoder_may_not_write(here: Settings, fake: FakeEncoder, encoder: Encoder, tree: Path) -> None:
    collection = Collection.create("c", fake.contract, Chunking(64, 8), here)
    with pytest.raises(ContractMismatch, match="weights_hash"):
        run(collection, encoder, tree)
    assert collection.snapshot().store.count() == 0


def test_a_collection_is_opened_with_its_own_model_and_chunking(
    here: Settings, encoder: Encoder, library: Path
) -> None:
    settings = Settings(data_dir=library, runtime="onnx", chunk_tokens=100, overlap=3, dtype="fp32")
    collection, opened = open_or_create("library", settings, frozenset())
    assert collection.chunking == Chunking(512, 64, context="title")
    assert opened.dtype == "int8"


def test_a_collection_that_another_process_makes_meanwhile_is_opened(here: Settings, encoder: Encoder) -> None:
    def load(settings: Settings) -> Encoder:
        Collection.create("c", encoder.contract, Chunking(64, 8), here)
        return encoder

    collection, _ = open_or_create("c", dataclasses.replace(here, runtime="onnx", dtype="fp32"), frozenset(), load)
    assert collection.chunking == Chunking(64, 8)


@pytest.mark.parametrize(
    ("key", "value"), [("chunk_tokens", 100), ("overlap", 3), ("finer_tokens", 64), ("chunk_context", "headings")]
)
def test_other_chunking_than_the_collection_has_is_a_conflict(library: Path, key: str, value: object) -> None:
    settings = Settings(**{"data_dir": library, "runtime": "onnx", key: value})  # type: ignore[arg-type]
    with pytest.raises(Conflict, match=f"made with {key} "):
        open_or_create("library", settings, {key})


def test_sub_windows_larger_than_the_window_are_none_where_nobody_insists(here: Settings, encoder: Encoder) -> None:
    for name, finer in (("fits", 100), ("does-not", 128)):
        settings = dataclasses.replace(here, chunk_tokens=128, finer_tokens=finer)
        collection, _ = open_or_create(name, settings, {"chunk_tokens"}, lambda _: encoder)
        assert collection.chunking == Chunking(128, 63, finer=100 if name == "fits" else 0, context="title")


def test_another_dtype_than_the_collection_has_is_a_mismatch(library: Path) -> None:
    settings = Settings(data_dir=library, runtime="onnx", dtype="fp32")
    with pytest.raises(ContractMismatch, match="dtype"):
        open_or_create("library", settings, {"dtype"})


def test_asking_for_what_the_collection_has_is_fine(library: Path) -> None:
    settings = Settings(data_dir=library, runtime="onnx", dtype="int8", chunk_tokens=512, overlap=64)
    asked = {"model", "dtype", "chunk_tokens", "overlap", "finer_tokens"}
    collection, _ = open_or_create("library", settings, asked)
    assert collection.name == "library"


@pytest.mark.usefixtures("exports_in_process")
def test_a_collection_keeps_its_dtype_whatever_is_the_fastest_by_now(tmp_path: Path) -> None:
    model = str(make_bert(tmp_path / "m"))
    settings = Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache", model=model)
    made, encoder = open_or_create("c", settings, {"model"})
    assert (encoder.runtime_name, encoder.dtype) == ("onnx", "int8")
    record(Calibration(settings.model, machine(), (), "torch", "fp32"), encoder.model, settings.cache)
    assert made.chunking == Chunking(40, 19, context="title")  # as much as the model's short window has room for
    assert load_encoder(settings).dtype == "fp32"
    for asked in (set[str](), {"model"}):
        _, again = open_or_create("c", settings, asked)
        assert (again.runtime_name, again.dtype) == ("onnx", "int8")
    with pytest.raises(ContractMismatch, match="weights_hash"):
        open_or_create("c", dataclasses.replace(settings, model=str(make_bert(tmp_path / "other", seed=1))), {"model"})
    with pytest.raises(ContractMismatch, match="dtype"):
        open_or_create("c", dataclasses.replace(settings, dtype="fp32"), {"model", "dtype"})


def test_a_slow_input_does_not_hold_up_what_was_read_before(
    here: Settings, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedsvc.ingest, "_COMMIT_SECONDS", 0.05)
    collection = Collection.create("c", fake.contract, Chunking(16, 2), here)
    told = threading.Event()

    def items() -> Iterator[Document]:
        yield make_document("a", "red green")
        assert told.wait(30), "nothing was told of the first while the second was being read"
        yield make_document("b", "blue")

    statuses = []
    for outcome in ingest_items(collection, fake, items(), FieldChoice()):  # type: ignore[arg-type]
        statuses.append((outcome.uri, outcome.status))
        told.set()
    assert statuses == [("a", "indexed"), ("b", "indexed")]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"chunk_tokens": 600}, "chunk_tokens is 600, but .* takes 512"),
        ({"chunk_tokens": 40, "overlap": 38}, "leaves 38 for text"),
        ({"chunk_tokens": 0, "overlap": 0}, "leaves -2"),
        ({"chunk_tokens": 128, "finer_tokens": 128}, "finer_tokens is 128; it must be smaller than .* 128"),
        ({"finer_tokens": 2}, "sub-window of 2 tokens leaves no room"),
    ],
)
def test_a_window_that_cannot_be_is_refused_and_nothing_is_made(
    here: Settings, asked: dict[str, int], says: str
) -> None:
    settings = Settings(data_dir=here.data_dir, runtime="onnx", **asked)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=says):
        open_or_create("new", settings, asked.keys())
    assert not (here.data_dir / "new").exists()


def test_a_passage_is_its_place_in_the_file(collection: Collection, encoder: Encoder, tmp_path: Path) -> None:
    """A citation is a place in the file: its own decoded text from start to end, whatever stands in it."""
    text = "Zürich 🙂 e\u0301 東京。\r\n\tTabs and\u00a0spaces. " + "A longer sentence that repeats itself often. " * 40
    (tmp_path / "mixed.txt").write_bytes(text.encode())
    run(collection, encoder, tmp_path / "mixed.txt")
    store = collection.snapshot().store
    row_ids, vectors = store.vectors()
    passages = store.take(row_ids.tolist())
    assert len(passages) > 3
    decoded = io.TextIOWrapper(io.BytesIO((tmp_path / "mixed.txt").read_bytes()), "utf-8", newline="").read()
    assert all(decoded[passage.start : passage.end] == passage.text for passage in passages)
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1.0] * len(vectors), abs=1e-3)
