"""Hits narrowed to the best parts of passages: which, in whole sentences, cited exactly."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import pytest

from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.errors import UsageError
from embedsvc.evaluate import Expected, Question, answer_spans, score
from embedsvc.ingest import ingest_items
from embedsvc.migrate import _document
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking, Document, Heading, make_document
from embedsvc.search import Answer, Query, search
from embedsvc.search.selection import Selection
from embedsvc.search.telling import answer_dict
from embedsvc.search.terms import sentence_spans
from tests.fakes import FakeEncoder

# Eight tokens each, the full stop counted.
SENTENCES = [
    "White clouds went over all the land.",
    "A green frog sat in the grass.",
    "Nobody saw it there in those days.",
    "One red engine came down the road.",
    "It stopped before the old town hall.",
    "The blue sky was all they saw.",
]
TEXT = " ".join(SENTENCES)
STARTS = [TEXT.index(sentence) for sentence in SENTENCES]


def collection_of(folder: Path, fake: FakeEncoder, *documents: Document, chunking: Chunking) -> Collection:
    settings = Settings(data_dir=folder, durability="os")
    collection = Collection.create("c", fake.contract, chunking, settings)
    for outcome in ingest_items(collection, fake, documents, FieldChoice(), duplicates="ignore"):  # type: ignore[arg-type]
        assert outcome.status == "indexed"
    return collection


@pytest.fixture
def told(tmp_path: Path, fake: FakeEncoder) -> Collection:
    """One document, one passage."""
    document = make_document("t:a", TEXT, id="a", headings=(Heading(0, 1, "Land"), Heading(STARTS[3], 2, "Town")))
    document = replace(document, page_starts=(0, STARTS[1], STARTS[3]))
    collection = collection_of(tmp_path, fake, document, chunking=Chunking(256, 0))
    assert collection.store().count() == 1
    return collection


def ask(collection: Collection, fake: Any, text: str, **query: Any) -> Answer:
    return search(collection.snapshot(), fake, Query(text, **query))


def exact(answer: Answer, text: str = TEXT) -> list[str]:
    """The hits' texts, each of which is where it says."""
    for hit in answer.hits:
        assert hit.text == text[hit.start : hit.end]
    return [hit.text for hit in answer.hits]


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_a_hit_is_the_sentences_that_have_the_words(told: Collection, fake: FakeEncoder, mode: str) -> None:
    assert exact(ask(told, fake, "red engine", mode=mode, k=1, narrow=8)) == [SENTENCES[3]]
    (two,) = exact(ask(told, fake, "red engine stopped", mode=mode, k=1, narrow=16))
    assert two == f"{SENTENCES[3]} {SENTENCES[4]}"
    assert exact(ask(told, fake, "red engine", mode=mode, k=1)) == [TEXT]


def test_page_and_heading_are_those_where_the_part_begins(told: Collection, fake: FakeEncoder) -> None:
    places = {
        word: [(hit.page, hit.heading) for hit in ask(told, fake, word, k=1, narrow=8).hits]
        for word in ("white clouds", "green frog", "red engine", "blue sky")
    }
    assert places == {
        "white clouds": [(1, "Land")],
        "green frog": [(2, "Land")],
        "red engine": [(3, "Land > Town")],
        "blue sky": [(3, "Land > Town")],
    }


def test_where_places_were_not_stored_the_passage_has_its_own(told: Collection, fake: FakeEncoder) -> None:
    lance.dataset(str(told.store().path)).drop_columns(["turns"])
    (hit,) = ask(Collection.open("c", told.settings), fake, "red engine", k=1, narrow=8).hits
    assert (hit.text, hit.page, hit.heading) == (SENTENCES[3], 1, "Land")
    later = Collection.open("c", told.settings)
    for _ in ingest_items(later, fake, [make_document("t:b", "Red again.", id="b")], FieldChoice()):  # type: ignore[arg-type]
        pass
    assert later.store().turns(later.store().row_ids().tolist()) == [None, []]


def test_a_migrated_document_keeps_the_places_within_its_passages(told: Collection) -> None:
    (whole,) = told.store().whole_documents(["a"])
    made = _document(whole)
    assert [made.page_at(at) for at in STARTS] == [1, 2, 2, 3, 3, 3]
    assert [made.heading_at(at) for at in STARTS] == ["Land"] * 3 + ["Land > Town"] * 3


