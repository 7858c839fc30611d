"""``/v1/collections`` and ``/v1/collections/{name}``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from embedsvc.collection import collection_names, delete_collection
from embedsvc.errors import EmbedsvcError, ModelError, NotFound, UsageError
from embedsvc.service.body import read_model
from embedsvc.service.routes.common import Name, faults, reply, shows, takes
from embedsvc.service.schemas import CollectionList, CollectionOut, CollectionRequest
from embedsvc.service.state import run, state_of

router = APIRouter(tags=["collections"])

_COLLECTION = {
    "name": "handbook",
    "documents": 120,
    "passages": 1834,
    "version": 12,
    "contract": {
        "model": "all-MiniLM-L6-v2",
        "weights_hash": "53aa5117…",
        "tokenizer_hash": "be50c362…",
        "pooling": "mean",
        "normalize": True,
        "query_prompt": "",
        "passage_prompt": "",
        "dimension": 384,
        "dtype": "int8",
        "max_length": 512,
    },
    "chunking": {"window": 512, "overlap": 64, "whole": False, "finer": 0, "language": "english", "context": "title"},
    "index": {
        "kind": "flat",
        "bytes_per_vector": 1544.0,
        "recall@10": 1.0,
        "recall_interval": [1.0, 1.0],
        "recall_sample": 0,
        "segments": 0,
        "build_seconds": 0.01,
    },
    "bytes": 5810021,
}


@router.get(
    "/v1/collections",
    summary="List the collections",
    description="Every collection in the data directory, in the order of the names. One that cannot be opened is "
    "listed with its `error`.",
    response_class=Response,
    responses={200: {"model": CollectionList, **shows("The collections.", {"collections": [_COLLECTION]})}},
)
async def list_collections(request: Request) -> Response:
    state = state_of(request)

    def look(name: str) -> dict[str, Any] | None:
        try:
            return state.collections.describe(name)
        except NotFound:
            return None
        except EmbedsvcError as error:
            return {"name": name, "error": str(error)}

    def work() -> Response:
        found = [look(name) for name in collection_names(state.settings.data_dir)]
        return reply({"collections": [value for value in found if value is not None]})

    return await run(state.errands, work)


@router.get(
    "/v1/collections/{name}",
    summary="Look at a collection",
    description="Counts, embedding contract, chunking, and the vector index with its measured recall.",
    response_class=Response,
    responses={200: {"model": CollectionOut, **shows("The collection.", _COLLECTION)}, **faults(400, 404, 500)},
)
async def show_collection(name: Name, request: Request) -> Response:
    state = state_of(request)
    return await run(state.errands, lambda: reply(state.collections.describe(name)))


@router.put(
    "/v1/collections/{name}",
    summary="Make a collection",
    description="Makes an empty collection: 201. Where it is there already and does not contradict what was sent, "
    "nothing happens: 200. Where it does, 409. An empty object asks for the service's own settings, and is content "
    "with any that a collection has.",
    response_class=Response,
    responses={
        200: {"model": CollectionOut, **shows("It was there.", _COLLECTION)},
        201: {"model": CollectionOut, **shows("It was made.", _COLLECTION)},
        **faults(400, 409, 413, 415, 422, 500, 503, 507),
    },
    openapi_extra=takes(CollectionRequest, {"defaults": {}, "small passages": {"chunk_tokens": 128, "overlap": 16}}),
)
async def put_collection(name: Name, request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, CollectionRequest, empty={})
    asked = body.model_dump(exclude_none=True)

    def work() -> Response:
        try:
            made = state.collections.steadily(name, lambda: state.collections.make(name, asked))
        except ModelError as error:
            if body.model is None:
                raise
            raise UsageError(str(error)) from error
        value = state.collections.describe(name)
        return reply(value, 201 if made else 200, {"location": f"/v1/collections/{name}"} if made else None)

    return await run(state.errands, work)


@router.delete(
    "/v1/collections/{name}",
    summary="Delete a collection",
    description="Removes it with all its documents, for good. 409 while something writes to it.",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "It is gone."}, **faults(400, 404, 409, 507)},
)
async def remove_collection(name: Name, request: Request) -> Response:
    state = state_of(request)

    def work() -> None:
        delete_collection(name, state.settings)
        state.collections.forget(name)

    await run(state.errands, work)
    return Response(status_code=204)
