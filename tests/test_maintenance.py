"""Collections verified, compacted, kept, put back and mended; killed in the midst of it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedsvc import maintenance
from embedsvc.checks import Check, check_collection
from embedsvc.cli import output
from embedsvc.collection import Collection, EncodedDocument
from embedsvc.config import Settings
from embedsvc.encoders import Encoders
from embedsvc.encoding import Encoder
from embedsvc.errors import Conflict, DamagedCollection, NotFound, StorageFailure, UsageError
from embedsvc.ingest import ingest_items
from embedsvc.maintenance import compact, repair, restore, snapshot
from embedsvc.opened import Collections, Hold, Opened
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking, make_document
from embedsvc.service import schemas
from embedsvc.storage import Store, durability
from embedsvc.vectors import files
from tests.fakes import FakeEncoder
from tests.forked import kill_at, was_killed
from tests.server import server
from tests.test_cli import Run, run  # noqa: F401 - a fixture
from tests.test_collection import FAKE
from tests.test_service import finished
from tests.test_storage import contents, simple, unit_vectors

SECRET = "zyqxsecret"


def some(start: int, count: int, edition: str = "first") -> list[EncodedDocument]:
    vectors = unit_vectors(start + count, 7)[start:]
    found: list[EncodedDocument] = []
    for at in range(start, start + count):
        text = f"Passage number {at}, {edition} edition" + (f" {SECRET}" if at % 50 == 3 else "")
        document, passages, _ = simple(f"d{at}", text, metadata={"at": at})
        found.append((document, passages, vectors[at - start : at - start + 1]))
    return found


def made(settings: Settings, name: str = "c", count: int = 200) -> Collection:
    collection = Collection.create(name, FAKE, Chunking(64, 8), settings)
    with collection.writer() as writer:
        writer.replace(some(0, count))
    return collection


@pytest.fixture
def indexed(here: Settings) -> Settings:
    """So that 200 passages have a segment on the disk."""
    return replace(here, exact_passages=50)


def holding(folder: Path, word: bytes) -> list[str]:
    """Files below ``folder`` in which the word, or the vector's bytes, stand."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(str(file.relative_to(folder)) for file in files if word.lower() in file.read_bytes().lower())


def results(settings: Settings, name: str = "c") -> dict[str, Check]:
    """But for the contract: there is no such model as the fake one."""
    found = {check.name.removeprefix(f"{name}: "): check for check in check_collection(name, settings, thorough=True)}
    found.pop("contract", None)
    return found


def wrong(settings: Settings) -> list[str]:
    return sorted(name for name, check in results(settings).items() if not check.ok)


def served(settings: Settings) -> Collections:
    """As a server holds its collections, without encoders."""
    return Collections(settings, cast("Encoders", SimpleNamespace(of=lambda contract: None, touch=id, on_unload=[])))


# -- verify ----------------------------------------------------------------------------------------------------------


def test_a_whole_collection_verifies(indexed: Settings) -> None:
    collection = made(indexed)
    with collection.writer() as writer:
        writer.replace(some(10, 20, "second"), ["d5"])
    found = results(indexed)
    assert all(check.ok for check in found.values()), found
    assert found["spans"].detail.startswith("199 fit")
    assert found["index files"].detail == "are as they were written"
    assert "199 of 199" in found["index rows"].detail


