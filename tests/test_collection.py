from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedsvc.checks import check_collection
from embedsvc.collection import (
    Collection,
    Snapshot,
    Writer,
    collection_directory,
    collection_names,
    delete_collection,
    import_collection,
)
from embedsvc.config import Settings
from embedsvc.describe import describe
from embedsvc.encoding import check_contract, encoder_for, load_encoder
from embedsvc.errors import (
    Conflict,
    ContractMismatch,
    DamagedCollection,
    DamagedFile,
    NotFound,
    StorageFailure,
    UsageError,
)
from embedsvc.maintenance import repair
from embedsvc.names import check_name
from embedsvc.records import Calibration, Chunking, Fusion, Tuned, make_document
from embedsvc.storage import Store, told_of_waiting, write_lock
from embedsvc.upkeep import Upkeep
from tests.fakes import FakeEncoder
from tests.test_storage import contents, cut, simple, unit_vectors, with_finer
from tests.tiny_models import make_bert

FAKE = replace(FakeEncoder().contract, dimension=3)


def collection_of(settings: Settings, name: str = "c", *texts: str) -> Collection:
    collection = Collection.create(name, FAKE, Chunking(64, 8), settings)
    if texts:
        with collection.writer() as writer:
            writer.replace([simple(f"d{at}", text, metadata={"at": at}) for at, text in enumerate(texts)])
    return collection


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "A-b_c.d", "0", "x" * 64])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "a/b", "../a", "a b", "ü", "x" * 65, "a\n", "a\0", "a\\b"])
def test_bad_names_are_refused_everywhere(here: Settings, name: str) -> None:
    for use in (
        lambda: Collection.create(name, FAKE, Chunking(), here),
        lambda: Collection.open(name, here),
        lambda: delete_collection(name, here),
    ):
        with pytest.raises(UsageError, match="cannot name a collection"):
            use()
    assert not here.data_dir.exists()


def test_a_name_that_is_not_there_brings_the_nearest(here: Settings) -> None:
    with pytest.raises(NotFound, match="none yet"):
        Collection.open("docs", here)
    collection_of(here, "documents")
    collection_of(here, "zebra")
    with pytest.raises(NotFound, match="Did you mean 'documents'"):
        Collection.open("docments", here)
    with pytest.raises(NotFound, match="There are: documents, zebra"):
        Collection.open("qqqqqq", here)


def test_only_collections_are_listed(here: Settings) -> None:
    assert collection_names(here.data_dir) == []
    collection_of(here, "b")
    collection_of(here, "a")
    (here.data_dir / "stray").mkdir()
    (here.data_dir / "README.md").write_text("hello")
    (here.data_dir / ".hidden").mkdir()
    assert collection_names(here.data_dir) == ["a", "b"]


def test_a_second_collection_of_one_name_is_a_conflict(here: Settings) -> None:
    collection_of(here, "c", "text")
    with pytest.raises(Conflict, match="exists already"):
        collection_of(here, "c")
    assert Collection.open("c", here).snapshot().store.count() == 1


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageFailure):
        collection_of(Settings(data_dir=tmp_path / "file" / "data"))


# -- one writer, many readers -------------------------------------------------------------------------------------


def test_a_second_writer_is_told_which_collection_is_busy(here: Settings) -> None:
    collection = collection_of(here, "busy")
    with (
        collection.writer(),
        pytest.raises(Conflict, match="Another process is writing to the collection 'busy'"),
        Collection.open("busy", here).writer(),
    ):
        pytest.fail("two writers")
    with Collection.open("busy", here).writer():
        pass


def test_a_writer_that_has_to_wait_says_so(here: Settings, caplog: pytest.LogCaptureFixture) -> None:
    collection = collection_of(replace(here, lock_timeout=60.0), "busy")
    told: list[str | None] = []
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with collection.writer():
            held.set()
            release.wait(60)

    def note(message: str | None) -> None:
        told.append(message)
        release.set()

    for heeded in (True, False):
        held.clear()
        release.clear()
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(60)
        if heeded:
            with told_of_waiting(note), collection.writer():
                pass
        else:  # the log is told
            threading.Timer(0.1, release.set).start()
            with collection.writer():
                pass
        holder.join()
    assert told == ["Another process is writing to the collection 'busy': waiting for it, 60 s at most.", None]
    assert [record.message for record in caplog.records] == told[:1]


