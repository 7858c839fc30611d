from __future__ import annotations

import doctest
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedsvc.collection import Collection, Snapshot
from embedsvc.config import Settings
from embedsvc.encoding import EncodedTexts, Encoder
from embedsvc.errors import BadFilter, QueryTooLong, UsageError
from embedsvc.ingest import ingest_items
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking, Document, Fusion, make_document
from embedsvc.search import Answer, Evidence, Query, Selection, check_query, fusion, fusion_of, search
from embedsvc.search.fusion import convex_combination
from embedsvc.search.pipeline import search_all
from tests.fakes import FakeEncoder

MODES = ("hybrid", "dense", "lexical")
KEEP = Selection(duplicates="keep")


def collection_of(
    folder: Path,
    fake: FakeEncoder,
    *documents: Document,
    chunking: Chunking = Chunking(64, 8),  # noqa: B008
) -> Collection:
    collection = Collection.create("c", fake.contract, chunking, Settings(data_dir=folder, durability="os"))
    for outcome in ingest_items(collection, fake, documents, FieldChoice()):  # type: ignore[arg-type]
        assert outcome.status == "indexed"
    return collection


def texts(folder: Path, fake: FakeEncoder, **by_id: str) -> Collection:
    return collection_of(folder, fake, *(make_document(f"t:{id}", text, id=id) for id, text in by_id.items()))


def ask(collection: Collection | Snapshot, fake: Any, text: str = "", **query: Any) -> Answer:
    snapshot = collection.snapshot() if isinstance(collection, Collection) else collection
    return search(snapshot, fake, Query(text, **query))


def ids(answer: Answer) -> list[str]:
    return [hit.document_id for hit in answer.hits]


