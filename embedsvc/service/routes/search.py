"""``POST /v1/collections/{name}/search``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from embedsvc.opened import Opened
from embedsvc.search.asking import Asked, answers_to, queries_of
from embedsvc.search.telling import answer_dict
from embedsvc.service.body import read_model
from embedsvc.service.routes.common import Name, faults, reply, takes
from embedsvc.service.schemas import SearchRequest
from embedsvc.service.state import state_of

router = APIRouter(tags=["search"])

_HIT = {
    "id": "5b2c41aa90de7f001122:3",
    "document_id": "5b2c41aa90de7f001122",
    "uri": "file:///srv/docs/manual.md",
    "title": "Operations manual",
    "text": "After a power failure, start the store first and the service second.",
    "start": 4182,
    "end": 4250,
    "page": None,
    "heading": "Recovery > Power",
    "score": 0.97,
    "scores": {"dense": 0.71, "lexical": 9.2, "rerank": None},
    "confidence": 0.93,
    "metadata": {"year": 2024},
}
_ANSWER = {
    "query": "restart after a power failure",
    "collection": "handbook",
    "version": 12,
    "mode": "hybrid",
    "took_ms": 3.4,
    "answerable": True,
    "warnings": [],
    "hits": [_HIT],
}


@router.post(
    "/v1/collections/{name}/search",
    summary="Search a collection",
    description="The passages that answer, best first, each with its exact place in its document.\n\n"
    'Send one `query`, several `queries` (encoded together; the answer is then `{"results": […]}`), or a `vector`. '
    "Overlapping passages of one document come as one hit. The search sees the newest commit, whichever process made "
    "it.",
    response_class=Response,
    responses={
        200: {
            "description": "The answer; for `queries` one per query.",
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [
                            {"$ref": "#/components/schemas/Answer"},
                            {"$ref": "#/components/schemas/Answers"},
                        ]
                    },
                    "examples": {
                        "query": {"value": _ANSWER},
                        "queries": {"value": {"results": [_ANSWER]}},
                    },
                }
            },
        },
        **faults(400, 404, 409, 413, 415, 422, 429, 500, 503),
    },
    openapi_extra=takes(
        SearchRequest,
        {
            "query": {"query": "restart after a power failure", "k": 5},
            "filtered": {"query": "restart", "filter": "metadata.year >= 2024", "mode": "lexical"},
            "queries": {"queries": ["restart", "backup"], "k": 3},
            "choosy": {
                "query": "restart",
                "group_by": "document",
                "diversity": 0.3,
                "boosts": [{"field": "metadata.date", "half_life_days": 90, "weight": 0.2}],
            },
            "context": {"query": "restart", "expand": "section", "max_context_tokens": 2000},
            "vector": {"vector": [0.1, -0.2], "k": 3},
        },
    ),
)
async def search_collection(name: Name, request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, SearchRequest)

    asked = Asked(
        **{
            **dict(body),
            "fusion": None if body.fusion is None else body.fusion.model_dump(exclude_none=True),
            "boosts": [boost.model_dump(exclude_unset=True) for boost in body.boosts],
        }
    )
    count = None if body.tokenizer is None else await state.counter(body.tokenizer)
    reranker = None if body.rerank is None else await state.reranker(body.rerank)
    queries = queries_of(asked, state.settings.on_overflow, count, reranker)

    def work(opened: Opened) -> Response:
        answers = [
            answer_dict(answer) for answer in answers_to(asked, queries, opened.collection.snapshot(), opened.encoder)
        ]
        return reply(answers[0] if body.queries is None else {"results": answers})

    await state.ready(name)
    return await state.queries.run(lambda: state.collections.call(name, work))
