"""The vector index in step with its store: live recall and what it sets off, background folds, past memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from embedsvc import disk_index, upkeep
from embedsvc.collection import Collection, delete_collection
from embedsvc.config import Settings
from embedsvc.describe import describe
from embedsvc.disk_index import DiskIndex
from embedsvc.errors import BadFilter, StorageFailure
from embedsvc.records import Chunking, Passage, make_document
from embedsvc.storage import index_lock
from embedsvc.upkeep import Snapshot
from embedsvc.vectors import VectorIndex, index_faults, live, planner
from embedsvc.vectors.kinds import Effort
from embedsvc.vectors.recall import EXACT
from tests.fakes import FakeEncoder

D = 32
CONTRACT = replace(FakeEncoder().contract, dimension=D)
CENTRES = np.random.default_rng(0).standard_normal((50, D))

Floats = Any


def vectors(count: int, seed: int) -> Floats:
    """Unit vectors (count, D) in some fifty bunches, as real ones are."""
    rng = np.random.default_rng(seed)
    made = CENTRES[rng.integers(0, 50, count)] + 0.6 * rng.standard_normal((count, D))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def documents(start: int, end: int) -> list[Any]:
    """Of one passage each, ``metadata.n`` from 0 to 99."""
    made = vectors(end - start, seed=start)
    found = []
    for at, vector in zip(range(start, end), made, strict=True):
        document = make_document(f"t:{at}", f"text {at}", id=str(at), metadata={"n": at % 100})
        found.append((document, [Passage(0, 0, len(document.text), np.zeros(2, np.int32))], vector[None]))
    return found


def filled(settings: Settings, count: int) -> Collection:
    collection = Collection.create("c", CONTRACT, Chunking(64, 8), settings)
    with collection.writer() as writer:
        writer.replace(documents(0, count))
    return collection


def recall(snapshot: Snapshot, queries: Floats, condition: str | None = None) -> float:
    """Recall@10 against the store's vectors, and that scores are cosines of distinct rows that may be found."""
    row_ids, there = snapshot.store.vectors()
    if condition is not None:
        chosen = np.isin(row_ids, snapshot.store.matching(condition))
        row_ids, there = row_ids[chosen], there[chosen]
    found = wanted = 0
    for query in queries:
        ids, scores = snapshot.nearest(query, 10, condition)
        assert len(set(ids.tolist())) == len(ids) == min(10, len(row_ids))
        cosines = dict(zip(row_ids.tolist(), (there @ query).tolist(), strict=True))
        assert scores.tolist() == pytest.approx([cosines[row] for row in ids.tolist()], abs=1e-5)
        truth = sorted(cosines.values(), reverse=True)[:10]
        found += int((scores >= truth[-1] - 1e-5).sum()) if truth else 0
        wanted += len(truth)
    return found / max(1, wanted)


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, exact_passages=500, recall_sample=1.0, durability="os")


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every query is looked at on the spot, one round for each full group, with no rest in between."""

    class Here:
        def submit(self, work: Callable[[], None]) -> Future[None]:
            work()
            done: Future[None] = Future()
            done.set_result(None)
            return done

    monkeypatch.setattr(live, "_background", Here())
    monkeypatch.setattr(live, "_REST", 0)
    monkeypatch.setattr(upkeep, "_background", Here())
    return


def weakened(collection: Collection) -> None:
    """The index claims what it does not hold: the least effort, measured as perfect."""
    snapshot = collection.snapshot()
    (part,) = snapshot.index.parts
    segment = replace(part.segment, effort=Effort(1, 1), recall=EXACT)
    collection.upkeep._change(lambda index: replace(index, parts=(replace(part, segment=segment),)))  # type: ignore[call-overload]


# -- live recall --------------------------------------------------------------------------------------------------


def test_the_recall_of_live_queries_is_measured_and_told(here: Settings, looked_at: None) -> None:
    collection = filled(here, 3000)
    assert "live" not in describe(collection)["index"]
    queries = vectors(96, seed=7)
    measured = recall(collection.snapshot(), queries)
    told = describe(collection)["index"]["live"]
    assert told["recall_sample"] == 96
    assert told["recall@10"] == pytest.approx(measured, abs=0.005)
    assert told["recall_interval"][0] <= measured <= told["recall_interval"][1]
    again = Collection.open("c", here)  # the process that asks need not be the one that tells
    assert describe(again)["index"]["live"] == told
    assert np.array_equal(again.upkeep.live.queries(), queries)


def test_a_query_that_is_asked_again_and_again_counts_once(here: Settings, looked_at: None) -> None:
    collection = filled(here, 3000)
    few = vectors(4, seed=7)
    recall(collection.snapshot(), np.concatenate([few] * 16))
    assert describe(collection)["index"]["live"]["recall_sample"] == 4
    assert len(collection.upkeep.live.queries()) == 4


def test_filtered_queries_are_told_apart(here: Settings, looked_at: None) -> None:
    collection = filled(here, 3000)
    for query in vectors(32, seed=7):
        collection.snapshot().nearest(query, 10, "metadata.n < 50")
    told = describe(collection)["index"]
    assert "live" not in told
    assert told["live_filtered"]["recall_sample"] == 32
    assert told["live_filtered"]["recall@10"] == 1.0  # asked for the first time: all that pass are scored


def test_an_exact_index_is_not_measured(here: Settings, looked_at: None) -> None:
    collection = filled(here, 300)
    recall(collection.snapshot(), vectors(64, seed=7))
    assert collection.upkeep.live.recall(filtered=False) is None


def test_no_share_no_measuring(here: Settings, looked_at: None) -> None:
    collection = filled(replace(here, recall_sample=0.0), 3000)
    recall(collection.snapshot(), vectors(64, seed=7))
    assert len(collection.upkeep.live.queries()) == 0
    assert not (here.data_dir / "c" / "live-queries.npz").exists()


def test_where_live_queries_find_too_little_the_effort_is_raised_and_kept(
    here: Settings, looked_at: None, caplog: pytest.LogCaptureFixture
) -> None:
    here = replace(here, target_recall=0.99)
    collection = filled(here, 3000)
    weakened(collection)
    queries = vectors(256, seed=7)
    assert recall(collection.snapshot(), queries[:224]) < 0.98
    assert "below the target" in caplog.text
    assert recall(collection.snapshot(), queries) >= 0.985
    effort = collection.snapshot().index.parts[0].segment.effort
    assert effort.depth > 1
    assert Collection.open("c", here).snapshot().index.parts[0].segment.effort == effort


def test_what_no_effort_mends_is_built_anew(here: Settings, looked_at: None, monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(here, target_recall=0.99)
    collection = filled(here, 3000)
    weakened(collection)
    name = collection.snapshot().index.parts[0].segment.name
    monkeypatch.setattr("embedsvc.vectors.index.tuned", lambda *_, **__: None)
    recall(collection.snapshot(), vectors(224, seed=7))
    (part,) = collection.snapshot().index.parts
    assert part.segment.name != name
    assert recall(collection.snapshot(), vectors(64, seed=8)) >= 0.95


def test_filters_that_find_too_little_are_searched_exactly(here: Settings, looked_at: None) -> None:
    collection = filled(here, 9000)
    condition = "metadata.n < 90"
    (part,) = collection.snapshot().index.parts
    collection.snapshot().nearest(vectors(1, seed=1)[0], 10, condition)
    known = collection.upkeep._filters._filters[condition]
    assert known.among is not None
    weak = replace(known.among.parts[0], effort=Effort(1, 1))
    known.fitted[part.segment.name] = weak
    known.among = replace(known.among, parts=(weak,))
    assert recall(collection.snapshot(), vectors(224, seed=7), condition) < 0.95
    assert recall(collection.snapshot(), vectors(32, seed=8), condition) >= 0.95


def test_a_file_of_queries_that_is_not_whole_is_left_out(here: Settings, looked_at: None) -> None:
    collection = filled(here, 3000)
    recall(collection.snapshot(), vectors(64, seed=7))
    file = here.data_dir / "c" / "live-queries.npz"
    for content in (file.read_bytes()[:200], b"", b"junk"):
        file.write_bytes(content)
        assert len(Collection.open("c", here).upkeep.live.queries()) == 0


def test_a_round_is_followed_by_rest(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[Any] = []

    class Counting:
        def submit(self, work: Any) -> None:
            rounds.append(work)
            work()

    monkeypatch.setattr(live, "_background", Counting())
    monkeypatch.setattr(live, "_REST", 1_000_000)
    collection = filled(here, 3000)
    recall(collection.snapshot(), vectors(200, seed=7))
    assert len(rounds) == 1


# -- on the disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_the_index_is_synced_where_commits_are(
    here: Settings, monkeypatch: pytest.MonkeyPatch, durability: Literal["fsync", "os"]
) -> None:
    synced, sync = set[int](), os.fsync

    def told(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", told)
    filled(replace(here, durability=durability), 800)
    written = {path.stat().st_ino for path in (here.data_dir / "c" / "faiss").rglob("*")}
    assert len(written) >= 7
    assert written & synced == (written if durability == "fsync" else set())


# -- folds in the background --------------------------------------------------------------------------------------


def test_a_writer_that_does_not_fold_leaves_it_to_the_background(here: Settings) -> None:
    collection = filled(here, 400)
    collection.snapshot()
    with collection.writer(fold=False) as writer:
        writer.replace(documents(400, 800))
        assert not collection.snapshot().index.parts
    upkeep._background.submit(lambda: None).result(60)
    assert len(collection.snapshot().index.parts) == 1
    assert len(collection.snapshot().index) == 800


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Folds say that they have begun, and go on when told to."""
    begun, go = threading.Event(), threading.Event()
    fold = upkeep.fold

    def slow(index: VectorIndex, *arguments: Any) -> VectorIndex:
        begun.set()
        assert go.wait(60)
        return fold(index, *arguments)

    monkeypatch.setattr(upkeep, "fold", slow)
    return begun, go


