"""Collections moved to another model: what survives, kills, the switch beside a server, and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from embedsvc.collection import Collection, collection_names, delete_collection
from embedsvc.config import Settings
from embedsvc.context import context_of
from embedsvc.errors import Conflict, Locked, NotFound, UsageError
from embedsvc.ingest import ingest_items, open_or_create
from embedsvc.migrate import RolledBack, abandon, finish, migrate, rollback
from embedsvc.readers import FieldChoice
from embedsvc.records import Calibration, Chunking, Document, Fusion, Heading, Tuned, make_document
from embedsvc.storage import Store
from embedsvc.storage.durability import DurableCommits
from tests.fakes import WORDS, FakeEncoder
from tests.forked import kill_at, was_killed
from tests.server import server
from tests.test_cli import Run, refused, run  # noqa: F401 - a fixture
from tests.test_collection import is_free
from tests.test_maintenance import wrong

OLD = FakeEncoder(WORDS)


def other(window: int = 512) -> FakeEncoder:
    """Another model: its axes lie the other way round, and it has one more."""
    encoder = FakeEncoder((*reversed(WORDS), "black"), window)
    encoder.contract = replace(encoder.contract, model="other", weights_hash="w2", tokenizer_hash="t2")
    encoder.model.name = "other"
    encoder.dtype = "fp32"
    return encoder


def fakes(new: FakeEncoder) -> dict[str, Any]:
    return {"load": lambda settings: new, "load_for": lambda contract, settings: OLD}


def documents() -> list[Document]:
    found = [
        make_document(
            f"test:{at}",
            f"  red green {' '.join(WORDS[(at + step) % 4] for step in range(40))}.\n\nThe word number {at}. blue " * 3,
            id=f"d{at}",
            title=f"Title of {at}",
            metadata={"at": at},
        )
        for at in range(12)
    ]
    text = "red green blue white " * 30 + "\n\n" + "white white red " * 30
    paged = make_document("test:paged", text, id="paged", page_starts=(0, 300, 700), metadata={"year": 2020})
    headed = make_document("test:headed", text, id="headed", headings=(Heading(4, 1, "Red"), Heading(620, 2, "White")))
    return [*found, replace(paged, source="file:///paged.pdf"), headed]


def indexed(settings: Settings, finer: int = 0) -> Collection:
    chosen = replace(settings, chunk_tokens=32, overlap=4, finer_tokens=finer, chunk_context="none")
    collection, _ = open_or_create("c", chosen, frozenset(), lambda _: OLD, lambda *_: OLD)
    add(collection, OLD, *documents())
    return collection


def add(collection: Collection, encoder: Any, *items: Document) -> list[str]:
    return [outcome.status for outcome in ingest_items(collection, encoder, items, FieldChoice())]


Passages = dict[str, tuple[Any, ...]]


def passages(store: Store, *, text: bool = False) -> Passages:
    found: Passages = {}
    for document in store.documents():
        whole, parts = store.document_passages(document.id)
        about = (document.uri, document.title, document.hash, parts[0].metadata, whole)
        found[document.id] = about if text else (*about, [(p.id, p.start, p.end, p.page, p.heading) for p in parts])
    return found


def test_all_but_the_vectors_survives(here: Settings) -> None:
    collection = indexed(here)
    was, known = passages(collection.store()), collection.store().known_documents()
    told: list[tuple[int, int]] = []
    new = other()
    done = migrate("c", here, told=lambda *counts: told.append(counts), **fakes(new))
    assert (done.documents, done.encoded, done.already, done.rechunked) == (14, 14, 0, 12)
    assert done.switched
    assert told[-1] == (14, 14)
    now = Collection.open("c", here)
    assert now.contract.model == "other"
    assert now.store().known_documents() == known
    assert passages(now.store()) == was, "the fake tokenizers cut alike"
    assert (now.store().take(now.store().vectors()[0].tolist())[0].page, now.contract.dimension) == (
        was["d0"][5][0][3],
        5,
    )
    rows, vectors = now.store().vectors()
    for passage, vector in zip(now.store().take(rows.tolist()), vectors, strict=True):
        np.testing.assert_allclose(vector, new.encode_texts([passage.text], kind="passage").vectors[0], atol=1e-6)
    assert wrong(here) == []
    # What is not changed is not encoded again, and what is goes in with the new model.
    new.encoded = 0
    assert set(add(now, new, *documents())) == {"unchanged"}
    assert new.encoded == 0
    assert add(now, new, make_document("test:0", "black", id="d0")) == ["replaced"]
    assert finish("c", here)
    with pytest.raises(UsageError, match=r"other in fp32 already"):
        migrate("c", here, **fakes(new))


def test_a_text_that_stands_in_many_documents_is_encoded_once(here: Settings) -> None:
    collection = indexed(here)
    add(collection, OLD, *(make_document(f"test:same{at}", "white red", id=f"same{at}") for at in range(3)))
    new = other()
    encoded: list[int] = []
    done = migrate("c", here, switch=False, compare=lambda _: encoded.append(new.encoded), **fakes(new))
    store = collection.store()
    assert done.encoded == 17
    assert encoded == [len({passage.text for passage in store.take(store.row_ids().tolist())})]
    assert abandon("c", here)


def test_pages_and_headings_stay_with_their_passages(here: Settings) -> None:
    collection = indexed(here)
    pages = [p.page for p in collection.store().document_passages("paged")[1]]
    headings = [p.heading for p in collection.store().document_passages("headed")[1]]
    assert set(pages) == {1, 2, 3}
    assert {"Red", "Red > White"} <= set(headings)
    assert migrate("c", here, **fakes(other())).rechunked == 12
    store = Collection.open("c", here).store()
    assert [p.page for p in store.document_passages("paged")[1]] == pages
    assert [p.heading for p in store.document_passages("headed")[1]] == headings


def test_sub_windows_move_too(here: Settings) -> None:
    collection = indexed(here, finer=12)
    vectors = collection.store().count_vectors()
    assert migrate("c", here, **fakes(other())).chunking.finer == 12
    assert Collection.open("c", here).store().count_vectors() == vectors > collection.upkeep._newest.count()
    assert wrong(here) == []


def test_the_context_of_passages_moves_too(here: Settings) -> None:
    """Of those that keep their place, and of those that are cut anew, as a new collection would have it."""
    chosen = replace(here, chunk_tokens=32, overlap=4, chunk_context="title+headings")
    collection, _ = open_or_create("c", chosen, frozenset(), lambda _: OLD, lambda *_: OLD)
    about = (Heading(0, 1, "Guide"), Heading(300, 2, "red paint"))
    given = [*documents(), make_document("test:x", "green blue white " * 40, id="x", title="x", headings=about)]
    add(collection, OLD, *given)
    new = other()
    done = migrate("c", here, **fakes(new))
    assert (done.chunking.context, done.rechunked) == ("title+headings", 12)
    store = Collection.open("c", here).store()
    rows, vectors = store.vectors()
    said: dict[str, set[str]] = {}
    for passage, vector in zip(store.take(rows.tolist()), vectors, strict=True):
        context = context_of(
            passage.text, uri=passage.uri, title=passage.title, heading=passage.heading, shown="title+headings"
        )
        said.setdefault(passage.document_id, set()).add(context)
        expected = new.encode_texts([f"{context} {passage.text}"], kind="passage").vectors[0]
        np.testing.assert_allclose(vector, expected, atol=1e-6)
    assert said["x"] == {"Guide", "Guide > red paint"}
    assert said["d3"] == {"Title of 3"}
    afresh, _ = open_or_create("d", replace(chosen, data_dir=here.data_dir), frozenset(), lambda _: new, lambda *_: new)
    add(afresh, new, *given)
    assert passages(afresh.store()) == passages(store)
    assert sorted(map(tuple, afresh.store().vectors()[1])) == sorted(map(tuple, vectors))


def test_a_smaller_window_cuts_anew_and_loses_no_text(here: Settings) -> None:
    collection = indexed(here)
    was = passages(collection.store(), text=True)
    (paged,) = (document for document in documents() if document.id == "paged")
    done = migrate("c", here, **fakes(other(window=16)))
    assert (done.chunking.window, done.chunking.overlap, done.rechunked) == (16, 4, 14)
    store = Collection.open("c", here).store()
    assert passages(store, text=True) == was
    for passage in store.document_passages("paged")[1]:
        assert passage.page == paged.page_at(passage.start)
    assert wrong(here) == []


def test_prepared_resumed_caught_up_and_abandoned(here: Settings) -> None:
    collection = indexed(here)
    new = other()
    first = migrate("c", here, switch=False, **fakes(new))
    assert (first.switched, first.encoded) == (False, 14)
    assert Collection.open("c", here).contract.model == "fake"
    assert collection_names(here.data_dir) == ["c"]
    # Changed meanwhile: only that is encoded, and what is gone goes.
    add(collection, OLD, make_document("test:0", "white white", id="d0"), make_document("test:n", "red", id="n"))
    with collection.writer() as writer:
        writer.replace([], ["d1"])
    third = other()
    third.contract = replace(third.contract, weights_hash="w3")
    with pytest.raises(Conflict, match=r"to other \(fp32\) is under way"):
        migrate("c", here, **fakes(third))
    done = migrate("c", here, **fakes(new))
    assert (done.already, done.encoded, done.switched) == (14, 3, True)
    assert passages(Collection.open("c", here).store()).keys() == {f"d{at}" for at in range(12) if at != 1} | {
        "n",
        "paged",
        "headed",
    }
    assert not abandon("c", here)
    with pytest.raises(Conflict, match="--finish"):
        migrate("c", here, **fakes(OLD))
    assert finish("c", here)
    assert not finish("c", here)
    with pytest.raises(NotFound):
        rollback("c", here)
    migrate("c", here, switch=False, load=lambda settings: replace_dtype(OLD), load_for=lambda *_: new)
    assert abandon("c", here)
    assert sorted(entry.name for entry in here.data_dir.iterdir() if entry.is_dir()) == ["c"]


def test_what_is_under_way_is_neither_removed_nor_begun_again(here: Settings) -> None:
    indexed(here)
    refused: list[str] = []

    def meanwhile(*_: object) -> None:
        for work in (abandon, lambda name, settings: migrate(name, settings, **fakes(other()))):
            with pytest.raises(Locked, match="migrating 'c'"):
                work("c", here)
        refused.append("both")

    done = migrate("c", here, told=meanwhile, compare=meanwhile, **fakes(other()))
    assert (done.encoded, done.switched) == (14, True)
    assert len(refused) > 2


def test_every_order_of_rollback_finish_and_abandon(here: Settings) -> None:
    """Whatever is asked for at the wrong time changes nothing."""
    was = passages(indexed(here).store())
    for switch in (False, True):
        migrate("c", here, switch=switch, **fakes(other()))
        if not switch:
            assert not finish("c", here)
            with pytest.raises(NotFound, match="No collection from before"):
                rollback("c", here)
            assert abandon("c", here)
        assert not abandon("c", here)
    assert [rollback("c", here).model for _ in range(3)] == ["fake", "other", "fake"]
    with pytest.raises(Conflict, match="--finish"):
        migrate("c", here, **fakes(other()))
    assert [finish("c", here), finish("c", here), abandon("c", here)] == [True, False, False]
    assert passages(Collection.open("c", here).store()) == was
    assert migrate("c", here, **fakes(other())).switched


def replace_dtype(encoder: FakeEncoder) -> Any:
    encoder.dtype = "fp32"
    return encoder


def test_documents_that_change_in_mid_migration_are_caught_up(here: Settings) -> None:
    collection = indexed(here)
    changed = make_document("test:5", "blue blue blue", id="d5")

    def meanwhile(_: object) -> None:
        assert add(collection, OLD, changed) == ["replaced"]

    done = migrate("c", here, compare=meanwhile, **fakes(other()))
    assert done.encoded == 15
    assert Collection.open("c", here).store().document_passages("d5")[0] == "blue blue blue"


def test_nobody_waits_for_more_than_a_few_documents(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor for the upkeep of those few."""
    from embedsvc import migrate as module

    monkeypatch.setattr(module, "_FEW", 1)
    collection = indexed(here)
    free: list[bool] = []
    upkeep: list[bool] = []

    def changed(text: str, *ids: str) -> None:
        assert set(add(collection, OLD, *(make_document(f"test:{id}", text, id=id) for id in ids))) == {"replaced"}

    def told(done: int, of: int) -> None:
        free.append(is_free(here.data_dir / "c"))

    def maintained(store: Store, *, maintain: Any = Store.maintain) -> Store:
        if ".c.migration" in store.path.parts:
            upkeep.append(is_free(here.data_dir / "c"))
        return cast("Store", maintain(store))

    @contextmanager
    def locks(directory: Path, settings: Settings, *, locks: Any = module._both_locks) -> Iterator[None]:
        changed("blue blue", "d5")  # just before
        with locks(directory, settings):
            free.clear()
            yield
            assert free == [False, False]
            free.clear()

    monkeypatch.setattr(Store, "maintain", maintained)
    monkeypatch.setattr(module, "_both_locks", locks)

    def compared(_: object) -> None:
        assert free.pop()
        changed("blue", "d5", "d6", "d7")

    done = migrate("c", here, told=told, compare=compared, **fakes(other()))
    assert (done.encoded, done.switched) == (14 + 3 + 1, True)
    assert upkeep == [True, True]
    now = Collection.open("c", here)
    assert passages(now.store(), text=True).keys() == {document.id for document in documents()}
    assert now.store().document_passages("d5")[0] == "blue blue"
    assert wrong(here) == []


