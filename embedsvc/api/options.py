"""What callers hand over, with its types, and the checks of it that both places share."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, Required, TypedDict, get_args, get_origin, get_type_hints

from embedsvc.config import Dtype, OnOverflow
from embedsvc.errors import UsageError
from embedsvc.outcomes import CLASHES, Outcome
from embedsvc.records import ChunkContext, Document, Language, Metadata, ready_document
from embedsvc.search.asking import Asked
from embedsvc.search.hits import Mode


class SearchOptions(TypedDict, total=False):
    """How to search, besides the query; named as over REST. docs/search.md says more of each."""

    k: int
    """Hits wanted, 1 to 1000. Default: 10."""
    mode: Mode
    """``hybrid`` (default), ``dense`` or ``lexical``; of a query vector ``dense``."""
    filter: str
    """SQL over the built-in fields and ``metadata.KEY``: ``"metadata.year >= 2024 AND uri LIKE '%manual%'"``."""
    min_score: float
    """Hits with a lower score are left out."""
    min_confidence: float
    """Hits of which it is less sure that they answer (a probability) are left out."""
    rerank: str
    """Cross-encoder that puts the best in order: a folder; of a service, the name of one that it serves."""
    rerank_depth: int
    """How many of the best it reads."""
    time_budget_ms: float
    """Milliseconds after which it is not waited for."""
    expand: Literal["neighbours", "section", "document"]
    """Also give a ``context``: the hits with what is around them."""
    max_context_tokens: int
    """Also give a ``context``, of at most so many tokens."""
    order: Literal["best-first", "document"]
    """Of the context's sources. Default: ``best-first``."""
    tokenizer: str
    """What counts the context's tokens: a ``tokenizer.json``; of a service, the name of one that it has. Default: the
    collection's own."""
    highlight: bool
    """Tell each hit's best sentence, and where the query's words are in it."""
    on_overflow: OnOverflow
    """A query longer than the model's window. Default: as the settings say."""
    merge: bool
    """Overlapping passages of a document are one hit. Default: True."""
    narrow: bool | int
    """Hits are the best parts of passages, of at most so many tokens together. Default: False."""
    fusion: Mapping[str, Any]
    """Of mode hybrid: any of ``method``, ``weight``, ``normalisation`` and ``depth``. Default: the collection's own."""
    duplicates: Literal["exact", "near", "keep"]
    """Passages that say the same are one hit. Default: ``exact``."""
    diversity: float
    """How much a hit's difference from those before it counts beside its score, 0 (default) to 1."""
    group_by: str
    """``document`` or ``metadata.KEY``: of each at most ``per_group`` hits."""
    per_group: int
    """Default: 1."""
    boosts: Sequence[Mapping[str, Any]]
    """What else counts: ``{"field", "half_life_days", "weight"}`` or ``{"filter", "factor"}``."""
    explain: bool
    """Also tell what each stage of the search did."""


class CollectionOptions(TypedDict, total=False):
    """What a collection keeps for good. What is left out follows the settings here, or those of the service."""

    model: str
    """Model id, or a folder; of a service, one on its machine."""
    dtype: Dtype
    """Arithmetic of the encoder."""
    chunk_tokens: int
    """Tokens per passage."""
    overlap: int
    """Tokens that neighbouring passages share, at most."""
    finer_tokens: int
    """Tokens of the sub-windows that longer passages are also matched by; 0: none."""
    chunk_context: ChunkContext
    """What is encoded in front of each passage: its document's title, the headings over it, both or nothing."""
    language: Language
    """Of the text, for stems and stop words of lexical search."""


Kind = Literal["query", "passage"]
"""What a text to be embedded is: models may put another prompt before each."""
_MAX_PAGE = 1000
"""Documents that are listed at once."""


class NewDocument(TypedDict, total=False):
    """A document to be added. Without ``id`` it comes from ``uri``, without both from the text."""

    text: Required[str]
    id: str
    uri: str
    title: str
    metadata: Metadata


