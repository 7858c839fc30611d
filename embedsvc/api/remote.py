"""Collections of a service: requests to it, and what its answers say. What sends them is :mod:`.transport`."""

from __future__ import annotations

import array
import base64
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from embedsvc import __version__
from embedsvc.api.options import WHOLE, CollectionOptions, Kind, NewDocument, check_type, checked
from embedsvc.api.paths import named_paths
from embedsvc.api.steps import Pause, Request, Response, Steps, Work
from embedsvc.config import OnOverflow
from embedsvc.errors import JobFailed, Overloaded, ReadError, Unreachable, UsageError, VersionMismatch
from embedsvc.outcomes import ACTIVE, Outcome, Report, outcome_of, reason_of, uri_of_upload
from embedsvc.readers.discovery import FoundFile, absolute, discover, is_url
from embedsvc.readers.ignoring import PathPatterns, check_patterns
from embedsvc.records import Metadata, PassageSpan, StoredDocument, WholeText
from embedsvc.search.asking import Asked
from embedsvc.search.hits import Answer
from embedsvc.search.telling import answer_of
from embedsvc.statuses import error_of, type_of

_AGAIN = (429, 503)
"""Statuses of a request that was not taken and may be tried again."""
_OF_DOORS = (401, 403, 413, 429, 503)
"""Statuses that are understood from others too: of what stands before the service and lets in, by key, size and load.
"""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the second try; what is told to take longer than the other is not waited for."""
_POLL_FIRST, _POLL_LAST = 0.02, 1.0
"""Seconds between looks at a job."""
_BATCH_BYTES, _BATCH_FILES, _BATCH_DOCUMENTS = 32_000_000, 500, 10_000
"""What is sent at once, at most; a single larger file is sent alone."""
_BATCH_IDS = 1000
"""Documents that are read by one request."""
_BATCH_TEXTS = 256
"""Texts that are embedded by one request: what it answers with is no more than a megabyte or two."""
_OPENAI_CODES = {"context_length_exceeded": type_of("Query too long")}
"""Types of the problems that the routes in OpenAI's shape tell by a code; others are told by the status."""
_MAX_FILE_BYTES = 100_000_000
"""Of files that are sent. The service may take less, and says so."""


class _TooLarge(UsageError):
    """The service, or what stands before it, takes no request of that size."""


