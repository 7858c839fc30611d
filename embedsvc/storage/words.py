"""What the lexical side takes for a word: in texts by Lance's text index, in queries here."""

from __future__ import annotations

import re
from typing import Any

import lance
from lance.query import BooleanQuery, FullTextQuery, MatchQuery, Occur, PhraseQuery

from embedsvc.records import Language

_COMMON = {"ascii_folding": True, "with_position": True}
_QUOTED = re.compile(r'"([^"]+)"')


def text_index(language: Language) -> dict[str, Any]:
    """Parameters of the text index. Identifiers are words whole and in their parts (``snake_case``, ``camelCase``,
    ``E1234``); positions are kept for phrases. ``other``: words by ICU's dictionaries, as they stand."""
    if language == "other":
        return {**_COMMON, "base_tokenizer": "icu/split", "stem": False, "remove_stop_words": False}
    identifiers = {"base_tokenizer": "code", "split_identifiers": True, "preserve_original": True}
    return {**_COMMON, **identifiers, "language": language.title(), "stem": True, "remove_stop_words": True}


def phrases(query: str, language: Language) -> list[str]:
    """What stands in double quotes in ``query`` and holds a word that is searched for: not of stop words only."""
    return [phrase for phrase in _QUOTED.findall(query) if says_something(phrase, language)]


def says_something(text: str, language: Language) -> bool:
    """Whether ``text`` holds a word that is searched for."""
    return bool(lance.tokenize(text, **_analysis(language)))


def has_words(text: str, language: Language) -> bool:
    """Whether ``text`` holds a word at all, be it too common to be searched for. Signs are none, nor are runs of more
    than 40 bytes, such as a sentence in a script without spaces, unless dictionaries part it (``other``)."""
    return bool(lance.tokenize(text, **{**_analysis(language), "remove_stop_words": False}))


def _analysis(language: Language) -> dict[str, Any]:
    return {key: value for key, value in text_index(language).items() if key != "with_position"}


def matching(query: str, column: str, language: Language) -> FullTextQuery:
    """Any term of ``query`` may match; its phrases must, word by word in this order."""
    terms = MatchQuery(query, column)
    required = [(Occur.MUST, PhraseQuery(phrase, column)) for phrase in phrases(query, language)]
    return BooleanQuery([*required, (Occur.SHOULD, terms)]) if required else terms
