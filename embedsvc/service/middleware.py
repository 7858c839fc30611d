"""Around every request: an id, who may ask, the body limit, whether the data are there, one log line, and a last resort
for what nobody foresaw."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedsvc import __version__
from embedsvc.config import Settings, listed
from embedsvc.errors import NotReady
from embedsvc.service.access import is_open, refusal, stranger
from embedsvc.service.data_folder import DataFolder, needs_data
from embedsvc.service.problems import BodyTooLarge, problem

log = logging.getLogger("embedsvc.service")

_VERSION = (b"x-embedsvc-version", __version__.encode())
"""On every answer, so that a client can tell whether it understands the rest."""
_STOPPING = "The service is stopping and cannot finish this request any more. Ask again when it is back."


class Front:
    """ASGI middleware; see the module, and :mod:`embedsvc.service.access`."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._max_body = settings.max_body_mb * 1_000_000
        self._keys = listed(settings.api_keys)
        self._data = DataFolder(settings.data_dir)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        id = scope["embedsvc.id"] = uuid.uuid4().hex[:12]
        status, received = 0, 0
        too_large = f"The request body is larger than {self._max_body // 1_000_000} MB (max_body_mb). Send it in parts."

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body:
                raise BodyTooLarge(too_large)
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).extend([(b"x-request-id", id.encode()), _VERSION])
            await send(message)

        path = scope["path"]
        try:
            if why := refusal(scope, self._keys):
                # The body is not read: who has no key may not make the service take in megabytes.
                headers = {"www-authenticate": "Bearer", "connection": "close"}
                refused = problem(path, 401, "Access denied", why, code="invalid_api_key", headers=headers)
                await refused(scope, receive, noted)
            elif not self._keys and not is_open(scope) and (who := stranger(scope, self._settings)) is not None:
                why = f"What comes from {who} may not ask here. Set public_url, or api_keys, where others are to."
                headers = {"connection": "close"}
                await problem(path, 403, "Access denied", why, headers=headers)(scope, receive, noted)
            elif _declared_length(scope) > self._max_body:
                headers = {"connection": "close"}
                await problem(path, 413, "Request body too large", too_large, headers=headers)(scope, receive, noted)
            else:
                if needs_data(path):
                    self._data.check()
                await self._app(scope, counted, noted)
        except NotReady as error:
            # Its body is not read either.
            headers = {"retry-after": "5", "connection": "close"}
            await problem(path, 503, "Not ready", str(error), headers=headers)(scope, receive, noted)
        except ClientDisconnect:
            status = 499
        except asyncio.CancelledError:  # the server stops and has waited as long as it may
            if status:
                raise
            await problem(path, 503, "Not ready", _STOPPING, headers={"retry-after": "5"})(scope, receive, noted)
        except Exception:
            log.exception("request %s: %s %s failed", id, scope["method"], _raw_path(scope))
            if status:
                raise
            detail = f"Something went wrong inside the service. Its log says what, under the request id {id}."
            await problem(path, 500, "Internal error", detail)(scope, receive, noted)
        finally:
            if log.isEnabledFor(logging.INFO):
                took = (time.perf_counter() - started) * 1000
                log.info("%s %s %d %.1f ms %s", scope["method"], _raw_path(scope), status, took, id)


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _raw_path(scope: Scope) -> str:
    """The path as it was sent, still percent-encoded: nothing in it can break a log line."""
    raw: bytes = scope.get("raw_path") or b""
    return raw.decode("ascii", "backslashreplace")
