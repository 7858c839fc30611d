"""``/v1/vector_stores`` and ``/v1/files``, as OpenAI has them, over collections and their documents. Errors too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Request
from starlette.datastructures import UploadFile
from starlette.responses import Response

from embedsvc.opened import Opened
from embedsvc.search.asking import Asked, answers_to, queries_of
from embedsvc.search.hits import Answer, Hit
from embedsvc.service import vector_stores
from embedsvc.service.attribute_filters import sql_of
from embedsvc.service.body import read_model
from embedsvc.service.problems import Refused
from embedsvc.service.routes.common import openai_faults, reply, shows, takes
from embedsvc.service.schemas_openai import (
    AttachRequest,
    AttributesRequest,
    BatchRequest,
    VectorStoreRequest,
    VectorStoreSearchRequest,
    VectorStoreUpdate,
)
from embedsvc.service.state import State, run, state_of
from embedsvc.service.uploads import Upload, Uploads, name_of
from embedsvc.service.vector_stores import Part

router = APIRouter(tags=["vector stores"])
_OPEN = frozenset({"attributes", "metadata"})
"""Fields that hold what people named themselves."""
_OR_NULL = frozenset({"first_id", "last_id"})
"""Fields of a page that are null where it is empty."""


def _schema_of(example: Any) -> dict[str, Any]:
    """The JSON schema of answers that look like ``example``; what is null in it may be anything."""
    if isinstance(example, dict):
        fields = {name: {"type": "object"} if name in _OPEN else _schema_of(each) for name, each in example.items()}
        fields |= {name: {"type": ["string", "null"]} for name in _OR_NULL & example.keys()}
        return {"type": "object", "properties": fields}
    if isinstance(example, list):
        return {"type": "array", "items": _schema_of(example[0]) if example else {}}
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return {} if example is None else {"type": kinds[type(example)]}


def _shows(description: str, example: Any) -> dict[str, Any]:
    return shows(description, example, _schema_of(example))


_T = TypeVar("_T")
StoreId = Annotated[str, Path(description="A vector store's id: the collection's name.", examples=["handbook"])]
FileId = Annotated[str, Path(description="An uploaded file's id, or that of a document that came otherwise.")]
BatchId = Annotated[str, Path(description="The batch's id.")]
Order = Annotated[Literal["asc", "desc"], Query(description="By when they were made; `desc`: newest first.")]
After = Annotated[str | None, Query(description="Id that the page begins behind.")]
Before = Annotated[str | None, Query(description="Id that the page ends in front of.")]
Limit = Annotated[int, Query(ge=1, le=100, description="Most of a page.")]
OfStatus = Annotated[vector_stores.Status | None, Query(alias="filter", description="Only those of that status.")]

_POLL_MS = "100"
"""After which a client is told to ask again how a file comes along: files are read in milliseconds to seconds."""
_STORE = {
    "id": "handbook",
    "object": "vector_store",
    "created_at": 1767605400,
    "name": "handbook",
    "description": None,
    "usage_bytes": 5810021,
    "file_counts": {"in_progress": 0, "completed": 120, "failed": 0, "cancelled": 0, "total": 120},
    "status": "completed",
    "expires_after": None,
    "expires_at": None,
    "last_active_at": 1767605400,
    "metadata": {},
}
_STORE_FILE = {
    "id": "file-019b8c5d2a40f1e2d3c4b5a6",
    "object": "vector_store.file",
    "created_at": 1767605400,
    "vector_store_id": "handbook",
    "status": "completed",
    "usage_bytes": 4250,
    "last_error": None,
    "attributes": {"team": "support"},
    "chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 512, "chunk_overlap_tokens": 64}},
}
_BATCH = {
    "id": "vsfb_0018af00c3d1e2f4-5b2c41aa90de",
    "object": "vector_store.files_batch",
    "created_at": 1767605400,
    "vector_store_id": "handbook",
    "status": "in_progress",
    "file_counts": {"in_progress": 2, "completed": 1, "failed": 0, "cancelled": 0, "total": 3},
}
_FILE = {
    "id": "file-019b8c5d2a40f1e2d3c4b5a6",
    "object": "file",
    "bytes": 4250,
    "created_at": 1767605400,
    "filename": "refunds.md",
    "purpose": "assistants",
    "status": "processed",
    "status_details": None,
    "expires_at": None,
}
_RESULTS = {
    "object": "vector_store.search_results.page",
    "search_query": ["how do refunds work?"],
    "data": [
        {
            "file_id": "file-019b8c5d2a40f1e2d3c4b5a6",
            "filename": "refunds.md",
            "score": 0.93,
            "attributes": {"team": "support"},
            "content": [
                {
                    "type": "text",
                    "text": "Money is paid back within 14 days.",
                    "start": 12,
                    "end": 46,
                    "page": None,
                    "heading": "Refunds",
                }
            ],
        }
    ],
    "has_more": False,
    "next_page": None,
}


def _list(each: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": [each], "first_id": each["id"], "last_id": each["id"], "has_more": False}


async def _errand(request: Request, work: Callable[[State], _T]) -> _T:
    state = state_of(request)
    return await run(state.errands, lambda: work(state))


# -- vector stores ---------------------------------------------------------------------------------------------------


@router.post(
    "/v1/vector_stores",
    summary="Make a vector store",
    description="That is a collection: its id is the `name`, where a collection may be called that and none is, else "
    "one of OpenAI's kind. `file_ids` are put in as by `/files`. A static `chunking_strategy` is kept with the "
    "collection; `max_chunk_size_tokens` is the most, a model whose window is smaller cuts smaller.",
    response_class=Response,
    responses={200: _shows("It is made.", _STORE), **openai_faults(400, 404, 413, 503, 507)},
    openapi_extra=takes(VectorStoreRequest, {"named": {"name": "handbook", "metadata": {"owner": "support"}}}),
)
async def create_vector_store(request: Request) -> Response:
    body = await read_model(request, VectorStoreRequest, empty={})
    return reply(await _errand(request, lambda state: vector_stores.create(state, body)))


@router.get(
    "/v1/vector_stores",
    summary="List the vector stores",
    description="All collections that can be read.",
    response_class=Response,
    responses={200: _shows("A page of them.", _list(_STORE)), **openai_faults(400)},
)
async def list_vector_stores(
    request: Request, order: Order = "desc", after: After = None, before: Before = None, limit: Limit = 20
) -> Response:
    part = Part(order, after, before, limit)
    return reply(await _errand(request, lambda state: vector_stores.list_all(state, part)))


@router.get(
    "/v1/vector_stores/{id}",
    summary="Look at a vector store",
    description="Counts of its files by what became of them, and its metadata.",
    response_class=Response,
    responses={200: _shows("The vector store.", _STORE), **openai_faults(404)},
)
async def show_vector_store(id: StoreId, request: Request) -> Response:
    return reply(await _errand(request, lambda state: vector_stores.show(state, id)))


@router.post(
    "/v1/vector_stores/{id}",
    summary="Rename a vector store, or tell other metadata",
    description="Its id stays. What is not sent stays.",
    response_class=Response,
    responses={200: _shows("The vector store.", _STORE), **openai_faults(400, 404, 409)},
    openapi_extra=takes(VectorStoreUpdate, {"renamed": {"name": "Handbook of 2026"}}),
)
async def update_vector_store(id: StoreId, request: Request) -> Response:
    body = await read_model(request, VectorStoreUpdate)
    return reply(await _errand(request, lambda state: vector_stores.update(state, id, body)))


@router.delete(
    "/v1/vector_stores/{id}",
    summary="Delete a vector store",
    description="The collection with all its documents, for good. Uploaded files stay.",
    response_class=Response,
    responses={
        200: _shows("It is gone.", {"id": "handbook", "object": "vector_store.deleted", "deleted": True}),
        **openai_faults(404, 409),
    },
)
async def delete_vector_store(id: StoreId, request: Request) -> Response:
    await _errand(request, lambda state: vector_stores.delete(state, id))
    return reply({"id": id, "object": "vector_store.deleted", "deleted": True})


@router.post(
    "/v1/vector_stores/{id}/search",
    summary="Search a vector store",
    description="As `/v1/collections/{name}/search` does by default. Of several queries, the best results of all: a "
    "passage that several find comes once. Besides OpenAI's fields, each text tells its place in its document.",
    response_class=Response,
    responses={200: _shows("The results, best first.", _RESULTS), **openai_faults(400, 404, 429, 503)},
    openapi_extra=takes(
        VectorStoreSearchRequest,
        {"filtered": {"query": "how do refunds work?", "filters": {"type": "eq", "key": "team", "value": "support"}}},
    ),
)
async def search_vector_store(id: StoreId, request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, VectorStoreSearchRequest)
    ranking = body.ranking_options
    ranker = None if ranking is None or _is_own(ranking.ranker) else ranking.ranker
    said = [body.query] if isinstance(body.query, str) else body.query
    asked = Asked(
        queries=said,
        k=body.max_num_results,
        filter=None if body.filters is None else sql_of(body.filters),
        min_score=None if ranking is None else ranking.score_threshold or None,
        rerank=ranker,
    )
    reranker = None if ranker is None else await state.reranker(ranker)
    queries = queries_of(asked, state.settings.on_overflow, None, reranker)

    def work(opened: Opened) -> Response:
        snapshot = opened.collection.snapshot()
        hits = _best(answers_to(asked, queries, snapshot, opened.encoder), body.max_num_results)
        files = vector_stores.files_of(state, snapshot.store, hits)
        data = [_result(hit, file) for hit, file in zip(hits, files, strict=True)]
        page = {"object": "vector_store.search_results.page", "search_query": said, "data": data}
        return reply({**page, "has_more": False, "next_page": None})

    await state.ready(id)
    return await state.queries.run(lambda: state.collections.call(id, work))


def _is_own(ranker: str) -> bool:
    return ranker in ("auto", "none") or ranker.startswith("default")


def _best(answers: list[Answer], count: int) -> list[Hit]:
    best: dict[str, Hit] = {}
    for hit in (hit for answer in answers for hit in answer.hits):
        if hit.id not in best or hit.score > best[hit.id].score:
            best[hit.id] = hit
    return sorted(best.values(), key=lambda hit: -hit.score)[:count]


def _result(hit: Hit, file: str) -> dict[str, Any]:
    place = {"start": hit.start, "end": hit.end, "page": hit.page, "heading": hit.heading}
    return {
        "file_id": file,
        "filename": name_of(hit.uri),
        "score": min(1.0, max(0.0, hit.score)),
        "attributes": vector_stores.attributes(hit.metadata),
        "content": [{"type": "text", "text": hit.text, **place}],
    }


# -- their files -----------------------------------------------------------------------------------------------------


@router.post(
    "/v1/vector_stores/{id}/files",
    summary="Put an uploaded file into a vector store",
    description="It is read, cut and encoded by a job; `GET` of the file tells how that goes. Its `attributes` become "
    "metadata of its documents. A static `chunking_strategy` must be the collection's, unless that is empty: then the "
    "collection gets it.",
    response_class=Response,
    responses={200: _shows("Taken.", {**_STORE_FILE, "status": "in_progress"}), **openai_faults(400, 404, 503)},
    openapi_extra=takes(AttachRequest, {"file": {"file_id": _FILE["id"], "attributes": {"team": "support"}}}),
)
async def attach_file(id: StoreId, request: Request) -> Response:
    body = await read_model(request, AttachRequest)

    def work(state: State) -> dict[str, Any]:
        upload = Uploads(state.settings).get(body.file_id)
        vector_stores.attach(state, id, [(upload, body.attributes or {})], body.chunking_strategy)
        return vector_stores.show_file(state, id, body.file_id)

    return _polled(await _errand(request, work), lambda file: file["status"] == "in_progress")


def _polled(value: dict[str, Any], is_under_way: Callable[[dict[str, Any]], bool]) -> Response:
    return reply(value, headers={"openai-poll-after-ms": _POLL_MS} if is_under_way(value) else None)


@router.get(
    "/v1/vector_stores/{id}/files",
    summary="List the files of a vector store",
    description="Uploaded ones, and each document that came otherwise as one.",
    response_class=Response,
    responses={200: _shows("A page of them.", _list(_STORE_FILE)), **openai_faults(400, 404)},
)
async def list_files(
    id: StoreId,
    request: Request,
    order: Order = "desc",
    after: After = None,
    before: Before = None,
    limit: Limit = 20,
    status: OfStatus = None,
) -> Response:
    part = Part(order, after, before, limit)
    return reply(await _errand(request, lambda state: vector_stores.list_files(state, id, status, part)))


@router.get(
    "/v1/vector_stores/{id}/files/{file_id:path}/content",
    summary="Read the text of a file of a vector store",
    description="One text of each document that came out of it.",
    response_class=Response,
    responses={
        200: _shows(
            "The text.",
            {
                "object": "vector_store.file_content.page",
                "data": [{"type": "text", "text": "# Refunds\n\nMoney is paid back within 14 days."}],
                "has_more": False,
                "next_page": None,
            },
        ),
        **openai_faults(404),
    },
)
async def read_file(id: StoreId, file_id: FileId, request: Request) -> Response:
    texts = await _errand(request, lambda state: vector_stores.file_texts(state, id, file_id))
    data = [{"type": "text", "text": text} for text in texts]
    return reply({"object": "vector_store.file_content.page", "data": data, "has_more": False, "next_page": None})


@router.get(
    "/v1/vector_stores/{id}/files/{file_id:path}",
    summary="Look at a file of a vector store",
    description="Also how it comes along: `in_progress`, `completed`, or `failed` with its `last_error`.",
    response_class=Response,
    responses={200: _shows("The file.", _STORE_FILE), **openai_faults(404)},
)
async def show_file(id: StoreId, file_id: FileId, request: Request) -> Response:
    file = await _errand(request, lambda state: vector_stores.show_file(state, id, file_id))
    return _polled(file, lambda file: file["status"] == "in_progress")


@router.post(
    "/v1/vector_stores/{id}/files/{file_id:path}",
    summary="Give a file of a vector store other attributes",
    description="In one commit, without reading or encoding it again. Metadata that are no attributes (lists, objects) "
    "stay.",
    response_class=Response,
    responses={200: _shows("The file.", _STORE_FILE), **openai_faults(400, 404, 409)},
    openapi_extra=takes(AttributesRequest, {"attributes": {"attributes": {"team": "sales"}}}),
)
async def update_file(id: StoreId, file_id: FileId, request: Request) -> Response:
    body = await read_model(request, AttributesRequest)
    attributes = body.attributes or {}
    return reply(await _errand(request, lambda state: vector_stores.update_file(state, id, file_id, attributes)))


@router.delete(
    "/v1/vector_stores/{id}/files/{file_id:path}",
    summary="Take a file out of a vector store",
    description="What was uploaded stays among the files.",
    response_class=Response,
    responses={
        200: _shows("It is gone.", {"id": _FILE["id"], "object": "vector_store.file.deleted", "deleted": True}),
        **openai_faults(404, 409),
    },
)
async def remove_file(id: StoreId, file_id: FileId, request: Request) -> Response:
    await _errand(request, lambda state: vector_stores.remove_file(state, id, file_id))
    return reply({"id": file_id, "object": "vector_store.file.deleted", "deleted": True})


# -- batches ---------------------------------------------------------------------------------------------------------


@router.post(
    "/v1/vector_stores/{id}/file_batches",
    summary="Put several uploaded files into a vector store",
    description="By one job; up to 2,000. It cannot be cancelled.",
    response_class=Response,
    responses={200: _shows("Taken.", _BATCH), **openai_faults(400, 404, 503)},
    openapi_extra=takes(BatchRequest, {"files": {"file_ids": [_FILE["id"]], "attributes": {"team": "support"}}}),
)
async def attach_files(id: StoreId, request: Request) -> Response:
    body = await read_model(request, BatchRequest)

    def work(state: State) -> dict[str, Any]:
        entries = {entry.file_id: entry for entry in body.entries()}
        strategies = [entry.chunking_strategy for entry in entries.values() if entry.chunking_strategy is not None]
        if any(strategy != strategies[0] for strategy in strategies):
            raise Refused("files: a vector store has one chunking_strategy for all.", param="files")
        uploads = Uploads(state.settings)
        files = [(uploads.get(each), entry.attributes or {}) for each, entry in entries.items()]
        job = vector_stores.attach(state, id, files, strategies[0] if strategies else None)
        return vector_stores.show_batch(state, id, vector_stores.batch_id(job))

    return _polled(await _errand(request, work), _is_under_way)


def _is_under_way(batch: dict[str, Any]) -> bool:
    return bool(batch["status"] == "in_progress")


@router.get(
    "/v1/vector_stores/{id}/file_batches/{batch_id}",
    summary="Ask how a batch of files comes along",
    description="`completed` once each of its files is on the disk and found, or has failed.",
    response_class=Response,
    responses={200: _shows("The batch.", _BATCH), **openai_faults(404)},
)
async def show_batch(id: StoreId, batch_id: BatchId, request: Request) -> Response:
    batch = await _errand(request, lambda state: vector_stores.show_batch(state, id, batch_id))
    return _polled(batch, _is_under_way)


@router.get(
    "/v1/vector_stores/{id}/file_batches/{batch_id}/files",
    summary="List the files of a batch",
    description="As the files of a vector store, by pages; each tells how it comes along.",
    response_class=Response,
    responses={200: _shows("A page of them.", _list(_STORE_FILE)), **openai_faults(400, 404)},
)
async def list_batch(
    id: StoreId,
    batch_id: BatchId,
    request: Request,
    order: Order = "desc",
    after: After = None,
    before: Before = None,
    limit: Limit = 20,
    status: OfStatus = None,
) -> Response:
    part = Part(order, after, before, limit)
    return reply(await _errand(request, lambda state: vector_stores.list_batch(state, id, batch_id, status, part)))


# -- uploads ---------------------------------------------------------------------------------------------------------


def _upload(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.bytes,
        "created_at": upload.created,
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": None,
    }


@router.post(
    "/v1/files",
    summary="Upload a file",
    description="A form with `file` and `purpose`, which is kept and not used. It is read only when it is put into a "
    "vector store, and stays until it is deleted.",
    response_class=Response,
    responses={200: _shows("It is on the disk.", _FILE), **openai_faults(400, 413, 507)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file", "purpose"],
                        "properties": {
                            "file": {"type": "string", "format": "binary"},
                            "purpose": {"type": "string"},
                        },
                    },
                    "examples": {"a document": {"value": {"file": "# Refunds …", "purpose": "assistants"}}},
                }
            },
        }
    },
)
async def upload_file(request: Request) -> Response:
    state = state_of(request)
    async with request.form() as form:
        fields = dict(form.multi_items())
        file, purpose = fields.pop("file", None), fields.pop("purpose", None)
        if not isinstance(file, UploadFile):
            raise Refused("Send a form with the field 'file', which has a filename.", param="file")
        if not isinstance(purpose, str) or not 1 <= len(purpose) <= 64:
            raise Refused("Send the form field 'purpose': assistants, or another text.", param="purpose")
        if fields:
            name = next(iter(fields))
            raise Refused(f"The form field {name!r} is not known here: files stay until deleted.", param=name)
        most = state.settings.max_file_mb * 1_000_000
        if (file.size or 0) > most:
            raise Refused(
                f"{file.filename}: {file.size} bytes, more than {state.settings.max_file_mb} MB (max_file_mb).",
                param="file",
                status=413,
            )
        name, data = file.filename or "", await file.read()
    upload = await run(state.errands, lambda: Uploads(state.settings).add(name, purpose, data))
    return reply(_upload(upload))


@router.get(
    "/v1/files",
    summary="List the uploaded files",
    description="All that are kept, put into vector stores or not, by pages.",
    response_class=Response,
    responses={200: _shows("A page of them.", _list(_FILE)), **openai_faults(400)},
)
async def list_uploads(
    request: Request,
    order: Order = "desc",
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Most of a page.")] = 10_000,
    purpose: Annotated[str | None, Query(description="Only those of that purpose.")] = None,
) -> Response:
    found = await _errand(request, lambda state: Uploads(state.settings).all())
    listed = {upload.id: upload for upload in found if purpose in (None, upload.purpose)}
    part = Part(order, after, None, limit)
    return reply(vector_stores.page(list(listed), part, lambda ids: [_upload(listed[id]) for id in ids]))


@router.get(
    "/v1/files/{file_id}",
    summary="Look at an uploaded file",
    description="Its name, size and time. Where it was put in, the vector store's file says.",
    response_class=Response,
    responses={200: _shows("The file.", _FILE), **openai_faults(404)},
)
async def show_upload(file_id: FileId, request: Request) -> Response:
    return reply(_upload(await _errand(request, lambda state: Uploads(state.settings).get(file_id))))


@router.get(
    "/v1/files/{file_id}/content",
    summary="Get an uploaded file back",
    description="The very bytes that were uploaded.",
    response_class=Response,
    responses={
        200: {
            "description": "Its bytes.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}, "example": "# Refunds …"}
            },
        },
        **openai_faults(404),
    },
)
async def read_upload(file_id: FileId, request: Request) -> Response:
    data = await _errand(request, lambda state: Uploads(state.settings).data(file_id))
    return Response(data, media_type="application/octet-stream")


@router.delete(
    "/v1/files/{file_id}",
    summary="Delete an uploaded file",
    description="And take it out of every vector store.",
    response_class=Response,
    responses={
        200: _shows("It is gone.", {"id": _FILE["id"], "object": "file", "deleted": True}),
        **openai_faults(404, 409),
    },
)
async def delete_upload(file_id: FileId, request: Request) -> Response:
    await _errand(request, lambda state: vector_stores.delete_upload(state, file_id))
    return reply({"id": file_id, "object": "file", "deleted": True})
