"""``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from embedsvc.service.data_folder import is_read_only
from embedsvc.service.metrics import exposition
from embedsvc.service.routes.common import faults, reply
from embedsvc.service.schemas import Health, Ready
from embedsvc.service.state import state_of

router = APIRouter(tags=["health"])


@router.get(
    "/healthz",
    summary="Is the process alive?",
    description="Always 200 while the process answers at all.",
    response_class=Response,
    responses={
        200: {
            "model": Health,
            "description": "It is.",
            "content": {"application/json": {"example": {"status": "ok"}}},
        }
    },
)
async def health() -> Response:
    return reply({"status": "ok"})


@router.get(
    "/readyz",
    summary="Can it answer?",
    description="Proved by encoding a canary text and comparing its vector. 503 while the model is being loaded, and "
    "when it cannot be loaded, with the reason.",
    response_class=Response,
    responses={
        200: {
            "model": Ready,
            "description": "It can.",
            "content": {
                "application/json": {
                    "example": {
                        "status": "ready",
                        "model": "all-MiniLM-L6-v2",
                        "runtime": "onnx",
                        "dtype": "int8",
                        "dimension": 384,
                        "read_only": False,
                    }
                }
            },
        },
        **faults(503),
    },
)
async def ready(request: Request) -> Response:
    state = state_of(request)
    encoder = await state.encoders.probe()
    return reply(
        {
            "status": "ready",
            "model": encoder.model.name,
            "runtime": encoder.runtime_name,
            "dtype": encoder.dtype,
            "dimension": encoder.dimension,
            "read_only": is_read_only(state.settings.data_dir),
        }
    )


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    description="Of the collections that are open: size, memory and measured recall of their vector indexes.",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus' text format.",
            "content": {
                "text/plain": {
                    "schema": {"type": "string"},
                    "example": 'embedsvc_index_recall_at_10{collection="handbook",queries="live"} 0.982',
                }
            },
        }
    },
)
async def metrics(request: Request) -> Response:
    return Response(exposition(state_of(request).collections, state_of(request).jobs), media_type=CONTENT_TYPE_LATEST)
