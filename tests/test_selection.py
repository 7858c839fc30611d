"""Which of the ranked passages become hits: duplicates folded, hits that differ, groups, boosts."""

from __future__ import annotations

import doctest
import itertools
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedsvc import duplicates as signing
from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.duplicates import alike
from embedsvc.errors import BadFilter, UsageError
from embedsvc.ingest import ingest_items
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking, Document, make_document
from embedsvc.search import Answer, Preference, Query, Recency, Rerank, Selection, boost_of, boosting, pipeline, search
from embedsvc.search.telling import answer_dict
from embedsvc.storage import metadata_keys
from tests.fakes import FakeEncoder
from tests.test_reranking import FakeReranker

MODES = ("hybrid", "dense", "lexical")


def collection_of(
    folder: Path, fake: FakeEncoder, *documents: Document, window: int = 64, overlap: int = 0
) -> Collection:
    settings = Settings(data_dir=folder, durability="os")
    collection = Collection.create("c", fake.contract, Chunking(window, overlap), settings)
    for outcome in ingest_items(collection, fake, documents, FieldChoice(), duplicates="ignore"):  # type: ignore[arg-type]
        assert outcome.status == "indexed"
    return collection


def document(id: str, text: str, **metadata: Any) -> Document:
    return make_document(f"t:{id}", text, id=id, metadata=metadata)


def asked(collection: Collection, fake: Any, text: str = "red", *, rest: Any = None, **wanted: Any) -> Answer:
    query = Query(text, **{"mode": "dense", **(rest or {})}, selection=Selection(**wanted))
    return search(collection.snapshot(), fake, query)


def ids(answer: Answer) -> list[str]:
    return [hit.document_id for hit in answer.hits]


def falls(answer: Answer) -> bool:
    """Whether the scores are within 0 and 1, and none is higher than the one before."""
    scores = [hit.score for hit in answer.hits]
    return scores == sorted(scores, reverse=True) and all(0 <= score <= 1 + 1e-6 for score in scores)


# -- duplicates ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    tmp_path, fake = tmp_path_factory.mktemp("copied"), FakeEncoder()
    copies = [document(f"copy{at:02}", "red red blue") for at in range(40)]
    others = [document(f"other{at}", "red " + "green " * (at + 2)) for at in range(5)]
    return collection_of(tmp_path, fake, *copies, *others)


@pytest.mark.parametrize("mode", MODES)
def test_a_text_is_one_hit_that_names_its_copies_and_k_is_full(
    copied: Collection, fake: FakeEncoder, mode: str
) -> None:
    answer = asked(copied, fake, rest={"mode": mode, "k": 5})
    assert len(answer.hits) == 5
    (first,) = (hit for hit in answer.hits if hit.duplicates)
    assert sorted([first.document_id, *(each.document_id for each in first.duplicates)]) == [
        f"copy{at:02}" for at in range(40)
    ]
    assert {(each.start, each.end) for each in first.duplicates} == {(0, 12)}
    assert len(asked(copied, fake, duplicates="keep", rest={"k": 1000}).hits) == 45


def test_a_text_under_two_titles_is_one_hit_though_its_vectors_differ(tmp_path: Path, fake: FakeEncoder) -> None:
    settings = Settings(data_dir=tmp_path, durability="os")
    collection = Collection.create("c", fake.contract, Chunking(64, 0, context="title"), settings)
    documents = [make_document(f"t:{id}", "red", id=id, title=title) for id, title in (("a", "blue"), ("b", "green"))]
    outcomes = list(ingest_items(collection, fake, documents, FieldChoice(), duplicates="ignore"))  # type: ignore[arg-type]
    assert [outcome.status for outcome in outcomes] == ["indexed"] * 2
    (hit,) = asked(collection, fake).hits
    assert len(hit.duplicates) == 1


def test_copies_are_told_as_json_where_there_are_some(copied: Collection, fake: FakeEncoder) -> None:
    first, second = answer_dict(asked(copied, fake, rest={"k": 2}))["hits"]
    assert first["duplicates"][0].keys() == {
        "id", "document_id", "uri", "title", "start", "end", "page", "heading",
    }  # fmt: skip
    assert "duplicates" not in second


