"""``POST /v1/embeddings`` and ``GET /v1/models``, as OpenAI has them. Their errors are OpenAI's error objects."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from embedsvc.encoding.tokens import Ids
from embedsvc.errors import NotFound, QueryTooLong
from embedsvc.service.body import apart, read_clean
from embedsvc.service.embedding import Embedded, check_dimensions, embed, shortened
from embedsvc.service.problems import Refused
from embedsvc.service.routes.common import MAX_TEXTS, fast_reply, reference, reply, shows, takes
from embedsvc.service.schemas import EmbeddingsOut, EmbeddingsRequest, OpenAIErrorOut
from embedsvc.service.state import run, state_of

router = APIRouter(tags=["embeddings"])

_MANY = 64
"""Vectors that are written as JSON in the event loop, at 30 µs each; more are handed to a thread."""


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "embedsvc"}


def _fault(message: str, param: str | None, code: str | None = None) -> dict[str, Any]:
    example = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
    return {
        "description": message,
        "content": {"application/json": {"schema": reference(OpenAIErrorOut), "example": example}},
    }


@router.post(
    "/v1/embeddings",
    summary="Embed texts (OpenAI)",
    description="OpenAI's shape, for its clients. Their API does not tell a query from a passage: for a model with "
    "prompts say `input_type`, else every text is encoded as a passage. Nothing is cut unless you ask for it by "
    "`on_overflow`; what became of long texts then stands in `overflow`. Tokens are those of the model's own "
    "tokenizer. Vectors have unit length, also with `dimensions`, which keeps the first so many numbers: for models "
    "that were trained for that (Matryoshka).",
    response_class=Response,
    responses={
        200: {
            "model": EmbeddingsOut,
            "description": "One vector per text, in their order.",
            "content": {
                "application/json": {
                    "example": {
                        "object": "list",
                        "data": [{"object": "embedding", "index": 0, "embedding": [0.013, -0.021]}],
                        "model": "all-MiniLM-L6-v2",
                        "usage": {"prompt_tokens": 3, "total_tokens": 3},
                    }
                }
            },
        },
        400: _fault("input is empty.", "input"),
        404: _fault("The model 'x' is not served here.", "model", "model_not_found"),
        413: _fault("The request body is larger than 100 MB.", None),
        429: _fault("200000 tokens of other requests are waiting already.", None),
        503: _fault("The model is not available.", None),
    },
    openapi_extra=takes(
        EmbeddingsRequest,
        {
            "one": {"model": "all-MiniLM-L6-v2", "input": "Hello"},
            "base64": {"model": "all-MiniLM-L6-v2", "input": ["a", "b"], "encoding_format": "base64"},
            "tokens": {"model": "all-MiniLM-L6-v2", "input": [[7592, 2088]]},
            "long": {"model": "all-MiniLM-L6-v2", "input": "A whole chapter …", "on_overflow": "split"},
        },
    ),
)
async def embeddings(request: Request) -> Response:
    state = state_of(request)
    raw = await read_clean(request)
    texts, body = await apart(request, lambda: (_texts(raw), EmbeddingsRequest.model_validate(raw)))
    try:
        encoder = await state.encoder(body.model)
    except NotFound as error:
        raise Refused(str(error), param="model", code="model_not_found", status=404) from None
    check_dimensions(body.dimensions, encoder)
    try:
        embedded = await embed(
            request,
            encoder,
            texts,
            kind="query" if body.input_type == "query" else "passage",
            on_overflow=body.on_overflow or state.settings.on_overflow,
        )
    except QueryTooLong as error:
        raise Refused(str(error), param="input", code="context_length_exceeded") from None

    def answer() -> Response:
        return fast_reply(_answer(embedded, body, body.model))

    return answer() if len(texts) <= _MANY else await run(state.chores, answer)


@router.get(
    "/v1/models",
    summary="The models that can be asked for (OpenAI)",
    description="The default one first. Others are loaded when first asked for.",
    response_class=Response,
    responses={
        200: shows(
            "All that are served.",
            {
                "object": "list",
                "data": [_model("all-MiniLM-L6-v2")],
            },
            {"type": "object"},
        )
    },
)
async def models(request: Request) -> Response:
    return reply({"object": "list", "data": list(map(_model, state_of(request).encoders.names()))})


@router.get(
    "/v1/models/{model:path}",
    summary="One of them (OpenAI)",
    description="By any of the names that requests may use.",
    response_class=Response,
    responses={
        200: shows("It is served.", _model("all-MiniLM-L6-v2"), {"type": "object"}),
        404: _fault("The model 'x' is not served here.", "model", "model_not_found"),
    },
)
async def model(model: str, request: Request) -> Response:
    try:
        state_of(request).encoders.loaded(model)
    except NotFound as error:
        raise Refused(str(error), param="model", code="model_not_found", status=404) from None
    return reply(_model(model))


def _texts(raw: Any) -> list[str] | list[Ids]:
    """The inputs; their faults get words of their own, which a schema's would not be."""
    if not isinstance(raw, dict):
        raise Refused("The body is not a JSON object.", param=None)
    given = raw.get("input")
    if given is None:
        raise Refused("input is missing: a text, a list of texts, or tokens.", param="input")
    if isinstance(given, list) and given and isinstance(given[0], int) and not isinstance(given[0], bool):
        given = [given]
    texts = given if isinstance(given, list) else [given]
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise Refused(f"input has {len(texts)} entries; send 1 to {MAX_TEXTS}.", param="input")
    as_tokens = isinstance(texts[0], list)
    one_list = as_tokens and given is not raw["input"]
    checked: list[Any] = []
    for at, text in enumerate(texts):
        where = f"input[{at}]" if isinstance(raw["input"], list) else "input"
        if isinstance(text, list) is not as_tokens or not isinstance(text, str | list):
            raise Refused(f"{where} is not {'a list of tokens' if as_tokens else 'a string'}.", param="input")
        if not text:
            raise Refused(f"{where} is empty.", param="input")
        if as_tokens and (wrong := next((i for i, token in enumerate(text) if not _is_token(token)), None)) is not None:
            where = f"input[{wrong}]" if one_list else f"{where}[{wrong}]"
            raise Refused(f"{where} is no token: tokens are whole numbers that the model has.", param="input")
        checked.append(np.array(text, dtype=np.int32) if as_tokens else text)
    return checked


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31


def _answer(embedded: Embedded, body: EmbeddingsRequest, model: str) -> dict[str, Any]:
    vectors = shortened(embedded.vectors, body.dimensions)
    values: list[Any]
    if body.encoding_format == "base64":
        values = [base64.b64encode(row.tobytes()).decode() for row in vectors.astype("<f4")]
    else:
        values = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)]
    tokens = embedded.cost.tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = {"object": "list", "data": data, "model": model, "usage": usage}
    windows = embedded.windows
    overflow = [
        {"index": at, "tokens_cut": cut} if cut else {"index": at, "windows": count}
        for at, (cut, count) in enumerate(zip(windows.cut_tokens, windows.counts, strict=True))
        if cut or count > 1
    ]
    if overflow:
        answer["overflow"] = overflow
    return answer
