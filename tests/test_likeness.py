"""Documents that say what another one says: told of, or left out, and never at the price of the last copy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedsvc.aside import Aside
from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.ingest import Outcome, ingest_items, ingest_paths
from embedsvc.likeness import SIGNATURES
from embedsvc.maintenance import compact
from embedsvc.outcomes import Like
from embedsvc.readers import FieldChoice, FoundFile
from embedsvc.records import Chunking, Heading, Source, make_document
from embedsvc.storage import Store
from tests.conftest import write_tree
from tests.fakes import FakeEncoder

WORDS = [f"word{at}" for at in range(120)]
ONE = " ".join(WORDS)
NEARLY = " ".join([*WORDS[:118], "other", "end"])
OTHER = " ".join(reversed(WORDS))


@pytest.fixture
def collection(here: Settings, fake: FakeEncoder) -> Collection:
    return Collection.create("c", fake.contract, Chunking(64, 8), replace(here, duplicates="drop"))


@pytest.fixture
def reporting(here: Settings, fake: FakeEncoder) -> Collection:
    return Collection.create("r", fake.contract, Chunking(64, 8), here)


def run(collection: Collection, fake: FakeEncoder, folder: Path, *, exact: bool = False) -> dict[str, Outcome]:
    encoder: Any = fake
    outcomes = ingest_paths(collection, encoder, [folder], fields=FieldChoice(), max_file_mb=1, exact=exact)
    return {outcome.uri.rpartition("/")[2]: outcome for outcome in outcomes}


def told(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Of each input its status, or with it the name of what it is like."""
    return {
        name: (outcome.status, outcome.like.uri.rpartition("/")[2]) if outcome.like else outcome.status
        for name, outcome in outcomes.items()
    }


def stored(collection: Collection) -> list[str]:
    return [document.uri.rpartition("/")[2] for document in collection.store().documents()]


def test_what_is_alike_is_told_and_indexed(reporting: Collection, fake: FakeEncoder, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"a.txt": ONE, "b.txt": OTHER, "c.txt": NEARLY, "d.txt": f"{ONE}\n", "e.txt": ""})
    found = run(reporting, fake, tree)
    assert told(found) == {
        "a.txt": "indexed",
        "b.txt": "indexed",
        "c.txt": ("indexed", "a.txt"),
        "d.txt": ("indexed", "a.txt"),
        "e.txt": "empty",
    }
    similarities = {name: found[name].like.similarity for name in ("c.txt", "d.txt")}  # type: ignore[union-attr]
    assert similarities["d.txt"] == 1
    assert 0.85 < similarities["c.txt"] < 1
    # A later run knows the documents of earlier ones, and an edition of a document is not like the one before.
    write_tree(tree, {"b.txt": f"{OTHER} more", "f.txt": NEARLY})
    assert told(run(reporting, fake, tree)) == {
        "a.txt": "unchanged",
        "b.txt": "replaced",
        "c.txt": "unchanged",
        "d.txt": "unchanged",
        "e.txt": "empty",
        "f.txt": ("indexed", "c.txt"),
    }


def test_what_is_alike_is_left_out_and_not_encoded(collection: Collection, fake: FakeEncoder, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"a.txt": ONE, "b.txt": NEARLY, "c.txt": OTHER, "d.txt": NEARLY})
    wanted = {"a.txt": "indexed", "b.txt": ("duplicate", "a.txt"), "c.txt": "indexed", "d.txt": ("duplicate", "a.txt")}
    assert told(run(collection, fake, tree)) == wanted
    assert stored(collection) == ["a.txt", "c.txt"]
    encoded = fake.encoded
    assert told(run(collection, fake, tree)) == {**wanted, "a.txt": "unchanged", "c.txt": "unchanged"}
    assert fake.encoded == encoded


def test_a_copy_that_comes_before_what_is_stored_is_the_one_left_out(
    collection: Collection, fake: FakeEncoder, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"m.txt": ONE})
    run(collection, fake, tree)
    write_tree(tree, {"a.txt": ONE, "b.jsonl": json.dumps({"id": "x", "text": NEARLY}) + "\n{}\n"})
    found = run(collection, fake, tree, exact=True)
    assert told(found)["a.txt"] == ("duplicate", "m.txt")
    assert told(found)["b.jsonl#x"] == ("duplicate", "m.txt")
    assert found["b.jsonl#2"].status == "quarantined", "told once, though the file is read twice"
    assert stored(collection) == ["m.txt"]


def test_a_file_that_was_moved_is_no_copy_of_itself(collection: Collection, fake: FakeEncoder, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"m.txt": ONE})
    run(collection, fake, tree)
    (tree / "m.txt").rename(tree / "a.txt")
    assert told(run(collection, fake, tree, exact=True)) == {"a.txt": "indexed", "m.txt": "removed"}
    assert stored(collection) == ["a.txt"]


def test_a_record_that_goes_is_no_ground_to_leave_another_out(
    collection: Collection, fake: FakeEncoder, tmp_path: Path
) -> None:
    x, y = ({"id": id, "text": text} for id, text in (("x", ONE), ("y", OTHER)))
    tree = write_tree(tmp_path / "t", {"m.jsonl": f"{json.dumps(x)}\n{json.dumps(y)}\n"})
    run(collection, fake, tree)
    write_tree(tree, {"a.txt": ONE, "m.jsonl": f"{json.dumps(y)}\n", "z.txt": f"{ONE} "})
    assert told(run(collection, fake, tree)) == {
        "a.txt": ("duplicate", "z.txt"),
        "m.jsonl#x": "removed",
        "m.jsonl#y": "unchanged",
        "z.txt": "indexed",
    }
    assert stored(collection) == ["m.jsonl#y", "z.txt"]


