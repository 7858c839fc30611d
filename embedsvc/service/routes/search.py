"""``POST /v1/collections/{name}/search``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from embedsvc.describe import answer_dict
from embedsvc.encoding import OnOverflow
from embedsvc.errors import UsageError
from embedsvc.records import Fusion
from embedsvc.search import Evidence, Query, Rerank, Selection, boost_of, check_query, search
from embedsvc.service.body import read_model
from embedsvc.service.opened import Opened
from embedsvc.service.routes.common import Name, faults, reply, takes
from embedsvc.service.schemas import SearchRequest
from embedsvc.service.state import state_of

router = APIRouter(tags=["search"])

_MAX_QUERIES = 100
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
    'Send one `query`, several `queries` (the answer is then `{"results": […]}`), or a `vector`. Overlapping '
    "passages of one document come as one hit. The search sees the newest commit, whichever process made it.",
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

    def work(opened: Opened) -> Response:
        snapshot = opened.collection.snapshot()
        fusion = None if changed is None else replace(snapshot.store.fusion, **changed)
        answers = [answer_dict(search(snapshot, opened.encoder, replace(query, fusion=fusion))) for query in asked]
        return reply(answers[0] if body.queries is None else {"results": answers})

    changed: dict[str, Any] | None = None if body.fusion is None else body.fusion.model_dump(exclude_none=True)
    count = None if body.tokenizer is None else await state.counter(body.tokenizer)
    wanted = Evidence(body.expand, body.max_context_tokens, body.order, count, body.highlight, body.min_confidence)
    if body.rerank is None and (body.rerank_depth is not None or body.time_budget_ms is not None):
        raise UsageError("rerank_depth and time_budget_ms are about reranking: send rerank too.")
    rerank = None
    if body.rerank is not None:
        rerank = Rerank(await state.reranker(body.rerank), body.rerank_depth, body.time_budget_ms)
    asked = _queries(body, body.on_overflow or state.settings.on_overflow, wanted, rerank)
    await state.ready(name)
    return await state.queries.run(lambda: state.collections.call(name, work))


def _queries(body: SearchRequest, on_overflow: OnOverflow, wanted: Evidence, rerank: Rerank | None) -> list[Query]:
    given = [field for field in ("query", "queries", "vector") if getattr(body, field) is not None]
    if len(given) != 1:
        raise UsageError(f"Send exactly one of query, queries and vector; {' and '.join(given) or 'none'} was sent.")
    if body.queries is not None and not 1 <= len(body.queries) <= _MAX_QUERIES:
        raise UsageError(f"queries has {len(body.queries)} entries; send 1 to {_MAX_QUERIES}.")
    texts = [body.query] if body.query is not None else body.queries if body.queries is not None else [""]
    boosts = tuple(boost_of(each.model_dump(exclude_unset=True)) for each in body.boosts)
    selection = Selection(body.duplicates, body.diversity, body.group_by, body.per_group, boosts)
    queries = [
        Query(
            text=text,
            vector=None if body.vector is None else tuple(body.vector),
            k=body.k,
            mode=body.mode or ("hybrid" if body.vector is None else "dense"),
            filter=body.filter,
            min_score=body.min_score,
            on_overflow=on_overflow,
            merge=body.merge,
            narrow=body.narrow,
            explain=body.explain,
            fusion=None if body.fusion is None else Fusion(**body.fusion.model_dump(exclude_none=True)),
            evidence=wanted,
            rerank=rerank,
            selection=selection,
        )
        for text in texts
    ]
    for query in queries:
        check_query(query)
    return queries