def test_a_collection_that_never_rests_is_not_switched(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedsvc import migrate as module

    monkeypatch.setattr(module, "_FEW", 1)
    collection, edition = indexed(here), 0

    def told(done: int, of: int) -> None:
        nonlocal edition
        edition += 1
        texts = [make_document(f"test:{at}", f"blue {'red ' * edition}", id=f"d{at}") for at in range(2)]
        assert add(collection, OLD, *texts) == ["replaced"] * 2

    with pytest.raises(Conflict, match=r"2 documents were left.*run the same again"):
        migrate("c", here, told=told, **fakes(other()))
    assert Collection.open("c", here).contract.model == "fake"
    done = migrate("c", here, **fakes(other()))
    assert (done.already, done.encoded, done.switched) == (14, 2, True)


def test_nobody_waits_while_the_old_one_is_removed(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    indexed(here)
    migrate("c", here, **fakes(other()))
    free: list[bool] = []

    def removed(path: Path, *, rmtree: Any = shutil.rmtree) -> None:
        free.append(is_free(here.data_dir / "c"))
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", removed)
    assert finish("c", here)
    assert free == [True]
    assert [entry.name for entry in here.data_dir.iterdir() if entry.is_dir()] == ["c"]


def test_rollback_and_forth_and_what_it_leaves_behind(here: Settings) -> None:
    collection = indexed(here)
    was = passages(collection.store())
    migrate("c", here, **fakes(other()))
    with pytest.raises(Conflict, match="made anew"), collection.writer():
        pass  # whoever had the old one open is told
    add(Collection.open("c", here), other(), make_document("test:n", "black", id="n"))
    assert rollback("c", here) == RolledBack("fake", ("test:n",))
    assert passages(Collection.open("c", here).store()) == was
    assert rollback("c", here) == RolledBack("other", ("test:n",))
    assert "n" in passages(Collection.open("c", here).store())
    delete_collection("c", here)
    assert [entry.name for entry in here.data_dir.iterdir() if entry.is_dir()] == []


def test_what_was_tuned_is_kept_for_the_same_weights_only(here: Settings) -> None:
    collection = indexed(here)
    tuned = Tuned(Fusion(weight=0.3), calibration=Calibration(6, 4, 0, -5))
    with collection.writer() as writer:
        writer.tune(tuned)
        writer.tell({"name": "Handbook"})
    same = other()
    same.contract = replace(same.contract, weights_hash=OLD.contract.weights_hash)
    assert migrate("c", here, **fakes(same)).dropped == ()
    assert Collection.open("c", here).store().tuned == tuned
    assert finish("c", here)
    done = migrate("c", here, load=lambda _: other(), load_for=lambda contract, _: same)  # type: ignore[arg-type, return-value]
    assert done.dropped == ("fusion", "calibration")
    assert Collection.open("c", here).store().tuned == Tuned()
    assert Collection.open("c", here).store().about == {"name": "Handbook"}


def test_overlap_of_equal_models_is_whole(here: Settings) -> None:
    collection = Collection.create("c", OLD.contract, Chunking(64, 4), here)
    counts = np.random.default_rng(3).integers(1, 15, (40, 4))
    texts = [" ".join(word for word, times in zip(WORDS, each, strict=True) for _ in range(times)) for each in counts]
    add(collection, OLD, *(make_document(f"test:{at}", text) for at, text in enumerate(texts)))
    same = FakeEncoder(WORDS)
    same.contract = replace(same.contract, weights_hash="copied")
    done = migrate("c", here, **fakes(replace_dtype(same)))
    assert done.overlap == 1
    assert done.queries > 5


def _dying(data_dir: Path, step: int, what: str) -> None:
    """One migration, rollback or clean-up, that dies when ``step`` of its commits, renames and removals are done."""
    from embedsvc import collection as collections
    from embedsvc import migrate as module

    kill_at(
        step,
        (DurableCommits, "sync"),
        (Path, "rename"),
        (module, "exchange"),
        (module, "fsync_path"),
        (collections.shutil, "rmtree"),
    )
    settings = Settings(data_dir=data_dir, commit_tokens=40)
    module._AT_ONCE = 2
    if what == "migrate":
        print(migrate("c", settings, **fakes(other())).encoded, flush=True)
    else:
        finish("c", settings)


def killed(settings: Settings, step: int, what: str = "migrate") -> tuple[bool, str]:
    log = settings.data_dir.with_name("log")
    return was_killed(_dying, settings.data_dir, step, what, log=log), log.read_text()


def test_a_kill_at_any_step_leaves_the_old_or_the_new(here: Settings) -> None:
    collection = indexed(here)
    was = passages(collection.store())
    step = 1
    while True:
        died, printed = killed(here, step)
        now = Collection.open("c", here)
        assert passages(now.store()) == was
        assert now.contract.model in ("fake", "other")
        if now.contract.model == "other":
            break
        assert died
        assert wrong(here) == []
        step += 11
    assert wrong(here) == []
    if not died:
        assert int(printed.split()[-1]) < 14, "what was encoded before a kill is not encoded again"
    assert rollback("c", here).model == "fake"
    assert killed(here, 0, "finish")[0]
    for step in range(3):
        killed(here, step, "finish")
        assert passages(Collection.open("c", here).store()) == was


@pytest.mark.parametrize("call", ["exchange", "rename"])
def test_a_kill_around_the_switch(here: Settings, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between exchange and rename the old collection lies where the new one was made."""
    from embedsvc import migrate as module

    class KilledError(BaseException):
        pass

    def die(*_: object) -> None:
        raise KilledError

    def half(directory: Path, staging: Path) -> None:
        module._exchange(directory, staging / "c")
        die()

    indexed(here)
    new = other()
    with monkeypatch.context() as patched:
        if call == "exchange":
            patched.setattr(module, "exchange", die)
        else:
            patched.setattr(module, "_switch", half)
        with pytest.raises(KilledError):
            migrate("c", here, **fakes(new))
    assert Collection.open("c", here).contract.model == ("fake" if call == "exchange" else "other")
    if call == "exchange":
        assert migrate("c", here, **fakes(new)).encoded == 0
    else:
        with pytest.raises(Conflict, match="--finish"):
            migrate("c", here, **fakes(new))
    assert rollback("c", here).model == "fake"


# -- with real models ------------------------------------------------------------------------------------------------


def test_a_server_answers_through_migration_and_rollback(library: Path, library_files: Path, run: Run) -> None:  # noqa: F811
    with server(library, dtype="int8") as running:
        stop = threading.Event()
        answers: list[tuple[int, str]] = []
        asked = {"query": "restart after a power failure", "k": 1}

        def ask() -> None:
            while not stop.is_set():
                got = running.http.post("/v1/collections/library/search", json=asked)
                answers.append((got.status_code, got.text))

        def dtype() -> Any:
            return running.http.get("/v1/collections/library").json()["contract"]["dtype"]

        def do(*arguments: object) -> Any:
            done = subprocess.run(
                [sys.executable, "-m", "embedsvc", *map(str, arguments), "--data-dir", str(library), "--json"],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "EMBEDSVC_RUNTIME": "onnx"},
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout.splitlines()[-1])

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            was = dtype()
            wanted = "fp32" if was == "int8" else "int8"
            done = do("collections", "migrate", "library", "--dtype", wanted)
            assert done["switched"]
            assert done["overlap"] > 0.9
            assert dtype() == wanted
            summary = do("index", library_files, "-c", "library")["summary"]
            assert summary["unchanged"] == summary["inputs"]
            assert do("collections", "migrate", "library", "--rollback")["model"]
            assert dtype() == was
            assert do("collections", "migrate", "library", "--finish") == {"removed": True}
            assert do("collections", "verify", "library")["ok"]
        finally:
            stop.set()
            asking.join()
    assert len(answers) > 20
    assert [answer for answer in answers if answer[0] != 200 or "power.md" not in answer[1]] == []


def test_progress_and_ndcg_of_both_models(
    tmp_path: Path,
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from embedsvc.cli import progress

    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    texts = {
        "a b": "Vitamin D deficiency weakens bones.",
        "h": "Olive oil is good for the heart.",
        "j": "Jupiter is big.",
    }
    lines = [json.dumps({"_id": id, "title": "", "text": text}) for id, text in texts.items()]
    (beir / "corpus.jsonl").write_text("\n".join(lines))
    (beir / "queries.jsonl").write_text('{"_id": "q", "text": "what makes bones weak?"}')
    (beir / "qrels" / "test.tsv").write_text("q\ta b\t1\n")
    common = ("--data-dir", tmp_path / "data", "--json")
    assert run("index", beir / "corpus.jsonl", "-c", "c", "--dtype", "int8", "--runtime", "onnx", *common).code == 0
    move = ("collections", "migrate", "c", "--dtype", "fp32", "--runtime", "onnx")
    monkeypatch.setattr(progress, "TELL_SECONDS", 0.0)
    prepared = run(*move, "--prepare", "--data-dir", tmp_path / "data")
    assert prepared.err.endswith("  100%  3 of 3 documents, about 0 min left\n")
    done = run(*move, "--qrels", beir, *common)
    assert (done.code, done.err) == (0, "")
    assert (done.json["ndcg@10_old"], done.json["ndcg@10_new"]) == (1.0, 1.0)
    assert run("collections", "migrate", "c", *common).code == 2
    assert run("collections", "migrate", "c", "--dtype", "fp32", "--rollback", *common).code == 2
    for given in (("--prepare",), ("--qrels", beir), ("--split", "dev"), ("--runtime", "onnx")):
        for what in ("--rollback", "--finish", "--abandon"):
            refused(run("collections", "migrate", "c", what, *given, *common), 2, given[0])
    assert run("collections", "show", "c", *common).json["contract"]["dtype"] == "fp32"
