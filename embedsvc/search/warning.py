"""What whoever asked should know about the query: what of it was not understood, or not looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from typing import Any

from embedsvc.records import Language
from embedsvc.search.languages import foreign, named
from embedsvc.search.run import Run
from embedsvc.search.terms import is_only_punctuation
from embedsvc.storage.filters import field_of, named_keys
from embedsvc.storage.words import has_words, says_something

_READ = 2_000
"""Characters of a query in which its language is looked for."""
_UNKNOWN = 1 / 3
"""Share of a query's tokens that the model may not know without a word about it."""

_FIELDS = 3
"""Of a filter that nothing passes, those that are looked for: each may take a look at every passage."""
_DOCUMENTS = 1_000
"""That are asked which fields there are."""
_TOLD = 8


def warnings_of(run: Run) -> tuple[str, ...]:
    """One sentence or two about each thing, for people; ``run`` has been through the stages, for the last time."""
    return (*_about_words(run), *_about_depth(run), *_about_filter(run))


def not_found(phrases: Sequence[str]) -> str:
    """What is said where no passage has the quoted ``phrases`` of a query."""
    quoted = " and ".join(f'"{phrase}"' for phrase in phrases)
    return f"No passage that may be found has {quoted} word by word: the words were searched for without quotes."


def _about_depth(run: Run) -> Iterator[str]:
    if run.more and len(run.hits) < run.query.k:
        yield (
            f"{len(run.hits):,} of {run.query.k:,} hits were found among the {run.limit:,} best candidates, and the "
            "search went no further: there may be more. Look for them with a filter, or ask for less to be left out."
        )


def _about_filter(run: Run) -> Iterator[str]:
    condition = run.query.filter
    if condition is None or run.hits or run.snapshot.passes_any(condition):
        return
    store = run.snapshot.store
    named = [field_of(keys) for keys in named_keys(condition)]
    missing = [field for field in named[:_FIELDS] if not store.some_metadata(f"{field} IS NOT NULL", 1)]
    told = f"No passage of {run.snapshot.name!r} passes the filter {condition}."
    if missing:
        there = list(
            dict.fromkeys(chain.from_iterable(map(_fields_in, store.some_metadata("ordinal = 0", _DOCUMENTS))))
        )
        told += "".join(f" No document has {field}{_instead_of(field, there)}." for field in missing)
    yield told


def _fields_in(metadata: Mapping[str, Any], above: Sequence[str] = ()) -> Iterator[str]:
    for key, value in metadata.items():
        yield field_of((*above, key))
        if isinstance(value, dict):
            yield from _fields_in(value, (*above, key))


def _instead_of(field: str, there: Sequence[str]) -> str:
    """What may have been meant. The common beginning of the names would make all of them alike."""
    by_key = {each.removeprefix("metadata."): each for each in there}
    if near := get_close_matches(field.removeprefix("metadata."), by_key, n=1):
        return f"; the nearest field is {by_key[near[0]]}"
    if not there:
        return ", nor any other field of its own that could be seen"
    return f"; there are {', '.join(there[:_TOLD])}{' …' if len(there) > _TOLD else ''}"


def _about_words(run: Run) -> Sequence[str]:
    query = run.query
    if query.vector is not None:
        return ()
    if is_only_punctuation(query.text):
        return ("The query is of punctuation only: there is nothing to search for. Ask with at least one word.",)
    found = []
    if run.tokens_cut:
        found.append(f"The query is too long for the model: its last {run.tokens_cut:,} tokens were left out.")
    if run.words_cut:
        found.append(f"The query has too many words: its last {run.words_cut:,} were not looked up.")
    if query.rerank is not None and query.rerank.depth == 0:
        found.append(
            "Nothing was reranked: tuning found that it does not pay in this collection. Give a rerank depth if it is "
            "to be done all the same."
        )
    if query.mode != "lexical" and (about := _not_understood(run)):
        found.append(about)
    language = run.snapshot.store.chunking.language
    # What finds something says something.
    if run.lexical is not None and not run.lexical.any() and not says_something(query.text, language):
        instead = "Ask in mode hybrid or dense, or" if query.mode == "lexical" else "It was searched by meaning only;"
        found.append(f"{_not_looked_up(query.text, language)} {instead} add a telling word.")
    return found


def _not_looked_up(text: str, language: Language) -> str:
    """Why nothing in ``text`` is looked up."""
    if has_words(text, language):
        return f"All words of the query are too common to be looked up ({language})."
    if any(character.isalpha() for character in text):
        return (
            f"The query has no spaces between its words: in a collection of language {language} they are not told "
            "apart, and not looked up. Index what has no spaces with language other."
        )
    return "The query has no word that could be looked up: signs are found by their meaning only."


def _not_understood(run: Run) -> str | None:
    model, text = run.encoder.model, run.query.text[:_READ]
    remedy = "Ask in mode lexical, or move the collection to a model that does: embedsvc collections migrate."
    if language := foreign(text, model.languages):
        return (
            f"The query seems to be in {language}. {model.name} knows {named(model.languages)}, and hardly sees what "
            f"this means. {remedy}"
        )
    tokenizer = run.encoder.tokenizer
    unknown = getattr(tokenizer.model, "unk_token", None)
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens
    count = tokens.count(unknown) if unknown is not None else 0
    if count <= _UNKNOWN * len(tokens):
        return None
    return f"{model.name} does not know {count} of the query's {len(tokens)} tokens. {remedy}"
