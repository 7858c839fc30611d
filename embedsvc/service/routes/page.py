"""The page for people at ``/``: files as they lie in ``service/page``, which ask the routes of the API.

Texts of documents are other people's: the page sets them as text, never as HTML, and where it forgot to, the content
security policy leaves a script in them nowhere to come from and nowhere to send to.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from embedsvc import __version__
from embedsvc.errors import NotFound
from embedsvc.service.routes.common import reply
from embedsvc.service.state import state_of

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent.parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # its address holds what was asked
    "cross-origin-opener-policy": "same-origin",
    "vary": "accept-encoding",
    "cache-control": "no-cache",  # asked for each time, sent only where it has changed
}


class _File(NamedTuple):
    type: str
    plain: bytes
    zipped: bytes
    tag: str


def _read() -> dict[str, _File]:
    found = {}
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix in _TYPES:
            plain = path.read_bytes()
            tag = f'W/"{hashlib.sha256(plain).hexdigest()[:16]}"'
            zipped = gzip.compress(plain, mtime=0)
            found[path.name] = _File(f"{_TYPES[path.suffix]}; charset=utf-8", plain, zipped, tag)
    return found


_FILES: Mapping[str, _File] = _read()
"""The page's files by name."""


@router.get("/")
async def page(request: Request) -> Response:
    return _answer(request, "index.html")


@router.get("/page/service.json")
async def service(request: Request) -> Response:
    """What the page has to know of the service before it sends a file."""
    settings = state_of(request).settings
    return reply({"version": __version__, "max_file_mb": settings.max_file_mb, "max_body_mb": settings.max_body_mb})


@router.get("/page/{name}")
async def file(name: str, request: Request) -> Response:
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    file = _FILES.get(name)
    if file is None:
        raise NotFound(f"The page has no file {name!r}. It begins at /.")
    headers = {**_HEADERS, "etag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.zipped, 200, {**headers, "content-encoding": "gzip"}, file.type)
    return Response(file.plain, 200, headers, file.type)