def settled() -> None:
    upkeep._background.submit(lambda: None).result(60)


@pytest.mark.parametrize("waits", [False, True])
def test_nobody_who_writes_waits_for_a_fold(
    here: Settings, held: tuple[threading.Event, threading.Event], waits: bool
) -> None:
    """Neither for one in the background nor for one that ends a writer."""
    begun, go = held
    here = replace(here, lock_timeout=0)
    collection = filled(here, 400)
    collection.snapshot()

    def write() -> None:
        with collection.writer(fold=waits) as writer:
            writer.replace(documents(400, 800))

    folding = threading.Thread(target=write)
    folding.start()
    assert begun.wait(60)
    if not waits:
        folding.join(60)
    other = Collection.open("c", here)  # as another process has it
    with other.writer(fold=False) as writer:
        writer.replace(documents(800, 900), gone=["0", "500"])
    assert len(collection.snapshot().index) == 898
    with collection.writer(fold=False) as writer:
        writer.replace(documents(900, 950))
    assert len(collection.snapshot().index) == 948
    go.set()
    folding.join(60)
    settled()
    snapshot = collection.snapshot()
    assert [len(part) for part in snapshot.index.parts] == [798]
    assert len(snapshot.index) == 948
    assert recall(snapshot, vectors(20, seed=7)) >= 0.95
    assert recall(Collection.open("c", here).snapshot(), vectors(20, seed=7)) >= 0.95