def test_two_files_that_change_places_both_stay(collection: Collection, fake: FakeEncoder, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"a.txt": ONE, "b.txt": OTHER})
    run(collection, fake, tree)
    write_tree(tree, {"a.txt": OTHER, "b.txt": ONE})
    assert set(told(run(collection, fake, tree)).values()) == {"replaced"}
    assert stored(collection) == ["a.txt", "b.txt"]


def test_of_a_document_that_became_a_copy_the_earlier_edition_goes(
    collection: Collection, fake: FakeEncoder, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"a.txt": ONE, "b.txt": OTHER})
    run(collection, fake, tree)
    write_tree(tree, {"b.txt": NEARLY})
    assert told(run(collection, fake, tree)) == {"a.txt": "unchanged", "b.txt": ("duplicate", "a.txt")}
    assert stored(collection) == ["a.txt"]
    (tree / "a.txt").unlink()
    assert told(run(collection, fake, tree, exact=True)) == {"a.txt": "removed", "b.txt": "indexed"}


def test_ready_documents_are_compared_too(reporting: Collection, fake: FakeEncoder) -> None:
    encoder: Any = fake
    made = [make_document(f"t:{id}", text, id=id) for id, text in (("a", ONE), ("b", NEARLY))]
    assert [o.status for o in ingest_items(reporting, encoder, made[:1], FieldChoice(), duplicates="drop")] == [
        "indexed"
    ]
    [outcome] = ingest_items(reporting, encoder, made[1:], FieldChoice(), duplicates="drop")
    assert told({"b": outcome}) == {"b": ("duplicate", "t:a")}
    [outcome] = ingest_items(reporting, encoder, made[1:], FieldChoice(), duplicates="ignore")
    assert told({"b": outcome}) == {"b": "indexed"}


def test_signatures_follow_whatever_is_done_to_the_store(
    reporting: Collection, fake: FakeEncoder, tmp_path: Path
) -> None:
    """They are kept beside it: what is missing, or of documents that went, is made again or forgotten."""
    file = reporting.settings.data_dir / "r" / SIGNATURES
    tree = write_tree(tmp_path / "t", {"a.txt": ONE})
    run(reporting, fake, tree)
    before = file.read_bytes()
    run(reporting, fake, tree)
    assert file.read_bytes() == before, "nothing changed, nothing is opened"
    [document] = reporting.store().documents()
    with reporting.writer() as writer:
        writer.replace((), [document.id])
    write_tree(tree, {"a.txt": OTHER, "b.txt": ONE})
    assert told(run(reporting, fake, tree)) == {"a.txt": "indexed", "b.txt": "indexed"}


def test_compaction_leaves_the_signatures_of_what_is_there(
    reporting: Collection, fake: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = reporting.settings.data_dir / "r" / SIGNATURES
    tree = write_tree(tmp_path / "t", {"gone.txt": OTHER, "b.txt": ONE})
    run(reporting, fake, tree)
    (tree / "gone.txt").unlink()
    run(reporting, fake, tree, exact=True)
    compact(reporting, grace=0)
    assert b"gone.txt" not in file.read_bytes(), "what was derived from deleted text goes too"
    monkeypatch.setattr(Store, "whole_documents", None)  # no text is read again
    write_tree(tree, {"c.txt": NEARLY})
    assert told(run(reporting, fake, tree))["c.txt"] == ("indexed", "b.txt")
    file.write_bytes(b"no database at all" * 100)
    compact(reporting, grace=0)
    assert b"at all" not in file.read_bytes()


def test_what_waits_for_the_end_comes_back_as_it_was(tmp_path: Path) -> None:
    aside = Aside()
    found = FoundFile(tmp_path / "\udcff.txt", "file:///%FF.txt", 3, 10)
    source = Source("x.jsonl", "x.jsonl", b"\0\xff")
    ready = make_document("a", "red", page_starts=(0,), headings=(Heading(0, 1, "Red"),), metadata={"year": [1]})
    for item, id in ((found, "f"), (source, "s1"), (source, "s2"), (ready, "r")):
        aside.add(item, id)
    assert list(aside) == [(found, {"f"}), (source, {"s1", "s2"}), (ready, {"r"})]
    aside.close()


def test_signatures_in_step_are_not_compared_with_all_documents(
    reporting: Collection, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(id: str, text: str) -> Like | None:
        ready = [make_document(id, text, id=id)]
        encoder: Any = fake
        [outcome] = ingest_items(reporting, encoder, ready, FieldChoice(), ahead=ready)
        return outcome.like

    put("one", ONE)
    with monkeypatch.context() as patched:
        known = Store.known_documents
        patched.setattr(Store, "known_documents", lambda store, since: known(store, since))  # all: a TypeError
        assert put("two", OTHER) is None
        assert put("copy", ONE) is not None
    # One that went, which only a look at all documents tells, is told of no more.
    with reporting.writer() as writer:
        writer.replace((), ["two"])
    assert put("again", OTHER) is None
