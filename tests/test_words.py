"""What the lexical side takes for a word: identifiers, phrases, languages."""

from __future__ import annotations

from pathlib import Path

import lance
import pytest

from embedsvc.errors import UsageError
from embedsvc.records import Chunking
from embedsvc.storage.words import phrases
from tests.fakes import FakeEncoder
from tests.test_search import ask, collection_of, ids, make_document, texts

CODE = {
    "snake": "call get_user_name(id) now",
    "camel": "use getUserName here",
    "error": "it failed with ERR_CONN_RESET, code E1234 or 0x80070005",
    "acronym": "an HTTPServerError was raised",
    "prose": "plain words of a name and a user",
}


@pytest.mark.parametrize(
    ("query", "first", "all_of_them"),
    [
        ("get_user_name", "snake", {"snake", "camel", "prose"}),
        ("getUserName", "camel", {"snake", "camel", "prose"}),
        ("user", None, {"snake", "camel", "prose"}),
        ("ERR_CONN_RESET", "error", {"error"}),
        ("reset", "error", {"error"}),
        ("E1234", "error", {"error"}),
        ("0x80070005", "error", {"error"}),
        ("HTTPServerError", "acronym", {"acronym"}),
        ("server", "acronym", {"acronym"}),
    ],
)
def test_identifiers_are_found_whole_and_in_parts(
    tmp_path: Path, fake: FakeEncoder, query: str, first: str | None, all_of_them: set[str]
) -> None:
    found = ids(ask(texts(tmp_path, fake, **CODE), fake, query, mode="lexical"))
    assert set(found) == all_of_them
    assert first in (None, found[0])


ORDERS = {"right": "a red quick green fox", "wrong": "a green fox, quick and red", "none": "red red red"}


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_a_phrase_has_to_be_there_word_by_word(tmp_path: Path, fake: FakeEncoder, mode: str) -> None:
    collection = texts(tmp_path, fake, **ORDERS)
    assert ids(ask(collection, fake, 'red "quick green fox"', mode=mode)) == ["right"]
    assert ids(ask(collection, fake, '"fox quick" red', mode=mode)) == ["wrong"]
    assert ids(ask(collection, fake, '"green fox" "red quick"', mode=mode)) == ["right"]
    assert set(ids(ask(collection, fake, '"green fox"', mode=mode))) == {"right", "wrong"}
    assert set(ids(ask(collection, fake, "quick green fox", mode=mode))) >= {"right", "wrong"}


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_a_phrase_that_is_nowhere_is_searched_by_its_words_and_that_is_said(
    tmp_path: Path, fake: FakeEncoder, mode: str
) -> None:
    collection = texts(tmp_path, fake, **ORDERS)
    loose, free = (ask(collection, fake, query, mode=mode) for query in ('"fox green"', " fox green "))
    assert loose.query == '"fox green"'
    assert ids(loose) == ids(free) != []
    assert loose.warnings[-1] == (
        'No passage that may be found has "fox green" word by word: the words were searched for without quotes.'
    )
    assert not any("quotes" in each for each in ask(collection, fake, '"green fox"', mode=mode).warnings)


def test_a_phrase_and_a_filter(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, **ORDERS)
    assert ids(ask(collection, fake, '"green fox"', filter="document_id = 'wrong'")) == ["wrong"]


def test_quotes_in_dense_mode_are_characters(tmp_path: Path, fake: FakeEncoder) -> None:
    assert len(ids(ask(texts(tmp_path, fake, **ORDERS), fake, '"fox green"', mode="dense"))) == 3


@pytest.mark.parametrize("query", ['"the who"', '"..."', 'an open " quote', '""'])
def test_what_holds_no_word_is_no_phrase(query: str) -> None:
    assert phrases(query, "english") == []


def test_words_that_only_a_language_knows(tmp_path: Path, fake: FakeEncoder) -> None:
    documents = [make_document("t:a", "Die Häuser brannten", id="a"), make_document("t:b", "aber und oder", id="b")]
    german = collection_of(tmp_path / "de", fake, *documents, chunking=Chunking(64, 8, language="german"))
    assert ids(ask(german, fake, "Haus brannte", mode="lexical")) == ["a"]
    assert ids(ask(german, fake, "aber", mode="lexical")) == []
    english = collection_of(tmp_path / "en", fake, *documents)
    assert ids(ask(english, fake, "aber", mode="lexical")) == ["b"]


def test_words_without_spaces_between(tmp_path: Path, fake: FakeEncoder) -> None:
    document = make_document("t:a", "東京都に住んでいます", id="a")
    collection = collection_of(tmp_path, fake, document, chunking=Chunking(64, 8, language="other"))
    assert ids(ask(collection, fake, "東京都", mode="lexical")) == ["a"]


def test_an_index_from_before_phrases_is_searched_and_says_what_to_do(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, **ORDERS)
    store = collection.store()
    lance.dataset(str(store.path)).create_scalar_index(
        "text", "INVERTED", replace=True, language="English", stem=True, remove_stop_words=True
    )
    assert "right" in ids(ask(collection, fake, "green fox", mode="lexical"))
    with pytest.raises(UsageError, match="collections compact c"):
        ask(collection, fake, '"green fox"', mode="lexical")
    with collection.writer() as writer:
        writer.store = writer.store.with_text_index()
    assert set(ids(ask(collection, fake, '"green fox"', mode="lexical"))) == {"right", "wrong"}