class Remote:
    """A :class:`~embedsvc.api.place.Place`: the service at ``url``. ``retries``: how often a request that it did not
    take is sent again."""

    def __init__(self, url: str, retries: int) -> None:
        check_type("retries", retries, WHOLE)
        if retries < 0:
            raise UsageError(f"retries is {retries}; it must be 0 or more.")
        self._url = url
        self._retries = retries
        self._tops: dict[tuple[str, str], Path] = {}
        """By collection and name, the file or folder that was put in and is cited by that name."""

    def __str__(self) -> str:
        return self._url

    def search(self, name: str, asked: Asked) -> Steps[Answer]:
        return answer_of((yield from self._ask(Request("POST", f"{_of(name)}/search", body_of(asked)))))

    def index(
        self, name: str, paths: Sequence[str | Path], exclude: Sequence[str], include: Sequence[str]
    ) -> Steps[Report]:
        named = named_paths(paths)
        if urls := [path for path in named if is_url(path)]:
            raise UsageError(f"A service is sent files only: fetch {urls[0]} yourself, or index it where the data are.")
        check_patterns((*exclude, *include))
        tops = _outermost([absolute(path) for path in named])
        # Before anything is waited for: meanwhile, another call may be under way.
        self._tops |= self._told_apart(name, [top for top in tops if os.access(top, os.F_OK)])
        batches = _batches(named, tops, PathPatterns(tuple(exclude), tuple(include)))
        outcomes: list[Outcome] = []
        while (batch := (yield Work(lambda: next(batches, None)))) is not None:
            files, rejected = batch
            outcomes += rejected
            if files:
                outcomes += yield from self._put_files(name, tuple(files))
        return Report(name, tuple(outcomes))

    def _told_apart(self, name: str, tops: Sequence[Path]) -> dict[tuple[str, str], Path]:
        """What is to be known of ``tops`` from here on. Raises UsageError where one would be cited as another is."""
        by_name: dict[tuple[str, str], Path] = {}
        for top in tops:
            key = name, top.name
            other = by_name.get(key) or self._tops.get(key, top)
            if other != top:
                raise UsageError(
                    f"{other} and {top} would both be cited as {top.name}, one in place of the other. Name the "
                    "folder above both, or give one another name. Where it was moved: connect anew."
                )
            by_name[key] = top
        return by_name

    def add(self, name: str, documents: Iterable[NewDocument]) -> Steps[Report]:
        _, given, outcomes = yield Work(lambda: checked(documents))
        for part in _parts(given):
            body = b'{"documents":[' + b",".join(part) + b"]}"
            outcomes += yield from self._put_in(Request("POST", f"{_of(name)}/documents", body))
        return Report(name, tuple(outcomes))

    def get(self, name: str, id: str) -> Steps[WholeText]:
        return _whole_of((yield from self._ask(Request("GET", f"{_of(name)}/documents/{_escaped(id)}"))))

    def get_many(self, name: str, ids: Sequence[str]) -> Steps[list[WholeText]]:
        found: list[WholeText] = []
        for start in range(0, len(ids), _BATCH_IDS):
            body = _json({"ids": ids[start : start + _BATCH_IDS]}, "The ids")
            value = yield from self._ask(Request("POST", f"{_of(name)}/documents/read", body))
            found += map(_whole_of, value["documents"])
        return found

    def delete(self, name: str, id: str) -> Steps[None]:
        yield from self._ask(Request("DELETE", f"{_of(name)}/documents/{_escaped(id)}"))

    def delete_many(self, name: str, ids: Sequence[str] | None, filter: str | None) -> Steps[int]:
        body = _json({"ids": ids, "filter": filter}, "The ids")
        value = yield from self._ask(Request("POST", f"{_of(name)}/documents/delete", body))
        return int(value["deleted"])

    def set_metadata(self, name: str, metadata: Metadata, ids: Sequence[str] | None, filter: str | None) -> Steps[int]:
        body = _json({"metadata": dict(metadata), "ids": ids, "filter": filter}, "The metadata")
        job = yield from self._done(Request("POST", f"{_of(name)}/documents/metadata", body))
        return int(job["result"]["changed"])

    def delete_uris(self, name: str, uris: Sequence[str]) -> Steps[list[str]]:
        if not uris:
            return []
        body = _json({"uris": uris}, "The uris")  # they may be more than a URL has room for
        value = yield from self._ask(Request("POST", f"{_of(name)}/documents/delete-by-uri", body))
        return list(value["deleted"])

    def documents(self, name: str, limit: int, offset: int, filter: str | None) -> Steps[list[StoredDocument]]:
        value = yield from self._page(name, limit, offset, filter)
        return [StoredDocument(**document) for document in value["documents"]]

    def count(self, name: str, filter: str | None) -> Steps[int]:
        value = yield from self._page(name, 1, 0, filter)
        return int(value["total"])

    def _page(self, name: str, limit: int, offset: int, filter: str | None) -> Steps[Any]:
        query: dict[str, int | str] = {"limit": limit, "offset": offset}
        if filter is not None:
            query["filter"] = filter
        return self._ask(Request("GET", f"{_of(name)}/documents", query=query))

    def describe(self, name: str) -> Steps[dict[str, Any]]:
        return self._ask(Request("GET", _of(name)))

    def names(self) -> Steps[list[str]]:
        value = yield from self._ask(Request("GET", "/v1/collections"))
        return [each["name"] for each in value["collections"]]

    def create(self, name: str, options: CollectionOptions) -> Steps[None]:
        yield from self._ask(Request("PUT", _of(name), _json(options, "The options")))

    def embed(
        self, texts: Sequence[str], kind: Kind, model: str | None, on_overflow: OnOverflow | None
    ) -> Steps[list[list[float]]]:
        if model is None:
            models = yield from self._ask(Request("GET", "/v1/models"))
            model = models["data"][0]["id"]
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _BATCH_TEXTS):
            asked = {"model": model, "input": texts[start : start + _BATCH_TEXTS], "input_type": kind}
            if on_overflow is not None:
                asked["on_overflow"] = on_overflow
            body = _json({**asked, "encoding_format": "base64"}, "The texts")
            value = yield from self._ask(Request("POST", "/v1/embeddings", body))
            vectors += (_numbers(each["embedding"]) for each in value["data"])
        return vectors

    def remove(self, name: str) -> Steps[None]:
        yield from self._ask(Request("DELETE", _of(name)))
        self._tops = {key: top for key, top in self._tops.items() if key[0] != name}

    def _put_files(self, name: str, files: tuple[tuple[str, bytes], ...]) -> Steps[list[Outcome]]:
        """What became of ``files``; in parts where together they are more than is taken at once there, or before."""
        try:
            return (yield from self._put_in(Request("POST", f"{_of(name)}/documents", files=files)))
        except _TooLarge as error:
            if len(files) == 1:
                return [Outcome(uri_of_upload(files[0][0]), "quarantined", reason=f"too_large: {error}")]
        half = len(files) // 2
        first = yield from self._put_files(name, files[:half])
        return first + (yield from self._put_files(name, files[half:]))

    # -- a job, a request --------------------------------------------------------------------------------------------

    def _put_in(self, request: Request) -> Steps[list[Outcome]]:
        """What became of the inputs of the job that ``request`` begins, once it is done."""
        job = yield from self._done(request)
        response = yield from self._sent(Request("GET", f"/v1/jobs/{job['job']}/report"))
        return [outcome_of(json.loads(line)) for line in response.body.splitlines()]

    def _done(self, request: Request) -> Steps[Any]:
        """The job that ``request`` begins, as it is once it is done."""
        job = yield from self._ask(request)
        seconds = _POLL_FIRST
        while job["status"] in ACTIVE:
            yield Pause(seconds)
            seconds = min(1.5 * seconds, _POLL_LAST)
            job = yield from self._ask(Request("GET", f"/v1/jobs/{job['job']}"))
        if job["status"] != "done":
            raise JobFailed(f"{job['error']} (job {job['job']} of {self._url})")
        return job

    def _ask(self, request: Request) -> Steps[Any]:
        """What the service answers, as JSON; None where it answers nothing."""
        response = yield from self._sent(request)
        try:
            return json.loads(response.body) if response.body else None
        except ValueError:
            raise Unreachable(f"What {self._url} answers is no JSON: {response.body[:80]!r}.") from None

    def _sent(self, request: Request) -> Steps[Response]:
        response: Response = yield request
        for retry in range(self._retries):
            seconds = pause_before(response, retry) if response.status in _AGAIN else None
            if seconds is None:
                break
            yield Pause(seconds)
            response = yield request
        self._check(response)
        return response

    def _check(self, response: Response) -> None:
        there = response.headers.get("x-embedsvc-version")
        if there is not None and _line(there) != _line(__version__):
            raise VersionMismatch(
                f"The service at {self._url} is embedsvc {there}, this is {__version__}: they do not understand each "
                "other. Install the same version on both sides."
            )
        if there is None and response.status not in _OF_DOORS:
            raise Unreachable(
                f"What answers at {self._url} (status {response.status}) is not an embedsvc service, or stands before "
                "one that it does not reach. Check the URL, and that the service runs (embedsvc serve)."
            )
        if response.status >= 400:
            raise self._problem(response)

    def _problem(self, response: Response) -> Exception:
        try:
            problem = json.loads(response.body)
            if "error" in problem:  # in OpenAI's shape
                type, detail = _OPENAI_CODES.get(problem["error"]["code"]), problem["error"]["message"]
            else:
                type, detail = problem["type"], problem["detail"]
        except (ValueError, KeyError, TypeError):  # of a proxy before the service
            type, detail = None, f"{self._url} answers with status {response.status}."
            if response.status in (401, 403):
                detail += " Check the api_key."
            elif response.status == 429:
                detail += " It, or what stands before it, takes no more for now: ask again later, or less at once."
        if response.status == 413:
            return _TooLarge(detail)
        error = error_of(response.status, type, detail)
        if isinstance(error, Overloaded):
            error.retry_after = round(_told_to_wait(response) or 1)
        return error


