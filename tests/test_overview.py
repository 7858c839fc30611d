"""What is in a collection, by vectors whose arithmetic can be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.errors import UsageError
from embedsvc.ingest import ingest_items
from embedsvc.overview import Classified, classify, clusters, near_passages, own_vectors
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking, make_document
from tests.fakes import FakeEncoder
from tests.test_cli import Run, run  # noqa: F401 - a fixture

TEXTS = {
    "a": "red red red fire",
    "b": "blue blue sky",
    "c": "red fire engine",
    "d": "blue sea sky",
    "e": "red red red red red blue",
    "f": "green frog",
}


@pytest.fixture
def collection(tmp_path: Path, fake: FakeEncoder) -> Collection:
    made = Collection.create("c", fake.contract, Chunking(64, 0), Settings(data_dir=tmp_path, durability="os"))
    documents = [make_document(f"t:{id}", text, id=id) for id, text in TEXTS.items()]
    for _ in ingest_items(made, fake, documents, FieldChoice(), duplicates="ignore"):  # type: ignore[arg-type]
        pass
    return made


def test_passages_that_mean_the_same_are_grouped(collection: Collection) -> None:
    snapshot = collection.snapshot()
    groups = [[passage.document_id for passage in group] for group in near_passages(snapshot, 0.99)]
    assert groups == [["a", "c"], ["b", "d"]]
    looser = [sorted(passage.document_id for passage in group) for group in near_passages(snapshot, 0.9)]
    assert looser == [["a", "c", "e"], ["b", "d"]]
    with pytest.raises(UsageError, match="threshold is 0"):
        near_passages(snapshot, 0)


def test_neighbours_are_searched_for_many_at_once(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = near_passages(collection.snapshot(), 0.9)
    monkeypatch.setattr("embedsvc.overview._AT_ONCE", 2)
    assert near_passages(collection.snapshot(), 0.9) == whole


def test_clusters_are_labelled_by_their_own_words(collection: Collection) -> None:
    found = clusters(collection.snapshot(), 3)
    assert [cluster.passages for cluster in found] == [3, 2, 1]
    assert {"fire", "red"} <= set(found[0].label)
    assert {"blue", "sky"} <= set(found[1].label)
    assert found[2].label == ("frog", "green")
    assert [passage.document_id for passage in found[2].typical] == ["f"]
    own = [passage.row_id for passage in collection.snapshot().store.take(list(found[0].row_ids[:3]))]
    assert [passage.row_id for passage in found[0].typical] == own  # the nearest to the centre first
    assert sorted(id for cluster in found for id in cluster.row_ids) == sorted(own_vectors(collection.snapshot())[0])
    assert found == clusters(collection.snapshot(), 3)
    assert sum(cluster.passages for cluster in clusters(collection.snapshot())) == len(TEXTS)
    assert sum(cluster.passages for cluster in clusters(collection.snapshot(), 100)) == len(TEXTS)  # of 6 at most
    for count in (0, 101):
        with pytest.raises(UsageError, match=f"{count} clusters are asked for; ask for 1 to 100"):
            clusters(collection.snapshot(), count)


def test_nothing_makes_no_cluster(tmp_path: Path, fake: Any) -> None:
    empty = Collection.create("e", fake.contract, Chunking(64, 0), Settings(data_dir=tmp_path, durability="os"))
    assert clusters(empty.snapshot()) == []
    assert near_passages(empty.snapshot()) == []
    assert classify(empty.snapshot(), fake, {"red": "", "blue": ""}) == Classified({"red": 0, "blue": 0}, ())


def test_each_passage_gets_the_label_that_is_described_most_like_it(collection: Collection, fake: Any) -> None:
    asked = {"warm": "red", "cold": "blue blue", "green": ""}
    found = classify(collection.snapshot(), fake, asked)
    assert {each.passage.document_id: each.label for each in found.passages} == {
        "a": "warm", "b": "cold", "c": "warm", "d": "cold", "e": "warm", "f": "green",
    }  # fmt: skip
    assert found.counts == {"warm": 3, "cold": 2, "green": 1}
    page = classify(collection.snapshot(), fake, asked, 4, 100)
    assert page == Classified(found.counts, found.passages[4:])
    assert classify(collection.snapshot(), fake, asked, 6, 1).passages == ()
    (mixed,) = (each for each in found.passages if each.passage.document_id == "e")
    assert (mixed.cosine, mixed.margin) == pytest.approx((5 / 26**0.5, 4 / 26**0.5), abs=1e-3)
    for labels in ({"one": "red"}, {str(at): "red" for at in range(101)}, {"": "red", "b": "blue"}):
        with pytest.raises(UsageError, match="label"):
            classify(collection.snapshot(), fake, labels)


def test_the_commands(run: Run, library: Path) -> None:  # noqa: F811
    found = run("collections", "classify", "library", "--data-dir", library, "--json",
                "--label", "health=medicine and food", "--label", "space=planets and stars")  # fmt: skip
    assert found.code == 0, found.err
    labels = {each["uri"].rpartition("/")[2]: each["label"] for each in found.json["passages"]}
    assert labels["astronomy.txt"] == "space"
    assert labels["papers.jsonl#p1"] == "health"
    assert sum(found.json["counts"].values()) == len(found.json["passages"]) == found.json["total"]
    some = run("collections", "classify", "library", "--data-dir", library, "--limit", "1", "--offset", "1",
               "--label", "health=medicine and food", "--label", "space=planets and stars")  # fmt: skip
    assert some.out.count(".txt") + some.out.count(".md") + some.out.count(".jsonl") == 1
    assert f"1 of {found.json['total']} passages are shown" in some.out
    told = run("collections", "clusters", "library", "-n", "2", "--data-dir", library)
    assert told.code == 0, told.err
    assert run("collections", "alike", "library", "--data-dir", library, "--json").json["groups"] == []