def test_another_collection_may_be_written_meanwhile(here: Settings) -> None:
    with collection_of(here, "one").writer(), collection_of(here, "two").writer() as writer:
        writer.replace([simple("a", "text")])
    assert Collection.open("two", here).snapshot().store.count() == 1


def test_the_lock_of_a_process_that_died_is_free(here: Settings) -> None:
    collection_of(here)
    code = (
        "import os, sys, pathlib\n"
        "from embedsvc.collection import Collection\n"
        "from embedsvc.config import Settings\n"
        "with Collection.open('c', Settings(data_dir=pathlib.Path(sys.argv[1]))).writer():\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, here.data_dir], check=False).returncode == -9
    with Collection.open("c", here).writer() as writer:
        writer.replace([simple("a", "text")])


def test_what_another_process_commits_is_seen_without_reopening(here: Settings) -> None:
    collection = collection_of(here, "c", "zero")
    before = collection.snapshot()
    code = (
        "import sys, pathlib\n"
        "from embedsvc.collection import Collection\n"
        "from embedsvc.config import Settings\n"
        "from tests.test_storage import simple\n"
        "with Collection.open('c', Settings(data_dir=pathlib.Path(sys.argv[1]))).writer() as writer:\n"
        "    writer.replace([simple('new', 'written elsewhere')], gone=['d0'])\n"
    )
    subprocess.run([sys.executable, "-c", code, here.data_dir], check=True, cwd=Path(__file__).parent.parent)
    after = collection.snapshot()
    assert after.version > before.version
    assert contents(after.store).keys() == {"new"}
    assert len(after.index) == 1
    assert contents(before.store).keys() == {"d0"}
    assert len(before.index) == 1
    assert collection.snapshot() is after


def test_a_reader_beside_a_writer_sees_whole_commits_only(here: Settings) -> None:
    collection = collection_of(here, "c", "edition 0 a", "edition 0 b")
    reader = Collection.open("c", here)
    faults: list[Any] = []
    seen: set[str] = set()
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                snapshot = reader.snapshot()
                editions = {text.split()[1] for _, text, _ in contents(snapshot.store).values()}
                if len(editions) != 1 or len(snapshot.index) != 2:
                    faults.append((snapshot.version, editions, len(snapshot.index)))
                seen.update(editions)
        except Exception as error:
            faults.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        with collection.writer() as writer:
            for edition in range(1, 15):
                writer.replace([simple("d0", f"edition {edition} a"), simple("d1", f"edition {edition} b")])
    finally:
        stop.set()
        thread.join()
    assert faults == []
    assert seen


def test_the_index_follows_commits_and_is_saved_at_the_end(here: Settings) -> None:
    here = replace(here, exact_passages=2)
    collection = collection_of(here, "c", "zero", "one", "two")
    with collection.writer() as writer:
        writer.replace([simple("d1", "changed"), simple("d3", "three")], gone=["d0"])
        middle = collection.snapshot()
        assert len(middle.index) == middle.store.count() == 3
    end = collection.snapshot()
    assert not len(end.index.fresh)
    assert (here.data_dir / "c" / "faiss" / str(end.version)).is_dir()
    rows, vectors = end.store.vectors()
    assert end.index.scores(vectors[0], rows).tolist() == pytest.approx((vectors @ vectors[0]).tolist())


def test_a_writer_that_fails_keeps_its_commits_and_frees_the_lock(here: Settings) -> None:
    collection = collection_of(here, "c", "zero")

    def write_half() -> None:
        with collection.writer() as writer:
            writer.replace([simple("a", "text")])
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_half()
    with Collection.open("c", here).writer() as writer:
        assert writer.store.count() == 2


# -- delete -------------------------------------------------------------------------------------------------------


def test_delete_leaves_nothing(here: Settings) -> None:
    collection_of(here, "c", "text")
    collection_of(here, "other", "text")
    delete_collection("c", here)
    assert [path.name for path in here.data_dir.iterdir() if path.is_dir()] == ["other"]
    with pytest.raises(NotFound):
        delete_collection("c", here)
    collection_of(here, "c", "again")


def test_a_damaged_collection_can_be_deleted_but_not_opened(here: Settings) -> None:
    collection_of(here, "c", "text")
    for manifest in collection_directory("c", here).rglob("*.manifest"):
        manifest.write_bytes(b"junk")
    with pytest.raises(DamagedCollection):
        Collection.open("c", here)
    delete_collection("c", here)
    assert collection_names(here.data_dir) == []


def test_a_collection_that_is_written_to_is_not_deleted(here: Settings) -> None:
    collection = collection_of(here, "c", "text")
    with collection.writer(), pytest.raises(Conflict):
        delete_collection("c", here)
    assert Collection.open("c", here).snapshot().store.count() == 1


def is_free(directory: Path) -> bool:
    """Whether the collection there may be written to now."""
    try:
        with write_lock(directory, 0):
            return True
    except Conflict:
        return False


def test_nobody_waits_while_files_are_removed(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    collection_of(here, "c", "text")
    (here.data_dir / ".c.before").mkdir()
    free: list[bool] = []

    def removed(path: Path, *, rmtree: Any = shutil.rmtree) -> None:
        free.append(is_free(here.data_dir / "c"))
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", removed)
    delete_collection("c", here)
    assert free == [True, True]


def test_a_deletion_that_was_killed_is_ended_by_the_next_or_by_repair(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def die(path: Path) -> None:
        raise KilledError

    def names() -> list[str]:
        return sorted(path.name for path in here.data_dir.iterdir() if path.is_dir())

    for again in (lambda: delete_collection("c", here), lambda: repair("c", here)):
        collection_of(here, "c", "text")
        (here.data_dir / ".c.before").mkdir(exist_ok=True)
        with monkeypatch.context() as killed:
            killed.setattr(shutil, "rmtree", die)
            with pytest.raises(KilledError):
                delete_collection("c", here)
        assert collection_names(here.data_dir) == []
        assert [Path(name).suffix for name in names()] == [".deleted", ".deleted"]
        with pytest.raises(NotFound):
            again()
        if names():
            collection_of(here, "c", "anew")
            assert len(again().done) == 2
    assert names() == ["c"]


# -- export and import --------------------------------------------------------------------------------------------


def exported(here: Settings, tmp_path: Path, count: int = 3) -> Path:
    collection = collection_of(here, "c", *(f"text number {at} ü 🙂" for at in range(count)))
    assert collection.export(tmp_path / "c.parquet") == count
    return tmp_path / "c.parquet"


def test_export_and_import_bring_everything_back(here: Settings, tmp_path: Path) -> None:
    file = exported(here, tmp_path)
    original = Collection.open("c", here).snapshot().store
    copy = import_collection("copy", file, here)
    assert contents(copy.snapshot().store) == contents(original)
    assert (copy.contract, copy.chunking) == (FAKE, Chunking(64, 8))
    assert copy.snapshot().store.known_documents() == original.known_documents()
    assert copy.snapshot().store.lexical("number", 9)[0].tolist()
    assert len(copy.snapshot().index) == 3


def test_an_import_appears_whole_or_not_at_all(here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = exported(here, tmp_path)
    replace_rows, seen = Writer.replace_rows, []

    def looking(self: Writer, rows: pa.Table, ids: Any) -> None:
        replace_rows(self, rows, ids)
        seen.append(collection_names(here.data_dir))

    monkeypatch.setattr(Writer, "replace_rows", looking)
    import_collection("copy", file, here)
    assert seen
    assert all(names == ["c"] for names in seen)
    commits = len(seen)
    assert collection_names(here.data_dir) == ["c", "copy"]
    with pytest.raises(Conflict, match="exists already"):
        import_collection("copy", file, here)
    assert len(seen) == commits, "told before the work, not after"
    assert [path.name for path in here.data_dir.iterdir() if path.is_dir() and path.name.startswith(".")] == []


def test_a_small_change_does_not_write_the_saved_index_anew(here: Settings) -> None:
    here = replace(here, exact_passages=20)
    collection = collection_of(here, "c", *map(str, range(40)))
    saved = [(file.name, file.stat().st_ino) for file in (collection_directory("c", here) / "faiss").iterdir()]
    with collection.writer() as writer:
        writer.replace([simple("more", "text")], ["d7"])
    assert saved == [(file.name, file.stat().st_ino) for file in (collection_directory("c", here) / "faiss").iterdir()]
    for opened in (collection, Collection.open("c", here)):
        row_ids, vectors = opened.store().vectors()
        index = opened.snapshot().index
        assert len(index) == len(row_ids) == 40
        assert np.array_equal(index.scores(vectors[0], row_ids), vectors @ vectors[0])


def test_the_versions_that_saved_indexes_stand_at_are_kept(here: Settings) -> None:
    collection = collection_of(replace(here, exact_passages=0), "c", "text")
    tags = collection.store().dataset.tags.list()
    saved = {int(file.name) for file in (collection_directory("c", here) / "faiss").glob("[0-9]*")}
    assert saved
    assert {tag["version"] for tag in tags.values()} == saved


def test_a_document_larger_than_a_batch_of_rows_stays_whole(
    here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedsvc.storage import portable

    monkeypatch.setattr(portable, "_ROWS_PER_GROUP", 4)
    collection = collection_of(here, "c")
    documents = [cut(make_document(f"t:{at}", "word and word " * (9 if at == 1 else 1), id=str(at))) for at in range(4)]
    with collection.writer() as writer:
        writer.replace(documents)
    before = contents(collection.snapshot().store)
    collection.export(tmp_path / "x.parquet")
    assert contents(import_collection("copy", tmp_path / "x.parquet", here).snapshot().store) == before


def test_what_was_tuned_and_told_travels_with_an_export(here: Settings, tmp_path: Path) -> None:
    tuned = Tuned(Fusion("rrf", 0.3), 20, Calibration(6, 4, 0, -5, queries=40, auroc=0.9))
    collection = Collection.create("c", FAKE, Chunking(64, 8), here)
    with collection.writer() as writer:
        writer.tune(tuned)
        writer.tell({"name": "Büro"})
    collection.export(tmp_path / "c.parquet")
    copy = import_collection("d", tmp_path / "c.parquet", here).store()
    assert (copy.tuned, copy.about) == (tuned, {"name": "Büro"})
    assert Collection.open("d", here).store().fusion == Fusion("rrf", 0.3)


def test_an_export_is_a_plain_parquet_file(here: Settings, tmp_path: Path) -> None:
    table = pq.read_table(exported(here, tmp_path))
    assert table.num_rows == 3
    assert {"text", "start", "end", "uri", "metadata", "vector"} <= set(table.column_names)
    assert sorted(table["metadata"].to_pylist()) == ['{"at":0}', '{"at":1}', '{"at":2}']


def test_all_vectors_of_a_passage_are_carried_over(
    here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedsvc.storage import portable

    monkeypatch.setattr(portable, "_ROWS_PER_GROUP", 4)
    collection = with_sub_windows(here, 5)
    assert collection.export(tmp_path / "c.parquet") == collection.store().count()
    copy = import_collection("copy", tmp_path / "c.parquet", here)
    assert copy.chunking == collection.chunking
    assert contents(copy.store()) == contents(collection.store())
    assert len(copy.snapshot().index) == copy.store().count_vectors() > copy.store().count()


def test_an_empty_collection_can_be_carried_over(here: Settings, tmp_path: Path) -> None:
    collection_of(here, "c").export(tmp_path / "c.parquet")
    assert import_collection("copy", tmp_path / "c.parquet", here).snapshot().store.count() == 0


def test_an_interrupted_export_leaves_the_old_file(
    here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = collection_of(here, "c", "text")
    (tmp_path / "c.parquet").write_text("what was there before")

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collection.export(tmp_path / "c.parquet")
    assert (tmp_path / "c.parquet").read_text() == "what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.parquet", "data"]


def test_an_export_to_where_nothing_can_be_written(here: Settings, tmp_path: Path) -> None:
    collection = collection_of(here, "c", "text")
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file" / "c.parquet", tmp_path / "no folder" / "c.parquet"):
        with pytest.raises(NotFound, match="There is no folder"):
            collection.export(place)
    (tmp_path / "taken.parquet").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        collection.export(tmp_path / "taken.parquet")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("how", ["cut short", "altered", "foreign", "not parquet", "empty"])
def test_a_damaged_export_is_refused_and_leaves_no_collection(here: Settings, tmp_path: Path, how: str) -> None:
    file = exported(here, tmp_path, 50)
    data = file.read_bytes()
    if how == "foreign":
        pq.write_table(pa.table({"a": [1]}), file)
    else:
        at = len(data) // 3
        damaged = {"cut short": data[:-20], "not parquet": b"hello " * 100, "empty": b"",
                   "altered": data[:at] + bytes(200) + data[at + 200 :]}  # fmt: skip
        file.write_bytes(damaged[how])
    with pytest.raises(DamagedFile, match=r"Export the collection again|not one that"):
        import_collection("copy", file, here)
    assert collection_names(here.data_dir) == ["c"]
    assert [path.name for path in here.data_dir.iterdir() if path.is_dir()] == ["c"]


def test_an_export_of_another_layout_is_refused(here: Settings, tmp_path: Path) -> None:
    file = exported(here, tmp_path)
    table = pq.read_table(file)
    metadata = {**(table.schema.metadata or {}), b"embedsvc.format": b"999"}
    pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(DamagedFile, match="layout 999"):
        import_collection("copy", file, here)


def test_importing_what_is_not_there_or_over_something(here: Settings, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file"):
        import_collection("copy", tmp_path / "missing.parquet", here)
    file = exported(here, tmp_path)
    with pytest.raises(Conflict, match="exists already"):
        import_collection("c", file, here)
    assert Collection.open("c", here).snapshot().store.count() == 3


# -- the contract -------------------------------------------------------------------------------------------------


def test_a_model_that_changed_in_its_place_is_a_mismatch(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "model", seed=1)
    here = Settings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    settings = replace(here, model=str(folder), runtime="torch", dtype="fp32")
    collection = Collection.create("c", load_encoder(settings).contract, Chunking(30, 4), settings)
    assert encoder_for(collection.contract, settings).dimension == 32
    make_bert(folder, seed=2)
    with pytest.raises(ContractMismatch, match="weights_hash"):
        encoder_for(Collection.open("c", settings).contract, settings)


def test_vectors_that_came_out_different_are_a_mismatch() -> None:
    encoder = FakeEncoder()
    turned = tuple(tuple(row) for row in np.roll(np.array(encoder.contract.canary_vectors), 1, axis=1).tolist())
    check_contract(encoder, encoder.contract)  # type: ignore[arg-type]
    with pytest.raises(ContractMismatch, match="canary_vectors"):
        check_contract(encoder, replace(encoder.contract, canary_vectors=turned))  # type: ignore[arg-type]


def test_a_damaged_saved_index_is_written_anew_by_the_next_writer(
    here: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    here = replace(here, exact_passages=0)
    collection = collection_of(here, "c", "one text")
    for file in (here.data_dir / "c" / "faiss").glob("*/vectors.npy"):
        file.write_bytes(file.read_bytes()[:-7])
    damaged = Collection.open("c", here)
    damaged.snapshot()
    assert "not usable" in caplog.text
    with damaged.writer():
        pass
    caplog.clear()
    assert Collection.open("c", here).snapshot().store.count() == collection.snapshot().store.count() == 1
    assert "not usable" not in caplog.text


def test_a_collection_is_written_to_and_opened_when_older_versions_are_gone(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedsvc.storage.store._KEEP_VERSIONS", timedelta(0))
    collection_of(here, "c", "one text")
    for at in range(2):
        with Collection.open("c", here).writer() as writer:
            writer.replace([simple(f"more{at}", "another text")])
    snapshot = Collection.open("c", here).snapshot()
    assert len(snapshot.index) == snapshot.store.count() == 3


def test_what_needs_no_vector_index_loads_none(here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection_of(here, "c", "one text")
    monkeypatch.setattr("embedsvc.upkeep.load_index", lambda *_: pytest.fail("the index was loaded"))
    collection = Collection.open("c", here)
    assert collection.contract.dimension == collection.store().contract.dimension
    assert collection.export(tmp_path / "c.parquet") == 1


@pytest.mark.parametrize("commits", [0, 1, 5])
def test_a_collection_that_was_made_anew_is_not_written_to(here: Settings, commits: int) -> None:
    stale = collection_of(here, "c", "one text")
    delete_collection("c", here)
    anew = Collection.create("c", stale.contract, stale.chunking, here)
    for at in range(commits):
        with anew.writer() as writer:
            writer.replace([simple(f"new{at}", "another text")])
    with pytest.raises(Conflict, match="made anew"), stale.writer() as writer:
        writer.replace([simple("stale", "what belongs to the old one")])
    assert Collection.open("c", here).store().known_documents().keys() == {f"new{at}" for at in range(commits)}


# -- the vector index in the background ------------------------------------------------------------------------------


def many(start: int, count: int) -> list[Any]:
    return [simple(f"d{at}", f"text {at}") for at in range(start, start + count)]


def with_sub_windows(here: Settings, documents: int) -> Collection:
    """A collection of passages with one, two or three vectors."""
    collection = Collection.create("c", FAKE, Chunking(64, 8, finer=16), here)
    texts = [f"document {at} has a few passages" for at in range(documents)]
    made = [cut(make_document(f"t:d{at}", text, id=f"d{at}"), width=10) for at, text in enumerate(texts)]
    with collection.writer() as writer:
        writer.replace([with_finer(item, seed) for seed, item in enumerate(made)])
    return collection


def best_scores(snapshot: Snapshot, query: Any) -> dict[int, float]:
    """Of each row, what its best vector scores."""
    scores: dict[int, float] = {}
    row_ids, vectors = snapshot.store.vectors()
    for row_id, score in zip(row_ids.tolist(), (vectors @ query).tolist(), strict=True):
        scores[row_id] = max(score, scores.get(row_id, -1.0))
    return scores


@pytest.mark.parametrize("exact_passages", [1000, 20])
def test_a_passage_scores_as_its_best_vector_and_is_found_once(here: Settings, exact_passages: int) -> None:
    here = replace(here, exact_passages=exact_passages)
    collection = with_sub_windows(here, 30)
    with collection.writer() as writer:  # beside a segment, where there is one
        writer.replace([with_finer(cut(make_document("t:d3", "changed, with other passages", id="d3")), 99)], ["d4"])
    for snapshot in (collection.snapshot(), Collection.open("c", here).snapshot()):
        assert bool(snapshot.index.parts) == (exact_passages == 20)
        assert len(snapshot.index) == snapshot.store.count_vectors() > 1.5 * snapshot.store.count()
        for query in unit_vectors(20, 7):
            truth = best_scores(snapshot, query)
            row_ids, scores = snapshot.index.search(query, 10)
            assert len(set(row_ids.tolist())) == len(row_ids) == 10
            assert scores.tolist() == pytest.approx([truth[row_id] for row_id in row_ids.tolist()], abs=1e-5)
            assert scores.tolist() == pytest.approx(sorted(truth.values(), reverse=True)[:10], abs=1e-5)
            every = np.array(list(truth))
            assert snapshot.index.scores(query, every).tolist() == pytest.approx(list(truth.values()), abs=1e-5)


def test_vectors_not_passages_decide_whether_an_index_is_built(here: Settings) -> None:
    collection = with_sub_windows(replace(here, exact_passages=1000), 4)
    passages, vectors = collection.store().count(), collection.store().count_vectors()
    between = replace(here, exact_passages=(passages + vectors) // 2)
    index = Collection.open("c", between).snapshot().index
    assert (len(index.parts), len(index)) == (1, vectors)
    shutil.rmtree(here.data_dir / "c" / "faiss")
    assert not Collection.open("c", replace(here, exact_passages=vectors)).snapshot().index.parts


def test_the_checks_count_vectors_and_passages(here: Settings) -> None:
    collection = with_sub_windows(here, 30)
    passages, vectors = collection.store().count(), collection.store().count_vectors()
    checks = {check.name: check for check in check_collection("c", here)}
    assert not checks.pop("c: contract").ok, "there is no such model"
    assert all(check.ok for check in checks.values()), checks
    assert checks["c: index rows"].detail == f"flat, {vectors} of {vectors} vectors of {passages} passages"
    described = describe(collection)
    assert (described["passages"], described["vectors"]) == (passages, vectors)
    assert "vectors" not in describe(collection_of(here, "plain", "text"))


def test_a_long_writer_folds_while_it_writes(here: Settings) -> None:
    collection = collection_of(replace(here, exact_passages=20), "c")
    folder = here.data_dir / "c" / "faiss"
    with collection.writer() as writer:
        for start in range(0, 200, 10):
            writer.replace(many(start, 10))
            snapshot = collection.snapshot()
            assert len(snapshot.index) == snapshot.store.count() == start + 10
        deadline = time.monotonic() + 60
        while not list(folder.glob("[0-9]*")):  # saved before the writer has ended
            assert time.monotonic() < deadline
            time.sleep(0.05)
        reader = Collection.open("c", replace(here, exact_passages=20)).snapshot()
        assert len(reader.index) == reader.store.count() == 200
        assert reader.index.parts
    end = collection.snapshot()
    rows, vectors = end.store.vectors()
    assert len(end.index) == 200
    assert len(end.index.fresh) <= 20
    assert end.index.scores(vectors[0], rows) == pytest.approx(vectors @ vectors[0])


@pytest.mark.parametrize("replacing", [False, True])
def test_a_long_writer_maintains_the_store_while_it_writes(
    here: Settings, monkeypatch: pytest.MonkeyPatch, replacing: bool
) -> None:
    monkeypatch.setattr("embedsvc.storage.store._KEEP_VERSIONS", timedelta(0))
    collection = collection_of(here, "c", *(f"tiger {at}" for at in range(20 * replacing)))
    with collection.writer() as writer:
        for at in range(100):
            writer.replace([simple(f"d{at % 20 if replacing else at}", f"stone {at}")])
            assert writer.store.dataset.stats.index_stats("text_idx")["num_unindexed_rows"] <= 33
            assert len(Store.versions_on_disk(here.data_dir / "c")) <= 40
        rows = 20 if replacing else 100
        assert len(writer.store.lexical("stone", 1000)[0]) == rows
        assert not len(writer.store.lexical("tiger", 1000)[0])
        assert collection.store().version == writer.store.version
        if not replacing:
            assert len(writer.store.dataset.get_fragments()) <= 40


def test_a_long_writer_maintains_the_store_once_no_fold_is_under_way(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedsvc.collection._TIDY_EVERY", 4)
    folding = False
    monkeypatch.setattr(Upkeep, "is_tending", property(lambda _: folding))
    collection = collection_of(here)
    unindexed = []
    with collection.writer() as writer:
        for at in range(12):
            folding = 3 <= at < 6
            writer.replace([simple(f"d{at}", f"stone {at}")])
            unindexed.append(writer.store.dataset.stats.index_stats("text_idx")["num_unindexed_rows"])
    assert [at for at, rows in enumerate(unindexed) if not rows] == [6, 7, 11]


def test_a_long_writer_maintains_a_large_store_more_seldom(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedsvc.collection._TIDY_EVERY", 2)
    monkeypatch.setattr("embedsvc.collection._NEW_SHARE", 0.5)
    collection = collection_of(here)
    unindexed = []
    with collection.writer() as writer:
        for at in range(16):
            writer.replace([simple(f"d{at}", f"stone {at}")])
            unindexed.append(writer.store.dataset.stats.index_stats("text_idx")["num_unindexed_rows"])
    assert [at + 1 for at, rows in enumerate(unindexed) if not rows] == [2, 4, 8, 16]


def test_searches_while_the_index_is_folded_see_every_row_once(here: Settings) -> None:
    collection = collection_of(replace(here, exact_passages=10), "c")
    faults: list[str] = []
    done = threading.Event()

    def ask() -> None:
        query = np.array([1.0, 0.0, 0.0], np.float32)
        while not done.is_set():
            snapshot = collection.snapshot()
            found, _ = snapshot.index.search(query, 1000)
            if not len(found) == len(set(found.tolist())) == snapshot.store.count():
                faults.append(f"version {snapshot.version}: {len(found)} of {snapshot.store.count()}")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for start in range(0, 90, 30):
            with collection.writer() as writer:
                writer.replace(many(start, 30))
                writer.replace(many(start + 25, 3), gone=[f"d{start}", f"d{start + 1}"])
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert faults == []


def test_a_reader_takes_the_segments_that_another_process_made(here: Settings) -> None:
    settings = replace(here, exact_passages=10)
    collection_of(settings, "c", *map(str, range(5)))
    reader = Collection.open("c", settings)
    assert not reader.snapshot().index.parts
    with Collection.open("c", settings).writer() as writer:
        writer.replace(many(100, 30))
    after = reader.snapshot()
    assert len(after.index.parts) == 1
    assert len(after.index) == after.store.count() == 35


def test_where_nothing_can_be_saved_searches_are_exact(
    here: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collection_of(here, "c", *map(str, range(30)))

    def full(*_: object) -> None:
        raise StorageFailure("no room")

    monkeypatch.setattr("embedsvc.upkeep.build", lambda *_: full())
    snapshot = Collection.open("c", replace(here, exact_passages=10)).snapshot()
    assert len(snapshot.index) == 30
    assert snapshot.index.recall.mean == 1.0
    assert "searches are exact" in caplog.text


def test_a_target_that_is_no_share_is_refused(here: Settings) -> None:
    collection_of(here, "c")
    with pytest.raises(UsageError, match="target_recall is 95"):
        Collection.open("c", replace(here, target_recall=95.0))


def test_a_reader_that_slept_through_the_clean_up_takes_the_saved_index(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedsvc.storage.store._KEEP_VERSIONS", timedelta(0))
    settings = replace(here, exact_passages=20)
    collection_of(settings, "c", *map(str, range(40)))
    reader = Collection.open("c", settings)
    for at in range(3):
        with Collection.open("c", settings).writer() as writer:
            writer.replace([simple(f"more{at}", "text")])
        if not at:
            assert reader.snapshot().version > reader.snapshot().index.folded
    index = reader.snapshot().index
    assert index.parts
    assert len(index) == reader.store().count() == 43


def test_a_higher_target_makes_the_next_writer_build_anew(here: Settings) -> None:
    collection_of(replace(here, exact_passages=20, target_recall=0.5), "c", *map(str, range(150)))
    (before,) = Collection.open("c", replace(here, exact_passages=20)).snapshot().index.parts
    higher = replace(here, exact_passages=20, target_recall=min(1.0, before.segment.recall.low + 0.02))
    collection = Collection.open("c", higher)
    with collection.writer():
        pass
    (after,) = collection.snapshot().index.parts
    assert after.segment.recall.low >= higher.target_recall
    assert before.segment.recall.low == 1.0 or after.segment.name != before.segment.name


def test_a_writer_first_sees_what_others_committed_before_it(here: Settings) -> None:
    collection = collection_of(here, "c", "one")
    assert len(collection.snapshot().index) == 1
    with Collection.open("c", here).writer() as other:
        other.replace([simple("d9", "by another")])
    with collection.writer():
        assert len(collection.snapshot().index) == 2