@pytest.mark.parametrize("file", ["vectors.npy", "codes.faiss", "row_ids.npy", "segment.json"])
def test_a_changed_byte_of_the_index_is_found_and_mended(indexed: Settings, file: str) -> None:
    made(indexed)
    [path] = (indexed.data_dir / "c" / "faiss").glob(f"segment-*/{file}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(bytes(data))
    if file != "segment.json":  # in which one bit may not matter
        assert "index files" in wrong(indexed)
        assert any("vector index anew" in line for line in repair("c", indexed).done)
    else:
        repair("c", indexed, index=True)
    assert wrong(indexed) == []


def test_an_index_that_cannot_be_written_is_not_said_to_be_mended(
    indexed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageFailure("The disk is full.")

    made(indexed)
    monkeypatch.setattr("embedsvc.upkeep.save_index", full)
    with pytest.raises(StorageFailure, match="could not be built; the log says why"):
        repair("c", indexed, index=True)


def test_every_byte_of_a_large_file_counts(indexed: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening reads 256 places of a large file: a byte between them goes unseen there."""
    from embedsvc.vectors import building

    monkeypatch.setattr(building, "_WHOLE", 100)
    monkeypatch.setattr(building, "_SPOTS", 2)
    monkeypatch.setattr(building, "_SPOT", 16)
    made(indexed)
    [path] = (indexed.data_dir / "c" / "faiss").glob("segment-*/vectors.npy")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(bytes(data))
    assert Collection.open("c", indexed).snapshot().index.parts, "opening does not see it"
    assert results(indexed)["index files"].detail == f"{path.parent.name}/vectors.npy is not what was written"


def test_spans_order_and_metadata_that_do_not_fit_are_found(here: Settings) -> None:
    collection = made(here, count=5)
    dataset = collection.store()._handle()
    dataset.update({"end": "`end` + 1"}, where="document_id = 'd1'")
    assert wrong(here) == ["spans"]
    dataset.update({"end": "`end` - 1", "start": "start"}, where="document_id = 'd1'")
    assert wrong(here) == []
    dataset.update({"gap": "'x'"}, where="document_id = 'd2'")
    assert results(here)["documents"].detail == "the passages of document 'd2' do not follow one another"


def test_vectors_that_are_no_unit_vectors_are_found(here: Settings) -> None:
    collection = Collection.create("c", FAKE, Chunking(64, 8), here)
    document, passages, _ = simple("d", "text")
    with collection.writer() as writer:
        writer.replace([(document, passages, np.array([[np.nan, 0, 0]], np.float32))])
    assert "vectors" in wrong(here)


def test_leftovers_are_named_and_are_no_damage(indexed: Settings) -> None:
    made(indexed)
    staged = indexed.data_dir / f".c.{'0' * 32}.tmp"
    other = indexed.data_dir / f".c.d.{'0' * 32}.tmp"  # of a collection called c.d
    segment = indexed.data_dir / "c" / "faiss" / "segment-torn"
    for folder in (staged, other, segment):
        folder.mkdir()
    check = results(indexed)["leftovers"]
    assert check.ok
    assert staged.name in check.detail
    assert segment.name in check.detail
    assert other.name not in check.detail
    done = repair("c", indexed).done
    assert any(segment.name in line for line in done)
    assert staged.exists(), "another process may be at it"
    repair("c", indexed, safe_age=-1)
    assert not staged.exists()
    assert other.exists()


# -- compact ---------------------------------------------------------------------------------------------------------


def test_nothing_of_what_was_deleted_is_left_after_compaction(indexed: Settings) -> None:
    collection = made(indexed)
    folder = indexed.data_dir / "c"
    doomed = [f"d{at}" for at in range(200) if at % 50 == 3]
    rows, vectors = collection.store().vectors()
    by_id = {p.document_id: vector for p, vector in zip(collection.store().take(rows.tolist()), vectors, strict=True)}
    vector = by_id["d53"].tobytes()
    assert holding(folder, SECRET.encode()), "so few texts are not compressed, and grep finds them"
    # Of the text index, whose words are compressed, no file may stay.
    text_indexes = set((folder / "passages.lance" / "_indices").iterdir())
    assert any("vectors.npy" in file for file in holding(folder, vector))
    reader = Collection.open("c", indexed)
    before = reader.snapshot()
    with collection.writer() as writer:
        writer.replace(some(100, 3, "second"), doomed)
    assert holding(folder, SECRET.encode())
    done = compact(collection, grace=0)
    assert holding(folder, SECRET.encode()) == []
    assert holding(folder, vector) == []
    assert not text_indexes & set((folder / "passages.lance" / "_indices").iterdir())
    assert done.bytes_after < done.bytes_before
    assert (done.snapshots, done.elsewhere) == ((), ())
    assert wrong(indexed) == []
    # Who had it open goes on with the new version, and takes over the index as it lies there.
    after = reader.snapshot()
    assert after.version > before.version
    assert len(after.index) == after.store.count() == 196
    assert not len(after.store.lexical(SECRET, 10)[0])
    [survivor] = after.store.lexical("second", 1)[0]
    assert after.store.take([survivor])[0].text.endswith("second edition")


def test_compaction_of_a_small_and_of_an_empty_collection(here: Settings) -> None:
    collection = made(here, count=60)
    with collection.writer() as writer:
        writer.replace([], [f"d{at}" for at in range(60)])
    compact(collection, grace=0)
    assert holding(here.data_dir / "c", SECRET.encode()) == []
    assert wrong(here) == []
    with collection.writer() as writer:
        writer.replace(some(0, 5))
    assert len(collection.store().lexical(SECRET, 5)[0]) == 1


def test_documents_that_say_the_same_are_told_and_dropped(here: Settings, run: Run) -> None:  # noqa: F811
    fake = FakeEncoder()
    collection = Collection.create("twice", fake.contract, Chunking(64, 8), here)
    words = [f"word{at}" for at in range(120)]
    texts = {
        "a": " ".join(words),
        "b": "something else altogether, and nothing like the others",
        "c": "  ".join(words).upper(),
        "d": " ".join([*words[:118], "other", "end"]),
    }
    made = [make_document(f"t:{id}", text, id=id) for id, text in texts.items()]
    assert all(outcome.passages for outcome in ingest_items(collection, fake, made, FieldChoice()))  # type: ignore[arg-type]
    told = run("collections", "duplicates", "twice", "--json", "--data-dir", here.data_dir)
    assert json.loads(told.out)["groups"] == [["t:a", "t:c", "t:d"]]
    same = run("collections", "duplicates", "twice", "--threshold", 1, "--json", "--data-dir", here.data_dir)
    assert json.loads(same.out)["groups"] == [["t:a", "t:c"]]
    assert run("collections", "duplicates", "twice", "--threshold", 2, "--data-dir", here.data_dir).code == 2
    assert "2 deleted" in run("collections", "duplicates", "twice", "--drop", "--data-dir", here.data_dir).out
    assert [document.uri for document in collection.store().documents()] == ["t:a", "t:b"]


def test_a_snapshot_keeps_its_text_through_compaction_and_compact_says_so(indexed: Settings) -> None:
    collection = made(indexed)
    was = contents(collection.store())
    snapshot(collection, "before")
    with collection.writer() as writer:
        writer.replace([], ["d3", "d53", "d103", "d153"])
    assert compact(collection, grace=0).snapshots == ("before",)
    assert holding(indexed.data_dir / "c", SECRET.encode())
    assert not len(collection.store().lexical(SECRET, 5)[0])
    restore(collection, label="before")
    assert contents(collection.store()) == was
    with collection.writer() as writer:
        writer.replace([], ["d3", "d53", "d103", "d153"])
    collection.store().delete_snapshot("before")
    compact(collection, grace=0)
    assert holding(indexed.data_dir / "c", SECRET.encode()) == []


# -- snapshots -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [10_000, 3])
def test_a_restored_version_is_equal_and_the_index_follows(
    indexed: Settings, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedsvc.storage.store._MANY_DOCUMENTS", many)
    collection = made(indexed)
    reader = Collection.open("c", indexed)
    reader.snapshot()
    kept = snapshot(collection, "monday")
    was = contents(collection.store())
    with collection.writer() as writer:
        writer.replace(some(0, 30, "second"), [f"d{at}" for at in range(30, 60)])
        writer.replace(some(500, 10))
    changed, between = contents(collection.store()), collection.store().version
    done = restore(collection, label="monday")
    assert done.changed
    assert contents(collection.store()) == was
    assert done.version > between, "a new version"
    for each in (collection, reader, Collection.open("c", indexed)):  # each in its own way to the new version
        now = each.snapshot()
        rows, vectors = now.store.vectors()
        assert len(now.index) == len(rows) == 200
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            assert now.index.scores(vector, np.array([row]))[0] == pytest.approx(1, abs=1e-3)
        assert now.index.search(vectors[7], 1)[0][0] == rows[7]
    assert not restore(collection, version=collection.store().version).changed
    assert kept.version == done.restored
    restore(collection, version=done.before)  # and back again
    assert contents(collection.store()) == changed
    assert wrong(indexed) == []


@pytest.mark.parametrize("fate", ["torn", "gone", "without its data"])
def test_a_snapshot_that_cannot_be_opened_is_named_with_what_to_do(here: Settings, fate: str) -> None:
    collection = made(here, count=3)
    snapshot(collection, "monday")
    with collection.writer() as writer:
        writer.replace(some(0, 3, "second"))
    snapshot(collection, "tuesday")
    with collection.writer() as writer:
        writer.replace(some(0, 3, "third"))
    compact(collection, grace=0)
    store = collection.store()
    assert not wrong(here)
    version = store.snapshots()["monday"]
    [data] = store.at(version).dataset.get_fragments()[0].data_files()
    table = here.data_dir / "c" / "passages.lance"
    if fate == "without its data":
        (table / "data" / data.path).unlink()
    else:
        [manifest] = table.glob(f"_versions/{2**64 - 1 - version}.manifest")
        manifest.unlink() if fate == "gone" else os.truncate(manifest, 50)
    assert wrong(here) == ["older versions"]
    told = results(here)["older versions"].detail
    assert told.startswith(f"the snapshot monday (version {version}) cannot be opened: ")
    assert "tuesday" not in told
    assert "snapshot c --delete --label monday, then embedsvc collections repair c" in told
    Collection.open("c", here).store().delete_snapshot("monday")
    repair("c", here)
    assert not wrong(here)
    assert restore(Collection.open("c", here), label="tuesday").changed


def test_labels_and_versions_that_are_not_there(here: Settings) -> None:
    collection = made(here, count=5)
    assert snapshot(collection).labels == (f"v{collection.store().version}",)
    snapshot(collection, "a")
    with pytest.raises(Conflict, match="already"):
        snapshot(collection, "a")
    for label in ("", "a b", "-a", "x" * 65, "../a", "a."):
        with pytest.raises(UsageError, match="cannot be a label"):
            snapshot(collection, label)
    with pytest.raises(NotFound, match="There are: a, v"):
        restore(collection, label="b")
    with pytest.raises(NotFound, match="Version 99 is not there"):
        restore(collection, version=99)
    with pytest.raises(UsageError, match="Name one version"):
        restore(collection, version=2, label="a")
    with pytest.raises(UsageError):
        restore(collection)
    with pytest.raises(NotFound):
        collection.store().delete_snapshot("b")
    collection.store().delete_snapshot("a")
    assert [label for each in collection.store().versions() for label in each.labels] == [
        f"v{collection.store().version}"
    ]


# -- repair ----------------------------------------------------------------------------------------------------------


def newest_manifest(settings: Settings) -> Path:
    return min((settings.data_dir / "c" / "passages.lance" / "_versions").glob("*.manifest"))


def test_a_torn_newest_version_is_gone_back_from(indexed: Settings) -> None:
    collection = made(indexed)
    was, version = contents(collection.store()), collection.store().version
    snapshot(collection, "good")
    store = collection.store()
    store = store.replace(store.dataset.schema.empty_table(), ["d7"])
    assert newest_manifest(indexed).name == f"{2**64 - 1 - store.version}.manifest"
    newest_manifest(indexed).write_bytes(newest_manifest(indexed).read_bytes()[:50])
    with pytest.raises(DamagedCollection, match=rf"200 documents, 200 passages.*--to-version {version}$"):
        repair("c", indexed)
    with pytest.raises(DamagedCollection, match="cannot be read either"):
        repair("c", indexed, to_version=store.version)
    with pytest.raises(NotFound, match="Version 99"):
        repair("c", indexed, to_version=99)
    collections = served(indexed)
    collections._opened["c"] = Opened(collection, cast("Encoder", None), Hold(str(store.path)))
    done = repair("c", indexed, to_version=version)
    assert collections.call("c", lambda opened: opened.collection.store().count()) == 200, "a server opens it anew"
    assert any("everything that was committed after" in line for line in done.lost)
    assert wrong(indexed) == []
    opened = Collection.open("c", indexed)
    assert contents(opened.store()) == was
    assert [label for each in opened.store().versions() for label in each.labels] == ["good"]
    [kept] = indexed.data_dir.glob(".c.*.damaged")
    assert (kept / "passages.lance" / "_versions" / newest_name(store)).exists()
    with pytest.raises(Conflict, match="made anew"):
        collection.store()  # whoever had it open is told
    with pytest.raises(UsageError, match="nothing to mend"):
        repair("c", indexed, to_version=2)


def test_an_empty_version_is_not_offered(here: Settings) -> None:
    made(here, count=5)
    for manifest in sorted((here.data_dir / "c" / "passages.lance" / "_versions").glob("*.manifest")):
        version = 2**64 - 1 - int(manifest.name.partition(".")[0])
        if Store.open(here.data_dir / "c", version=version).count():
            manifest.write_bytes(b"torn")
    with pytest.raises(DamagedCollection, match="No earlier version with a passage in it can be read"):
        repair("c", here)


def newest_name(store: Store) -> str:
    return f"{2**64 - 1 - store.version}.manifest"


def test_a_lost_data_file_is_gone_back_from_and_says_which_documents_are_lost(here: Settings) -> None:
    collection = made(here, count=20)
    version = collection.store().version
    before = set((here.data_dir / "c/passages.lance/data").iterdir())
    with collection.writer() as writer:
        writer.replace(some(50, 2), ["d1"])
    [file] = set((here.data_dir / "c/passages.lance/data").iterdir()) - before
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedCollection, match=f"--to-version {version}"):
        repair("c", here)
    assert any("--exact" in line for line in repair("c", here, to_version=version).lost)
    assert wrong(here) == []
    assert Collection.open("c", here).store().count() == 20


def test_a_data_file_that_is_gone_is_named_with_the_commands_that_help(here: Settings) -> None:
    collection = made(here, count=20)
    [*files] = (here.data_dir / "c/passages.lance/data").iterdir()
    for file in files:
        file.unlink()
    with pytest.raises(DamagedCollection, match=r"collections verify c .*collections repair c ") as raised:
        list(collection.store().documents())
    assert any(f" {file.absolute()}" in str(raised.value) for file in files), "from the root"


def test_a_broken_text_index_is_built_anew(here: Settings) -> None:
    made(here)
    for file in (here.data_dir / "c/passages.lance/_indices").rglob("*.lance"):
        file.write_bytes(b"junk")
    assert wrong(here) == ["text index"]
    assert any("text index anew" in line for line in repair("c", here).done)
    assert wrong(here) == []
    assert len(Collection.open("c", here).store().lexical(SECRET, 10)[0]) == 4


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Съешь же ещё этих мягких французских булок", True),
        ("他们说：昨天晚上下雨了，今天天气很好。", True),
        ("「東京都庁舎前」，図書館利用者数調査結果報告書概要版第一章。", False),  # beside another bracket; too long
        ("हिन्दी भाषा की पाठ्यपुस्तकें", False),  # vowel signs: Python splits words at them, the index does not
        ("de\u0301sagre\u0301able 1234567890 of it", False),
        ("and into throughout_ 12abcdefg", False),  # stop words; beside what is no letter
    ],
)
def test_the_text_index_is_asked_for_words_of_any_script(here: Settings, text: str, asked: bool) -> None:
    collection = Collection.create("c", FAKE, Chunking(64, 8), here)
    with collection.writer() as writer:
        writer.replace([(*simple("d", text)[:2], unit_vectors(1, 7))])
    check = results(here)["text index"]
    assert check.ok
    assert check.detail.startswith("finds 1 " if asked else "not checked: ")
    for file in (here.data_dir / "c/passages.lance/_indices").rglob("*.lance"):
        file.write_bytes(b"junk")
    assert wrong(here) == (["text index"] if asked else [])


def test_texts_are_sampled_from_all_over_the_table(here: Settings) -> None:
    store = made(here, count=95).store()
    found = store.spread_texts(10)
    assert [int(text.split()[2].rstrip(",")) for _, text in found] == list(range(0, 95, 10))
    assert [passage.text for passage in store.take([id for id, _ in found])] == [text for _, text in found]
    assert len(store.spread_texts(1000)) == 95
    assert Collection.create("empty", FAKE, Chunking(64, 8), here).store().spread_texts(10) == []


def test_nothing_is_done_to_what_is_well(indexed: Settings) -> None:
    made(indexed)
    assert repair("c", indexed).done == ()


# -- killed, and beside a server -------------------------------------------------------------------------------------


def _dying(data_dir: Path, what: str, step: int, version: int) -> None:
    """Does one thing to the collection ``c``, and dies when ``step`` of its commits and renames are done."""
    kill_at(
        step,
        (durability.DurableCommits, "sync"),
        (Path, "rename"),
        (Store, "clean_up"),
        (Store, "keep_only"),
        (files.shutil, "rmtree"),
        (maintenance, "exchange"),
    )
    settings = Settings(data_dir=data_dir, exact_passages=50)
    if what == "repair":
        repair("c", settings, to_version=version)
    elif what == "compact":
        compact(Collection.open("c", settings), grace=0)
    else:
        restore(Collection.open("c", settings), label="monday")


def killed(settings: Settings, what: str, step: int, version: int = 0) -> bool:
    """Whether it was; else it came to its end."""
    return was_killed(_dying, settings.data_dir, what, step, version, log=settings.data_dir.with_name("log"))


@pytest.mark.parametrize("what", ["compact", "restore"])
def test_a_kill_at_any_step_leaves_a_whole_collection(indexed: Settings, what: str) -> None:
    collection = made(indexed)
    snapshot(collection, "monday")
    monday = contents(collection.store())
    with collection.writer() as writer:
        writer.replace(some(4, 20, "second"), ["d3", "d53", "d103", "d153"])
    changed = contents(collection.store())
    step, died = 0, True
    while died:
        died = killed(indexed, what, step)
        store = Collection.open("c", indexed).store()
        assert contents(store) in ([changed] if what == "compact" else [changed, monday])
        assert wrong(indexed) == [], f"step {step}"
        step += 3
    assert step > 6
    if what == "restore":
        assert contents(store) == monday
    else:
        store.delete_snapshot("monday")
        compact(Collection.open("c", indexed), grace=0)
        assert holding(indexed.data_dir / "c", SECRET.encode()) == []


def test_a_kill_while_going_back_leaves_the_one_or_the_other(indexed: Settings) -> None:
    collection = made(indexed)
    was, version = contents(collection.store()), collection.store().version
    store = collection.store()
    store.replace(store.dataset.schema.empty_table(), ["d7"])
    newest_manifest(indexed).write_bytes(b"torn")
    step, died = 0, True
    while died and step < 30:
        try:
            Store.open(indexed.data_dir / "c")
        except DamagedCollection:
            died = killed(indexed, "repair", step, version)
        else:
            died = False
        step += 1
    repair("c", indexed, safe_age=-1)
    assert wrong(indexed) == []
    assert contents(Collection.open("c", indexed).store()) == was


def test_a_server_goes_on_while_the_command_line_compacts_and_restores(library: Path) -> None:
    with server(library, dtype="int8") as running:
        asked = {"query": "restart after a power failure", "k": 1}
        stop = threading.Event()
        answers: list[tuple[int, str]] = []

        def ask() -> None:
            while not stop.is_set():
                got = running.http.post("/v1/collections/library/search", json=asked)
                answers.append((got.status_code, got.text))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for command in ("snapshot library --label a", "compact library", "restore library --label a",
                            "verify library", "repair library"):  # fmt: skip
                done = subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "embedsvc",
                        "collections",
                        *command.split(),
                        "--data-dir",
                        str(library),
                        "--json",
                    ],
                    capture_output=True,
                    text=True,
                    check=False,
                    env={**os.environ, "EMBEDSVC_RUNTIME": "onnx", "EMBEDSVC_DTYPE": "int8"},
                )
                assert done.returncode == 0, done.stderr + done.stdout
                json.loads(done.stdout)
            time.sleep(0.2)
        finally:
            stop.set()
            asking.join()
        assert len(answers) > 20
        assert [answer for answer in answers if answer[0] != 200 or "power.md" not in answer[1]] == []


def test_the_commands(library: Path, run: Run) -> None:  # noqa: F811
    def do(*arguments: object) -> object:
        done = run("collections", *arguments, "--data-dir", library, "--json")
        assert done.code == 0, done.err
        return done.json

    kept = do("snapshot", "library", "--label", "first")
    assert isinstance(kept, dict)
    assert kept["labels"] == ["first"]
    assert do("snapshots", "library") == {
        "name": "library",
        "snapshots": [{k: v for k, v in kept.items() if k != "name"}],
    }
    found = do("compact", "library")
    assert isinstance(found, dict)
    assert found["snapshots"] == ["first"]
    assert do("repair", "library")["done"] == []
    assert do("restore", "library", "--label", "first")["restored"] == kept["version"]
    told = run("collections", "restore", "library", "--label", "first", "--data-dir", library)
    assert told.out.startswith(f"Version {kept['version']} is what the collection is already")
    unnamed = run("collections", "restore", "library", "--data-dir", library)
    assert (unnamed.code, "by its number or by its label" in unnamed.err) == (2, True)
    verified = do("verify", "library")
    assert verified["ok"]
    assert "are of unit length" in str(verified)
    assert "not of unit length" not in str(verified)
    assert do("snapshot", "library", "--label", "first", "--delete") == {"name": "library", "deleted": "first"}
    assert run("collections", "verify", "libary", "--data-dir", library).code == 2
    for file in (library / "library/passages.lance/data").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert run("collections", "verify", "library", "--data-dir", library).code == 3
    done = run("collections", "repair", "library", "--data-dir", library)
    assert done.code == 3
    assert "No earlier version with a passage in it can be read either" in done.err


def test_documents_are_deleted_by_id_by_uri_or_with_their_file(library: Path, run: Run) -> None:  # noqa: F811
    store = Collection.open("library", Settings(data_dir=library)).store()
    by_name = {each.uri.rpartition("/")[2]: each for each in store.documents()}
    garden, power = by_name["garden.txt"], by_name["power.md"]
    records = [each.uri for name, each in by_name.items() if name.startswith("papers.jsonl#")]
    file = records[0].partition("#")[0]
    command, common = ("documents", "delete", "library"), ("--data-dir", library, "--json")
    refused = run(*command, garden.id, "none", "nor this", "none", *common)
    assert refused.code == 2
    assert "'none', 'nor this', so none was deleted" in refused.err
    assert "Did you mean" not in refused.err
    refused = run(*command, garden.id, "./power.md", *common)
    assert refused.err.rstrip().endswith(f"Did you mean {output.shown_uri(power.uri)}?")
    refused = run(*command, *(f"no-{number}" for number in range(30)), *common)
    assert "'no-19' (and 10 more), so none" in refused.err
    assert run(*command, garden.id, power.uri, file, *common).json == {
        "name": "library",
        "deleted": sorted([garden.uri, power.uri, *records]),
    }
    left = Collection.open("library", Settings(data_dir=library)).store().documents()
    assert [each.uri.rpartition("/")[2] for each in left] == ["astronomy.txt"]


def test_documents_are_deleted_as_their_place_is_printed(
    library: Path,
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uris = [each.uri for each in Collection.open("library", Settings(data_dir=library)).store().documents()]
    garden = next(uri for uri in uris if uri.endswith("garden.txt"))
    record = next(uri for uri in uris if "papers.jsonl#" in uri)
    folder = Path(garden.removeprefix("file://")).parent
    command, common = ("documents", "delete", "library"), ("--data-dir", library, "--json")
    assert run(*command, output.shown_uri(record), *common).json["deleted"] == [record]
    monkeypatch.chdir(folder)
    shown = output.shown_uri(garden)
    assert shown == "garden.txt"
    refused = run(*command, f"{shown}x", *common)
    assert refused.code == 2
    assert "garden.txtx" in refused.err
    assert run(*command, f"../{folder.name}/{shown}", *common).json["deleted"] == [garden]


def test_a_search_of_a_version_that_is_removed_is_made_again(indexed: Settings) -> None:
    made(indexed)
    collections = served(indexed)
    seen: list[int] = []

    def work(opened: Opened) -> list[str]:
        now = opened.collection.snapshot()
        seen.append(now.version)
        rows, _ = now.store.lexical("passage", 3)
        if len(seen) == 1:
            other = Collection.open("c", indexed)
            with other.writer() as writer:
                writer.replace([], ["d0"])
            compact(other, grace=0)
        return [passage.id for passage in now.store.take(rows.tolist())]

    assert len(collections.call("c", work)) == 3
    assert seen[1] > seen[0]
    for file in (indexed.data_dir / "c/passages.lance/data").iterdir():
        file.unlink()
    with pytest.raises(DamagedCollection):
        collections.call("c", work)


def test_over_rest(library: Path) -> None:
    with server(library, dtype="int8") as running:
        http, path = running.http, "/v1/collections/library"

        def job(route: str, body: object = None) -> dict[str, Any]:
            taken = http.post(f"{path}/{route}", json=body) if body is not None else http.post(f"{path}/{route}")
            assert taken.status_code == 202, taken.text
            assert set(taken.json()) == set(schemas.JobOut.model_fields)
            assert taken.headers["location"] == f"/v1/jobs/{taken.json()['job']}"
            done = finished(http, taken.json())
            assert done["status"] == "done", done
            assert done["kind"] == route
            schemas.JobOut.model_validate(done)
            result: dict[str, Any] = done["result"]
            return result

        def count() -> int:
            passages: int = http.get(path).json()["passages"]
            return passages

        kept = http.post(f"{path}/snapshots", json={"label": "monday"})
        assert (kept.status_code, kept.json()["labels"]) == (201, ["monday"])
        assert http.post(f"{path}/snapshots", json={"label": "monday"}).status_code == 409
        assert http.get(f"{path}/snapshots").json() == {"snapshots": [kept.json()]}
        before = count()
        [doomed] = [each for each in http.get(f"{path}/documents").json()["documents"] if "garden" in each["uri"]]
        assert http.delete(f"{path}/documents/{doomed['id']}").status_code == 204
        assert job("compact")["snapshots"] == ["monday"]
        assert count() < before
        asked = {"query": "prune apple trees", "mode": "lexical"}
        assert http.post(f"{path}/search", json=asked).json()["hits"] == []
        assert job("restore", {"label": "monday"})["changed"]
        assert count() == before
        assert http.post(f"{path}/search", json=asked).json()["hits"][0]["document_id"] == doomed["id"]
        assert http.delete(f"{path}/documents/{doomed['id']}").status_code == 204
        assert http.delete(f"{path}/snapshots/monday").status_code == 204
        assert http.delete(f"{path}/snapshots/monday").status_code == 404
        assert holding(library / "library", b"apple trees")
        assert job("compact")["snapshots"] == []
        assert holding(library / "library", b"apple trees") == []
        assert job("verify")["ok"]
        assert job("repair") == {"version": http.get(path).json()["version"], "done": [], "lost": []}
        assert "asked for" in job("repair", {"index": True})["done"][0]
        assert job("duplicates") == {"groups": [], "dropped": 0}
        twins = [{"id": id, "text": "The same is said by two of them, to the letter."} for id in ("one", "two")]
        finished(http, http.post(f"{path}/documents", json={"documents": twins}).json())
        assert job("duplicates", {"threshold": 1.0, "drop": True}) == {"groups": [["one", "two"]], "dropped": 1}
        assert http.get(f"{path}/documents/two").status_code == 404
        exported = http.get(f"{path}/export")
        assert exported.headers["content-disposition"] == 'attachment; filename="library.parquet"'
        assert len(pq.read_table(io.BytesIO(exported.content))) == http.get(path).json()["passages"]
        assert not [*library.glob(".library.*.tmp")]
        for route, body, status in (
            ("restore", {}, 400),
            ("repair", {"version": 1}, 422),
            ("repair", {"to_version": 0}, 422),
            ("duplicates", {"threshold": 0}, 422),
            ("restore", {"version": 1, "label": "a"}, 400),
            ("restore", {"version": "x"}, 422),
            ("migrate", {}, 400),
            ("migrate", {"action": "finish", "dtype": "fp32"}, 400),
            ("migrate", {"action": "rollback", "switch": False}, 400),
            ("migrate", {"action": "go"}, 422),
        ):
            assert http.post(f"{path}/{route}", json=body).status_code == status, (route, body)
        assert http.post("/v1/collections/none/compact").status_code == 404
        refused = http.post(f"{path}/restore", json={"label": "none"})
        assert (refused.status_code, "There is no snapshot 'none'" in refused.json()["detail"]) == (404, True)
        assert http.post(f"{path}/restore", json={"version": 10_000}).status_code == 404
        failed = finished(http, http.post(f"{path}/repair", json={"to_version": 1}).json())
        assert "nothing to mend by going back" in failed["error"]
        assert job("migrate", {"dtype": "fp32"})["new_dtype"] == "fp32"
        assert http.get(path).json()["contract"]["dtype"] == "fp32"
        assert http.post(f"{path}/search", json={"query": "restart after power failure"}).json()["hits"]
        failed = finished(http, http.post(f"{path}/migrate", json={"dtype": "int8"}).json())
        assert "--finish" in failed["error"]
        assert job("migrate", {"action": "rollback"})["differing"] == []
        assert http.get(path).json()["contract"]["dtype"] == "int8"
        assert job("migrate", {"action": "finish"}) == {"removed": True}


def test_an_older_version_that_is_torn_stops_no_write_and_is_repaired(
    here: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    collection = made(here, count=3)
    versions = sorted((here.data_dir / "c" / "passages.lance" / "_versions").glob("*.manifest"))
    assert len(versions) > 2
    torn = versions[1]  # their names count down
    os.truncate(torn, 50)
    with collection.writer() as writer:
        writer.replace(some(10, 2))
    assert "cannot be read, so that no older versions are removed" in caplog.text
    assert Collection.open("c", here).store().count_documents() == 5
    assert not wrong(here)
    assert "cannot be opened; embedsvc collections repair c removes it" in results(here)["older versions"].detail
    repair("c", here)
    assert not torn.exists()
    assert results(here)["older versions"].detail.startswith("all ")
    caplog.clear()
    with Collection.open("c", here).writer() as writer:
        writer.replace(some(20, 2))
    assert len(Collection.open("c", here).store().versions()) > 1
    assert "cannot be read" not in caplog.text
