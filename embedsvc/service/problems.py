"""Errors to HTTP, once: every class of the error tree has its status here, every body is written here.

Bodies are RFC 9457 problem+json; on routes in the shape of OpenAI, text-embeddings-inference (TEI) and Cohere they are
as there, and on that of MCP as JSON-RPC has them, so that its clients tell what is wrong.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from embedsvc import errors
from embedsvc.statuses import STATUS, type_of

log = logging.getLogger(__name__)

_OPENAI = re.compile(r"/v1/(embeddings|models|files|vector_stores)(/|$)")
TEI_ROUTES = frozenset(
    {"/", "/embed", "/embed_all", "/similarity", "/rerank", "/predict", "/tokenize", "/decode", "/info", "/health"}
)
MCP_ROUTE = "/mcp"
COHERE_ROUTES = frozenset({"/v1/rerank", "/v2/rerank"})
_KIND = re.compile(r"(str|int|list\[.*\]|dict\[.*\])$")
"""How a complaint names the kinds that a field may have."""
EMPTY = "empty"
"""The code of a fault that is an empty input."""
_TEI_KINDS = {400: "Empty", 413: "Validation", 422: "Validation", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}


class InvalidBody(errors.UsageError):
    """A request body that is not JSON at all."""


class BodyTooLarge(errors.UsageError):
    """A request body above ``max_body_mb``."""


class UnsupportedMedia(errors.UsageError):
    """A body in a content type that the route does not read."""


class Refused(errors.UsageError):
    """A fault in a request in another's shape: ``param`` is the field at fault, ``code`` OpenAI's word for it."""

    def __init__(self, message: str, *, param: str | None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


_STATUS: Mapping[type[Any], tuple[int, str]] = {
    **STATUS,
    InvalidBody: (400, "Invalid body"),
    BodyTooLarge: (413, "Request body too large"),
    UnsupportedMedia: (415, "Unsupported content type"),
}


def status_of(error: errors.EmbedsvcError) -> tuple[int, str]:
    """HTTP status and title of an error."""
    return next(_STATUS[ancestor] for ancestor in type(error).__mro__ if ancestor in _STATUS)


def speaks_openai(path: str) -> bool:
    """Whether that route is in OpenAI's shape."""
    return _OPENAI.match(path) is not None


def json_bytes(value: Any) -> bytes:
    # U+FFFD for a lone surrogate: names from the request may carry one, UTF-8 cannot.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def problem(
    path: str,
    status: int,
    title: str,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    param: str | None = None,
    code: str | None = None,
    fact: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error response for the route ``path``, in the shape that the route speaks. ``fact``: ``detail`` without what
    to do about it, where callers may put that in other words."""
    body: dict[str, Any]
    if path in TEI_ROUTES:
        if status == 400:  # there, only an empty input is
            status = 400 if code == EMPTY else 422
        body = {"error": detail, "error_type": _TEI_KINDS.get(status, "Backend" if status >= 500 else "Validation")}
        return Response(json_bytes(body), status, headers, media_type="application/json")
    if path in COHERE_ROUTES:
        return Response(json_bytes({"message": detail}), status, headers, media_type="application/json")
    if path == MCP_ROUTE:
        # What it is about was not read: no id, and of the codes the one of a request that is none for this server.
        body = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": detail}}
        return Response(json_bytes(body), status, headers, media_type="application/json")
    if speaks_openai(path):
        kind = {429: "rate_limit_error"}.get(status, "invalid_request_error" if status < 500 else "server_error")
        body = {"error": {"message": detail, "type": kind, "param": param, "code": code}}
        return Response(json_bytes(body), status, headers, media_type="application/json")
    body = {"type": type_of(title), "title": title, "status": status, "detail": detail}
    body["instance"] = path
    if errors:
        body["errors"] = errors
    if fact is not None:
        body["fact"] = fact
    return Response(json_bytes(body), status, headers, media_type="application/problem+json")


def _path(request: Request) -> str:
    path: str = request.scope["path"]
    return path


def _embedsvc_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.EmbedsvcError)
    status, title = status_of(error)
    if isinstance(error, errors.ModelError) and _path(request) in TEI_ROUTES:
        status = 424  # what TEI answers when its backend fails
    is_early = isinstance(error, errors.NotReady)  # a probe that asks too early is no news
    if (status >= 500 or status == 424) and not is_early:
        log.error("request %s: %s: %s", request.scope.get("embedsvc.id"), type(error).__name__, error)
    headers = {}
    if status == 413:
        headers["connection"] = "close"
    if status == 503 or isinstance(error, errors.Locked):
        headers["retry-after"] = "5"
    if isinstance(error, errors.Overloaded):
        headers["retry-after"] = str(error.retry_after)
    if isinstance(error, Refused):
        return problem(_path(request), error.status, title, str(error), param=error.param, code=error.code)
    fact = error.fact if isinstance(error, errors.QueryTooLong) else None
    return problem(_path(request), status, title, str(error), fact=fact, headers=headers)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError | RequestValidationError)
    found = error.errors()
    details = [
        {"pointer": "#/" + "/".join(_pointer(part) for part in item["loc"]), "detail": _sentence(item)}
        for item in found[:20]
    ]
    # Of a field that may be one of several things every one is complained of: the deepest complaint is nearest.
    first = max(found, key=lambda item: len(item["loc"]))
    where = ".".join(str(part) for part in first["loc"] if not _KIND.match(str(part))) or "body"
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    detail = f"{where}: {_sentence(first)}{more}"
    if speaks_openai(_path(request)) or _path(request) in COHERE_ROUTES:
        return problem(_path(request), 400, "", detail, param=str(first["loc"][0]) if first["loc"] else None)
    return problem(_path(request), 422, "Invalid request", detail, errors=details)


def _pointer(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _sentence(item: Mapping[str, Any]) -> str:
    if item["type"] == "extra_forbidden":
        return "There is no such field."
    if item["type"] == "model_type":
        return "Input should be a JSON object."
    return f"{item['msg'].removeprefix('Value error, ')}."


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = error.detail if error.detail != title else f"{title}: {request.method} {_path(request)}. See /docs."
    return problem(_path(request), error.status_code, title, detail, headers=error.headers)


def install(app: FastAPI) -> None:
    """Makes every error of ``app`` answer in this module's shapes."""
    app.add_exception_handler(errors.EmbedsvcError, _embedsvc_error)
    app.add_exception_handler(ValidationError, _invalid)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