def _line(version: str) -> str:
    """What versions that understand each other have in common: the first number, and before 1.0 the second too."""
    numbers = version.split(".")
    return ".".join(numbers[: 2 if numbers[0] == "0" else 1])


def pause_before(response: Response, retry: int) -> float | None:
    """Seconds to wait before the retry of that number, from 0; None: it is told to take too long.

    Where the service does not tell, twice as long each time, and not all clients at once.
    """
    told = _told_to_wait(response)
    if told is not None:
        return told if told <= _LONGEST_PAUSE else None
    return min(_FIRST_PAUSE * 2.0**retry, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _told_to_wait(response: Response) -> float | None:
    """``Retry-After``, seconds or a date, in seconds from now."""
    told = response.headers.get("retry-after", "")
    if told.isdigit():
        return float(told)
    try:
        date: datetime = parsedate_to_datetime(told)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _whole_of(value: Mapping[str, Any]) -> WholeText:
    return WholeText(**{**value, "passages": tuple(PassageSpan(**span) for span in value["passages"])})


def _numbers(encoded: str) -> list[float]:
    """Of base64 over little-endian float32."""
    numbers = array.array("f", base64.b64decode(encoded))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _of(name: str) -> str:
    return f"/v1/collections/{_escaped(name)}"


def _escaped(text: str) -> str:
    return quote(text, safe="", errors="replace")


_DEFAULTS = {field.name: field.default for field in fields(Asked)}


def body_of(asked: Asked) -> bytes:
    """The body of a search: what differs from the defaults, so that a service need not know of anything else.

    Raises:
        UsageError: a value that JSON does not have.
    """
    value = {name: getattr(asked, name) for name in _DEFAULTS if getattr(asked, name) != _DEFAULTS[name]}
    return _json(value, "The search")


def _json(value: Mapping[str, Any], called: str) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"{called} cannot be sent: {error}.") from None