def check_names(given: Iterable[str], known: Collection[str], kind: str) -> None:
    """Raises UsageError where one that is ``given`` is not ``known``: with what may have been meant. ``kind``: what
    they name."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
            raise UsageError(f"There is no {kind} {name}. {hint}")


_TEXT, _FILE = ((str,), "a text"), ((str, os.PathLike), "a text")
WHOLE, NUMBER, _BOOLEAN = ((Integral,), "a whole number"), ((Real,), "a number"), ((bool,), "True or False")
_EXPECTED: Mapping[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("mode", "filter", "expand", "order", "on_overflow", "duplicates", "group_by"), _TEXT),
    **dict.fromkeys(("rerank", "tokenizer"), _FILE),
    **dict.fromkeys(("k", "rerank_depth", "max_context_tokens", "per_group"), WHOLE),
    **dict.fromkeys(("min_score", "min_confidence", "time_budget_ms", "diversity"), NUMBER),
    **dict.fromkeys(("highlight", "merge", "explain"), _BOOLEAN),
    "narrow": ((bool, Integral), "True, False or a whole number"),
    "fusion": ((Mapping,), "a dict"),
    "boosts": ((list, tuple), "a list of dicts"),
}
_OF_FUSION: Mapping[str, tuple[tuple[type, ...], str]] = {
    "method": _TEXT,
    "weight": NUMBER,
    "normalisation": _TEXT,
    "depth": WHOLE,
}


def check_search(options: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that there is not, or a value of another type: type checkers see it, notebooks
    do not. Values out of range are the search's to refuse."""
    for name, value in options.items():
        if name in _OF_FUSION:
            raise UsageError(f"{name} is a part of fusion: give fusion={{{name!r}: {value!r:.80}}}.")
        check_names([name], _EXPECTED, "search option")
        if value is not None or getattr(_DEFAULTS, name) is not None:
            check_type(name, value, _EXPECTED[name])
            if name in _choices():
                _check_choice(name, value, _choices()[name])
    for name, value in (options.get("fusion") or {}).items():
        if name in _OF_FUSION:
            check_type(f"{name} of fusion", value, _OF_FUSION[name])
    for place, boost in enumerate(options.get("boosts", ())):
        check_type(f"boosts[{place}]", boost, ((Mapping,), "a dict"))


_DEFAULTS = Asked()


@cache
def _choices() -> Mapping[str, tuple[str, ...]]:
    """Of the options that are one of a few words, those words."""
    hints = get_type_hints(SearchOptions)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r:.80}; choose {', '.join(choices)}.")


def check_texts(texts: Sequence[str], kind: Kind, on_overflow: OnOverflow | None) -> list[str]:
    """Texts to be embedded; raises UsageError where one is empty or none, or what is said of them is wrong."""
    _check_choice("kind", kind, get_args(Kind))
    if on_overflow is not None:
        _check_choice("on_overflow", on_overflow, get_args(OnOverflow))
    texts = listed("texts", texts)
    for place, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise UsageError(f"texts[{place}] is {'empty' if text == '' else f'{text!r:.80}'}; give a text.")
    return texts


def listed(name: str, texts: Iterable[str]) -> list[str]:
    """Raises UsageError where one text stands in the place of several: its letters would be taken."""
    if isinstance(texts, str | bytes):
        raise UsageError(f"{name} is {texts!r:.80}; give a list: [{texts!r:.80}].")
    try:
        return list(texts)
    except TypeError:
        raise UsageError(f"{name} is {texts!r:.80}; give a list of texts.") from None


def meant(ids: Iterable[str] | None, filter: str | None) -> tuple[list[str] | None, str | None]:
    """By what documents are chosen; raises UsageError for another type. Whether it chooses any is told elsewhere."""
    if filter is not None:
        check_type("filter", filter, _TEXT)
    return None if ids is None else listed("ids", ids), filter


