"""What an answer is told with: contexts, highlights, confidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.encoding import Encoder
from embedsvc.errors import UsageError
from embedsvc.ingest import ingest_items
from embedsvc.readers import FieldChoice, read
from embedsvc.records import Calibration, Chunking, Document, Heading, Source, Tuned, make_document
from embedsvc.search import Answer, Evidence, Query, search
from embedsvc.search.confidence import auroc, confidences, fit, signals
from embedsvc.search.terms import query_terms, sentence_spans, term_spans
from tests.fakes import FakeEncoder

# Each line is a passage of its own: a window holds eight words.
LINES = [
    "white white white white white white white one.",
    "green green green green green green green two.",
    "red red red red red red red three.",
    "green green green green green green green four.",
    "blue blue blue blue blue blue blue five.",
    "white white white white white white white six.",
]
TEXT = "\n".join(LINES)
STARTS = [TEXT.index(line) for line in LINES]
SECTIONS = (
    Heading(STARTS[1], 1, "Plants"),
    Heading(STARTS[3], 2, "Grass"),
    Heading(STARTS[4], 1, "Sky"),
)


def collection_of(folder: Path, fake: FakeEncoder, *documents: Document, overlap: int = 0) -> Collection:
    settings = Settings(data_dir=folder, durability="os")
    # A line is nine tokens: its full stop is one.
    collection = Collection.create("c", fake.contract, Chunking(11, overlap), settings)
    for outcome in ingest_items(collection, fake, documents, FieldChoice(), duplicates="ignore"):  # type: ignore[arg-type]
        assert outcome.status == "indexed"
    return collection


@pytest.fixture(scope="module")
def rainbow(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """For reading."""
    return rainbow_in(tmp_path_factory.mktemp("rainbow"), FakeEncoder())


def rainbow_in(folder: Path, fake: FakeEncoder) -> Collection:
    made = collection_of(
        folder, fake, make_document("t:colours.txt", TEXT, id="colours", title="Colours", headings=SECTIONS)
    )
    assert made.store().count() == len(LINES)
    return made


def asked(
    collection: Collection,
    fake: Any,
    text: str,
    k: int = 1,
    mode: str = "dense",
    filter: str | None = None,
    min_score: float | None = None,
    **wanted: Any,
) -> Answer:
    query = Query(text, k=k, mode=mode, filter=filter, min_score=min_score, evidence=Evidence(**wanted))  # type: ignore[arg-type]
    return search(collection.snapshot(), fake, query)


def lines_of(answer: Answer) -> list[tuple[int, int]]:
    """First and last line of each source of the context."""
    assert answer.context is not None
    found = []
    for source in answer.context.sources:
        assert source.text == TEXT[source.start : source.end]
        found.append((STARTS.index(source.start), TEXT.count("\n", 0, source.end)))
    return found


# -- contexts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "lines"),
    [(None, (2, 2)), ("neighbours", (1, 3)), ("section", (1, 3)), ("document", (0, 5))],
)
def test_a_hit_is_expanded(rainbow: Collection, fake: FakeEncoder, how: str | None, lines: tuple[int, int]) -> None:
    answer = asked(rainbow, fake, "red", expand=how, max_context_tokens=1000)
    assert answer.hits[0].text == LINES[2]
    assert lines_of(answer) == [lines]
    assert answer.context is not None
    (source,) = answer.context.sources
    assert (source.hits, source.complete, source.uri) == ((1,), True, "t:colours.txt")
    assert answer.context.left_out == ()


def test_a_section_ends_where_the_next_of_its_level_begins(rainbow: Collection, fake: FakeEncoder) -> None:
    assert lines_of(asked(rainbow, fake, "blue", expand="section")) == [(4, 5)]
    answer = asked(rainbow, fake, "green", filter="heading LIKE '%Grass'", expand="section")
    assert lines_of(answer) == [(3, 3)]


def test_expansions_that_meet_are_one_source(rainbow: Collection, fake: FakeEncoder) -> None:
    answer = asked(rainbow, fake, "red red blue", k=2, expand="neighbours")
    assert [hit.text for hit in answer.hits] == [LINES[2], LINES[4]]
    assert lines_of(answer) == [(1, 5)]
    assert answer.context is not None
    assert [source.hits for source in answer.context.sources] == [(1, 2)]


def test_the_text_names_each_source_by_its_marker(rainbow: Collection, fake: FakeEncoder) -> None:
    context = asked(rainbow, fake, "red blue", k=2, max_context_tokens=100).context
    assert context is not None
    assert context.text == f"[1] Colours — Plants\n{LINES[2]}\n\n[2] Colours — Sky\n{LINES[4]}"
    assert context.tokens == len(fake.tokenizer.encode(context.text).ids)


def test_sources_stand_in_the_order_that_is_asked_for(rainbow: Collection, fake: FakeEncoder) -> None:
    best = asked(rainbow, fake, "blue blue red", k=2, max_context_tokens=100)
    assert lines_of(best) == [(4, 4), (2, 2)]
    read = asked(rainbow, fake, "blue blue red", k=2, max_context_tokens=100, order="document")
    assert lines_of(read) == [(2, 2), (4, 4)]
    assert read.context is not None
    assert [(source.marker, source.hits) for source in read.context.sources] == [(1, (2,)), (2, (1,))]


@pytest.mark.parametrize("how", [None, "neighbours", "section", "document"])
@pytest.mark.parametrize("order", ["best-first", "document"])
@pytest.mark.parametrize("most", [1, 7, 16, 30, 45, 60, 90, 200])
def test_a_context_never_exceeds_its_tokens(
    rainbow: Collection, fake: FakeEncoder, how: str | None, order: str, most: int
) -> None:
    answer = asked(rainbow, fake, "blue blue red green", k=3, expand=how, order=order, max_context_tokens=most)
    context = answer.context
    assert context is not None
    assert len(fake.tokenizer.encode(context.text).ids) == context.tokens <= most
    told = [rank for source in context.sources for rank in source.hits]
    assert sorted((*told, *context.left_out)) == [1, 2, 3]
    for source in context.sources:
        assert source.text == TEXT[source.start : source.end]


def test_what_has_room_is_taken_after_what_has_not(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(
        tmp_path,
        fake,
        *(make_document(f"t:{words}", "blue " * words, id=str(words)) for words in (8, 7)),
        make_document("t:few", "blue green", id="few"),
    )
    context = asked(collection, fake, "blue", k=3, max_context_tokens=24).context
    assert context is not None
    assert [source.hits for source in context.sources] == [(1,), (3,)]
    assert context.left_out == (2,)


def test_of_the_best_hit_whole_sentences_are_taken(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = collection_of(tmp_path, fake, make_document("t:one", "Red red. Red red. Blue.", id="one"))
    context = asked(collection, fake, "red", max_context_tokens=11).context
    assert context is not None
    (source,) = context.sources
    assert (source.text, source.start, source.end, source.complete) == ("Red red.", 0, 8, False)


def test_overlapping_passages_are_told_once(tmp_path: Path, fake: FakeEncoder) -> None:
    text = " ".join(f"{('red', 'green', 'blue', 'white')[at % 4]} w{at}" for at in range(60))
    collection = collection_of(tmp_path, fake, make_document("t:one", text, id="one"), overlap=4)
    for how in ("neighbours", "document"):
        answer = asked(collection, fake, "green", k=3, expand=how)
        assert answer.context is not None
        for source in answer.context.sources:
            assert source.text == text[source.start : source.end]
    assert [(source.start, source.end) for source in answer.context.sources] == [(0, len(text))]


def test_a_large_document_is_told_in_part(tmp_path: Path, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedsvc.search.evidence._MOST_TOKENS", 40)
    text = "\n".join(["white white white white white white white one."] * 40 + [LINES[2]] + LINES * 20)
    collection = collection_of(tmp_path, fake, make_document("t:large", text, id="large"))
    answer = asked(collection, fake, "red", expand="document")
    assert answer.context is not None
    (source,) = answer.context.sources
    assert not source.complete
    assert source.start < answer.hits[0].start < answer.hits[0].end < source.end
    assert source.text == text[source.start : source.end]
    assert 30 <= len(fake.tokenizer.encode(source.text).ids) <= 40


def test_the_readers_own_tokens_count(rainbow: Collection, fake: FakeEncoder) -> None:
    answer = asked(rainbow, fake, "red", expand="document", max_context_tokens=150, count_tokens=len)
    assert answer.context is not None
    assert answer.context.tokens == len(answer.context.text) <= 150
    assert LINES[2] in answer.context.text


def test_no_hits_make_an_empty_context(rainbow: Collection, fake: FakeEncoder) -> None:
    answer = asked(rainbow, fake, "seven", mode="lexical", expand="document")
    assert answer.context is not None
    assert (answer.context.text, answer.context.sources) == ("", ())


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"expand": "chapter"}, "expand is 'chapter'; choose neighbours, section, document"),
        ({"max_context_tokens": 0}, "max_context_tokens is 0"),
        ({"order": "document"}, "give expand or max_context_tokens"),
        ({"expand": "section", "order": "worst"}, "order is 'worst'"),
        ({"min_confidence": 1.5}, "min_confidence is 1.5"),
        ({"min_confidence": float("nan")}, "min_confidence is nan"),
        ({"min_confidence": 0.5}, "has no calibration"),
    ],
)
def test_what_cannot_be_wanted(rainbow: Collection, fake: FakeEncoder, wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        asked(rainbow, fake, "red", **wanted)


def test_confidence_needs_words_and_meaning(rainbow: Collection, fake: FakeEncoder) -> None:
    with pytest.raises(UsageError, match="min_confidence needs"):
        asked(rainbow, fake, "red", mode="lexical", min_confidence=0.5)


def test_words_that_are_in_every_text_say_nothing_of_an_answer(encoder: Encoder, library: Path) -> None:
    collection = Collection.open("library", Settings(data_dir=library))
    empty, telling = (search(collection.snapshot(), encoder, Query(query)) for query in ("the of and", "power failure"))
    assert empty.answerable is None
    assert {hit.confidence for hit in empty.hits} == {None}
    assert telling.answerable is not None


# -- highlights ------------------------------------------------------------------------------------------------------


def test_the_best_sentence_is_told_by_meaning_and_by_words(tmp_path: Path, fake: FakeEncoder) -> None:
    text = f"{'x ' * 9}\n\nGreen. Then red too. Blue."
    collection = collection_of(tmp_path, fake, make_document("t:one", text, id="one"))
    for mode, by in (("dense", "vector"), ("hybrid", "vector"), ("lexical", "terms")):
        (hit,) = asked(collection, fake, "red", mode=mode, highlight=True).hits[:1]
        assert hit.highlight is not None
        start, end = hit.highlight.sentence
        assert hit.text[start - hit.start : end - hit.start] == "Then red too."
        assert [hit.text[low - hit.start : high - hit.start] for low, high in hit.highlight.terms] == ["red"]
        assert hit.highlight.by == by


_WEEK, _ROOF = "Refunds take a week. Ask within 30 days.", "It is moored on the roof."
REFUNDS = {
    "md": f"# Refunds\n\n## Customers\n{_WEEK}\n\n# Zeppelin {{ #z }}\n{_ROOF}",
    "rst": f"Refunds\n=======\n\nCustomers\n---------\n{_WEEK}\n\nZeppelin\n========\n{_ROOF}",
    "html": f"<h1>Refunds</h1><h2>Customers</h2><p>{_WEEK}</p><h1>Zeppelin</h1><p>{_ROOF}</p>",
}


@pytest.mark.parametrize("format", REFUNDS)
@pytest.mark.parametrize("mode", ["hybrid", "lexical"])
@pytest.mark.parametrize(
    ("question", "sentence", "heading"),
    [
        ("how do refunds work?", "Refunds take a week.", "Refunds > Customers"),
        ("how long do refunds take for customers?", "Refunds take a week.", "Refunds > Customers"),
        ("refunds within how many days?", "Ask within 30 days.", "Refunds > Customers"),
        ("where is the zeppelin?", "It is moored on the roof.", "Zeppelin"),
    ],
)
def test_what_stands_under_a_heading_is_marked_and_not_the_heading(
    tmp_path: Path, format: str, mode: str, question: str, sentence: str, heading: str
) -> None:
    fake = FakeEncoder(max_length=256)
    settings = Settings(data_dir=tmp_path, durability="os")
    collection = Collection.create("c", fake.contract, Chunking(128, 0), settings)
    source = Source(f"t:refunds.{format}", f"refunds.{format}", REFUNDS[format].encode())
    documents = list(read(source, FieldChoice()))
    for _ in ingest_items(collection, fake, documents, FieldChoice()):  # type: ignore[arg-type]
        pass
    (hit,) = asked(collection, fake, question, mode=mode, highlight=True).hits
    assert hit.highlight is not None
    start, end = hit.highlight.sentence
    assert (hit.text[start - hit.start : end - hit.start], hit.highlight.heading) == (sentence, heading)
    assert hit.heading == "Refunds", "that the hit begins under"


def test_a_heading_is_marked_where_there_is_nothing_else(tmp_path: Path, fake: FakeEncoder) -> None:
    document = make_document("t:x", "# Red", title="Red", headings=(Heading(0, 1, "Red"),))
    (hit,) = asked(collection_of(tmp_path, fake, document), fake, "red", highlight=True).hits
    assert hit.highlight is not None
    assert hit.highlight.sentence == (0, 5)


def test_a_comment_in_code_is_no_heading(tmp_path: Path, fake: FakeEncoder) -> None:
    text = "# red green\nx = 1\n\ny = 2"
    (hit,) = asked(collection_of(tmp_path, fake, make_document("t:x.py", text)), fake, "red", highlight=True).hits
    assert hit.highlight is not None
    assert text[slice(*hit.highlight.sentence)] == "# red green"


def test_sentences_that_cost_too_much_are_chosen_by_words(
    rainbow: Collection, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedsvc.search.evidence._MOST_ENCODED", 100)
    hits = asked(rainbow, fake, "red green", k=4, highlight=True).hits
    assert [hit.highlight and hit.highlight.by for hit in hits] == ["vector", "vector", "terms", "terms"]


def test_a_possessive_is_no_word_to_point_at(tmp_path: Path, fake: FakeEncoder) -> None:
    text = "The captain's red hat. An s is a letter, it's said."
    collection = collection_of(tmp_path, fake, make_document("t:x", text))
    (hit,) = asked(collection, fake, "captain's red’s", highlight=True).hits
    assert hit.highlight is not None
    assert [text[slice(*span)] for span in hit.highlight.terms] == ["captain", "red"]


def test_words_are_found_in_their_forms() -> None:
    text = "Restarting İt restarts; the restarted RESTART, not the star of art_restart x."
    found = [text[start:end] for (start, end), _ in term_spans(text, query_terms("How do I restart it?"))]
    assert found == ["Restarting", "restarts", "restarted", "RESTART", "restart"]
    assert query_terms("who is it") == {"who", "is", "it"}, "where there is nothing else"
    assert query_terms("?!") == frozenset()
    assert [term for _, term in term_spans("東京都に住む", query_terms("東京都"))] == ["東京", "京都"]


def test_sentences_end_where_they_end() -> None:
    text = "Dr. Smith left at 5 p.m. He slept. J. R. Tolkien paid 3.5! Why? \n\n# Head\n- one\n- two. 第一句。第二句。"
    assert [text[start:end] for start, end in sentence_spans(text)] == [
        "Dr. Smith left at 5 p.m.",
        "He slept.",
        "J. R. Tolkien paid 3.5!",
        "Why?",
        "# Head",
        "- one",
        "- two.",
        "第一句。",
        "第二句。",
    ]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("# A\n\n## B\nOne. Two.\r\n# C\r\nThree.", ["# A", "## B", "One.", "Two.", "# C", "Three."]),
        ("A\n=====\n\n----\nB c.\n----\nOne\nline.", ["A\n=====", "----\nB c.\n----", "One\nline."]),
        ("#one A\n\n- item\n---", ["#one A", "- item", "---"]),
        ("A is:\n| a | b |\n|---|---|\n| 1 | 2 |", ["A is:", "| a | b |", "|---|---|", "| 1 | 2 |"]),
        ("Kind\tPrice\nbadge\t5 euros", ["Kind\tPrice", "badge\t5 euros"]),
    ],
)
def test_headings_and_rows_are_pieces_of_their_own(text: str, sentences: list[str]) -> None:
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences


@given(st.text())
def test_sentences_hold_every_character_that_is_not_white_space(text: str) -> None:
    spans = sentence_spans(text)
    assert "".join("".join(text[start:end].split()) for start, end in spans) == "".join(text.split())
    assert spans == sorted(spans)


@given(st.text(alphabet="aAbsSİß .東京é_"), st.text(alphabet="aAbsİß 東京"))
def test_words_lie_in_the_text(text: str, query: str) -> None:
    terms = query_terms(query)
    for (start, end), term in term_spans(text, terms):
        assert 0 <= start < end <= len(text)
        assert term in terms


# -- confidence ------------------------------------------------------------------------------------------------------


def test_the_most_likely_hit_tells_whether_there_is_an_answer(tmp_path: Path, fake: FakeEncoder) -> None:
    rainbow = rainbow_in(tmp_path, fake)
    assert asked(rainbow, fake, "red").answerable is None, "no calibration of this model"
    with rainbow.writer() as writer:
        writer.tune(Tuned(calibration=Calibration(cosine=6, words=4, near=0, bias=-5)))
    found = asked(rainbow, fake, "red", k=3)
    assert found.answerable is True
    assert [hit.confidence for hit in found.hits] == pytest.approx([0.9933, 0.0067, 0.0067], abs=1e-4)
    assert asked(rainbow, fake, "seven", k=3).answerable is False
    kept = asked(rainbow, fake, "red", k=3, min_confidence=0.5)
    assert [hit.text for hit in kept.hits] == [LINES[2]]
    none = asked(rainbow, fake, "seven", min_confidence=0.5)
    assert (none.hits, none.answerable) == ((), False)
    for wanted in ({"min_confidence": 0.999}, {"min_score": 1.1}):
        none = asked(rainbow, fake, "red", **wanted)
        assert (none.hits, none.answerable) == ((), False), "what is not given answers nothing"
    assert asked(rainbow, fake, "red", mode="lexical").answerable is None


def test_words_of_title_and_near_each_other_count(rainbow: Collection, fake: FakeEncoder) -> None:
    (hit,) = asked(rainbow, fake, "red").hits
    assert signals("red three seven eight", [hit]).tolist() == [[pytest.approx(1), 0.5, 0.5]]
    apart = replace(hit, text="red " + "x " * 200 + "three")
    assert signals("red three seven eight", [apart])[0, 1:].tolist() == [0.5, 0.25]
    assert signals("red colour", [hit])[0, 1:].tolist() == [1, 0.5], "a word of the title"
    assert signals("?", [hit])[0, 1:].tolist() == [0, 0]
    assert confidences("red", [], Calibration(1, 1, 1, 1)) == []


def test_a_fit_gives_back_the_probabilities_it_was_made_from() -> None:
    random = np.random.default_rng(0)
    rows = random.random((20_000, 3))
    answers = random.random(20_000) < 1 / (1 + np.exp(-(rows @ [5, 3, 1] - 4)))
    assert fit(rows, answers) == pytest.approx((5, 3, 1, -4), abs=0.35)
    with pytest.raises(ValueError, match="both kinds"):
        fit(rows, np.ones(len(rows), bool))


def test_auroc_by_hand() -> None:
    assert auroc(np.array([0.9, 0.4]), np.array([0.4, 0.1])) == (1 + 1 + 0.5 + 1) / 4


def test_the_default_model_is_calibrated(library: Path, encoder: Encoder) -> None:
    collection = Collection.open("library", Settings(data_dir=library))
    told = [
        search(collection.snapshot(), encoder, Query(text))
        for text in ("What helps after a power failure?", "Who won the battle of Waterloo?")
    ]
    assert [answer.answerable for answer in told] == [True, False]
