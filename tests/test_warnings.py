"""Queries of which something is not understood, or not looked at: it is said, and the answer makes sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.encoding import Encoder
from embedsvc.records import make_document
from embedsvc.search import Query, search
from embedsvc.search.languages import foreign
from embedsvc.search.terms import first_words, is_only_punctuation
from tests.fakes import FakeEncoder
from tests.test_cli import Run, run  # noqa: F401 - a fixture
from tests.test_search import MODES, ask, collection_of, ids, texts


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Welche Partei gewann die Wahl im Jahr 2010?", "German"),
        ("¿Cómo reinicio el servidor después de un fallo?", "Spanish"),
        ("Comment redémarrer le serveur après une panne ?", "French"),
        ("Jak uruchomić serwer po awarii?", "Polish"),
        ("Где находится Москва?", "Cyrillic letters"),
        ("如何重启服务器", "Chinese characters"),
        ("東京都に住んでいます", "Japanese"),
        ("서버를 다시 시작", "Korean"),
        ("Which party won the election in 2010?", None),
        ("get_user_name ERR_CONN_RESET", None),
        ("die hard", None),
        ("la la land", None),
        ("El Niño in vitro", None),
        ("the word Москва", None),
        ("42", None),
    ],
)
def test_languages_show_by_letters_and_little_words(text: str, told: str | None) -> None:
    assert foreign(text, ("en",)) == told
    assert foreign(text, ()) is None, "nobody knows what the model knows"


def test_a_language_that_the_model_knows_is_not_foreign() -> None:
    assert foreign("Welche Partei gewann die Wahl?", ("en", "de")) is None
    assert foreign("Где находится Москва?", ("uk",)) is None
    assert foreign("Which party won the election?", ("de",)) == "English"


@pytest.mark.parametrize(
    ("card", "languages"),
    [
        ("---\nlanguage: en\nlicense: mit\n---\n", ("en",)),
        ("---\nlanguage:\n- en\n- de\ntags:\n- x\n---\n", ("en", "de")),
        ("---\nlanguage: [en, zh]\n---\n", ("en", "zh")),
        ("---\nlanguage: multilingual\n---\n", ()),
        ("---\ntags:\n- language: en\n---\n", ()),
        ("# language: en\n", ()),
    ],
)
def test_a_model_card_tells_languages(tmp_path: Path, card: str, languages: tuple[str, ...]) -> None:
    from embedsvc.encoding.models import _languages

    (tmp_path / "README.md").write_text(card)
    assert _languages(tmp_path) == languages


def test_the_default_model_says_what_it_does_not_know(library: Path, encoder: Encoder) -> None:
    assert encoder.model.languages == ("en",)
    snapshot = Collection.open("library", Settings(data_dir=library)).snapshot()
    (said,) = search(snapshot, encoder, Query("Was hilft nach einem Ausfall der Stromversorgung?")).warnings
    assert said.startswith("The query seems to be in German. all-MiniLM-L6-v2 knows English")
    (said,) = search(snapshot, encoder, Query("🙂 🚀 ∰", mode="dense")).warnings
    assert "does not know" in said
    for query in (Query("What helps after a power failure?"), Query("Was hilft nach einem Ausfall?", mode="lexical")):
        assert search(snapshot, encoder, query).warnings == ()


@pytest.mark.parametrize("mode", MODES)
def test_punctuation_finds_nothing_and_says_so(tmp_path: Path, fake: FakeEncoder, mode: str) -> None:
    collection = texts(tmp_path, fake, a="red ?! ...", b="blue")
    answer = ask(collection, fake, "?! … -- \u200b", mode=mode, explain=True)
    assert answer.hits == ()
    assert answer.warnings[0].startswith("The query is of punctuation only")
    assert fake.encoded == 2, "the passages"


@pytest.mark.parametrize(
    ("text", "only"), [("?!…«»", True), ("a?", False), ("=", False), ("🙂", False), ("C++", False)]
)
def test_what_is_punctuation_only(text: str, only: bool) -> None:
    assert is_only_punctuation(text) == only


def test_stop_words_are_searched_by_meaning_and_it_is_said(tmp_path: Path, fake: FakeEncoder) -> None:
    fake = FakeEncoder(("to", "be", "or"))
    collection = texts(tmp_path, fake, a="to be or to be", b="to to to")
    hybrid = ask(collection, fake, "to be or")
    assert ids(hybrid)[0] == "a"
    assert hybrid.warnings == (
        "All words of the query are too common to be looked up (english). It was searched by meaning only; add a "
        "telling word.",
    )
    lexical = ask(collection, fake, "to be or", mode="lexical")
    assert (lexical.hits, len(lexical.warnings)) == ((), 1)
    assert "Ask in mode hybrid or dense" in lexical.warnings[0]
    assert ask(collection, fake, "to be or", mode="dense").warnings == ()
    assert ask(collection, fake, "nowhere", mode="lexical").warnings == (), "a telling word that is not there"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("🙂 🚀", "The query has no word that could be looked up: signs"),
        ("the 🙂", "All words of the query are too common to be looked up (english)."),
        (
            "電源が落ちた後にサービスを再起動する方法",
            "The query has no spaces between its words",
        ),
        ("サービス", None),
    ],
)
def test_what_is_not_looked_up_for_another_reason(
    tmp_path: Path, fake: FakeEncoder, text: str, told: str | None
) -> None:
    warnings = ask(texts(tmp_path, fake, a="red", b="blue"), fake, text, mode="lexical").warnings
    assert len(warnings) == (told is not None)
    assert told is None or warnings[0].startswith(told)


def test_of_many_words_the_first_are_looked_up_and_it_is_said(
    tmp_path: Path, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = texts(tmp_path, fake, a="red", b="blue")
    monkeypatch.setattr("embedsvc.search.candidates._MOST_WORDS", 5)
    long = "red white red white red blue blue"
    answer = ask(collection, fake, long, mode="lexical")
    assert ids(answer) == ["a"]
    assert answer.warnings == ("The query has too many words: its last 2 were not looked up.",)
    assert len(ask(collection, fake, long).warnings) == 1
    assert ask(collection, fake, long, mode="dense").warnings == ()


def test_ten_thousand_words(library: Path, encoder: Encoder) -> None:
    snapshot = Collection.open("library", Settings(data_dir=library)).snapshot()
    text = " ".join(f"power{at}" if at else "power failure" for at in range(9_999))
    answer = search(snapshot, encoder, Query(text, on_overflow="truncate"))
    assert answer.hits[0].uri.endswith("power.md")
    assert answer.warnings == (
        f"The query is too long for the model: its last {answer.tokens_cut:,} tokens were left out.",
        "The query has too many words: its last 9,600 were not looked up.",
    )


def test_words_are_counted_in_any_script() -> None:
    assert first_words("one two three", 2) == ("one two", 1)
    assert first_words("a-b c", 3) == ("a-b c", 0)
    assert first_words("東京都庁", 1) == ("東京", 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("metadata.yaer = 2021", "No document has metadata.yaer; the nearest field is metadata.year."),
        (
            "metadata.place.ctiy = 'Ulm'",
            "No document has metadata.place.ctiy; the nearest field is metadata.place.city.",
        ),
        (
            'metadata."no such" = 1',
            'No document has metadata."no such"; there are metadata.place, metadata.place.city, ',
        ),
        ("metadata.year = 1999", "passes the filter metadata.year = 1999."),
        ("title = 'none'", "passes the filter title = 'none'."),
    ],
)
def test_a_filter_that_passes_nothing_is_told(
    tmp_path: Path, fake: FakeEncoder, mode: str, condition: str, told: str
) -> None:
    metadata = {"year": 2021, "place": {"city": "Ulm"}}
    collection = collection_of(tmp_path, fake, make_document("t:a", "red", id="a", metadata=metadata))
    (said,) = ask(collection, fake, "red", mode=mode, filter=condition).warnings
    assert said.startswith("No passage of ")
    assert told in said
    assert ("No document" in said) == told.startswith("No document")


def test_what_a_filter_passes_and_something_else_leaves_out_is_not_the_filters(
    tmp_path: Path, fake: FakeEncoder
) -> None:
    collection = collection_of(tmp_path, fake, make_document("t:a", "red", id="a", metadata={"year": 2021}))
    assert ask(collection, fake, "red", filter="metadata.yaer IS NULL").warnings == ()
    assert ask(collection, fake, "nowhere", mode="lexical", filter="metadata.year = 2021").warnings == ()


def test_the_command_warns_on_stderr(run: Run, library: Path) -> None:  # noqa: F811
    found = run("search", "who is it", "-c", "library", "--mode", "lexical", "--data-dir", library, "--json")
    assert found.code == 0
    assert "too common" in found.err
    assert found.json["hits"] == []
    assert len(found.json["warnings"]) == 1
