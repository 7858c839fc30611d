"""What the tools of agents do: ``search`` and ``fetch`` in the shape that ChatGPT's connectors expect, and
``list_collections``. They only read.

The id of a hit names its collection, its place and its document (``handbook:120-480:faq-1``), so that it can be fetched
whenever later, by whoever got it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any
from urllib.parse import urlencode

from embedsvc.agents.shelves import Shelf
from embedsvc.errors import EmbedsvcError, NotFound, QueryTooLong, UsageError
from embedsvc.names import NAME
from embedsvc.records import WholeText, is_own_uri
from embedsvc.search.hits import Answer, Hit

HITS = 8
_MOST_HITS = 50
_AT_ONCE = 8
"""Collections that one search looks into at a time: what is held for the others is held no longer, and other requests
get their turn."""
_CHARACTERS = 20_000
"""Of a document that are fetched at once, about 5,000 tokens: a longer one comes in parts."""
_TITLE = 60
"""Characters of a text that stand for its title."""
_ID = re.compile(
    rf"(?P<name>{NAME.pattern}):(?:(?P<start>\d{{1,15}})-(?P<end>\d{{1,15}}):)?(?P<document>.+)", re.DOTALL
)

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """``call`` is given the shelf, the address that citations begin with (``""``: none), and the arguments. Schemas are
    JSON schemas. Raises what :mod:`embedsvc.errors` has."""

    name: str
    title: str
    description: str
    takes: dict[str, Any]
    gives: dict[str, Any]
    call: Callable[[Shelf, str, Arguments], Awaitable[dict[str, Any]]]


def check_arguments(tool: Tool, arguments: Arguments) -> None:
    """Raises UsageError for an argument that the tool would pass over: the agent would believe that it was heard. Where
    a tool takes nothing, nothing is lost: some clients send a stand-in then."""
    known = tool.takes["properties"]
    if known and (unknown := [name for name in arguments if name not in known]):
        raise UsageError(f"{tool.name} has no argument {unknown[0]!r}; it takes {', '.join(known)}.")


# -- search ----------------------------------------------------------------------------------------------------------


async def _search(shelf: Shelf, public_url: str, arguments: Arguments) -> dict[str, Any]:
    query, k = _text(arguments, "query"), arguments.get("k", HITS)
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= _MOST_HITS:
        raise UsageError(f"k is {k!r}; ask for 1 to {_MOST_HITS} hits.")
    there = await shelf.names()
    names = [_text(arguments, "collection")] if arguments.get("collection") is not None else there
    if unknown := [name for name in names if name not in there]:
        raise NotFound(f"There is no collection {unknown[0]!r} here. There are: {', '.join(there) or 'none yet'}.")
    if not names:
        raise NotFound("There are no collections here yet. The user can make one: embedsvc index PATH -c NAME.")
    turn = asyncio.Semaphore(_AT_ONCE)

    async def answer_of(name: str) -> Answer:
        async with turn:
            return await shelf.search(name, query, k, in_passing=len(names) > 1)

    asked = await asyncio.gather(*map(answer_of, names), return_exceptions=True)
    answers = [answer for answer in asked if isinstance(answer, Answer)]
    errors = {name: error for name, error in zip(names, asked, strict=True) if isinstance(error, BaseException)}
    for error in errors.values():
        if isinstance(error, QueryTooLong):
            # Its remedies are options that agents are not given; one that a service told has its message only.
            fact = str(error).partition(" Shorten it")[0]
            raise UsageError(f"{fact} Ask again with a shorter query.") from None
        if not answers or not isinstance(error, EmbedsvcError):
            raise error
    # Scores of different collections do not compare; places do.
    ranks = zip_longest(*([(answer.collection, hit) for hit in answer.hits] for answer in answers))
    best = [found for found in chain.from_iterable(ranks) if found is not None][:k]
    found: dict[str, Any] = {"results": [_result(name, hit, public_url) for name, hit in best]}
    if warnings := _warnings_of(answers):
        found["warnings"] = warnings
    return {**found, "not_searched": [f"{name}: {error}" for name, error in errors.items()]} if errors else found


def _warnings_of(answers: Sequence[Answer]) -> list[str]:
    """Each once; of some of the collections only, with their names."""
    of: dict[str, list[str]] = {}
    for answer in answers:
        for warning in answer.warnings:
            of.setdefault(warning, []).append(answer.collection)
    return [
        warning if len(names) == len(answers) else f"{', '.join(names)}: {warning}" for warning, names in of.items()
    ]


def _result(name: str, hit: Hit, public_url: str) -> dict[str, Any]:
    return {
        "id": _id(name, hit.document_id, hit.start, hit.end),
        "title": _title(hit.title, hit.uri, hit.text, hit.heading, hit.page),
        "url": _url(public_url, name, hit.document_id, hit.uri, hit.start, hit.end),
        "text": hit.text,
    }


def _id(name: str, document: str, start: int, end: int) -> str:
    return f"{name}:{start}-{end}:{document}"


def _title(title: str, uri: str, text: str, heading: str | None = None, page: int | None = None) -> str:
    """Without a title, the last part of the uri; without a uri too, how ``text`` begins."""
    untitled = " ".join(text.split(maxsplit=_TITLE))[:_TITLE] if is_own_uri(uri) else uri.rstrip("/").rpartition("/")[2]
    where = [title or untitled, heading, page and f"page {page}"]
    return " › ".join(str(part) for part in where if part)


def _url(public_url: str, name: str, document: str, uri: str, start: int, end: int) -> str:
    """Where a reader may open it: at its own address on the web, or on the page of the service."""
    if uri.startswith(("http://", "https://")):
        return uri
    place = urlencode({"c": name, "doc": document, "start": start, "end": end})
    return f"{public_url.rstrip('/')}/?{place}" if public_url else ""


# -- fetch -----------------------------------------------------------------------------------------------------------


async def _fetch(shelf: Shelf, public_url: str, arguments: Arguments) -> dict[str, Any]:
    id = _text(arguments, "id")
    parsed = _ID.fullmatch(id)
    if parsed is None:
        raise UsageError(f"{id!r} is no id: take one from the results of search.")
    name, document = parsed["name"], parsed["document"]
    if name not in await shelf.names():
        raise NotFound(f"There is no collection {name!r} here (any more). Those that there are: list_collections.")
    try:
        whole = await shelf.get(name, document)
    except NotFound:
        gone = f"There is no document {document!r} in {name!r} (any more)."
        raise NotFound(f"{gone} Take an id from the results of search.") from None
    start, end = int(parsed["start"] or 0), int(parsed["end"] or 0)
    changed = not start <= end <= len(whole.text)
    if changed:
        start = end = 0
    first, last = _part(whole, start, end)
    about: dict[str, Any] = {
        "collection": name,
        "document_id": whole.id,
        "uri": whole.uri,
        "start": first,
        "end": last,
        "characters": len(whole.text),
        "document": dict(whole.metadata),
    }
    if end > start:
        about["cited"] = {"start": start, "end": end}
    if changed:
        about["note"] = "The document has changed since it was found: this is its beginning."
    if last < len(whole.text):
        about["next"] = _id(name, document, last, last)
    return {
        "id": id,
        "title": _title(whole.title, whole.uri, whole.text),
        "text": whole.text[first:last],
        "url": _url(public_url, name, whole.id, whole.uri, start, end),
        "metadata": about,
    }


def _part(whole: WholeText, start: int, end: int) -> tuple[int, int]:
    """What is given of a document: all, or as much around the cited place as may be, from where a passage begins to
    where one ends. An empty place is one to read on from."""
    if len(whole.text) <= _CHARACTERS:
        return 0, len(whole.text)
    room = max(0, _CHARACTERS - (end - start))
    before = room // 4 if end > start else 0
    begins = [span.start for span in whole.passages if start - before <= span.start <= start]
    first = min(begins, default=start) if end > start else start
    ends = [span.end for span in whole.passages if end < span.end <= first + max(_CHARACTERS, end - start)]
    last = max(ends, default=max(end, first + _CHARACTERS))
    return first, min(last, len(whole.text))


# -- list_collections ------------------------------------------------------------------------------------------------


async def _list_collections(shelf: Shelf, public_url: str, arguments: Arguments) -> dict[str, Any]:
    described = []
    for name in await shelf.names():
        try:
            own = await shelf.describe(name)
        except NotFound:  # deleted just now
            continue
        except EmbedsvcError as error:
            described.append({"name": name, "error": str(error)})
            continue
        described.append({"name": name, "documents": own["documents"], "passages": own["passages"]})
    return {"collections": described}


def _text(arguments: Arguments, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{name} is {value!r}; it must be a text that is not empty.")
    return value


# -- what is told of them --------------------------------------------------------------------------------------------


def _object(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _only(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    return {**_object(properties, *optional), "additionalProperties": False}


_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_URL = {"type": "string", "description": "Where a reader may open it; empty: nowhere."}
_FOUND = _object({"id": {"type": "string", "description": "For fetch."}, "title": _TEXT, "url": _URL, "text": _TEXT})
TOOLS = (
    Tool(
        "search",
        "Search documents",
        "Finds the passages of the indexed documents that answer a question, by meaning and by words; best first. Each "
        "comes with its text, and an id by which fetch gives what is around it.",
        _only(
            {
                "query": {"type": "string", "description": "What is asked, in words."},
                "collection": {"type": "string", "description": "Look only there. Default: in all collections."},
                "k": {"type": "integer", "minimum": 1, "maximum": _MOST_HITS, "description": f"Default: {HITS}."},
            },
            "collection",
            "k",
        ),
        _object(
            {
                "results": {"type": "array", "items": _FOUND},
                "not_searched": {"type": "array", "items": _TEXT, "description": "Collections that failed, and why."},
                "warnings": {
                    "type": "array",
                    "items": _TEXT,
                    "description": "What of the query was not understood, or not looked at. Modes, filters and models "
                    "that they name are the user's to choose.",
                },
            },
            "not_searched",
            "warnings",
        ),
        _search,
    ),
    Tool(
        "fetch",
        "Read a document",
        "Gives the document that a result of search is in. Of a long one, the part around the result; metadata.next is "
        "then the id of what follows.",
        _only({"id": {"type": "string", "description": "Of a result of search."}}),
        _object({"id": _TEXT, "title": _TEXT, "text": _TEXT, "url": _URL, "metadata": {"type": "object"}}, "metadata"),
        _fetch,
    ),
    Tool(
        "list_collections",
        "List collections",
        "Tells which collections of documents there are, and how large they are.",
        _object({}),
        _object(
            {
                "collections": {
                    "type": "array",
                    "items": _object(
                        {"name": _TEXT, "documents": _COUNT, "passages": _COUNT, "error": _TEXT},
                        "documents",
                        "passages",
                        "error",
                    ),
                }
            }
        ),
        _list_collections,
    ),
)