def test_what_came_during_a_fold_of_another_process_is_folded_too(
    here: Settings, held: tuple[threading.Event, threading.Event]
) -> None:
    begun, go = held
    here = replace(here, lock_timeout=0)
    serving = filled(here, 400)
    serving.snapshot()
    serving.upkeep.look_after()
    with serving.writer(fold=False) as writer:
        writer.replace(documents(400, 800))
    assert begun.wait(60)
    with Collection.open("c", here).writer() as writer:
        writer.replace(documents(800, 2000))
    assert len(serving.snapshot().index) == 2000
    go.set()
    for _ in range(3):
        settled()
    assert len(serving.snapshot().index.fresh) == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_a_server_answers_exactly_while_an_index_that_was_damaged_is_built_again(
    here: Settings, monkeypatch: pytest.MonkeyPatch, memory_mb: int
) -> None:
    """Of a million vectors a build takes minutes. Where the vectors do not fit the memory they are read from the store
    meanwhile."""
    here = replace(here, index_memory_mb=memory_mb)
    count = 20_000 if memory_mb else 800
    filled(here, count).snapshot()
    for codes in (here.data_dir / "c" / "faiss").glob("*/*.faiss"):
        codes.write_bytes(codes.read_bytes()[: codes.stat().st_size // 2])
    go = threading.Event()
    upkeep._background.submit(lambda: go.wait(60))
    serving = Collection.open("c", here)
    serving.upkeep.look_after()
    answered = serving.snapshot()
    assert answered.index.is_exact
    assert not answered.index.parts
    assert recall(answered, vectors(20, seed=7)) == 1
    go.set()
    settled()
    settled()
    built = serving.snapshot()
    assert built.index.parts
    assert len(built.index) == count
    assert recall(built, vectors(20, seed=7)) >= 0.95
    assert index_faults(here.data_dir / "c" / "faiss", D, serving.store().identity) == []


def test_searches_are_exact_while_an_index_is_rebuilt(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go, build = threading.Event(), threading.Event(), upkeep.build

    def slow(*given: Any) -> Any:
        begun.set()
        assert go.wait(60)
        return build(*given)

    collection = filled(here, 800)
    collection.snapshot()
    monkeypatch.setattr(upkeep, "build", slow)
    with ThreadPoolExecutor(2) as threads:
        rebuilding = threads.submit(collection.upkeep.rebuild)
        assert begun.wait(60)
        try:
            answered = threads.submit(collection.snapshot).result(20)
        finally:
            go.set()
        rebuilding.result(60)
    assert answered.index.is_exact
    assert recall(answered, vectors(20, seed=7)) == 1
    rebuilt = collection.snapshot()
    assert [len(part) for part in rebuilt.index.parts] == [800]
    assert len(rebuilt.index) == 800
    assert recall(rebuilt, vectors(20, seed=7)) >= 0.95


def test_a_fold_is_not_taken_for_that_of_a_collection_made_anew(
    here: Settings, monkeypatch: pytest.MonkeyPatch, held: tuple[threading.Event, threading.Event]
) -> None:
    """With the same name, version and number of passages."""
    begun, go = held
    collection = filled(here, 400)
    collection.snapshot()
    with collection.writer(fold=False) as writer:
        writer.replace(documents(400, 800))
    assert begun.wait(60)
    delete_collection("c", here)
    with filled(here, 400).writer(fold=False) as writer:
        writer.replace(documents(5000, 5400))
    go.set()
    settled()
    anew = Collection.open("c", here).snapshot()
    assert anew.version == collection.store().version
    assert recall(anew, vectors(20, seed=5000)) >= 0.95
    # Neither is a whole index that somebody puts there.
    elsewhere = replace(here, data_dir=here.data_dir / "other")
    filled(elsewhere, 800)
    shutil.rmtree(here.data_dir / "c" / "faiss", ignore_errors=True)
    shutil.copytree(elsewhere.data_dir / "c" / "faiss", here.data_dir / "c" / "faiss")
    assert recall(Collection.open("c", here).snapshot(), vectors(20, seed=5000)) >= 0.95


def test_a_collection_that_is_closed_while_somebody_writes_keeps_no_rows_in_memory(here: Settings) -> None:
    collection = filled(here, 400)
    collection.snapshot()
    with collection.writer() as writer:
        writer.replace(documents(400, 700))
        collection.upkeep.close()
        for start in range(700, 2700, 500):
            writer.replace(documents(start, start + 500))
            assert collection.upkeep.loaded is None
    assert len(Collection.open("c", here).snapshot().index.parts) >= 1


def test_where_nobody_searches_a_fold_leaves_no_index_in_memory(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = filled(here, 700)
    during = []

    def told(*given: Any, save: Any = upkeep.save_index) -> None:
        during.append(collection.upkeep.loaded)
        save(*given)

    monkeypatch.setattr(upkeep, "save_index", told)
    with collection.writer() as writer:
        writer.replace(documents(600, 700))
        writer.replace(documents(0, 300))
    assert during
    assert not any(during)
    assert collection.upkeep.loaded is None
    assert len(collection.snapshot().index.parts) == 1
    with collection.writer() as writer:
        writer.replace(documents(700, 1400))
    assert collection.upkeep.loaded is not None


def test_what_a_fold_replaced_stays_neither_in_memory_nor_on_the_disk(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not somebody searches after that: neither queries that wait to be looked at, nor filters, nor searches
    that began before and end after it keep the segments that went."""
    collection = filled(here, 1500)
    before = collection.snapshot()
    (part,) = before.index.parts
    went = weakref.ref(part.segment)
    queries = vectors(4, seed=7)

    def search(snapshot: Snapshot) -> None:
        for condition in (None, "metadata.n < 50", "metadata.n < 90"):
            snapshot.nearest(queries[0], 10, condition)

    search(before)
    del part
    with collection.writer() as writer:
        writer.replace(documents(1500, 3000))
    (now,) = collection.snapshot().index.parts
    assert went() is not now.segment
    search(before)
    del before
    assert went() is None


def test_after_everything_was_deleted_no_version_is_kept(here: Settings) -> None:
    collection = filled(here, 800)
    assert collection.store()._kept()
    with collection.writer() as writer:
        writer.replace((), [str(at) for at in range(800)])
    with collection.writer() as writer:
        writer.replace(documents(0, 10))
    assert not collection.store()._kept()


@pytest.mark.parametrize("fresh", [0, 10])
def test_efforts_that_were_raised_are_kept_whatever_else_there_is(
    here: Settings, looked_at: None, monkeypatch: pytest.MonkeyPatch, fresh: int
) -> None:
    collection = filled(here, 3000)
    if fresh:
        with collection.writer() as writer:
            writer.replace(documents(3000, 3000 + fresh))
    (part,) = collection.snapshot().index.parts
    harder = replace(part.segment, effort=replace(part.segment.effort, depth=77))
    monkeypatch.setattr(upkeep, "raised", lambda *_: {part.segment.name: harder})
    save = upkeep.save_efforts if fresh else upkeep.save_index

    def full(*_: Any) -> None:
        raise StorageFailure("the disk is full")

    monkeypatch.setattr(upkeep, save.__name__, full)
    collection.upkeep._fell_short(False)
    assert Collection.open("c", here).snapshot().index.parts[0].segment.effort.depth < 77
    monkeypatch.setattr(upkeep, save.__name__, save)
    collection.upkeep.tend()  # at the next occasion
    assert Collection.open("c", here).snapshot().index.parts[0].segment.effort.depth == 77


def test_a_service_tries_again_what_failed_in_the_background_though_nobody_writes(
    here: Settings, looked_at: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(here, 3000)
    shutil.rmtree(here.data_dir / "c" / "faiss")
    monkeypatch.setattr(upkeep, "_RETRY", 0.0)
    make = upkeep.fold

    def full(*_: Any) -> None:
        raise StorageFailure("the disk is full")

    monkeypatch.setattr(upkeep, "fold", full)
    service = Collection.open("c", here)
    service.upkeep.look_after()
    for _ in range(3):
        assert not service.snapshot().index.parts
    monkeypatch.setattr(upkeep, "fold", make)
    service.snapshot()
    assert len(service.snapshot().index.parts) == 1


def test_what_another_process_folded_is_taken_over(
    here: Settings, looked_at: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = filled(here, 3000)
    folder = here.data_dir / "c" / "faiss"
    away = folder.rename(here.data_dir / "away")
    monkeypatch.setattr(upkeep, "_RETRY", 0.0)
    service = Collection.open("c", here)
    service.upkeep.look_after()
    with index_lock(here.data_dir / "c", 0):
        assert not service.snapshot().index.parts
        away.rename(folder)
    monkeypatch.setattr(upkeep, "fold", None)
    service.snapshot()
    (part,) = service.snapshot().index.parts
    assert part.segment.name == collection.snapshot().index.parts[0].segment.name


def test_efforts_that_are_raised_while_a_fold_begins_are_kept(
    here: Settings, looked_at: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = filled(here, 3000)
    (part,) = collection.snapshot().index.parts
    harder = replace(part.segment, effort=replace(part.segment.effort, depth=77))
    monkeypatch.setattr(upkeep, "raised", lambda *_: {part.segment.name: harder})
    refreshed = collection.upkeep._refreshed

    def and_raised(*, locked: bool) -> Snapshot:
        snapshot = refreshed(locked=locked)
        monkeypatch.setattr(collection.upkeep, "_refreshed", refreshed)
        collection.upkeep._fell_short(False)
        return snapshot

    monkeypatch.setattr(collection.upkeep, "_refreshed", and_raised)
    collection.upkeep.fold()
    collection.upkeep.tend()
    collection.upkeep.settle()
    assert Collection.open("c", here).snapshot().index.parts[0].segment.effort.depth == 77


def test_a_fold_outlives_the_deletion_of_its_collection(
    here: Settings, held: tuple[threading.Event, threading.Event], caplog: pytest.LogCaptureFixture
) -> None:
    begun, go = held
    collection = filled(here, 400)
    collection.snapshot()
    with collection.writer(fold=False) as writer:
        writer.replace(documents(400, 800))
    assert begun.wait(60)
    delete_collection("c", replace(here, lock_timeout=0))
    go.set()
    upkeep._background.submit(lambda: None).result(60)
    assert [path.name for path in here.data_dir.iterdir() if not path.name.startswith(".")] == []
    assert caplog.text == ""


def test_a_background_fold_ends_with_its_service(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def endless(index: VectorIndex, goal: Any, folder: Path, real: Any, go_on: Any) -> VectorIndex:
        begun.set()
        while True:
            go_on()
            threading.Event().wait(0.01)

    monkeypatch.setattr(upkeep, "fold", endless)
    collection = filled(here, 400)
    collection.snapshot()
    with collection.writer(fold=False) as writer:
        writer.replace(documents(400, 800))
    assert begun.wait(60)
    collection.upkeep.close()
    upkeep._background.submit(lambda: None).result(60)


def test_a_writer_that_fails_does_not_wait_for_its_fold(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(index: VectorIndex, goal: Any, folder: Path, real: Any, go_on: Any) -> VectorIndex:
        while True:
            go_on()
            threading.Event().wait(0.01)

    monkeypatch.setattr(upkeep, "fold", endless)
    collection = Collection.create("c", CONTRACT, Chunking(64, 8), here)

    def write_half() -> None:
        with collection.writer() as writer:
            writer.replace(documents(0, 600))
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_half()
    assert len(collection.snapshot().index) == 600
    collection.upkeep.close()
    settled()


ENDS = """
import threading
from embedsvc.vectors import background

begun, never = threading.Event(), threading.Event()

def long():
    begun.set()
    while not background.ending():
        never.wait(0.01)
    print("gave up")

threads = [background.Background("one"), background.Background("other")]
for thread in threads:
    thread.submit(lambda: None).result()
threads[0].submit(long)
queued = threads[0].submit(lambda: print("begun after the end"))
background._PARTING_SECONDS = 60
begun.wait()
print("main ends")
"""


def test_the_end_of_a_process_gives_up_what_is_done_in_the_background() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "main ends\ngave up\n"
    assert done.stderr == ""


# -- growing past memory ------------------------------------------------------------------------------------------


@pytest.fixture
def outgrown(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 2,200 vectors do not fit."""
    fits = planner.plan

    def fits_up_to_2200(count: int, *arguments: Any) -> planner.Plan:
        with monkeypatch.context() as patch:
            if count > 2200:
                patch.setattr(planner, "_DISK_CACHE", 10_000)
                patch.setattr(planner, "_PREFERENCE", ())
            return fits(count, *arguments)

    monkeypatch.setattr(upkeep, "plan", fits_up_to_2200)


def test_outgrowing_memory_in_mid_writing_searches_stay_indexed(here: Settings, outgrown: None) -> None:
    collection = filled(here, 2000)
    other = Collection.open("c", here)
    assert isinstance(collection.snapshot().index, VectorIndex)
    assert isinstance(other.snapshot().index, VectorIndex)
    kinds = []
    with collection.writer() as writer:
        for start in range(2000, 4000, 300):
            writer.replace(documents(start, start + 300))
            snapshot = collection.snapshot()
            assert recall(snapshot, vectors(20, seed=7)) >= 0.95
            assert len(snapshot.index) == start + 300
            assert not snapshot.index.is_exact
            kinds.append(snapshot.index.kind)
            assert not other.snapshot().index.is_exact
            assert len(other.snapshot().index) == start + 300
    assert kinds == ["hnsw8"] + 6 * ["disk-ivfrq"]
    assert Collection.open("c", here).snapshot().index.kind == "disk-ivfrq"


def test_a_fold_that_ends_after_memory_was_outgrown_does_not_bring_it_back(
    here: Settings, outgrown: None, held: tuple[threading.Event, threading.Event]
) -> None:
    begun, go = held
    collection = filled(here, 1500)
    collection.snapshot()
    with collection.writer() as writer:
        writer.replace(documents(1500, 2100))
        assert begun.wait(60)
        writer.replace(documents(2100, 2700))
        assert isinstance(collection.snapshot().index, DiskIndex)
        go.set()
        settled()
        assert isinstance(collection.snapshot().index, DiskIndex)


def test_a_writer_that_finds_memory_outgrown_searches_by_what_it_has(here: Settings, outgrown: None) -> None:
    writing = filled(here, 2000)
    serving = Collection.open("c", here)
    serving.snapshot()
    with writing.writer(fold=False) as writer:
        writer.replace(documents(2000, 2300))
        writing.upkeep.close()
    with serving.writer(fold=False):
        assert not serving.snapshot().index.is_exact
    settled()
    assert serving.snapshot().index.kind == "disk-ivfrq"


# -- past memory --------------------------------------------------------------------------------------------------


@pytest.fixture
def tight(here: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """No kind that lies in memory fits."""
    monkeypatch.setattr(planner, "_DISK_CACHE", 10_000)
    monkeypatch.setattr(planner, "_PREFERENCE", ())
    return replace(here, index_memory_mb=1)


def changed(collection: Collection) -> None:
    with collection.writer() as writer:
        writer.replace(documents(100, 200) + documents(9000, 9300), gone=[str(at) for at in range(300, 1500)])
        assert recall(collection.snapshot(), vectors(10, seed=9)) >= 0.9


def test_past_memory_the_store_searches_and_says_so(tight: Settings, looked_at: None) -> None:
    collection = filled(tight, 4000)
    snapshot = collection.snapshot()
    assert isinstance(snapshot.index, DiskIndex)
    assert recall(snapshot, vectors(40, seed=7)) >= 0.95
    for condition in ("metadata.n = 7", "metadata.n < 50"):
        assert recall(snapshot, vectors(10, seed=8), condition) == 1.0
    with pytest.raises(BadFilter):
        snapshot.nearest(vectors(1, seed=1)[0], 10, "no such field = 1")
    told = describe(collection)["index"]
    assert told["kind"] == "disk-ivfrq"
    assert told["recall_interval"][0] >= 0.95
    assert told["live"]["recall_sample"] >= 32
    changed(collection)
    for opened in (collection, Collection.open("c", tight)):
        assert isinstance(opened.snapshot().index, DiskIndex)
        assert not opened.snapshot().index.is_exact
        assert len(opened.snapshot().index) == 4000 + 300 - 1200
        assert recall(opened.snapshot(), vectors(40, seed=10)) >= 0.95
        assert recall(opened.snapshot(), vectors(10, seed=8), "metadata.n = 7") == 1.0
    changed(collection)  # compacted by now, and again


@pytest.mark.parametrize("dimension", [12, 30])
def test_what_lance_cannot_index_is_searched_exactly(
    tight: Settings, caplog: pytest.LogCaptureFixture, dimension: int
) -> None:
    contract = replace(FakeEncoder().contract, dimension=dimension)
    collection = Collection.create("c", contract, Chunking(64, 8), tight)
    made = np.random.default_rng(0).standard_normal((2000, dimension)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    rows = [(document, passages, made[at, None]) for at, (document, passages, _) in enumerate(documents(0, 2000))]
    with collection.writer() as writer:
        writer.replace(rows)
    assert "multiple of 8" in caplog.text
    caplog.clear()
    snapshot = Collection.open("c", tight).snapshot()
    assert snapshot.nearest(made[77], 3)[1][0] == pytest.approx(1)
    assert caplog.text == ""


def test_what_was_measured_of_an_earlier_index_is_not_told_of_a_later_one(
    tight: Settings, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into memory and out of it again, with a crash between Lance's index and what is written about it."""
    filled(tight, 2000)
    roomy = (monkeypatch.setattr(planner, "_PREFERENCE", (planner.HNSW8, planner.IVFPQ4)), replace(here))[1]
    with Collection.open("c", replace(roomy, index_memory_mb=4000)).writer() as writer:
        writer.replace(documents(3000, 4500))
    assert not list((here.data_dir / "c").rglob("disk-index.json"))
    monkeypatch.setattr(planner, "_PREFERENCE", ())

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(disk_index, "save", killed)
        with pytest.raises(Killed):
            Collection.open("c", tight).snapshot()
    index = Collection.open("c", tight).snapshot().index
    assert isinstance(index, DiskIndex)
    assert index.made_of == len(index) == 3500


def test_a_collection_comes_back_into_memory(tight: Settings, here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tight, 2000)
    monkeypatch.undo()
    collection = Collection.open("c", here)
    assert isinstance(collection.snapshot().index, VectorIndex)
    assert recall(collection.snapshot(), vectors(40, seed=7)) >= 0.95
    assert collection.store().has_vector_index()
    with collection.writer():
        pass
    assert not collection.store().has_vector_index()
    assert recall(collection.snapshot(), vectors(40, seed=7)) >= 0.95


def test_memory_is_taken_back_and_the_index_moves_to_the_disk(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(here, 2000)
    monkeypatch.setattr(planner, "_DISK_CACHE", 10_000)
    monkeypatch.setattr(planner, "_PREFERENCE", ())
    collection = Collection.open("c", here)
    assert collection.snapshot().index.kind == "disk-ivfrq"
    assert recall(collection.snapshot(), vectors(40, seed=7)) >= 0.95


def test_where_the_disk_index_finds_too_little_the_effort_is_raised(tight: Settings, looked_at: None) -> None:
    collection = filled(tight, 4000)
    collection.upkeep._change(lambda index: replace(index, lists=1))  # type: ignore[type-var]
    between = vectors(224, seed=7) + vectors(224, seed=8)  # two bunches: one list does not have both
    recall(collection.snapshot(), between / np.linalg.norm(between, axis=1, keepdims=True))
    index = collection.snapshot().index
    assert isinstance(index, DiskIndex)
    assert index.lists > 1
    assert Collection.open("c", tight).snapshot().index.lists == index.lists  # type: ignore[union-attr]


def test_a_disk_index_whose_file_is_gone_is_made_anew(tight: Settings) -> None:
    filled(tight, 2000)
    (file,) = (tight.data_dir / "c").rglob("disk-index.json")
    for content in (None, "{", "{}"):
        file.unlink() if content is None else file.write_text(content)
        assert not Collection.open("c", tight).snapshot().index.is_exact


def test_a_budget_too_small_for_anything_reads_from_the_disk(here: Settings, caplog: pytest.LogCaptureFixture) -> None:
    filled(here, 2000)
    collection = Collection.open("c", replace(here, index_memory_mb=1))
    collection.upkeep.goal = replace(collection.upkeep.goal, memory=1000)
    snapshot = collection.snapshot()
    assert recall(snapshot, vectors(20, seed=7)) >= 0.95
    other = Collection.open("c", replace(here, index_memory_mb=1))
    other.upkeep.goal = collection.upkeep.goal
    other.snapshot()
    assert caplog.text.count("MB of memory at least") == 1, "not once per collection"