class Together(FakeEncoder):
    """Takes note of how many texts come at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.at_a_time: list[int] = []

    def encode_texts(self, texts: Sequence[str], *, kind: str, on_overflow: str = "error") -> EncodedTexts:
        self.at_a_time.append(len(texts))
        return super().encode_texts(texts, kind=kind, on_overflow=on_overflow)


def test_several_queries_are_encoded_together_and_answered_as_each_alone(tmp_path: Path) -> None:
    fake = Together()
    collection = texts(tmp_path, fake, red="red", green="green red", blue="blue")
    snapshot = collection.snapshot()
    # One with nothing to look for, and one whose phrase is nowhere, so that it is asked again without the quotes.
    asked = ["green", "?!", "blue " * 600, '"red blue"', "red"]
    queries = [Query(text, on_overflow="truncate") for text in asked]
    alone = [search(snapshot, fake, query) for query in queries]  # type: ignore[arg-type]
    fake.at_a_time.clear()
    together = search_all(snapshot, fake, queries)  # type: ignore[arg-type]
    assert fake.at_a_time == [5, 1]
    assert [replace(answer, took_ms=0) for answer in together] == [replace(answer, took_ms=0) for answer in alone]
    assert [ids(answer)[:1] for answer in together] == [["green"], [], ["blue"], ["blue"], ["red"]]
    fake.at_a_time.clear()
    by_words = search_all(snapshot, fake, [Query(text, mode="lexical") for text in asked])  # type: ignore[arg-type]
    assert (ids(by_words[0]), fake.at_a_time) == (["green"], [])


# -- fusion -------------------------------------------------------------------------------------------------------


def test_fusion_by_hand() -> None:
    dense, lexical = np.array([0.8, 0.4, 0.2], np.float32), np.array([0, 10, 5], np.float32)
    assert convex_combination(dense, lexical).tolist() == pytest.approx([0.5, 0.25 + 0.5, 0.125 + 0.25])
    assert convex_combination(dense, lexical, 0.75).tolist() == pytest.approx([0.75, 0.375 + 0.25, 0.1875 + 0.125])


def test_ranks_have_no_normalisation() -> None:
    tuned = Fusion("convex", 0.3, "zscore", 50)
    assert fusion_of(tuned, {"method": "rrf"}) == Fusion("rrf", 0.3, "zscore", 50)
    assert fusion_of(tuned, {"normalisation": "max"}) == Fusion("convex", 0.3, "max", 50)
    with pytest.raises(UsageError, match="choose convex to fuse by"):
        fusion_of(tuned, {"method": "rrf", "normalisation": "max"})
    with pytest.raises(UsageError, match="rrf, which this collection was tuned to"):
        fusion_of(Fusion("rrf"), {"normalisation": "minmax"})


def test_fusion_takes_what_is_missing_or_negative_as_nothing() -> None:
    dense, lexical = np.array([-0.5, np.nan, 0.5], np.float32), np.array([4, 2, np.nan], np.float32)
    assert convex_combination(dense, lexical).tolist() == pytest.approx([0.5, 0.25, 0.5])
    zeros = np.zeros(2, np.float32)
    assert convex_combination(zeros, zeros).tolist() == [0, 0]
    assert convex_combination(-np.ones(2, np.float32), zeros).tolist() == [0, 0]
    assert convex_combination(np.empty(0, np.float32), np.empty(0, np.float32)).tolist() == []


def test_the_examples_in_the_docstring() -> None:
    result = doctest.testmod(fusion, extraglobs={"np": np})
    assert result.attempted >= 1
    assert result.failed == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 1, width=32, allow_subnormal=False), st.floats(0, 50, width=32, allow_subnormal=False)),
        min_size=1,
    ),
    st.floats(0, 1, allow_subnormal=False),
)
def test_fused_scores_lie_between_0_and_1_and_keep_agreed_orders(
    pairs: list[tuple[float, float]], weight: float
) -> None:
    dense, lexical = np.array(pairs, np.float32).T
    fused = convex_combination(dense, lexical, weight)
    assert ((fused >= 0) & (fused <= 1 + 1e-6)).all()
    for one in range(len(pairs)):
        better = (dense[one] >= dense) & (lexical[one] >= lexical)
        assert (fused[one] >= fused[better] - 1e-6).all()


# -- the three modes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_a_fact_in_the_middle_of_a_long_passage_is_matched_by_a_sub_window(
    tmp_path: Path, fake: FakeEncoder, mode: str
) -> None:
    filler = ["green"] * 14
    documents = [
        make_document("t:fact", " ".join([*filler, *["red"] * 4, *filler]), id="fact"),
        make_document("t:other", " ".join(["green"] * 32), id="other"),
    ]
    plain = collection_of(tmp_path / "plain", fake, *documents, chunking=Chunking(34, 0))
    finer = collection_of(tmp_path / "finer", fake, *documents, chunking=Chunking(34, 0, finer=10))
    one, several = (ask(collection, fake, "red", mode=mode).hits for collection in (plain, finer))
    assert [hit.document_id for hit in several] == ["fact", "other"], "one hit per passage"
    assert [(hit.id, hit.start, hit.end, hit.text) for hit in one] == [
        (hit.id, hit.start, hit.end, hit.text) for hit in several
    ]
    assert one[0].scores.dense == pytest.approx(4 / np.hypot(4, 28))
    assert several[0].scores.dense == pytest.approx(4 / np.hypot(4, 4))  # eight tokens, half of them red
    assert one[1].scores.dense == several[1].scores.dense == 0


def test_dense_scores_are_cosines(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, a="red red red", b="red green", c="green")
    answer = ask(collection, fake, "red", mode="dense")
    assert ids(answer) == ["a", "b", "c"]
    assert [hit.score for hit in answer.hits] == pytest.approx([1, 0.5**0.5, 0])
    assert [hit.scores.dense for hit in answer.hits] == [hit.score for hit in answer.hits]
    assert [hit.scores.lexical for hit in answer.hits] == [None] * 3
    assert (answer.query, answer.collection, answer.mode) == ("red", "c", "dense")
    assert answer.version == collection.snapshot().version


def test_a_ready_vector_is_searched_like_its_text_whatever_its_length(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, a="red red red", b="red green", c="green")
    asked = ask(collection, fake, "red green", mode="dense")
    given = ask(collection, fake, vector=(300.0, 300.0, 0.0, 0.0), mode="dense")
    assert [(hit.id, pytest.approx(hit.score)) for hit in given.hits] == [(hit.id, hit.score) for hit in asked.hits]


def test_lexical_mode_needs_no_vectors(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, a="cats were running", b="a dog slept", c="the run of a cat and a cat")
    answer = ask(collection, None, "running cats", mode="lexical")
    assert set(ids(answer)) == {"a", "c"}
    assert all(hit.scores.dense is None and hit.scores.lexical == hit.score > 0 for hit in answer.hits)


def test_hybrid_is_the_fusion_of_both_over_all_candidates(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(
        tmp_path, fake, both="red apple", meaning="red red red", words="apple apple pie", neither="green"
    )
    answer = ask(collection, fake, "red apple")
    dense = {hit.document_id: hit.score for hit in ask(collection, fake, "red apple", mode="dense").hits}
    lexical = {hit.document_id: hit.score for hit in ask(collection, fake, "red apple", mode="lexical").hits}
    assert dense == pytest.approx({"both": 1, "meaning": 1, "words": 0, "neither": 0}, abs=1e-6)
    assert lexical.keys() == {"both", "meaning", "words"}
    best = max(lexical.values())
    for hit in answer.hits:
        assert hit.scores.dense == pytest.approx(dense[hit.document_id])
        assert hit.scores.lexical == pytest.approx(lexical.get(hit.document_id, 0))
        fused = 0.5 * dense[hit.document_id] + 0.5 * lexical.get(hit.document_id, 0) / best
        assert hit.score == pytest.approx((5 * fused + (hit.document_id == "both")) / 6), "the only one with both words"
    assert len(answer.hits) == 4
    assert ids(answer)[0] == "both"


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """More documents than one side brings as candidates: each side misses some that the other returns."""
    fake = FakeEncoder()
    near = [make_document(f"t:near{at}", "red " * 5 + "green " * (at % 7), id=f"near{at:03}") for at in range(120)]
    far = [make_document(f"t:far{at}", "needle " + "blue " * (at + 1), id=f"far{at:03}") for at in range(120)]
    return collection_of(tmp_path_factory.mktemp("crowded"), fake, *near, *far, chunking=Chunking(128, 8))


def test_a_candidate_that_one_side_missed_is_scored_by_it_all_the_same(crowded: Collection, fake: FakeEncoder) -> None:
    query = "red green needle"
    answer = ask(crowded, fake, query, k=200, selection=KEEP)
    dense, lexical = (
        {hit.id: hit.score for hit in ask(crowded, fake, query, mode=mode, k=1000, selection=KEEP).hits}
        for mode in ("dense", "lexical")
    )
    assert len(dense) == len(lexical) == 240
    for hit in answer.hits:
        assert hit.scores.dense == pytest.approx(dense[hit.id], abs=1e-6)
        assert hit.scores.lexical == pytest.approx(lexical[hit.id], rel=1e-4)
    # With the usual hundred candidates the two sides bring different ones.
    few = ask(crowded, fake, query, k=60, selection=KEEP)
    assert all(hit.scores.lexical == pytest.approx(lexical[hit.id], rel=1e-4) for hit in few.hits)
    assert all(hit.scores.dense == pytest.approx(dense[hit.id], abs=1e-6) for hit in few.hits)


@pytest.mark.parametrize("mode", MODES)
def test_equal_scores_always_come_in_the_same_order(tmp_path: Path, fake: FakeEncoder, mode: str) -> None:
    collection = texts(tmp_path, fake, **{f"d{at:02}": "red needle" for at in range(30)})
    first = ids(ask(collection, fake, "red", mode=mode, k=30, selection=KEEP))
    assert len(first) == 30
    assert len(set(first)) == 30
    if mode != "lexical":
        assert first == sorted(first)  # in the order of their rows
    for _ in range(5):
        again = Collection.open("c", collection.settings)
        assert ids(ask(again, fake, "red", mode=mode, k=30, selection=KEEP)) == first


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 3, 10, 500])
def test_k_is_the_most_that_comes(crowded: Collection, fake: FakeEncoder, mode: str, k: int) -> None:
    answer = ask(crowded, fake, "red needle", mode=mode, k=k, selection=KEEP)
    assert len(answer.hits) == min(k, 240)
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    assert len(set(ids(answer))) == len(answer.hits)


def test_fewer_hits_are_the_first_of_more(crowded: Collection, fake: FakeEncoder) -> None:
    many = ids(ask(crowded, fake, "red green needle", k=40))
    assert ids(ask(crowded, fake, "red green needle", k=7)) == many[:7]


@pytest.mark.parametrize("mode", MODES)
def test_nothing_to_find_is_no_hit(tmp_path: Path, fake: FakeEncoder, mode: str) -> None:
    empty = Collection.create("c", fake.contract, Chunking(64, 8), Settings(data_dir=tmp_path))
    assert ask(empty, fake, "red", mode=mode).hits == ()
    assert ask(empty, fake, "red", mode=mode, filter="tokens > 1").hits == ()


def test_min_score_leaves_out_what_is_below(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, a="red", b="red green", c="green")
    assert ids(ask(collection, fake, "red", mode="dense", min_score=0.5)) == ["a", "b"]
    assert ids(ask(collection, fake, "red", mode="dense", min_score=0.99)) == ["a"]
    assert ids(ask(collection, fake, "red", mode="dense", min_score=1.5)) == []


def test_min_score_of_fused_scores_looks_further_than_the_first_of_each_side(tmp_path: Path, fake: FakeEncoder) -> None:
    """What is first on neither side has the best score of all."""
    collection = texts(
        tmp_path,
        fake,
        **{f"d{at}": f"red w{at}" for at in range(20)},
        **{f"l{at}": f"green {'needle ' * 4} w{at}" for at in range(3)},
        both="red red red green red needle " + " ".join(f"v{at}" for at in range(9)),
    )
    answer = ask(collection, fake, "red needle", k=1, min_score=0.55, fusion=Fusion(depth=1))
    assert ids(answer) == ["both"]


# -- filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_filter_holds_and_does_not_cost_a_hit(tmp_path: Path, fake: FakeEncoder, mode: str) -> None:
    """The rows that pass are the worst of all: none may fall behind the better ones that do not pass."""
    good = [make_document(f"t:g{at}", "red needle " * (at + 2), metadata={"year": 1990}) for at in range(150)]
    poor = [
        make_document(f"t:p{at}", f"red {'green ' * (20 + at)} needle", id=f"p{at}", metadata={"year": 2020})
        for at in range(4)
    ]
    collection = collection_of(tmp_path, fake, *good, *poor)
    answer = ask(collection, fake, "red needle", mode=mode, filter="metadata.year > 2000")
    assert sorted(ids(answer)) == ["p0", "p1", "p2", "p3"]
    assert all(hit.metadata == {"year": 2020} for hit in answer.hits)
    assert ask(collection, fake, "red needle", mode=mode, filter="metadata.year > 2021").hits == ()
    assert len(ask(collection, fake, "red needle", mode=mode, filter="metadata.year < 2000", k=20).hits) == 20


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("filter", ["year > 2000", "tokens >", "nonsense(uri)", "tokens"])
def test_a_bad_filter_is_refused_in_every_mode(tmp_path: Path, fake: FakeEncoder, mode: str, filter: str) -> None:
    collection = texts(tmp_path, fake, a="red")
    with pytest.raises(BadFilter):
        ask(collection, fake, "red", mode=mode, filter=filter)


# -- hits ---------------------------------------------------------------------------------------------------------


def long_text(words: int) -> str:
    """Sentences without two alike, so that a piece of text has one place."""
    return " ".join(
        f"{('red', 'green', 'blue')[at % 3]} word{at} " + ("end.\n\n" if at % 9 == 8 else "") for at in range(words)
    )


@pytest.mark.parametrize("mode", MODES)
def test_overlapping_passages_become_one_exact_span(tmp_path: Path, fake: FakeEncoder, mode: str) -> None:
    document = make_document("t:long", long_text(60), id="long")
    collection = collection_of(
        tmp_path, fake, document, make_document("t:o", "green", id="o"), chunking=Chunking(22, 8)
    )
    count = collection.snapshot().store.count()
    assert count > 8
    answer = ask(collection, fake, "red blue word1 word20", mode=mode, k=20)
    passages = {p.id: p for p in collection.snapshot().store.take(collection.snapshot().store.vectors()[0].tolist())}
    hits = sorted((hit for hit in answer.hits if hit.document_id == "long"), key=lambda hit: hit.start)
    assert all(one.end <= other.start for one, other in itertools.pairwise(hits)), "hits that overlap"
    assert 1 < len(hits) < count - 1
    for hit in hits:
        assert hit.text == document.text[hit.start : hit.end]
        best = passages[hit.id]
        near = [p for p in passages.values() if p.document_id == "long" and p.start < best.end and best.start < p.end]
        assert min(p.start for p in near) <= hit.start < hit.end <= max(p.end for p in near)
    if mode != "lexical":  # every passage is a candidate: together they give the whole document
        assert " ".join(hit.text for hit in hits).split() == document.text.split()


@settings(max_examples=15)
@given(st.lists(st.integers(0, 79), min_size=1, max_size=5), st.integers(1, 6), st.integers(0, 10))
def test_every_hit_is_its_span_to_the_letter(
    tmp_path_factory: pytest.TempPathFactory, asked: list[int], k: int, overlap: int
) -> None:
    fake = FakeEncoder()
    documents = {id: make_document(f"t:{id}", f"  {id} " + long_text(80), id=id) for id in ("one", "two")}
    chunking = Chunking(24, overlap)
    collection = collection_of(tmp_path_factory.mktemp("spans"), fake, *documents.values(), chunking=chunking)
    query = " ".join(f"word{at}" for at in asked)
    answer = ask(collection, fake, query, mode="lexical", k=k)
    assert 1 <= len(answer.hits) <= k
    for hit in answer.hits:
        assert hit.text == documents[hit.document_id].text[hit.start : hit.end]
    assert any(f"word{at}" in answer.hits[0].text for at in asked)  # the rest may match by "word" alone
    for one in answer.hits:
        for other in answer.hits:
            if one is not other and one.document_id == other.document_id:
                assert one.end <= other.start or other.end <= one.start


def test_a_long_document_does_not_become_one_hit(tmp_path: Path, fake: FakeEncoder) -> None:
    """Its passages form a chain in which each overlaps the next; an answer is as long as what was asked for."""
    long = make_document("t:long", "red " * 300, id="long")
    other = make_document("t:other", "red green", id="other")
    collection = collection_of(tmp_path, fake, long, other, chunking=Chunking(12, 4))
    answer = ask(collection, fake, "red", mode="dense", k=5)
    assert ids(answer) == ["long"] * 5
    assert max(hit.end - hit.start for hit in answer.hits) <= 3 * 10 * len("red ")
    everything = ask(collection, fake, "red", mode="dense", k=100)
    assert " ".join(hit.text for hit in everything.hits).split().count("red") == 301


@pytest.mark.parametrize("mode", MODES)
def test_passages_that_are_joined_do_not_take_the_places_of_others(
    tmp_path: Path, fake: FakeEncoder, mode: str
) -> None:
    """The first 150 candidates and more are one stretch of one document; there are others to fill the answer with."""
    long = make_document("t:long", "red green " * 600, id="long")
    others = [make_document(f"t:{at}", f"red {'blue ' * (at + 1)}", id=str(at)) for at in range(4)]
    collection = collection_of(tmp_path, fake, long, *others, chunking=Chunking(12, 9))
    spans = ask(collection, fake, "red green", mode=mode, k=1000).hits
    k = len([hit for hit in spans if hit.document_id == "long"]) + 2
    assert collection.snapshot().store.count() > 1.5 * k + 1
    answer = ask(collection, fake, "red green", mode=mode, k=k)
    assert len(answer.hits) == k
    assert len({hit.document_id for hit in answer.hits}) == 3
    best = ask(collection, fake, "red green", mode=mode, k=k, min_score=answer.hits[-3].score)
    assert [hit.id for hit in best.hits] == [hit.id for hit in answer.hits[:-2]]


@pytest.mark.parametrize("expand", [None, "neighbours"])
def test_a_merged_hit_is_cited_by_the_page_that_it_begins_on(
    tmp_path: Path, fake: FakeEncoder, expand: str | None
) -> None:
    text = "green green green green red red red red green green"
    pages = tuple(len("green ") * words for words in (0, 1, 3, 4))
    document = make_document("t:a", text, id="a", page_starts=pages)
    collection = collection_of(tmp_path, fake, document, chunking=Chunking(6, 2))
    wanted = Evidence(expand=expand, max_context_tokens=1000)
    answer = ask(collection, fake, "red", mode="dense", evidence=wanted)
    assert answer.hits[0].text == "green green red red red red green green"
    assert answer.hits[0].page == 2
    assert answer.context is not None
    for cited in (*answer.hits, *answer.context.sources):
        assert cited.page == document.page_at(cited.start)


def test_a_merged_hit_speaks_for_the_best_of_its_passages(tmp_path: Path, fake: FakeEncoder) -> None:
    document = make_document("t:a", "green green green green red red red red green green", id="a")
    collection = collection_of(tmp_path, fake, document, chunking=Chunking(6, 2))
    hit = ask(collection, fake, "red", mode="dense").hits[0]
    best = {p.id: p for p in collection.snapshot().store.take(collection.snapshot().store.vectors()[0].tolist())}[
        hit.id
    ]
    assert best.text == "red red red red"
    assert hit.score == pytest.approx(1)
    assert hit.text == "green green red red red red green green"


def test_a_hit_cites_page_heading_title_and_metadata(encoder: Encoder, library: Path) -> None:
    collection = Collection.open("library", Settings(data_dir=library))
    [hit] = ask(collection, encoder, "what happens after a power failure?", k=1).hits
    assert hit.uri.endswith("/power.md")
    assert hit.title == "Power"
    assert hit.heading is not None
    assert hit.heading.startswith("Power")
    [paper] = ask(collection, encoder, "bones and vitamin D", k=1).hits
    assert paper.metadata == {"year": 2011}
    assert paper.uri.endswith("papers.jsonl#p1")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("largest planet of the solar system", "astronomy.txt"),
        ("when should fruit trees be cut?", "garden.txt"),
        ("cholesterol and cardiac health", "papers.jsonl#p2"),
    ],
)
def test_meaning_is_found_with_the_real_model(encoder: Encoder, library: Path, query: str, name: str) -> None:
    collection = Collection.open("library", Settings(data_dir=library))
    for mode in ("hybrid", "dense"):
        assert ask(collection, encoder, query, mode=mode, k=1).hits[0].uri.endswith(name)


# -- one version from first step to last --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_commit_in_mid_search_is_invisible_to_it(
    tmp_path: Path, fake: FakeEncoder, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = texts(tmp_path, fake, a="red one", b="red two")
    snapshot = collection.snapshot()
    real = type(snapshot.store).take
    committed = []

    def commit_first(self: Any, row_ids: Any) -> Any:
        if not committed:
            committed.append(True)
            changes = [make_document("t:a", "red replaced and longer", id="a"), make_document("t:n", "red", id="n")]
            list(ingest_items(Collection.open("c", collection.settings), fake, changes, FieldChoice()))  # type: ignore[arg-type]
        return real(self, row_ids)

    monkeypatch.setattr(type(snapshot.store), "take", commit_first)
    answer = ask(snapshot, fake, "red", mode=mode)
    assert committed
    assert {hit.document_id: hit.text for hit in answer.hits} == {"a": "red one", "b": "red two"}
    assert answer.version == snapshot.version
    later = ask(collection, fake, "red", mode=mode)
    assert {hit.document_id: hit.text for hit in later.hits} == {
        "a": "red replaced and longer",
        "b": "red two",
        "n": "red",
    }


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (Query("red", k=0), "k is 0"),
        (Query("red", k=-1), "k is -1"),
        (Query("red", k=1001), "1 to 1000"),
        (Query(""), "empty"),
        (Query(" \n\t"), "empty"),
        (Query("red", mode="fuzzy"), "'fuzzy'; choose hybrid, dense, lexical"),  # type: ignore[arg-type]
        (Query("red", mode="dense", fusion=Fusion()), "fusion is of mode hybrid, not dense"),
        (Query(vector=(1.0, 0, 0, 0)), "mode dense"),
        (Query("red", vector=(1.0, 0, 0, 0), mode="dense"), "without a query text"),
    ],
)
def test_bad_queries(tmp_path: Path, fake: FakeEncoder, query: Query, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_query(query)
    with pytest.raises(UsageError, match=says):
        search(texts(tmp_path, fake, a="red").snapshot(), fake, query)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        ((1.0, 0.0), "2 dimensions; .* fake, has 4"),
        ((), "0 dimensions"),
        ((0.0, 0.0, 0.0, 0.0), "zero or not finite"),
        ((1.0, float("nan"), 0.0, 0.0), "zero or not finite"),
        ((float("inf"), 0.0, 0.0, 0.0), "zero or not finite"),
    ],
)
def test_bad_vectors(tmp_path: Path, fake: FakeEncoder, vector: tuple[float, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ask(texts(tmp_path, fake, a="red"), fake, vector=vector, mode="dense")


def test_a_query_longer_than_the_window_is_refused_or_cut_and_told(encoder: Encoder, library: Path) -> None:
    collection = Collection.open("library", Settings(data_dir=library))
    long = "planet " * 700
    for mode in ("hybrid", "dense"):
        with pytest.raises(QueryTooLong, match=r"^Query 1 has 700 tokens"):
            search_all(collection.snapshot(), encoder, [Query("planet", mode=mode), Query(long, mode=mode)])
        with pytest.raises(QueryTooLong, match="700 tokens"):
            ask(collection, encoder, long, mode=mode)
        answer = ask(collection, encoder, long, mode=mode, on_overflow="truncate")
        assert answer.tokens_cut == 700 - 510
        assert answer.hits[0].uri.endswith("astronomy.txt")
    # BM25 has no window: nothing is cut.
    assert ask(collection, encoder, long, mode="lexical").tokens_cut == 0
    assert ask(collection, encoder, "planet").tokens_cut == 0
