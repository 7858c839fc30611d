"""``/v1/jobs/{id}``, and how the routes of collections begin jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from embedsvc.collection import collection_directory
from embedsvc.service.jobs import Work
from embedsvc.service.routes.common import faults, reply, shows
from embedsvc.service.schemas import JobOut
from embedsvc.service.state import State, run, state_of

router = APIRouter(tags=["documents"])

Id = Annotated[str, Path(description="The job's id.")]

JOB = {
    "job": "0018af00c3d1e2f4-5b2c41aa90de",
    "collection": "handbook",
    "kind": "documents",
    "status": "running",
    "total": 3,
    "counts": {"indexed": 1, "quarantined": 1},
    "failures": [{"uri": "scan.pdf", "reason": "locked: this PDF opens only with a password."}],
    "failures_left_out": 0,
    "notes": [],
    "notes_left_out": 0,
    "alike": [{"uri": "urn:embedsvc:faq-1", "like": "urn:embedsvc:faq-9", "similarity": 0.93}],
    "alike_left_out": 0,
    "passages": 12,
    "tokens": 4410,
    "encoded_tokens": 4410,
    "progress": 0.6721,
    "seconds": 0.82,
    "tokens_per_s": 5378.0,
    "eta_s": 0.4,
    "result": None,
    "error": None,
    "created": "2026-01-05T09:30:00.000Z",
    "started": "2026-01-05T09:30:00.010Z",
    "finished": None,
}
_REPORT_LINE = (
    '{"uri": "scan.pdf", "status": "quarantined", "passages": 0, "tokens": 0, "encoded_tokens": 0, "seconds": 0.01, '
    '"reason": "locked: this PDF opens only with a password.", "notes": [], "like": null}\n'
)


@router.get(
    "/v1/jobs/{id}",
    summary="Ask how a job goes",
    description="Any server process answers, also after a restart. A job whose process is gone is `interrupted`: what "
    "it committed stays, and sending the same again does only the rest. The newest 1,000 jobs are kept.",
    response_class=Response,
    responses={200: {"model": JobOut, **shows("The job's state.", JOB)}, **faults(404)},
)
async def show_job(id: Id, request: Request) -> Response:
    state = state_of(request)
    return await run(state.errands, lambda: reply(state.jobs.get(id)))


@router.get(
    "/v1/jobs/{id}/report",
    summary="Read a job's report",
    description="Of a job that puts documents in: a line of JSON for each input whose fate is decided by now, as of "
    "`embedsvc index --report`.",
    response_class=Response,
    responses={
        200: {
            "description": "JSON lines.",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}, "example": _REPORT_LINE}},
        },
        **faults(404),
    },
)
async def read_report(id: Id, request: Request) -> Response:
    state = state_of(request)
    lines = await run(state.errands, lambda: state.jobs.report(id))
    return Response(lines, media_type="application/x-ndjson")


def taken(kind: str, result: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of a job's first state. ``result``: what it comes to."""
    job = {**JOB, "kind": kind, "status": "done", "total": 0, "counts": {}, "failures": [], "result": result}
    return {
        202: {
            "model": JobOut,
            **shows("Taken; `Location` is the job's address, where it comes to something like this.", job),
            "headers": {"Location": {"schema": {"type": "string"}, "description": "`/v1/jobs/{id}`"}},
        }
    }


def taken_up(job: dict[str, Any]) -> Response:
    """The answer to a request that has begun ``job``."""
    return reply(job, 202, {"location": f"/v1/jobs/{job['job']}"})


async def begin_job(state: State, name: str, kind: str, work: Work) -> Response:
    """Puts ``work`` on the collection ``name`` behind its other jobs, and answers with the job."""

    def submit() -> Response:
        collection_directory(name, state.settings)  # NotFound now, not when its turn has come
        return taken_up(state.jobs.submit_work(name, kind, work))

    return await run(state.errands, submit)