def test_a_filter_also_holds_for_copies(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(tmp_path, fake, document("a", "red", team="x"), document("b", "red", team="y"))
    (hit,) = asked(collection, fake, rest={"filter": "metadata.team = 'y'"}).hits
    assert (hit.document_id, hit.duplicates) == ("b", ())


def test_at_most_a_hundred_copies_are_cited(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(tmp_path, fake, *(document(str(at), "red") for at in range(120)))
    (hit,) = asked(collection, fake).hits
    assert len(hit.duplicates) == 100


SENTENCE = (
    "the red apple of the red tree fell into the red basket of the old gardener at noon on the third of May, "
    "and nobody but the red cat, who sat on the wall behind the house, ever saw it"
)


def test_texts_that_are_nearly_the_same_are_folded_where_that_is_asked_for(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(
        tmp_path,
        fake,
        document("a", SENTENCE),
        document("b", SENTENCE.replace("noon", "once")),
        document("c", SENTENCE),
        document("d", " ".join(reversed(SENTENCE.split()))),  # the same words, so the same vector
    )
    exact = asked(collection, fake)
    assert sorted(ids(exact)) == ["a", "b", "d"]
    near = asked(collection, fake, duplicates="near")
    assert sorted(ids(near)) == ["a", "d"]
    (hit,) = (hit for hit in near.hits if hit.document_id == "a")
    assert sorted(each.document_id for each in hit.duplicates) == ["b", "c"]


def test_texts_are_alike_by_what_they_share() -> None:
    texts = ["Red  apple\n", "red apple", "abcdefghij", "abcdefghik", " ", ""]
    assert [np.flatnonzero(row).tolist() for row in alike(texts)] == [[0, 1], [0, 1], [2], [3], [], []]
    assert alike(texts[2:4], 0.2).all(), "a third is"
    assert alike([]).shape == (0, 0)


def test_a_text_is_read_once_however_many_are_close_to_it(
    tmp_path: Path, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"red {random.Random(at).getrandbits(160):x}" for at in range(30)]
    collection = collection_of(tmp_path, fake, *(document(text, text) for text in texts))
    read: list[str] = []
    sign = signing.sign

    def noted(text: str) -> signing.Signature | None:
        read.append(text)
        return sign(text)

    monkeypatch.setattr(signing, "sign", noted)
    assert len(asked(collection, fake, duplicates="near", rest={"k": 30}).hits) == 30
    assert sorted(read) == sorted(texts)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Of document a, the second passage, which overlaps the best one, says what b says; c comes after both."""
    tmp_path, fake = tmp_path_factory.mktemp("beside"), FakeEncoder()
    long = document("a", "red red red red red red w1 w2 w3 w4 red red w5 w6 blue")
    alone = collection_of(tmp_path / "alone", fake, long, window=12, overlap=5)
    best, second, *_ = asked(alone, fake, rest={"merge": False}).hits
    assert best.start < second.start < best.end < second.end
    others = (document("b", second.text), document("c", "red blue blue blue blue"))
    return collection_of(tmp_path / "c", fake, long, *others, window=12, overlap=5)


def told(answer: Answer) -> list[tuple[str, list[str]]]:
    return [(hit.document_id, [each.document_id for each in hit.duplicates]) for hit in answer.hits]


def all_of(answer: Answer) -> set[str]:
    return {id for document, others in told(answer) for id in (document, *others)}


def test_what_is_joined_to_a_hit_brings_its_copies(beside: Collection, fake: FakeEncoder) -> None:
    assert told(asked(beside, fake)) == [("a", ["b"]), ("c", [])]


def test_a_passage_that_others_cover_brings_its_copies(tmp_path: Path, fake: FakeEncoder) -> None:
    words = "red red red red red w0 w1 w2 w3 w4 red red red w5 w6 w7 w8 w9 red red red red blue w10 w11"
    alone = collection_of(tmp_path / "alone", fake, document("a", words), window=12, overlap=8)
    passages = asked(alone, fake, rest={"merge": False, "k": 50}).hits
    others = [document(f"copy{at}", passage.text) for at, passage in enumerate(passages)]
    collection = collection_of(tmp_path / "c", fake, document("a", words), *others, window=12, overlap=8)
    answer = asked(collection, fake, rest={"k": 50})
    assert all_of(answer) == {"a", *(other.id for other in others)}


@pytest.mark.parametrize("narrow", [4, 8, True])
def test_parts_of_passages_bring_the_copies_of_all_they_have_some_of(
    beside: Collection, fake: FakeEncoder, narrow: int
) -> None:
    answer = asked(beside, fake, rest={"narrow": narrow})
    assert all_of(answer) == {"a", "b", "c"}


def test_neighbours_with_the_same_text_are_joined_not_folded(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(tmp_path, fake, document("long", "red " * 40), window=12, overlap=5)
    kept, folded = (asked(collection, fake, duplicates=how).hits for how in ("keep", "exact"))
    assert kept[0].text == folded[0].text
    assert len(folded[0].text.split()) > 10, "a window holds ten"


# -- hits that differ --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    tmp_path, fake = tmp_path_factory.mktemp("colours"), FakeEncoder()
    return collection_of(
        tmp_path,
        fake,
        document("red1", "red red red red blue"),
        document("red2", "red red red red blue one"),
        document("red3", "red red red red blue two"),
        document("green", "red green green"),
        document("white", "red white white white"),
    )


def test_diversity_prefers_what_was_not_said(colours: Collection, fake: FakeEncoder) -> None:
    plain, diverse = (asked(colours, fake, diversity=how, rest={"k": 3}) for how in (0.0, 0.5))
    assert ids(plain) == ["red1", "red2", "red3"]
    assert ids(diverse) == ["red1", "green", "white"]
    assert len(asked(colours, fake, diversity=1.0, rest={"k": 5}).hits) == 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("diversity", [0.1, 0.5, 1.0])
def test_diverse_scores_fall_within_0_and_1(
    colours: Collection, fake: FakeEncoder, mode: str, diversity: float
) -> None:
    answer = asked(colours, fake, diversity=diversity, rest={"mode": mode, "k": 5})
    assert len(answer.hits) == 5
    assert falls(answer)


def test_diversity_by_hand(colours: Collection, fake: FakeEncoder) -> None:
    first, second = asked(colours, fake, diversity=0.5, rest={"k": 2}).hits
    assert first.score == pytest.approx(0.5 * 4 / 17**0.5 + 0.5)
    assert second.score == pytest.approx(0.5 / 5**0.5 + 0.5 * (1 - 4 / (17 * 5) ** 0.5))


def test_min_score_looks_at_the_score_before_diversity(colours: Collection, fake: FakeEncoder) -> None:
    answer = asked(colours, fake, diversity=0.5, rest={"k": 5, "min_score": 0.4})
    assert sorted(ids(answer)) == ["green", "red1", "red2", "red3"]


# -- groups ------------------------------------------------------------------------------------------------------------


def test_groups_have_their_share_and_k_is_full(tmp_path: Path, fake: FakeEncoder) -> None:
    long = document("long", " ".join(f"red red red red red red red w{at} ." for at in range(300)), kind="book")
    short = [document(f"s{at}", f"red {'green ' * (at + 3)}", kind="note" if at % 2 else "memo") for at in range(8)]
    collection = collection_of(tmp_path, fake, long, *short, window=11)
    by_document = asked(collection, fake, group_by="document", rest={"k": 6})
    assert ids(by_document) == ["long", "s0", "s1", "s2", "s3", "s4"]
    two = ids(asked(collection, fake, group_by="document", per_group=2, rest={"k": 6}))
    assert two == ["long", "long", "s0", "s1", "s2", "s3"]
    by_kind = asked(collection, fake, group_by="metadata.kind", per_group=2, rest={"k": 6})
    assert [hit.metadata["kind"] for hit in by_kind.hits] == ["book", "book", "memo", "note", "memo", "note"]


def test_groups_that_cannot_fill_the_answer_end_the_search_and_that_is_told(tmp_path: Path, fake: FakeEncoder) -> None:
    notes = [document(f"note{at}", f"red v{at}", kind=str(at)) for at in range(3)]
    book = document("book", " ".join(f"red w{at} ." for at in range(500)), kind="0")
    collection = collection_of(tmp_path, fake, *notes, book, window=5)
    count = collection.snapshot().store.count()
    answer = asked(collection, fake, group_by="metadata.kind", rest={"explain": True})
    assert sorted(ids(answer)) == ["note0", "note1", "note2"]
    assert answer.explanation is not None
    assert answer.explanation.steps[0].passages < count
    (warning,) = answer.warnings
    assert "3 of 10 hits were found among the 400 best candidates" in warning
    assert "there may be more" in warning
    assert asked(collection, fake, group_by="metadata.kind", rest={"k": 3}).warnings == ()
    assert asked(collection, fake, rest={"k": 3, "filter": "id = 'note0:0'"}).warnings == (), "there is no more"


def test_no_round_has_more_candidates_than_the_most(
    copied: Collection, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_MOST", 30)
    answer = asked(copied, fake, rest={"k": 5, "explain": True})
    assert len(answer.hits) == 1
    assert answer.explanation is not None
    assert answer.explanation.steps[0].passages == 30
    assert "among the 30 best candidates" in answer.warnings[0]


def test_what_lacks_the_field_is_of_no_group(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(
        tmp_path,
        fake,
        document("a", "red", tags=["x", 1]),
        document("b", "red blue", tags=["x", 1]),
        document("c", "red green"),
        document("d", "red white", tags=None),
    )
    assert sorted(ids(asked(collection, fake, group_by="metadata.tags"))) == ["a", "c", "d"]


def test_overlapping_passages_take_no_place_of_a_group(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(
        tmp_path, fake, document("a", " ".join(f"red w{at}" for at in range(40))), window=12, overlap=5
    )
    hits = asked(collection, fake, group_by="document", per_group=3).hits
    assert len(hits) == 3
    spans = sorted((hit.start, hit.end) for hit in hits)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_copy_of_what_a_group_leaves_out_takes_its_place(beside: Collection, fake: FakeEncoder) -> None:
    plain = asked(beside, fake, duplicates="keep", group_by="document")
    for diversity in (0.0, 0.3):
        answer = asked(beside, fake, group_by="document", diversity=diversity, rest={"explain": True})
        assert told(answer) == [("a", []), ("b", ["a"]), ("c", [])]
        assert falls(answer)
        assert [hit.scores for hit in answer.hits] == [hit.scores for hit in plain.hits]
    assert told(asked(beside, fake, group_by="document", per_group=2))[:2] == [("a", []), ("b", ["a"])]


def test_a_copy_whose_group_is_full_takes_no_place(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(
        tmp_path,
        fake,
        document("a", "red", of="x"),
        document("b", "red blue", of="x"),
        document("c", "red blue", of="x"),
        document("d", "red green", of="y"),
    )
    assert told(asked(collection, fake, group_by="metadata.of")) == [("a", []), ("d", [])]


def test_an_unknown_field_is_told_of_and_a_rare_one_is_not(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(tmp_path, fake, document("a", "red"), document("b", "blue", author="me", when="late"))
    with pytest.raises(UsageError, match=r"No passage of 'c' has a value in metadata\.autor\. Name another field"):
        asked(collection, fake, group_by="metadata.autor")
    assert ids(asked(collection, fake, group_by="metadata.author", rest={"filter": "id = 'a:0'"})) == ["a"]
    with pytest.raises(UsageError, match=r"has a date .* in metadata\.when, but 'late'"):
        asked(collection, fake, boosts=(Recency("metadata.when", 1, 0.5),))


# -- boosts ------------------------------------------------------------------------------------------------------------


def days_ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    tmp_path, fake = tmp_path_factory.mktemp("dated"), FakeEncoder()
    return collection_of(
        tmp_path,
        fake,
        document("old", "red", date=days_ago(200), kind="manual"),
        document("new", "red red green", date=days_ago(0)),
        document("undated", "red red blue", kind="manual"),
        document("mid", "red red white", date=days_ago(100)),
    )


def test_the_newer_of_two_comes_first(dated: Collection, fake: FakeEncoder) -> None:
    answer = asked(dated, fake, boosts=(Recency("metadata.date", 100, 0.5),))
    assert ids(answer) == ["new", "mid", "old", "undated"]
    cosine = 2 / 5**0.5
    expected = [0.5 * cosine + 0.5, 0.5 * cosine + 0.25, 0.5 + 0.125, 0.5 * cosine]
    assert [hit.score for hit in answer.hits] == pytest.approx(expected, abs=1e-4)


def test_a_filter_is_preferred_and_no_score_exceeds_1(dated: Collection, fake: FakeEncoder) -> None:
    manuals = Preference("metadata.kind = 'manual'", 2)
    answer = asked(dated, fake, boosts=(manuals,))
    assert ids(answer)[:2] == ["old", "undated"]
    cosine = 2 / 5**0.5
    assert [hit.score for hit in answer.hits] == pytest.approx([1, cosine, cosine / 2, cosine / 2])
    demoted = asked(dated, fake, boosts=(Preference("metadata.kind = 'manual'", 0.5),))
    assert ids(demoted)[-2:] == ["old", "undated"] or ids(demoted)[-2:] == ["undated", "old"]


@pytest.mark.parametrize("mode", MODES)
def test_boosted_scores_fall_within_0_and_1_in_whatever_order_they_are_given(
    dated: Collection, fake: FakeEncoder, mode: str
) -> None:
    boosts = (
        Preference("metadata.kind = 'manual'", 3),
        Recency("metadata.date", 30, 0.3),
        Preference("title = 'none'", 0.2),
        Recency("metadata.date", 300, 0.7),
    )
    answers = [asked(dated, fake, boosts=order, rest={"mode": mode}) for order in (boosts, boosts[::-1])]
    for answer in answers:
        assert len(answer.hits) == 4
        assert falls(answer)
    assert ids(answers[0]) == ids(answers[1])


def test_dates_as_people_write_them() -> None:
    results = doctest.testmod(boosting)
    assert (results.failed, results.attempted > 0) == (0, True)
    assert boosting.moment("2024-05-31T10:00:00Z") == datetime(2024, 5, 31, 10, tzinfo=UTC)
    assert [boosting.moment(value) for value in ("2024-13-01", "", True, [2024], {"year": 2024})] == [None] * 5


def test_a_reranked_score_is_boosted(dated: Collection, fake: FakeEncoder) -> None:
    reranker: Any = FakeReranker()
    query = Query("red", k=4, mode="dense", rerank=Rerank(reranker))
    assert ids(search(dated.snapshot(), fake, query))[0] == "undated"  # type: ignore[arg-type]
    boosts = (Recency("metadata.date", 1, 1.0),)
    boosted = Query("red", k=4, mode="dense", rerank=Rerank(reranker), selection=Selection(boosts=boosts))
    answer = search(dated.snapshot(), fake, boosted)  # type: ignore[arg-type]
    assert ids(answer)[0] == "new"
    assert falls(answer)


# -- all together ------------------------------------------------------------------------------------------------------


def test_what_each_stage_did_is_explained(dated: Collection, fake: FakeEncoder) -> None:
    boosts = (Preference("metadata.kind = 'manual'", 2),)
    answer = asked(
        dated, fake, boosts=boosts, diversity=0.3, group_by="document", rest={"explain": True, "min_score": 0.1}
    )
    assert answer.explanation is not None
    stages = [step.stage for step in answer.explanation.steps]
    assert stages == ["candidates", "boost", "cut", "fold", "diversify", "group", "merge", "cite", "confide"]
    assert {"boost", "diversify"} <= answer.hits[0].places.keys()


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_collection_has_no_hit_whatever_is_wanted(tmp_path: Path, fake: FakeEncoder, mode: str) -> None:
    empty = Collection.create("e", fake.contract, Chunking(64, 0), Settings(data_dir=tmp_path, durability="os"))
    boosts = (Recency("metadata.date", 1, 0.5), Preference("title = 'a'", 2))
    wanted = {"duplicates": "near", "diversity": 0.5, "group_by": "metadata.x", "boosts": boosts}
    assert asked(empty, fake, rest={"mode": mode}, **wanted).hits == ()


def test_min_score_finds_what_only_a_boost_lifts_above_it(tmp_path: Path, fake: FakeEncoder) -> None:
    better = [document(f"b{at}", f"red w{at}") for at in range(110)]
    preferred = [document(f"p{at:02}", f"red red blue w{at}", kind="x") for at in range(15)]
    collection = collection_of(tmp_path, fake, *better, *preferred)
    boosts = (Preference("metadata.kind = 'x'", 5),)
    answer = asked(collection, fake, boosts=boosts, rest={"k": 20, "min_score": 0.5})
    assert sorted(ids(answer)) == [f"p{at:02}" for at in range(15)]


def test_bad_filters_of_boosts_are_told_of(dated: Collection, fake: FakeEncoder) -> None:
    for filter, said in (("kind = 'manual'", "unknown field 'kind'"), ("title =", "missing")):
        with pytest.raises(BadFilter, match=said):
            asked(dated, fake, boosts=(Preference(filter, 2),))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"duplicates": "some"}, "duplicates is 'some'; choose exact, near, keep"),
        ({"diversity": 1.5}, r"diversity is 1\.5"),
        ({"diversity": -0.1}, r"diversity is -0\.1"),
        ({"diversity": float("nan")}, "diversity is nan"),
        ({"per_group": 2}, "per_group is about groups: give group_by too"),
        ({"group_by": "document", "per_group": 0}, "per_group is 0"),
        ({"group_by": "title"}, r"group_by is 'title'; choose document or metadata\.KEY"),
        ({"group_by": "metadata."}, "group_by is"),
        ({"group_by": "metadata.x' OR 1 = 1"}, "group_by is"),
        ({"boosts": (Recency("date", 1, 0.5),)}, "field is 'date'"),
        ({"boosts": (Recency("metadata.date", 1, 1.1),)}, r"weight is 1\.1"),
        ({"boosts": (Recency("metadata.date", 1, float("nan")),)}, "weight is nan"),
        ({"boosts": (Recency("metadata.date", 0, 0.5),)}, "half_life_days is 0"),
        ({"boosts": (Recency("metadata.date", float("inf"), 0.5),)}, "half_life_days is inf"),
        ({"boosts": (Recency("metadata.a", 1, 0.6), Recency("metadata.b", 1, 0.6))}, r"weights .* 1\.2 together"),
        ({"boosts": (Preference("title = 'a'", 0),)}, "factor is 0"),
        ({"boosts": (Preference("title = 'a'", 1e9),)}, "factor is 1e"),
        ({"boosts": (Preference("title = 'a'", 2),) * 21}, "21 boosts"),
    ],
)
def test_what_cannot_be_wanted(dated: Collection, fake: FakeEncoder, wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        asked(dated, fake, **wanted)


def test_boosts_of_json() -> None:
    assert boost_of({"filter": "title = 'a'", "factor": 2}) == Preference("title = 'a'", 2)
    recency = {"field": "metadata.date", "half_life_days": 90, "weight": 0.2}
    assert boost_of(recency) == Recency("metadata.date", 90, 0.2)
    for wrong, message in (
        ({}, "given nothing; give it either field"),
        ({"filter": "title = 'a'"}, "A boost is given filter;"),
        ({**recency, "factor": 2}, "either field, half_life_days and weight, or filter and factor"),
        ({**recency, "weight": "much"}, "weight of a boost is 'much'; it must be a number"),
        ({**recency, "weight": True}, "weight of a boost is True"),
        ({"filter": "title = 'a'", "factor": 10**400}, "more than 308 digits"),
        ({**recency, "weight": -(10**400)}, "more than 308 digits"),
        ({"filter": 3, "factor": 2}, "filter of a boost is 3; it must be a text"),
    ):
        with pytest.raises(UsageError, match=message):
            boost_of(wrong)


def test_fields_by_their_keys() -> None:
    assert metadata_keys("metadata.a.b") == ("a", "b")
    assert metadata_keys('metadata."a key.x".größe') == ("a key.x", "größe")


def test_relevance_is_within_0_and_1() -> None:
    run: Any = type("Run", (), {"scores": np.array([8, 2, -1], np.float32)})
    assert boosting.relevance(run).tolist() == [1, 0.25, 0]
    run.scores = np.array([0.5, 0.2], np.float32)
    assert boosting.relevance(run).tolist() == pytest.approx([0.5, 0.2])
