"""What ``explain`` tells of the stages, and that each can be left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedsvc.records import Chunking, make_document
from embedsvc.search.telling import answer_dict
from tests.fakes import FakeEncoder
from tests.test_search import ask, collection_of, texts


def test_every_hit_tells_its_place_on_each_side_and_after_each_stage(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, both="red apple", meaning="red red red", words="apple apple pie")
    answer = ask(collection, fake, "red apple", explain=True)
    places = {hit.document_id: {name: place.rank for name, place in hit.places.items()} for hit in answer.hits}
    assert places["both"] == {"dense": 1, "lexical": 1, "fuse": 1, "wording": 1, "merge": 1}
    assert places["meaning"]["dense"] == 2
    assert places["words"]["dense"] == 3
    for rank, hit in enumerate(answer.hits, 1):
        assert hit.places["merge"].rank == hit.places["wording"].rank == rank
        assert hit.places["wording"].score == hit.score
        assert hit.places["dense"].score == hit.scores.dense
        assert hit.places["lexical"].score == hit.scores.lexical


@pytest.mark.parametrize(
    ("mode", "stages", "sides"),
    [
        ("hybrid", ["candidates", "fuse", "wording", "fold", "merge", "cite", "confide"], {"dense", "lexical"}),
        ("dense", ["candidates", "fold", "merge", "cite", "confide"], {"dense"}),
        ("lexical", ["candidates", "fold", "merge", "cite"], {"lexical"}),
    ],
)
def test_the_stages_that_ran_with_their_times_and_rankings(
    tmp_path: Path, fake: FakeEncoder, mode: str, stages: list[str], sides: set[str]
) -> None:
    collection = texts(tmp_path, fake, a="red apple", b="red green apple", c="red apple blue blue")
    told = answer_dict(ask(collection, fake, "red apple", mode=mode, k=2, explain=True))
    assert [step["stage"] for step in told["explain"]["stages"]] == stages
    told_of = {step["stage"]: step for step in told["explain"]["stages"]}
    first, merged, cited = (told_of[stage] for stage in ("candidates", "merge", "cite"))
    assert first["rankings"].keys() == sides
    assert first["passages"] == 3
    assert [each["id"] for each in merged["rankings"]["merge"]] == [hit["id"] for hit in told["hits"]]
    assert merged["passages"] == 2
    assert cited["rankings"] == {}
    assert all(step["ms"] >= 0 for step in told["explain"]["stages"])


def test_candidates_that_became_no_hit_are_told_too(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, a="red red apple", b="red green", c="green")
    answer = ask(collection, fake, "red", mode="dense", k=2, min_score=0.9, explain=True)
    assert [hit.document_id for hit in answer.hits] == ["a"]
    assert answer.explanation is not None
    assert [id for id, _ in answer.explanation.steps[0].rankings["dense"]] == ["a:0", "b:0"]


def test_rounds_are_counted(tmp_path: Path, fake: FakeEncoder) -> None:
    long = make_document("t:long", "red green " * 600, id="long")
    collection = collection_of(
        tmp_path, fake, long, make_document("t:o", "red blue blue", id="o"), chunking=Chunking(12, 9)
    )
    explanation = ask(collection, fake, "red green", mode="dense", k=200, explain=True).explanation
    assert explanation is not None
    assert explanation.rounds > 1


def test_nothing_is_told_unless_asked_for(tmp_path: Path, fake: FakeEncoder) -> None:
    told = answer_dict(ask(texts(tmp_path, fake, a="red"), fake, "red"))
    assert "explain" not in told
    assert "explain" not in told["hits"][0]


def test_explaining_changes_no_answer_and_an_empty_one_is_explained(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, a="red", b="red green", c="blue")
    plain, told = (answer_dict(ask(collection, fake, "red", explain=explain)) for explain in (False, True))
    for one, other in zip(plain["hits"], told["hits"], strict=True):
        del other["explain"]
        assert one == other
    nothing = ask(collection, fake, "red", filter="uri = 'none'", explain=True)
    assert nothing.hits == ()
    assert nothing.explanation is not None
    assert [step.passages for step in nothing.explanation.steps] == [0] * 7


def test_without_merge_every_passage_is_a_hit_of_its_own(tmp_path: Path, fake: FakeEncoder) -> None:
    document = make_document("t:a", "green green green green red red red red red green green", id="a")
    collection = collection_of(tmp_path, fake, document, chunking=Chunking(6, 2))
    merged = ask(collection, fake, "red", mode="dense").hits
    parts = ask(collection, fake, "red", mode="dense", merge=False).hits
    assert len(parts) == collection.snapshot().store.count() > len(merged)
    assert parts[0].text == "red red red red"
    assert all(hit.text == document.text[hit.start : hit.end] for hit in parts)
