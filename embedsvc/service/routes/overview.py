"""What is in a collection: passages that are alike, clusters, labels. And ``POST /v1/similarity``, of any texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from embedsvc.describe import cluster_dict, labelled_dict, place_dict
from embedsvc.errors import UsageError
from embedsvc.opened import Opened
from embedsvc.overview import classify, clusters, near_passages
from embedsvc.service.body import read_model
from embedsvc.service.embedding import embed
from embedsvc.service.routes.common import MAX_TEXTS, Name, fast_reply, faults, reply, shows, takes
from embedsvc.service.schemas import AlikeRequest, ClassifyRequest, ClustersRequest, SimilaritiesRequest
from embedsvc.service.state import run, state_of

router = APIRouter(tags=["overview"])

_OBJECT = {"type": "object"}
_PLACE = {"id": "5b2c:3", "document_id": "5b2c", "uri": "file:///srv/a.md", "title": "A", "start": 0, "end": 420}
_FAULTS = faults(400, 404, 413, 415, 422, 429, 500, 503)


@router.post(
    "/v1/collections/{name}/alike",
    summary="Passages that mean nearly the same",
    description="In groups, led by the first in the order of the store. Documents that say the same in the same words: "
    "`/duplicates`.",
    response_class=Response,
    responses={200: shows("Groups of places.", {"groups": [[_PLACE, _PLACE]]}, _OBJECT), **_FAULTS},
    openapi_extra=takes(AlikeRequest, {"nearly": {"threshold": 0.95}}),
)
async def alike(name: Name, request: Request) -> Response:
    body = await read_model(request, AlikeRequest)

    def work(opened: Opened) -> dict[str, Any]:
        groups = near_passages(opened.collection.snapshot(), body.threshold)
        return {"groups": [[place_dict(passage) for passage in group] for group in groups]}

    return await _looked_over(name, request, work)


@router.post(
    "/v1/collections/{name}/clusters",
    summary="What a collection is about",
    description="Clusters of its passages, the largest first, each with words for it and its most typical passages.",
    response_class=Response,
    responses={
        200: shows(
            "Clusters.",
            {"clusters": [{"label": ["power", "restart"], "passages": 12, "tightness": 0.71, "typical": [_PLACE]}]},
            _OBJECT,
        ),
        **_FAULTS,
    },
    openapi_extra=takes(ClustersRequest, {"eight": {"count": 8}}),
)
async def cluster(name: Name, request: Request) -> Response:
    body = await read_model(request, ClustersRequest)
    return await _looked_over(
        name,
        request,
        lambda opened: {
            "clusters": [cluster_dict(each) for each in clusters(opened.collection.snapshot(), body.count)]
        },
    )


@router.post(
    "/v1/collections/{name}/classify",
    summary="Which label fits each passage",
    description="By what the labels stand for: the one whose description is nearest to the passage in meaning. "
    "`counts` are of all passages, which come in the order of the store, a page at a time.",
    response_class=Response,
    responses={
        200: shows(
            "Passages by label, and each with its label.",
            {
                "total": 1,
                "limit": 100,
                "offset": 0,
                "counts": {"billing": 0, "outage": 1},
                "passages": [{**_PLACE, "label": "outage", "cosine": 0.4, "margin": 0.1}],
            },
            _OBJECT,
        ),
        **_FAULTS,
    },
    openapi_extra=takes(
        ClassifyRequest, {"two": {"labels": {"billing": "invoices, prices", "outage": "the service is down"}}}
    ),
)
async def label(name: Name, request: Request) -> Response:
    body = await read_model(request, ClassifyRequest)

    def work(opened: Opened) -> dict[str, Any]:
        found = classify(opened.collection.snapshot(), opened.encoder, body.labels, body.offset, body.limit)
        return {
            "total": sum(found.counts.values()),
            "limit": body.limit,
            "offset": body.offset,
            "counts": found.counts,
            "passages": [labelled_dict(each) for each in found.passages],
        }

    return await _looked_over(name, request, work)


@router.post(
    "/v1/similarity",
    summary="Cosines of texts",
    description="Of each of `texts` with each of `others`, or with one another.",
    response_class=Response,
    responses={
        200: shows("A row for each of `texts`.", {"model": "all-MiniLM-L6-v2", "similarities": [[1.0, 0.83]]}, _OBJECT),
        **faults(400, 404, 413, 415, 422, 429, 503),
    },
    openapi_extra=takes(SimilaritiesRequest, {"two": {"texts": ["a cat"], "others": ["a kitten", "a bus"]}}),
)
async def similarity(request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, SimilaritiesRequest)
    if (count := len(body.texts) + len(body.others or ())) > MAX_TEXTS:
        raise UsageError(f"{count} texts were sent; send at most {MAX_TEXTS}.")
    encoder = await state.encoder(body.model)
    on_overflow = body.on_overflow or state.settings.on_overflow
    rows = (await embed(request, encoder, body.texts, kind=body.input_type, on_overflow=on_overflow)).vectors
    columns = rows
    if body.others is not None:
        columns = (await embed(request, encoder, body.others, kind="passage", on_overflow=on_overflow)).vectors
    cosines = np.clip(rows @ columns.T, -1, 1)  # unit vectors are rounded
    return fast_reply({"model": encoder.model.name, "similarities": cosines.tolist()})


async def _looked_over(name: str, request: Request, work: Callable[[Opened], dict[str, Any]]) -> Response:
    """On a thread for what takes long, so that no search waits behind it."""
    state = state_of(request)
    await state.ready(name)
    return reply(await run(state.errands, lambda: state.collections.call(name, work)))
