"""What whoever asked should know about the query: what of it was not understood, or not looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embedsvc.records import Language
from embedsvc.search.languages import foreign, named
from embedsvc.search.run import Run
from embedsvc.search.terms import is_only_punctuation
from embedsvc.storage.words import has_words, says_something

_READ = 2_000
"""Characters of a query in which its language is looked for."""
_UNKNOWN = 1 / 3
"""Share of a query's tokens that the model may not know without a word about it."""


def warnings_of(run: Run) -> tuple[str, ...]:
    """One sentence or two about each thing, for people; ``run`` has been through the stages, for the last time."""
    return (*_about_words(run), *_about_depth(run))


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
            "Nothing was reranked: tuning found that it does not pay in this collection. Give rerank_depth if it is to "
            "be done all the same."
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