def test_a_passage_may_have_several_parts_which_share_nothing(told: Collection, fake: FakeEncoder) -> None:
    answer = ask(told, fake, "red frog sky", k=10, narrow=16, explain=True)
    found = exact(answer)
    assert len(found) > 2
    covered = sorted((hit.start, hit.end) for hit in answer.hits)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(covered))
    assert sum(end - start + 1 for start, end in covered) == len(TEXT) + 1
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    assert [hit.places["narrow"].rank for hit in answer.hits] == list(range(1, len(found) + 1))
    assert [step["stage"] for step in answer_dict(answer)["explain"]["stages"]][:5] == [
        "candidates",
        "fuse",
        "wording",
        "fold",
        "narrow",
    ]


def test_passages_that_overlap_are_one_text(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(tmp_path, fake, make_document("t:a", TEXT, id="a"), chunking=Chunking(26, 12))
    assert collection.store().count() > 2
    found = exact(ask(collection, fake, "red engine", k=3, narrow=8))
    assert found[0] == SENTENCES[3]
    assert len(set(found)) == len(found)
    # Of two passages, neither of which has all of it.
    assert exact(ask(collection, fake, "frog sky", k=1, narrow=48)) == [TEXT]


def test_a_sentence_longer_than_a_part_stays_whole(told: Collection, fake: FakeEncoder) -> None:
    assert exact(ask(told, fake, "frog", k=1, narrow=1)) == [SENTENCES[1]]


def test_true_is_a_share_of_the_window(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(tmp_path, fake, make_document("t:a", TEXT, id="a"), chunking=Chunking(64, 0))
    (part,) = exact(ask(collection, fake, "red engine", k=1, narrow=True))
    assert SENTENCES[3] in part
    assert len(part) < len(TEXT)


def test_words_that_no_passage_has_narrow_all_the_same(told: Collection, fake: FakeEncoder) -> None:
    (part,) = exact(ask(told, fake, "zebra", mode="dense", k=1, narrow=8))
    assert part in SENTENCES


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"narrow": 0}, "narrow is 0 tokens"),
        ({"narrow": True, "merge": False}, "ask for one of the two"),
        ({"narrow": True, "selection": Selection(group_by="document")}, "not together with diversity or group_by"),
        ({"text": "", "vector": (1.0, 0, 0, 0), "mode": "dense", "narrow": True}, "a vector has none"),
    ],
)
def test_what_narrow_cannot_do(told: Collection, fake: FakeEncoder, query: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ask(told, fake, **{"text": "red", **query})


def test_long_sentences_end_at_lesser_ends_too() -> None:
    lower = "the sky is blue and the grass is green today. " * 12
    assert len(sentence_spans(lower)) == 12
    lines = "a line of a long table without any full stop\n" * 12
    assert len(sentence_spans(lines)) == 12
    short = "it is so. and it is short\nof course."
    assert sentence_spans(short) == [(0, len(short))]


def test_recall_and_iou_of_quoted_characters(told: Collection, fake: FakeEncoder) -> None:
    start, end = STARTS[3], STARTS[3] + len(SENTENCES[3])
    questions = [
        Question("1", "red engine", (Expected("a", (start, end)),)),
        # One half of what is quoted is not there.
        Question("2", "red engine", (Expected("a", (start, end)), Expected(None, told="?", quoted=end - start))),
        Question("3", "red", (Expected("a"),)),
    ]
    found = answer_spans(told.snapshot(), fake, questions)  # type: ignore[arg-type]
    assert found["answer_recall@5"] == found["answer_recall@10"] == 0.75
    size = end - start
    assert found["answer_iou@5"] == pytest.approx((size / len(TEXT) + size / (len(TEXT) + size)) / 2)
    measures = score(told.snapshot(), fake, questions, dataset="d").measures  # type: ignore[arg-type]
    assert measures["answer_recall@5"] == 0.75
    assert answer_spans(told.snapshot(), fake, questions[2:]) == {}  # type: ignore[arg-type]
