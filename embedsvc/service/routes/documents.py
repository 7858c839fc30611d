"""``/v1/collections/{name}/documents``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Path, Query, Request
from starlette.datastructures import UploadFile
from starlette.responses import Response

from embedsvc import describe, editing
from embedsvc.config import OnDuplicate
from embedsvc.errors import FileTooLarge, NotFound, UsageError
from embedsvc.opened import Opened
from embedsvc.outcomes import uri_of_upload
from embedsvc.readers import FieldChoice, Rejected
from embedsvc.records import Source, ready_document
from embedsvc.service.body import apart, clean, read_json, read_model
from embedsvc.service.jobs import Item, Progress
from embedsvc.service.problems import UnsupportedMedia
from embedsvc.service.routes.common import Name, faults, reply, shows, takes
from embedsvc.service.routes.jobs import JOB, begin_job, taken, taken_up
from embedsvc.service.schemas import (
    Deleted,
    DeletedCount,
    DeleteRequest,
    DocumentList,
    DocumentOut,
    DocumentsOut,
    DocumentsRequest,
    JobOut,
    MetadataRequest,
    ReadRequest,
    UploadRequest,
    UrisRequest,
)
from embedsvc.service.state import run, state_of
from embedsvc.storage import StoredPassage

router = APIRouter(tags=["documents"])

Id = Annotated[str, Path(description="The document's id; it may hold slashes.")]

_FORM_FIELDS = ("text_field", "title_field", "id_field", "duplicates")
_DOCUMENT = {
    "id": "faq-1",
    "uri": "urn:embedsvc:faq-1",
    "title": "Restart",
    "metadata": {"year": 2024},
    "text": "After a power failure, start the store first.",
    "passages": [{"id": "faq-1:0", "start": 0, "end": 45, "page": None, "heading": None}],
}


@router.post(
    "/v1/collections/{name}/documents",
    summary="Add or replace documents",
    description="Takes JSON documents or a form with files, and answers at once with a job; `GET /v1/jobs/{id}` tells "
    "how it goes. The collection is made with the service's settings where there is none.\n\n"
    "A document replaces the one with its id. JSON: without `id`, the id comes from `uri`, without both from the text. "
    "Files: cited by their name, so a file of the same name replaces the earlier one. What is unchanged is not encoded "
    "again. An input that cannot be read is listed in the job's `failures`; the others go on.\n\n"
    "Jobs of one collection run one after the other, in the order in which they came to a server process.",
    status_code=202,
    response_class=Response,
    responses={
        202: {
            "model": JobOut,
            **shows("Taken; `Location` is the job's address.", {**JOB, "status": "queued", "started": None}),
            "headers": {"Location": {"schema": {"type": "string"}, "description": "`/v1/jobs/{id}`"}},
        },
        **faults(400, 409, 413, 415, 422, 500, 503, 507),
    },
    openapi_extra=takes(
        DocumentsRequest,
        {"one": {"documents": [{"id": "faq-1", "title": "Restart", "text": "…", "metadata": {"year": 2024}}]}},
        multipart_form_data=UploadRequest,
    ),
)
async def add_documents(name: Name, request: Request) -> Response:
    state = state_of(request)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        items, fields, size, duplicates = await _uploaded(request, state.settings.max_file_mb)
    elif kind == "application/json":
        items, size, duplicates = await _sent(request)
        fields = FieldChoice()
    else:
        raise UnsupportedMedia(f"The content type is {kind}; send application/json or multipart/form-data.")

    def make_sure() -> None:
        try:
            state.collections.open(name)
        except NotFound:
            state.collections.make(name, {})

    def work() -> Response:
        state.collections.steadily(name, make_sure)
        return taken_up(state.jobs.submit(name, items, fields, size, duplicates))

    return await run(state.errands, work)


async def _sent(request: Request) -> tuple[list[Item], int, OnDuplicate | None]:
    raw = await read_json(request)
    items, duplicates = await apart(request, lambda: _documents(raw))
    return items, len(await request.body()), duplicates


def _documents(raw: Any) -> tuple[list[Item], OnDuplicate | None]:
    checked = DocumentsRequest.model_validate(clean(raw))
    items: list[Item] = []
    for document, own in zip(checked.documents, raw["documents"], strict=True):
        # What is told of it as it was sent: what has to be replaced in it is replaced, and noted, there.
        title, metadata = own.get("title", ""), own.get("metadata")
        items.append(ready_document(own["text"], id=document.id, uri=document.uri, title=title, metadata=metadata))
    return items, checked.duplicates


async def _uploaded(request: Request, max_file_mb: int) -> tuple[list[Item], FieldChoice, int, OnDuplicate | None]:
    items: list[Item] = []
    chosen: dict[str, str] = {}
    size = 0
    async with request.form() as form:
        for key, value in form.multi_items():
            if isinstance(value, str):
                if key not in _FORM_FIELDS:
                    raise UsageError(
                        f"The form field {key!r} is not known; there are {', '.join(_FORM_FIELDS)}. "
                        "A file needs a filename."
                    )
                if key in chosen:
                    raise UsageError(f"The form field {key!r} is there twice; send it once.")
                chosen[key] = value
                continue
            items.append(await _file(value, max_file_mb))
            size += value.size or 0
    if not items:
        raise UsageError("The form has no file.")
    text = tuple(part.strip() for part in chosen.get("text_field", "").split(",") if part.strip())
    fields = FieldChoice(text=text, title=chosen.get("title_field") or None, id=chosen.get("id_field") or None)
    duplicates = chosen.get("duplicates") or None
    if duplicates not in (None, *get_args(OnDuplicate)):
        raise UsageError(f"duplicates is {duplicates!r}; choose one of {', '.join(get_args(OnDuplicate))}.")
    return items, fields, size, duplicates  # type: ignore[return-value]  # one of these it is


async def _file(file: UploadFile, max_file_mb: int) -> Source | Rejected:
    name = (file.filename or "").replace("\\", "/").replace("\0", "") or "unnamed"
    uri = uri_of_upload(name)
    if (file.size or 0) > max_file_mb * 1_000_000:
        return Rejected(uri, FileTooLarge(f"{uri}: {file.size} bytes, more than {max_file_mb} MB (max_file_mb)."))
    return Source(uri, name.rpartition("/")[2], await file.read())


@router.get(
    "/v1/collections/{name}/documents",
    summary="List the documents",
    description="In the order of their uris, a page at a time. With `filter`, those that have a passage for which it "
    "holds.",
    response_class=Response,
    responses={
        200: {
            "model": DocumentList,
            **shows(
                "A page of documents.",
                {
                    "total": 120,
                    "limit": 1,
                    "offset": 0,
                    "documents": [
                        {
                            "id": "faq-1",
                            "uri": "urn:embedsvc:faq-1",
                            "title": "Restart",
                            "hash": "9f86d081…",
                            "passages": 3,
                            "characters": 4250,
                        }
                    ],
                },
            ),
        },
        **faults(400, 404, 422, 500),
    },
)
async def list_documents(
    name: Name,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000, description="Documents per page.")] = 100,
    offset: Annotated[int, Query(ge=0, lt=2**63, description="Documents to skip.")] = 0,
    filter: Annotated[
        str | None, Query(description="SQL condition, as of a search.", examples=["metadata.year >= 2024"])
    ] = None,
) -> Response:
    state = state_of(request)

    def work(opened: Opened) -> Response:
        store = opened.collection.store()
        page = [asdict(document) for document in store.documents(offset, limit, filter)]
        return reply({"total": store.count_documents(filter), "limit": limit, "offset": offset, "documents": page})

    return await run(state.errands, lambda: state.collections.call(name, work))


@router.delete(
    "/v1/collections/{name}/documents",
    summary="Delete documents by uri",
    description="In one commit, answered once it is on the disk; where there is none of one of the uris, 404, and "
    "nothing is deleted. 409 while another process writes to the collection.",
    response_class=Response,
    responses={
        200: {
            "model": Deleted,
            **shows("The uris of what is gone.", {"deleted": ["file:///srv/docs/faq.jsonl#1"]}),
        },
        **faults(400, 404, 409, 422, 500, 507),
    },
)
async def delete_by_uri(
    name: Name,
    request: Request,
    uri: Annotated[
        list[str],
        Query(min_length=1, description="As in hits and reports; of a file or an upload: all that came out of it."),
    ],
) -> Response:
    return await _deleted(name, request, uri)


async def _deleted(name: str, request: Request, uris: list[str]) -> Response:
    state = state_of(request)

    def work(opened: Opened) -> Response:
        return reply({"deleted": editing.delete_documents(opened.collection, uris, fold=False)})

    return await run(state.errands, lambda: state.collections.call(name, work))


@router.get(
    "/v1/collections/{name}/documents/{id:path}",
    summary="Read a document",
    description="Its whole text, and the span of each of its passages in it. With `start` or `end` only that part, and "
    "the passages that lie in it or reach into it.",
    response_class=Response,
    responses={
        200: {
            "model": DocumentOut,
            **shows("The document.", _DOCUMENT),
        },
        **faults(400, 404, 422, 500),
    },
)
async def read_document(
    name: Name,
    id: Id,
    request: Request,
    start: Annotated[
        int | None, Query(ge=0, lt=2**63, description="Character to begin at. Default: the first.")
    ] = None,
    end: Annotated[int | None, Query(ge=0, lt=2**63, description="Character to end before. Default: all.")] = None,
) -> Response:
    state = state_of(request)

    def part(opened: Opened) -> Response:
        part = opened.collection.store().document_part(id, start or 0, 2**63 - 1 if end is None else end)
        return reply(
            {
                "id": id,
                "uri": part.any.uri,
                "title": part.any.title,
                "metadata": part.any.metadata,
                "text": part.text,
                "passages": [_span(passage) for passage in part.passages],
                "start": part.start,
                "end": part.start + len(part.text),
                "characters": part.length,
            }
        )

    def work(opened: Opened) -> Response:
        return reply(asdict(describe.read_document(opened.collection.store(), id)))

    wanted = work if start is None and end is None else part
    return await run(state.errands, lambda: state.collections.call(name, wanted))


def _span(passage: StoredPassage) -> dict[str, Any]:
    return {name: getattr(passage, name) for name in ("id", "start", "end", "page", "heading")}


@router.post(
    "/v1/collections/{name}/documents/read",
    summary="Read several documents",
    description="In the order of their ids; those of which there is none are passed over.",
    response_class=Response,
    responses={
        200: {"model": DocumentsOut, **shows("Those that there are.", {"documents": [_DOCUMENT]})},
        **faults(400, 404, 413, 415, 422, 500),
    },
    openapi_extra=takes(ReadRequest, {"two": {"ids": ["faq-1", "faq-2"]}}),
)
async def read_documents(name: Name, request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, ReadRequest)

    def work(opened: Opened) -> Response:
        found = describe.read_documents(opened.collection.store(), body.ids)
        return reply({"documents": list(map(asdict, found))})

    return await run(state.errands, lambda: state.collections.call(name, work))


@router.post(
    "/v1/collections/{name}/documents/delete-by-uri",
    summary="Delete documents by many uris",
    description="As `DELETE /v1/collections/{name}/documents`, for more uris than a URL has room for.",
    response_class=Response,
    responses={
        200: {
            "model": Deleted,
            **shows("The uris of what is gone.", {"deleted": ["file:///srv/docs/faq.jsonl#1"]}),
        },
        **faults(400, 404, 409, 413, 415, 422, 500, 507),
    },
    openapi_extra=takes(UrisRequest, {"one": {"uris": ["file:///srv/docs/faq.jsonl#1"]}}),
)
async def delete_by_uris(name: Name, request: Request) -> Response:
    body = await read_model(request, UrisRequest)
    return await _deleted(name, request, body.uris)


@router.post(
    "/v1/collections/{name}/documents/delete",
    summary="Delete several documents",
    description="Those of the `ids`, of which those that there are not are passed over; those that have a passage for "
    "which `filter` holds; of both, where both are sent. All documents are deleted by the filter `TRUE` alone, none by "
    "an empty one (400). In one commit, and answered once that is on the disk. 409 while another process writes to the "
    "collection.",
    response_class=Response,
    responses={
        200: {"model": DeletedCount, **shows("How many there were.", {"deleted": 2})},
        **faults(400, 404, 409, 413, 415, 422, 500, 507),
    },
    openapi_extra=takes(
        DeleteRequest, {"two": {"ids": ["faq-1", "faq-2"]}, "old ones": {"filter": "metadata.year < 2020"}}
    ),
)
async def delete_documents(name: Name, request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, DeleteRequest)

    def work(opened: Opened) -> Response:
        return reply({"deleted": editing.delete_many(opened.collection, body.ids, body.filter)})

    return await run(state.errands, lambda: state.collections.call(name, work))


@router.post(
    "/v1/collections/{name}/documents/metadata",
    summary="Set metadata of documents",
    description="A job that puts `metadata` over that of documents: their values of these keys are replaced, null "
    "takes a key away, other keys stay. Nothing is encoded. Which documents: by `ids` and `filter` as for "
    "`documents/delete`. Its `result` says how many were `changed`; one that has all of it already is not. A document "
    "that is put in again has the metadata that it comes with then.",
    status_code=202,
    response_class=Response,
    responses={**taken("metadata", {"changed": 2}), **faults(400, 404, 413, 415, 422, 500, 503, 507)},
    openapi_extra=takes(
        MetadataRequest,
        {
            "two": {"metadata": {"team": "support"}, "ids": ["faq-1", "faq-2"]},
            "all of a year": {"metadata": {"archived": True, "team": None}, "filter": "metadata.year = 2020"},
        },
    ),
)
async def set_metadata(name: Name, request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, MetadataRequest)

    def check(opened: Opened) -> None:
        editing.chosen(opened.collection.store(), body.ids, body.filter)  # BadFilter now, not when its turn has come

    def work(told: Progress) -> dict[str, Any]:
        def change(opened: Opened) -> int:
            return editing.set_metadata(opened.collection, editing.put_over(body.metadata), body.ids, body.filter, told)

        return {"changed": state.collections.call(name, change)}

    await run(state.errands, lambda: state.collections.call(name, check))
    return await begin_job(state, name, "metadata", work)


@router.delete(
    "/v1/collections/{name}/documents/{id:path}",
    summary="Delete a document",
    description="Answered once the deletion is on the disk. 409 while another process writes to the collection.",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "It is gone."}, **faults(400, 404, 409, 500, 507)},
)
async def delete_document(name: Name, id: Id, request: Request) -> Response:
    state = state_of(request)

    def work(opened: Opened) -> None:
        editing.delete_document(opened.collection, id)

    await run(state.errands, lambda: state.collections.call(name, work))
    return Response(status_code=204)
