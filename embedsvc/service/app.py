"""The application: state, routes, errors, and the OpenAPI document with its page."""

from __future__ import annotations

import faulthandler
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema
from starlette.routing import Route

from embedsvc import __version__
from embedsvc.config import Settings, load_settings
from embedsvc.encoders import Encoders
from embedsvc.logs import set_up_logging
from embedsvc.opened import Collections
from embedsvc.service import problems, schemas, schemas_openai
from embedsvc.service.data_folder import make_data_folder
from embedsvc.service.jobs import Jobs
from embedsvc.service.mcp import Mcp
from embedsvc.service.middleware import Front
from embedsvc.service.routes import (
    collections,
    documents,
    embeddings,
    health,
    jobs,
    maintenance,
    overview,
    page,
    rerank,
    search,
    tei,
    vector_stores,
)
from embedsvc.service.state import State, run
from embedsvc.vectors.background import leave

DRAIN_SECONDS = 10
"""How long a stopping server waits for requests in flight, and again for a job's current commit."""

_DESCRIPTION = """Semantic search over your own documents: the passages that answer, each with a citation.

Errors are RFC 9457 problem+json; on routes in the shape of others they are theirs. Every response carries an
`X-Request-ID`, which the service's log lines carry too."""
_TAGS = [
    {"name": "search", "description": "Ask."},
    {"name": "documents", "description": "Put in, list, read, take out."},
    {"name": "collections", "description": "Make, look at, delete."},
    {"name": "maintenance", "description": "Check, mend, compact, keep, put back, move to another model."},
    {"name": "overview", "description": "What is in a collection, and how alike texts are."},
    {"name": "embeddings", "description": "Vectors for other programs."},
    {"name": "vector stores", "description": "Collections and their documents, for clients of OpenAI's."},
    {"name": "rerank", "description": "Scores of pairs, by a cross-encoder."},
    {"name": "text-embeddings-inference", "description": "The same for clients of TEI."},
    {"name": "health", "description": "For those who watch over the service."},
]
_COMPONENTS = (
    schemas.SearchRequest,
    schemas.CollectionRequest,
    schemas.RepairRequest,
    schemas.DuplicatesRequest,
    schemas.AlikeRequest,
    schemas.ClustersRequest,
    schemas.ClassifyRequest,
    schemas.SimilaritiesRequest,
    schemas.SnapshotRequest,
    schemas.RestoreRequest,
    schemas.MigrateRequest,
    schemas.DocumentsRequest,
    schemas.DeleteRequest,
    schemas.MetadataRequest,
    schemas.UrisRequest,
    schemas.ReadRequest,
    schemas.UploadRequest,
    schemas.EmbeddingsRequest,
    schemas.EmbedRequest,
    schemas.SimilarityRequest,
    schemas.TokenizeRequest,
    schemas.DecodeRequest,
    schemas.TEIRerankRequest,
    schemas.PredictRequest,
    schemas.RerankRequest,
    schemas_openai.VectorStoreRequest,
    schemas_openai.VectorStoreUpdate,
    schemas_openai.AttachRequest,
    schemas_openai.AttributesRequest,
    schemas_openai.BatchRequest,
    schemas_openai.VectorStoreSearchRequest,
    schemas.Problem,
    schemas.OpenAIErrorOut,
    schemas.Answer,
    schemas.Answers,
)
"""Models that routes name by reference only, so that FastAPI does not know of them."""


def create_app(settings: Settings, ended: Callable[[], object] = lambda: None) -> FastAPI:
    """The application over the data directory of ``settings``, which is made where it is not there. Nothing is loaded
    before it starts up. ``ended`` is called once all is finished that has to be.

    Raises:
        StorageFailure: the data directory cannot be made.
    """
    make_data_folder(settings.data_dir)
    return _app(settings, ended)


def _app(settings: Settings, ended: Callable[[], object]) -> FastAPI:
    encoders = Encoders(settings)
    opened = Collections(settings, encoders)
    state = State(settings, encoders, opened, Jobs(settings.data_dir, opened.open))
    mcp = Mcp(state)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=encoders.warm, name="warm", daemon=True).start()
        async with mcp.running():
            yield
        await run(state.errands, lambda: state.jobs.stop(DRAIN_SECONDS))
        state.shutdown()
        ended()

    app = FastAPIOffline(
        title="embedsvc",
        version=__version__,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        lifespan=lifespan,
        redoc_url=None,
        # No badge of a validator on the network; the page must work on a machine without one.
        swagger_ui_parameters={"validatorUrl": None},
    )
    app.state.embedsvc = state
    app.add_middleware(Front, settings=settings)
    problems.install(app)
    for routes in (
        search,
        documents,
        jobs,
        collections,
        maintenance,
        overview,
        embeddings,
        vector_stores,
        rerank,
        tei,
        health,
        page,
    ):
        app.include_router(routes.router)
    app.router.routes.append(Route(problems.MCP_ROUTE, mcp))
    app.openapi = lambda: _openapi(app, keyed=bool(settings.api_keys))  # type: ignore[method-assign]
    return app


def app_from_environment() -> FastAPI:
    """The application in a worker process, whose settings :func:`embedsvc.service.server.serve` left in the
    environment. The process ends with it: what uvicorn does after that, raising the signal again, would either not let
    what runs in the background end, or take the interpreter down under it."""
    faulthandler.enable()
    settings = load_settings()
    set_up_logging(settings.log_level)
    # A worker in the place of one that ended does not make the data folder: it may have gone away since.
    return _app(settings, lambda: leave(0))


def _openapi(app: FastAPI, *, keyed: bool) -> dict[str, Any]:
    if not app.openapi_schema:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        _, models = models_json_schema(
            [(model, "validation") for model in _COMPONENTS], ref_template="#/components/schemas/{model}"
        )
        components = document.setdefault("components", {}).setdefault("schemas", {})
        components.update(models["$defs"])
        for path in document["paths"].values():
            for operation in path.values():
                # FastAPI adds its own shape of 422, which is not ours.
                shape = operation["responses"].get("422", {}).get("content", {})
                if "application/problem+json" not in shape:
                    operation["responses"].pop("422", None)
                else:
                    shape.pop("application/json", None)
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        if keyed:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
        app.openapi_schema = document
    return app.openapi_schema
