"""``/v1/collections/{name}/verify | repair | compact | duplicates | snapshots | restore | migrate | export``."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import asdict, replace
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Path, Request
from starlette.responses import Response, StreamingResponse

from embedsvc import migrate
from embedsvc.checks import check_collection
from embedsvc.errors import UsageError
from embedsvc.maintenance import (
    compact,
    drop_duplicates,
    duplicates,
    repair,
    restore,
    snapshot,
    version_dict,
    version_of,
)
from embedsvc.opened import Opened
from embedsvc.service.body import read_model
from embedsvc.service.jobs import Progress
from embedsvc.service.routes.common import Name, faults, reply, shows, takes
from embedsvc.service.routes.jobs import begin_job, taken
from embedsvc.service.schemas import (
    DuplicatesRequest,
    MigrateRequest,
    RepairRequest,
    RestoreRequest,
    SnapshotList,
    SnapshotOut,
    SnapshotRequest,
)
from embedsvc.service.state import run, state_of
from embedsvc.storage.store import writing

_PART = 1 << 20

router = APIRouter(tags=["maintenance"])

_SNAPSHOT = {"version": 12, "created": "2026-01-05T09:30:00.000Z", "passages": 1834, "labels": ["monday"]}


@router.post(
    "/v1/collections/{name}/verify",
    summary="Verify a collection",
    description="A job that reads every passage, every vector and every byte of the vector index, and measures recall "
    "by exact search. Its `result` has `ok`, and each check with what it found.",
    status_code=202,
    response_class=Response,
    responses={
        **taken("verify", {"ok": True, "checks": [{"name": "handbook: spans", "ok": True, "detail": "1,834 fit …"}]}),
        **faults(400, 404, 503, 507),
    },
)
async def verify_collection(name: Name, request: Request) -> Response:
    state = state_of(request)

    def work(told: Progress) -> dict[str, Any]:
        found = check_collection(
            name, state.settings, thorough=True, load_for=lambda contract, _: state.encoders.of(contract)
        )
        return {"ok": all(check.ok for check in found), "checks": [asdict(check) for check in found]}

    return await begin_job(state, name, "verify", work)


@router.post(
    "/v1/collections/{name}/compact",
    summary="Compact a collection",
    description="A job that gives back the space of what was deleted or replaced: no file holds its text or vectors "
    "any more, but for those of the `snapshots` that its `result` names. Searches go on.",
    status_code=202,
    response_class=Response,
    responses={
        **taken(
            "compact",
            {"version": 14, "bytes_before": 5810021, "bytes_after": 4100200, "snapshots": [], "elsewhere": []},
        ),
        **faults(400, 404, 503, 507),
    },
)
async def compact_collection(name: Name, request: Request) -> Response:
    state = state_of(request)

    def work(told: Progress) -> dict[str, Any]:
        return compact(state.collections.open(name).collection).to_dict()

    return await begin_job(state, name, "compact", work)


@router.post(
    "/v1/collections/{name}/repair",
    summary="Repair a collection",
    description="A job that mends a collection from its store: text index, vector index, and what killed processes "
    "left. Its `result` says what was `done`, nothing where all was well, and what is `lost`. Where the newest version "
    "cannot be read, the job fails, and its `error` names the version that can be gone back to: send it as "
    "`to_version`.",
    status_code=202,
    response_class=Response,
    responses={
        **taken("repair", {"version": 14, "done": ["built the text index anew: it misses a passage"], "lost": []}),
        **faults(400, 404, 413, 415, 422, 503, 507),
    },
    openapi_extra=takes(RepairRequest, {"what is wrong": {}, "go back": {"to_version": 12}}),
)
async def repair_collection(name: Name, request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, RepairRequest, empty={})

    def work(told: Progress) -> dict[str, Any]:
        done = repair(name, state.settings, to_version=body.to_version, index=body.index)
        state.collections.forget(name)  # it is opened again as it is now
        return {"version": done.version, "done": list(done.done), "lost": list(done.lost)}

    return await begin_job(state, name, "repair", work)


@router.post(
    "/v1/collections/{name}/duplicates",
    summary="Find documents that say the same",
    description="A job that compares all documents. Its `result` has `groups` of ids of documents that say the same, "
    "or nearly, the one whose uri comes first in front; with `drop` all but that one are deleted. New documents are "
    "compared as they come: `duplicates` of the request that puts them in.",
    status_code=202,
    response_class=Response,
    responses={
        **taken("duplicates", {"groups": [["faq-1", "faq-9"]], "dropped": 0}),
        **faults(400, 404, 413, 415, 422, 503, 507),
    },
    openapi_extra=takes(DuplicatesRequest, {"find": {}, "delete": {"threshold": 0.9, "drop": True}}),
)
async def find_duplicates(name: Name, request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, DuplicatesRequest, empty={})

    def work(told: Progress) -> dict[str, Any]:
        collection = state.collections.open(name).collection
        groups = duplicates(collection, body.threshold)
        dropped = drop_duplicates(collection, groups) if body.drop else 0
        return {"groups": [[document.id for document in group] for group in groups], "dropped": dropped}

    return await begin_job(state, name, "duplicates", work)


@router.get(
    "/v1/collections/{name}/export",
    summary="Export a collection",
    description="One version of the collection as one Parquet file: texts, metadata, vectors, and what "
    "`embedsvc collections import` needs. It is made before the answer begins.",
    response_class=Response,
    responses={
        200: {
            "description": "The file.",
            "content": {
                "application/vnd.apache.parquet": {
                    "schema": {"type": "string", "format": "binary"},
                    "example": "PAR1…",
                }
            },
        },
        **faults(400, 404, 500, 507),
    },
)
async def export_collection(name: Name, request: Request) -> Response:
    state = state_of(request)

    def work(opened: Opened) -> BinaryIO:
        folder = state.settings.data_dir / f".{name}.{uuid.uuid4().hex}.tmp"
        try:
            with writing(folder):
                folder.mkdir()
            opened.collection.export(folder / "export")
            # Without a name from here on: whatever becomes of client and service, nothing is left of it.
            return (folder / "export").open("rb")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    file = await run(state.errands, lambda: state.collections.call(name, work))
    headers = {
        "content-length": str(os.fstat(file.fileno()).st_size),
        "content-disposition": f'attachment; filename="{name}.parquet"',
    }
    parts = iter(lambda: file.read(_PART), b"")
    return StreamingResponse(parts, headers=headers, media_type="application/vnd.apache.parquet")


@router.get(
    "/v1/collections/{name}/snapshots",
    summary="List the snapshots",
    description="Versions that are kept until their snapshot is deleted.",
    response_class=Response,
    responses={
        200: {"model": SnapshotList, **shows("The snapshots.", {"snapshots": [_SNAPSHOT]})},
        **faults(400, 404, 500),
    },
)
async def list_snapshots(name: Name, request: Request) -> Response:
    state = state_of(request)

    def work(opened: Opened) -> Response:
        versions = opened.collection.store().versions()
        return reply({"snapshots": [version_dict(each) for each in versions if each.labels]})

    return await run(state.errands, lambda: state.collections.call(name, work))


@router.post(
    "/v1/collections/{name}/snapshots",
    summary="Take a snapshot",
    description="Keeps the collection as it is now, to be restored later. Costs no space until something is deleted or "
    "replaced. 409 where there is a snapshot of that label.",
    status_code=201,
    response_class=Response,
    responses={
        201: {"model": SnapshotOut, **shows("It is kept.", _SNAPSHOT)},
        **faults(400, 404, 409, 413, 415, 422, 500, 507),
    },
    openapi_extra=takes(SnapshotRequest, {"named": {"label": "monday"}, "by its version": {}}),
)
async def take_snapshot(name: Name, request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, SnapshotRequest, empty={})

    def work(opened: Opened) -> Response:
        return reply(version_dict(snapshot(opened.collection, body.label)), 201)

    return await run(state.errands, lambda: state.collections.call(name, work))


@router.delete(
    "/v1/collections/{name}/snapshots/{label}",
    summary="Delete a snapshot",
    description="Its version goes with the others; what it alone held goes with the next compaction.",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "It is gone."}, **faults(400, 404, 500, 507)},
)
async def delete_snapshot(
    name: Name, label: Annotated[str, Path(description="The snapshot's label.")], request: Request
) -> Response:
    state = state_of(request)

    def work(opened: Opened) -> None:
        opened.collection.store().delete_snapshot(label)

    await run(state.errands, lambda: state.collections.call(name, work))
    return Response(status_code=204)


@router.post(
    "/v1/collections/{name}/restore",
    summary="Restore a version",
    description="A job that makes a new version, equal to an earlier one, in one commit. Its `result` has the version "
    "that was the newest until then (`before`), which can be restored within the hour. 404 where there is no such "
    "version or label now.",
    status_code=202,
    response_class=Response,
    responses={
        **taken("restore", {"version": 14, "restored": 12, "before": 13, "changed": True}),
        **faults(400, 404, 413, 415, 422, 500, 503, 507),
    },
    openapi_extra=takes(RestoreRequest, {"snapshot": {"label": "monday"}, "version": {"version": 12}}),
)
async def restore_collection(name: Name, request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, RestoreRequest)
    if (body.version is None) == (body.label is None):
        raise UsageError("Send exactly one of version and label.")

    def check() -> int:
        return version_of(state.collections.peek(name).store(), body.version, body.label)

    await run(state.errands, lambda: state.collections.steadily(name, check))

    def work(told: Progress) -> dict[str, Any]:
        return asdict(restore(state.collections.open(name).collection, body.version, body.label))

    return await begin_job(state, name, "restore", work)


@router.post(
    "/v1/collections/{name}/migrate",
    summary="Move to another model",
    description="A job that encodes every document anew from its stored text, while the collection answers as before, "
    "and then switches to that at once. A job that was interrupted goes on when the same is sent again. The collection "
    "from before is kept until `finish`, and `rollback` switches back to it. `overlap` in its `result` is the share of "
    "the ten best hits that both have, by meaning alone; `dropped` names what was tuned with the old model and "
    "does not hold for the new one (`fusion`, `rerank_depth`, `calibration`).",
    status_code=202,
    response_class=Response,
    responses={
        **taken("migrate", {"new_model": "bge-small-en", "documents": 120, "overlap": 0.71, "switched": True}),
        **faults(400, 404, 413, 415, 422, 503, 507),
    },
    openapi_extra=takes(
        MigrateRequest,
        {"start": {"model": "bge-small-en"}, "back": {"action": "rollback"}, "done": {"action": "finish"}},
    ),
)
async def migrate_collection(name: Name, request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, MigrateRequest)
    if (body.action == "start") != (body.model is not None or body.dtype is not None):
        raise UsageError("Send a model or a dtype to start with, and neither with another action.")
    if body.action != "start" and not body.switch:
        raise UsageError(f"switch is about a start: {body.action} takes none.")

    def work(told: Progress) -> dict[str, Any]:
        if body.action == "rollback":
            return asdict(migrate.rollback(name, state.settings))
        if body.action != "start":
            return {"removed": (migrate.finish if body.action == "finish" else migrate.abandon)(name, state.settings)}
        model = body.model or state.collections.peek(name).contract.model
        done = migrate.migrate(
            name,
            replace(state.settings, model=model, dtype=body.dtype or "auto"),
            switch=body.switch,
            told=told,
            load=state.encoders.load,
            load_for=lambda contract, _: state.encoders.of(contract),
        )
        return asdict(done)

    return await begin_job(state, name, "migrate", work)
