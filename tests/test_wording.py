"""How the best candidates word what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from embedsvc.records import Chunking, Fusion, make_document
from embedsvc.search import Selection
from embedsvc.search.terms import pairs_in, query_pairs
from embedsvc.search.wording import shares
from embedsvc.storage import Store
from tests.fakes import FakeEncoder
from tests.test_search import ask, collection_of, ids, texts


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("The power failures of last week", True),
        ("Power of the failure", True),
        ("power, failure", True),
        ("failure of power", False),
        ("power that led to failure", False),
        ("powerful failure", False),
        ("", False),
    ],
)
def test_words_that_follow_one_another(text: str, has: bool) -> None:
    assert bool(pairs_in(text, query_pairs("What is a power failure?"))) == has


def test_pairs_of_a_query() -> None:
    assert query_pairs("restart after the power failure") == {("restart", "power"), ("power", "failur")}
    assert query_pairs("power") == query_pairs("of the") == query_pairs("!?") == query_pairs("bye bye") == frozenset()
    assert len(query_pairs(" ".join(f"word{at}" for at in range(10_000)))) < 100, "a long query costs no more"


def test_a_pair_that_few_have_counts_more() -> None:
    pairs = query_pairs("red apple pie")
    rare, usual, both, none = shares(["apple pie", "red apple", "red apple pie", "red"], pairs | {("x", "y")})
    assert none == 0 < usual == rare < both < 1
    rare, usual = shares(["apple pie", "red apple", "a red apple"], pairs)[:2]
    assert usual < rare


def test_the_wording_decides_between_equals_and_scores_stay_below_one(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, apart="apple white red", asked="white red apple", other="red")
    answer = ask(collection, fake, "red apple")
    assert ids(answer)[:2] == ["asked", "apart"]
    assert answer.hits[0].score <= 1
    assert answer.hits[0].score - answer.hits[1].score == pytest.approx(1 / 6)


def test_wording_has_a_third_of_the_lexical_weight_and_no_part_in_ranks(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, apart="apple white red", asked="white red apple", other="red")
    for weight, apart in ((0.0, 1 / 3), (1.0, 0.0)):
        hits = ask(collection, fake, "red apple", fusion=Fusion(weight=weight)).hits
        score = {hit.document_id: hit.score for hit in hits}
        assert score["asked"] - score["apart"] == pytest.approx(apart)
    answer = ask(collection, fake, "red apple", fusion=Fusion("rrf"), explain=True)
    assert "wording" not in answer.hits[0].places


def test_one_word_has_no_wording(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, one="red", other="red white")
    answer = ask(collection, fake, "red", explain=True)
    assert "wording" not in answer.hits[0].places
    assert answer.hits[0].score == pytest.approx(1)


def test_rounds_read_a_text_once(tmp_path: Path, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    long = make_document("t:long", " ".join(f"red apple w{at} ." for at in range(150)), id="long")
    collection = collection_of(
        tmp_path, fake, long, make_document("t:o", "red apple pie", id="other"), chunking=Chunking(6, 0)
    )
    read: list[int] = []
    columns = Store.columns

    def counted(self: Store, row_ids: Sequence[int], names: Sequence[str]) -> list[list[Any]]:
        read.extend(row_ids if "text" in names else ())
        return columns(self, row_ids, names)

    monkeypatch.setattr(Store, "columns", counted)
    selection = Selection(duplicates="keep", group_by="document")
    answer = ask(collection, fake, "red apple", k=5, fusion=Fusion(depth=1), selection=selection, explain=True)
    assert answer.explanation is not None
    assert answer.explanation.rounds > 1
    assert read
    assert len(read) == len(set(read))
