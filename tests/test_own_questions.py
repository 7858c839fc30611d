"""Evaluation of a collection as it is: by files of questions, by its own sentences; runs compared; calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.errors import NotFound, UsageError
from embedsvc.evaluate import (
    Question,
    Saved,
    calibrate,
    check_gates,
    compare,
    failed_gates,
    held_out,
    measures_of,
    questions_from,
    read_saved,
    score,
    write_saved,
)
from embedsvc.ingest import ingest_items
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking, Heading, make_document
from tests.fakes import FakeEncoder
from tests.test_cli import Run, run  # noqa: F401 - a fixture
from tests.test_evaluate import write_folder

TEXTS = {
    "file:///docs/red.md": "Red things are red. A  fire\nengine is red.",
    "file:///docs/green.md": "Green things are green. A frog is green.",
    "file:///docs/more/blue.md": "Blue things are blue. The sky is blue.",
    "file:///docs/papers.jsonl#p1": "White things are white. Snow is white.",
}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """For reading."""
    return colours_in(tmp_path_factory.mktemp("colours"), FakeEncoder())


def colours_in(folder: Path, fake: Any) -> Collection:
    settings = Settings(data_dir=folder / "data", durability="os")
    collection = Collection.create("colours", fake.contract, Chunking(64, 8), settings)
    documents = [make_document(uri, text, title=f"On {uri[-6:]}") for uri, text in TEXTS.items()]
    for outcome in ingest_items(collection, fake, documents, FieldChoice()):
        assert outcome.status == "indexed"
    return collection


def questions_of(collection: Collection, folder: Path, text: str) -> list[Question]:
    (file := folder / "questions.csv").write_text(text, encoding="utf-8")
    return questions_from(file, collection.store())


# -- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["red.md", "docs/red.md", "file:///docs/red.md", "On red.md", "/docs/red.md"])
def test_a_document_may_be_called_in_several_ways(colours: Collection, tmp_path: Path, name: str) -> None:
    (question,) = questions_of(colours, tmp_path, f"question,document\nWhat burns?,{name}\n")
    (expected,) = question.expected
    assert expected.document_id == questions_of(colours, tmp_path, "query;file\nx;red.md")[0].expected[0].document_id
    assert expected.span is None


def test_a_record_is_called_by_its_id_in_the_file(colours: Collection, tmp_path: Path) -> None:
    for name in ("p1", "papers.jsonl#p1"):
        (question,) = questions_of(colours, tmp_path, f"question\tdocument\nWhat falls?\t{name}\n")
        assert question.expected[0].document_id is not None


def test_a_quote_is_found_where_it_stands(colours: Collection, tmp_path: Path) -> None:
    (question,) = questions_of(colours, tmp_path, 'Question,Quote\n"What, if it burns?",A fire engine is red.\n')
    assert question.text == "What, if it burns?"
    (expected,) = question.expected
    text = TEXTS["file:///docs/red.md"]
    assert expected.span is not None
    assert text[slice(*expected.span)] == "A  fire\nengine is red."


def test_answers_of_one_question_come_together(colours: Collection, tmp_path: Path) -> None:
    (question,) = questions_of(colours, tmp_path, "question,document\nWhat?,red.md\nWhat?,blue.md\nWhat?,nowhere.md\n")
    assert [expected.document_id is None for expected in question.expected] == [False, False, True]


def test_figures_follow_from_what_is_expected(colours: Collection, fake: Any, tmp_path: Path) -> None:
    questions = questions_of(
        colours,
        tmp_path,
        "question,document,quote\nred,red.md,\ngreen,blue.md,\nblue,,The sky is blue.\nwhite,,Snow is black.\n",
    )
    found = score(colours.snapshot(), fake, questions, dataset="colours", mode="lexical", ks=(1, 10))
    value = found.to_dict()
    assert list(value)[:5] == ["dataset", "collection", "version", "queries", "mode"]
    assert value["recall@1"] == value["recall@10"] == value["mrr@10"] == value["ndcg@10"] == 0.5
    assert value["expected_missing"] == ["Snow is black."]
    assert found.each == {"red": 1, "green": 0, "blue": 1, "white": 0}


def test_all_quotes_that_a_hit_has_are_found(colours: Collection, fake: Any, tmp_path: Path) -> None:
    questions = questions_of(
        colours,
        tmp_path,
        "question,quote\nred,Red things are red.\nred,A fire engine is red.\nred,engine is\n",
    )
    found = score(colours.snapshot(), fake, questions, dataset="colours", mode="lexical")
    assert found.measures["recall@10"] == found.measures["ndcg@10"] == 1


def test_parts_of_passages_are_measured_too(colours: Collection, fake: Any, tmp_path: Path) -> None:
    questions = questions_of(colours, tmp_path, "question,quote\nred,A fire engine is red.\n")
    for narrow in (False, True):
        found = score(colours.snapshot(), fake, questions, dataset="colours", narrow=narrow)
        assert found.to_dict()["narrow"] is narrow
        assert found.measures["recall@10"] == 1


def test_a_beir_folder_is_asked_of_a_collection(colours: Collection, fake: Any, tmp_path: Path) -> None:
    beir = write_folder(
        tmp_path / "beir",
        [{"_id": "p1", "text": "Snow"}, {"_id": "p2", "text": "not indexed"}],
        [{"_id": "q", "text": "white"}],
        [("q", "p1", 1), ("q", "p2", 0)],
    )
    found = score(colours.snapshot(), fake, questions_from(beir, colours.store()), dataset="beir")
    assert found.measures["ndcg@10"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: names the columns not at all"),
        ("question\nred\n", "line 1: names the columns question; it must name question, and document"),
        ("document,quote\nred.md,x\n", "it must name question"),
        ("question,document\n", "holds no question"),
        ("question,document\n,red.md\n", "line 2: there is no question"),
        ("question,document\nWhat?,\n", "line 2: neither a document nor a quote"),
        ("question,document\nWhat?,nowhere.md\n", "Nothing of what"),
        ('question,document\n"What?" or,red.md\n', "line 2: not CSV"),
        ("question,document\nWhat?,\xff\n", "not UTF-8"),
    ],
)
def test_bad_files_of_questions(colours: Collection, tmp_path: Path, text: str, message: str) -> None:
    (file := tmp_path / "questions.csv").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=message):
        questions_from(file, colours.store())


def test_a_name_that_several_documents_have(fake: Any, tmp_path: Path) -> None:
    colours = colours_in(tmp_path, fake)
    for _ in ingest_items(colours, fake, [make_document("file:///docs/more/red.md", "Red again.")], FieldChoice()):
        pass
    with pytest.raises(UsageError, match=r"line 2: 2 documents are called 'red.md'"):
        questions_of(colours, tmp_path, "question,document\nWhat?,red.md\n")


def test_a_file_that_is_not_there(colours: Collection, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no-such\.csv"):
        questions_from(tmp_path / "no-such.csv", colours.store())


# -- sentences held out ------------------------------------------------------------------------------------------------


def test_sentences_are_found_by_passages_without_them(tmp_path: Path, fake: Any) -> None:
    settings = Settings(data_dir=tmp_path / "data", durability="os")
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    texts = [f"One {word} two three four. Five {word} six seven eight. Nine {word} ten." for word in ("red", "blue")]
    documents = [make_document(f"t:{at}", text, id=str(at)) for at, text in enumerate([*texts, "Too short."])]
    for _ in ingest_items(collection, fake, documents, FieldChoice()):
        pass
    for _ in range(2):
        with held_out(collection, fake, 10) as (without, questions):
            assert sorted(question.id for question in questions) == ["0:0", "1:0"]
            held = {each.passages[0].document_id: each.text for each in without.store().whole_documents(["0:0", "1:0"])}
            for question in questions:
                whole = texts[int(question.id[0])]
                assert question.text in whole
                assert question.text not in held[question.id]
                assert len(held[question.id]) == len(whole) - len(question.text) - 1
            assert without.store().count() == 3
            assert score(without.snapshot(), fake, questions, dataset="own").measures["ndcg@10"] == 1
            directory = without.settings.data_dir
        assert not directory.exists()
    assert fake.encoded == 3 + 2 * (2 + 2), "passages as they came, then those that lost a sentence, and the questions"


def test_what_lost_a_sentence_is_encoded_with_its_context(tmp_path: Path, fake: Any) -> None:
    settings = Settings(data_dir=tmp_path / "data", durability="os")
    collection = Collection.create("c", fake.contract, Chunking(64, 8, context="title+headings"), settings)
    text = "The old house stands green. The tall tree grows green. The fast car looks green."
    document = make_document("t:0", text, id="0", title="Red", headings=(Heading(0, 1, "White"),))
    assert [outcome.passages for outcome in ingest_items(collection, fake, [document], FieldChoice())] == [1]
    with held_out(collection, fake, 1) as (without, questions):
        (vector,) = without.store().vectors()[1]
        (whole,) = without.store().whole_documents([questions[0].id])
        assert (whole.passages[0].title, whole.passages[0].heading) == ("Red", "White")
        (expected,) = fake.encode_texts([f"Red White {whole.text}"], kind="passage").vectors
        np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_a_collection_without_sentences(colours: Collection, fake: Any) -> None:
    with pytest.raises(UsageError, match="sentences enough"), held_out(colours, fake, 10):
        pass


# -- calibration -------------------------------------------------------------------------------------------------------


def test_a_calibration_tells_answers_from_what_is_like_them(tmp_path: Path, fake: Any) -> None:
    settings = Settings(data_dir=tmp_path / "data", durability="os")
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    documents = [make_document(f"t:/{at}.md", f"The red thing called w{at} is here.", id=str(at)) for at in range(40)]
    for _ in ingest_items(collection, fake, documents, FieldChoice(), duplicates="ignore"):
        pass
    lines = "".join(f"Where is the red w{at} thing?,{at}.md\n" for at in range(40))
    questions = questions_of(collection, tmp_path, f"question,document\n{lines}")
    found = calibrate(collection.snapshot(), fake, questions)
    assert (found.queries, found.auroc) == (40, 1)
    assert 0 < found.answers_from < 1
    assert found.words > 0
    with pytest.raises(UsageError, match="19 of the questions"):
        calibrate(collection.snapshot(), fake, questions[:19])
    with pytest.raises(UsageError, match="hybrid or dense"):
        calibrate(collection.snapshot(), fake, questions, "lexical")
    lines = "".join(f"Where is the red thing?{' ' * at}?,{at}.md\n" for at in range(40))
    alike = questions_of(collection, tmp_path, f"question,document\n{lines}")
    with pytest.raises(UsageError, match="hardly better than a coin"):
        calibrate(collection.snapshot(), fake, alike[:20])


def test_a_document_is_an_answer_also_where_another_says_the_same(tmp_path: Path, fake: Any) -> None:
    settings = Settings(data_dir=tmp_path / "data", durability="os")
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    documents = [
        make_document(f"t:/{copy}{at}.md", f"The red thing called w{at} is here.", id=f"{copy}{at}")
        for at in range(20)
        for copy in "ab"
    ]
    for _ in ingest_items(collection, fake, documents, FieldChoice(), duplicates="ignore"):
        pass
    rows = "".join(
        f"Where is the red w{at} thing?,{copy}{at}.md,The red thing called w{at} is here.\n"
        for at in range(20)
        for copy in "ab"
    )
    questions = questions_of(collection, tmp_path, f"question,document,quote\n{rows}")
    found = score(collection.snapshot(), fake, questions, dataset="copies")
    assert found.measures["answer_recall@5"] == 1
    only_second = [Question(each.id, each.text, each.expected[1:]) for each in questions]
    assert score(collection.snapshot(), fake, only_second, dataset="copies").measures["answer_recall@5"] == 1
    with pytest.raises(UsageError, match="hardly better than a coin"):  # fitted; but what is left out is still answered
        calibrate(collection.snapshot(), fake, only_second)


# -- runs compared -----------------------------------------------------------------------------------------------------


def saved(**each: float) -> Saved:
    mean = sum(each.values()) / max(1, len(each))
    return Saved("d", "hybrid", {"ndcg@10": mean}, {id: id.upper() for id in each}, each, {id: [] for id in each})


def test_winners_and_losers_are_told(tmp_path: Path) -> None:
    write_saved(tmp_path / "run.json", saved(a=1, b=0.5, c=0.2, gone=1))
    found = compare(read_saved(tmp_path / "run.json"), saved(a=0, b=0.6, c=1, new=1))
    assert (found.queries, found.change) == (3, pytest.approx(-0.1 / 3, abs=1e-5))
    assert [(change.query, change.before, change.now) for change in found.winners] == [("C", 0.2, 1), ("B", 0.5, 0.6)]
    assert [change.query for change in found.losers] == ["A"]


def test_a_loss_is_told_from_chance() -> None:
    before = saved(**{f"q{at}": 1.0 for at in range(20)})
    some = saved(**{f"q{at}": 0.5 if at < 2 else 1.0 for at in range(20)})
    many = saved(**{f"q{at}": 0.5 if at < 10 else 1.0 for at in range(20)})
    assert compare(before, before).p_worse == 1
    assert compare(before, some).p_worse == pytest.approx(0.25, abs=0.02)
    assert compare(before, many).p_worse == pytest.approx(1 / 1024, abs=0.001)
    assert failed_gates(["no-worse"], some, compare(before, some)) == []
    assert failed_gates(["no-worse"], many, compare(before, many))[0].startswith("nDCG@10 changed by -0.25")
    assert failed_gates(["no-worse"], before, compare(many, before)) == []


def test_gates_on_measures() -> None:
    assert failed_gates(["ndcg@10>=0.5", "ndcg@10 >= 0.9"], saved(a=0.75), None) == [
        "ndcg@10 is 0.7500, not 0.9 or more"
    ]
    with pytest.raises(UsageError, match="mrr@10 was not measured; ndcg@10 were"):
        failed_gates(["mrr@10>=0.5"], saved(a=1), None)
    measures = measures_of((10,), with_quotes=False)
    for gate in ("ndcg@10=0.5", "ndcg@10>=0.7.1", "bogus"):
        with pytest.raises(UsageError, match="is no gate"):
            check_gates([gate], measures, is_compared=True)
    for gate in ("bogus>=0.5", "recall@100>=0.5", "answer_recall@5>=0.5"):
        with pytest.raises(UsageError, match="is not measured here; ndcg@10, recall@10, mrr@10 are"):
            check_gates([gate], measures, is_compared=True)
    check_gates(["answer_recall@5>=.5", "no-worse"], measures_of((10,), with_quotes=True), is_compared=True)
    with pytest.raises(UsageError, match="--against"):
        check_gates(["no-worse"], measures, is_compared=False)


@pytest.mark.parametrize("content", ["", "[]", '{"each": {}}'])
def test_a_file_that_is_no_run(tmp_path: Path, content: str) -> None:
    (file := tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match="is not a run"):
        read_saved(file)


def test_runs_without_a_common_query() -> None:
    with pytest.raises(UsageError, match="no query in common"):
        compare(saved(a=1), saved(b=1))
    with pytest.raises(NotFound, match="Save a run there first"):
        read_saved(Path("nowhere.json"))


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_measures_keeps_compares_and_gates(
    run: Run,  # noqa: F811
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "questions.csv"
    file.write_text("question,document\nrestart after power failure,power.md\nheart,p2\n")
    common = ("eval", file, "-c", "library", "--data-dir", library, "--json")
    first = run(*common, "--save-run", tmp_path / "run.json", "--gate", "ndcg@10>=0.9")
    assert first.code == 0, first.err
    assert first.json["ndcg@10"] == 1
    second = run(*common, "--against", tmp_path / "run.json", "--gate", "no-worse", "--gate", "recall@10>=1.1")
    assert second.code == 1
    value = second.json
    assert (value["against"]["queries"], value["against"]["losers"]) == (2, [])
    assert value["gates_failed"] == ["recall@10 is 1.0000, not 1.1 or more"]
    monkeypatch.setattr("embedsvc.cli.evaluating.encoder_for", None)  # what is refused is refused before any work
    for options, message in (
        (("--gate", "bogus>=0.5"), "bogus is not measured here"),
        (("--split", "dev"), "leave it out"),
        (("--narrow", "--calibrate"), "--calibrate at whole ones"),
    ):
        refused = run(*common, *options)
        assert (refused.code, message in refused.err.replace("\n", " ")) == (2, True), refused.err