# -- what is put in ------------------------------------------------------------------------------------------------

_Files = list[tuple[str, bytes]]


def _batches(
    named: Sequence[str], tops: Sequence[Path], selection: PathPatterns
) -> Iterator[tuple[_Files, list[Outcome]]]:
    """The files under ``named``, by the names that they are cited by, from ``tops`` on, as many as are sent at once;
    and what becomes of those that cannot be."""
    files: _Files = []
    rejected: list[Outcome] = []
    size = 0
    for found in discover(named, max_file_bytes=_MAX_FILE_BYTES, selection=selection):
        try:
            if not isinstance(found, FoundFile):
                raise found.error
            data = found.load().data
        except ReadError as error:
            rejected.append(Outcome(found.uri, "quarantined", reason=reason_of(found.uri, error)))
            continue
        if files and (size + len(data) > _BATCH_BYTES or len(files) == _BATCH_FILES):
            yield files, rejected
            files, rejected, size = [], [], 0
        files.append((_cited(found.path, tops), data))
        size += len(data)
    yield files, rejected


def _outermost(tops: Sequence[Path]) -> list[Path]:
    return [top for top in tops if not any(parent in tops for parent in top.parents)]


def _cited(path: Path, tops: Sequence[Path]) -> str:
    """``path`` from the folder on that was named: ``handbook/travel.md``."""
    top = next(top for top in tops if path == top or top in path.parents)
    return os.fsencode(path.relative_to(top.parent)).decode("utf-8", "replace")


def _parts(documents: Iterable[Mapping[str, Any]]) -> Iterator[list[bytes]]:
    """Documents as JSON, as many as are sent at once."""
    part: list[bytes] = []
    size = 0
    for document in documents:
        line = json.dumps(document).encode()
        if part and (size + len(line) > _BATCH_BYTES or len(part) == _BATCH_DOCUMENTS):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part