def check_metadata(metadata: Metadata) -> None:
    """Raises UsageError where they are none."""
    check_type("metadata", metadata, ((Mapping,), "a dict"))
    _check_json("metadata", dict(metadata))


def _check_json(called: str, value: object) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{called} is not JSON: {error}.") from None


def check_page(limit: int, offset: int) -> None:
    """Raises UsageError where there is no such page of documents."""
    check_type("limit", limit, WHOLE)
    check_type("offset", offset, WHOLE)
    if not (1 <= limit <= _MAX_PAGE and offset >= 0):
        raise UsageError(f"limit is {limit}, offset {offset}; ask for 1 to {_MAX_PAGE} documents, from 0 on.")


def check_type(name: str, value: object, expected: tuple[tuple[type, ...], str]) -> None:
    """Raises UsageError for a value of none of these types; what they are called stands beside them."""
    kinds, told = expected
    # Python counts True and False as numbers.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UsageError(f"{name} is {value!r:.80}; it must be {told}.")


def numbers_of(vector: Any) -> list[float]:
    """A query vector as numbers; raises UsageError where it is none."""
    numbers = None
    if not isinstance(vector, bytes | bytearray):  # which would be numbers, of letters
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            numbers = [float(number) for number in vector]
    if numbers is None:
        raise UsageError(f"The query is {vector!r:.80}; it must be a text, or a vector: a list of numbers.")
    if not all(map(math.isfinite, numbers)):  # JSON has no such numbers to send
        raise UsageError("The query vector is zero or not finite; its direction is what is searched for.")
    return numbers


_KINDS: Mapping[str, type] = {"text": str, "id": str, "uri": str, "title": str, "metadata": Mapping}
_MOST: Mapping[str, int] = {"id": 512, "uri": 4096, "title": 4096}
"""Characters, as over REST."""


def checked(documents: Iterable[NewDocument]) -> tuple[list[Document], list[NewDocument], list[Outcome]]:
    """The documents to be added; the same, as they were handed over, each with its id; and what became of those left
    out because one before them has their id.

    Raises:
        UsageError: it is no list; one has no text, a field that there is not, or a value of another type.
    """
    if isinstance(documents, Mapping | str | bytes) or not isinstance(documents, Iterable):
        raise UsageError(
            f'documents is a {type(documents).__name__}; give a list of dicts, also of a single one: [{{"text": "…"}}].'
        )
    found: dict[str, tuple[Document, NewDocument]] = {}
    clashing = []
    for place, given in enumerate(documents):
        _check(place, given)
        document = ready_document(**given)
        if document.id in found:
            clashing.append(Outcome(document.uri, "quarantined", reason=CLASHES.format(document.id)))
        else:
            found[document.id] = document, {**given, "id": document.id}
    return [made for made, _ in found.values()], [given for _, given in found.values()], clashing


def _check(place: int, given: NewDocument) -> None:
    if not isinstance(given, Mapping):
        raise UsageError(f"documents[{place}] is a {type(given).__name__}; give a dict with a text.")
    if unknown := [name for name in given if name not in _KINDS]:
        raise UsageError(f"documents[{place}] has a field {unknown[0]!r}; there are {', '.join(_KINDS)}.")
    if "text" not in given:
        raise UsageError(f"documents[{place}] has no text.")
    for name, value in given.items():
        if not isinstance(value, _KINDS[name]):
            raise UsageError(f"{name} of documents[{place}] is {value!r:.80}; it must be a {_KINDS[name].__name__}.")
        if name in _MOST and len(str(value)) > _MOST[name]:
            raise UsageError(f"{name} of documents[{place}] has {len(str(value))} characters, at most {_MOST[name]}.")
    if not given.get("id", "-") or not given.get("uri", "-"):
        raise UsageError(f"id or uri of documents[{place}] is empty; leave it out.")
    _check_json(f"metadata of documents[{place}]", given.get("metadata", {}))
