"""``POST /v1/embeddings``, as OpenAI has it. Its errors are OpenAI's error objects."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from embedsvc.encoding import Encoder
from embedsvc.service.body import clean, read_json
from embedsvc.service.problems import OpenAIError
from embedsvc.service.routes.common import reference, reply, takes
from embedsvc.service.schemas import EmbeddingsOut, EmbeddingsRequest, OpenAIErrorOut
from embedsvc.service.state import run, state_of

router = APIRouter(tags=["embeddings"])

_MAX_INPUTS = 2048


def _fault(message: str, param: str | None, code: str | None = None) -> dict[str, Any]:
    example = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
    return {
        "description": message,
        "content": {"application/json": {"schema": reference(OpenAIErrorOut), "example": example}},
    }


@router.post(
    "/v1/embeddings",
    summary="Embed texts (OpenAI)",
    description="OpenAI's shape, for its clients. Their API does not tell a query from a passage, so every text is "
    "encoded as a passage; for a model with prompts, search through `/v1/collections/{name}/search` instead, which "
    "knows the difference. Nothing is cut: a text longer than the model's window is refused. Vectors have unit length.",
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
        503: _fault("The model is not available.", None),
    },
    openapi_extra=takes(
        EmbeddingsRequest,
        {
            "one": {"model": "all-MiniLM-L6-v2", "input": "Hello"},
            "base64": {"model": "all-MiniLM-L6-v2", "input": ["a", "b"], "encoding_format": "base64"},
        },
    ),
)
async def embeddings(request: Request) -> Response:
    state = state_of(request)
    raw = clean(await read_json(request))
    texts = _texts(raw)
    body = EmbeddingsRequest.model_validate(raw)

    def work() -> Response:
        encoder = state.encoders.default()
        served = {encoder.model.name, state.settings.model}
        if body.model.removeprefix("sentence-transformers/") not in served and body.model not in served:
            raise OpenAIError(
                f"The model {body.model!r} is not served here; {encoder.model.name!r} is.",
                param="model",
                code="model_not_found",
                status=404,
            )
        if body.dimensions not in (None, encoder.dimension):
            raise OpenAIError(
                f"dimensions is {body.dimensions}; {encoder.model.name} has {encoder.dimension} and no other.",
                param="dimensions",
            )
        return reply(_embed(encoder, texts, body))

    return await run(state.queries, work)


def _texts(raw: Any) -> list[str]:
    """The inputs; their faults get words of their own, which a schema's would not be."""
    if not isinstance(raw, dict):
        raise OpenAIError("The body is not a JSON object.", param=None)
    given = raw.get("input")
    if given is None:
        raise OpenAIError("input is missing: a text, or a list of texts.", param="input")
    texts = given if isinstance(given, list) else [given]
    if not 1 <= len(texts) <= _MAX_INPUTS:
        raise OpenAIError(f"input has {len(texts)} entries; send 1 to {_MAX_INPUTS}.", param="input")
    for at, text in enumerate(texts):
        where = f"input[{at}]" if isinstance(given, list) else "input"
        if isinstance(text, int | list) and not isinstance(text, bool):
            raise OpenAIError(
                f"{where} is made of tokens; only texts are taken. "
                "With LangChain's OpenAIEmbeddings, set check_embedding_ctx_length=False.",
                param="input",
            )
        if not isinstance(text, str):
            raise OpenAIError(f"{where} is not a string.", param="input")
        if not text:
            raise OpenAIError(f"{where} is an empty string.", param="input")
    return texts


def _embed(encoder: Encoder, texts: list[str], body: EmbeddingsRequest) -> dict[str, Any]:
    token_ids = encoder.tokens.of_texts(texts)
    counts = [len(ids) + encoder.reserved("passage") for ids in token_ids]
    if (longest := max(counts)) > encoder.max_length:
        raise OpenAIError(
            f"input[{counts.index(longest)}] has {longest} tokens with its special tokens; {encoder.model.name} takes "
            f"{encoder.max_length}. Split it.",
            param="input",
            code="context_length_exceeded",
        )
    vectors = encoder.encode(token_ids, kind="passage")
    embedded: list[Any]
    if body.encoding_format == "base64":
        embedded = [base64.b64encode(row.tobytes()).decode() for row in vectors.astype("<f4")]
    else:
        embedded = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(embedded)]
    usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
    return {"object": "list", "data": data, "model": encoder.model.name, "usage": usage}
