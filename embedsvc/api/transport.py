"""Requests over HTTP, by httpx: the one place that sends them, waiting or awaited."""

from __future__ import annotations

import math
from typing import Any

import httpx

from embedsvc import __version__
from embedsvc.api.options import NUMBER, check_type
from embedsvc.api.steps import Request, Response
from embedsvc.config import key_to_send
from embedsvc.errors import Closed, Unreachable, UsageError

_AGENT = f"embedsvc/{__version__}"


def _options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    check_type("timeout", timeout, NUMBER)
    if not 0 < timeout < math.inf:
        raise UsageError(f"timeout is {timeout}; give a number of seconds above 0.")
    key = key_to_send() if api_key is None else api_key
    headers = {"user-agent": _AGENT} | ({} if key is None else {"authorization": f"Bearer {_checked(key)}"})
    return {"base_url": url, "headers": httpx.Headers(headers, encoding="utf-8"), "timeout": timeout}


def _checked(api_key: str) -> str:
    """The key without the white space that is around it in a file. The messages do not tell it."""
    if not isinstance(api_key, str):
        raise UsageError(f"api_key is a {type(api_key).__name__}; it must be a text.")
    key = api_key.strip()
    if not key or not key.isprintable():
        fault = "has a line break, or another character that cannot be sent" if key else "is empty"
        raise UsageError(f"api_key {fault}. Check where it is read from; leave it out where no key is asked for.")
    return key


def _sending(request: Request) -> dict[str, Any]:
    sending: dict[str, Any] = {"method": request.method, "url": request.path, "params": request.query or None}
    if request.json is not None:
        sending |= {"content": request.json, "headers": {"content-type": "application/json"}}
    if request.files:
        sending["files"] = [("files", file) for file in request.files]
    return sending


def _came(response: httpx.Response) -> Response:
    return Response(response.status_code, response.headers, response.content)


def _failure(url: str, error: httpx.HTTPError | httpx.InvalidURL) -> Unreachable | UsageError:
    if isinstance(error, httpx.InvalidURL):
        return UsageError(f"The request to {url} cannot be sent: {error}. Its name, id or filter is too long.")
    if isinstance(error, httpx.TimeoutException):
        return Unreachable(f"{url} did not answer in time. Give it more by timeout=SECONDS.")
    return Unreachable(f"{url} cannot be reached: {error}. Is the service running there (embedsvc serve)?")


def checked_url(url: str) -> str:
    """``url`` without a slash at its end. Raises UsageError: it is none of a service."""
    check_type("url", url, ((str,), "a text"))
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
        """Raises Unreachable: there is no answer. Closed: it was closed. UsageError: it has no room in a URL."""
        if self._client.is_closed:
            raise Closed(self._url)
        try:
            return _came(self._client.request(**_sending(request)))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _failure(self._url, error) from error

    def close(self) -> None:
        self._client.close()


class AsyncTransport:
    """As :class:`Transport`, awaited."""

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        self._url = url
        self._client = httpx.AsyncClient(**_options(url, api_key, timeout))

    async def send(self, request: Request) -> Response:
        """Raises Unreachable: there is no answer. Closed: it was closed. UsageError: it has no room in a URL."""
        if self._client.is_closed:
            raise Closed(self._url)
        try:
            return _came(await self._client.request(**_sending(request)))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _failure(self._url, error) from error

    async def close(self) -> None:
        await self._client.aclose()
