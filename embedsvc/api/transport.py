"""Requests over HTTP, by httpx: the one place that sends them, waiting or awaited."""

from __future__ import annotations

from typing import Any

import httpx

from embedsvc import __version__
from embedsvc.api.place import closed
from embedsvc.api.steps import Request, Response
from embedsvc.errors import Unreachable, UsageError

_AGENT = f"embedsvc/{__version__}"


def _options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    headers = {"user-agent": _AGENT} | ({} if api_key is None else {"authorization": f"Bearer {api_key}"})
    return {"base_url": url, "headers": headers, "timeout": timeout}


def _sending(request: Request) -> dict[str, Any]:
    sending: dict[str, Any] = {"method": request.method, "url": request.path, "params": request.query or None}
    if request.json is not None:
        sending |= {"content": request.json, "headers": {"content-type": "application/json"}}
    if request.files:
        sending["files"] = [("files", file) for file in request.files]
    return sending


def _came(response: httpx.Response) -> Response:
    return Response(response.status_code, response.headers, response.content)


def _failure(url: str, error: httpx.HTTPError) -> Unreachable:
    if isinstance(error, httpx.TimeoutException):
        return Unreachable(f"{url} did not answer in time. Give it more by timeout=SECONDS.")
    return Unreachable(f"{url} cannot be reached: {error}. Is the service running there (embedsvc serve)?")


def checked_url(url: str) -> str:
    """``url`` without a slash at its end. Raises UsageError: it is none of a service."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UsageError(f"{url!r} is no URL: {error}.") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{url!r} is no address of a service; write it as http://host:8080.")
    return url.rstrip("/")


class Transport:
    """Sends and waits. ``timeout`` in seconds, of each request."""

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        self._url = url
        self._client = httpx.Client(**_options(url, api_key, timeout))

    def send(self, request: Request) -> Response:
        """Raises Unreachable: there is no answer. UsageError: it was closed."""
        if self._client.is_closed:
            raise closed(self._url)
        try:
            return _came(self._client.request(**_sending(request)))
        except httpx.HTTPError as error:
            raise _failure(self._url, error) from error

    def close(self) -> None:
        self._client.close()


class AsyncTransport:
    """As :class:`Transport`, awaited."""

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        self._url = url
        self._client = httpx.AsyncClient(**_options(url, api_key, timeout))

    async def send(self, request: Request) -> Response:
        """Raises Unreachable: there is no answer. UsageError: it was closed."""
        if self._client.is_closed:
            raise closed(self._url)
        try:
            return _came(await self._client.request(**_sending(request)))
        except httpx.HTTPError as error:
            raise _failure(self._url, error) from error

    async def close(self) -> None:
        await self._client.aclose()
