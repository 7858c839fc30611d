"""What the routes share: responses and their description in OpenAPI."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response

from embedsvc.names import NAME
from embedsvc.service.embedding import Cost
from embedsvc.service.problems import json_bytes
from embedsvc.service.schemas import OpenAIErrorOut, Problem

Name = Annotated[
    str,
    Path(
        description="The collection's name.",
        examples=["handbook"],
        # Said only; where it is checked, the error says more than "does not match".
        json_schema_extra={"pattern": f"^{NAME.pattern}$"},
    ),
]

MAX_TEXTS = 2048
"""Texts of one embedding or reranking request."""

_CASES = {
    400: ("Bad request", "k is 0; ask for 1 to 1000 hits."),
    404: ("Not found", "There is no collection 'handbok' in indexes. Did you mean 'handbook'?"),
    409: ("Conflict", "The collection 'handbook' was made with chunk_tokens 512, not 256."),
    413: ("Request body too large", "The request body is larger than 100 MB (max_body_mb). Send it in parts."),
    415: ("Unsupported content type", "The content type is text/plain; send application/json."),
    422: ("Invalid request", "k: Input should be a valid integer."),
    429: ("Too many requests", "512 searches are waiting already. Ask again in 1 s, or send less at once."),
    500: ("Damaged collection", "indexes/handbook/passages.lance cannot be read as a collection."),
    503: ("Model not available", "Unknown model 'mini': neither a known id nor an existing folder."),
    507: ("Storage failure", "The disk that holds indexes is full. What was there before stands."),
}


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_bytes(value), status, headers, media_type="application/json")


def fast_reply(value: Any, headers: dict[str, str] | None = None) -> Response:
    """As :func:`reply`, eight times as fast, for numbers and texts that are known to be clean."""
    return Response(to_json(value), 200, headers, media_type="application/json")


def tei_headers(cost: Cost, device: str, started: float) -> dict[str, str]:
    """What it cost, as TEI tells it: times in milliseconds. Two headers of our own say what became of long texts."""
    times = {
        "x-compute-time": cost.tokenization_seconds + cost.queue_seconds + cost.inference_seconds,
        "x-total-time": time.perf_counter() - started,
        "x-tokenization-time": cost.tokenization_seconds,
        "x-queue-time": cost.queue_seconds,
        "x-inference-time": cost.inference_seconds,
    }
    headers = {name: str(round(seconds * 1000)) for name, seconds in times.items()}
    headers["x-compute-type"] = "cpu" if device == "cpu" else "gpu+optimized"
    headers["x-compute-characters"] = str(cost.characters)
    headers["x-compute-tokens"] = str(cost.tokens)
    if cost.cut_tokens:
        headers["x-embedsvc-tokens-cut"] = str(cost.cut_tokens)
    if cost.extra_windows:
        headers["x-embedsvc-extra-windows"] = str(cost.extra_windows)
    return headers


def faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the problems that a route may answer with."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        title, detail = _CASES[status]
        example = {
            "type": f"urn:embedsvc:problem:{title.lower().replace(' ', '-')}",
            "title": title,
            "status": status,
            "detail": detail,
            "instance": "/v1/collections/handbook/search",
        }
        described[status] = {
            "description": title,
            "content": {"application/problem+json": {"schema": reference(Problem), "example": example}},
        }
    return described


def openai_faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """As :func:`faults`, of a route in OpenAI's shape."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        title, detail = _CASES[status]
        kind = "invalid_request_error" if status < 500 else "server_error"
        example = {"error": {"message": detail, "type": kind, "param": None, "code": None}}
        content = {"application/json": {"schema": reference(OpenAIErrorOut), "example": example}}
        described[status] = {"description": title, "content": content}
    return described


def shows(description: str, example: Any, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """OpenAPI's description of a JSON response by an example, and by ``schema`` where no model of ours gives it."""
    content = {"example": example} if schema is None else {"example": example, "schema": schema}
    return {"description": description, "content": {"application/json": content}}


def takes(model: type[BaseModel], examples: dict[str, Any], **other: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's description of a body: JSON of ``model``; ``other`` by content type, '/' written as '_'."""
    named = {name: {"value": value} for name, value in examples.items()}
    content: dict[str, Any] = {"application/json": {"schema": reference(model), "examples": named}}
    content |= {kind.replace("_", "/", 1).replace("_", "-"): {"schema": reference(of)} for kind, of in other.items()}
    return {"requestBody": {"required": True, "content": content}}


def reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
