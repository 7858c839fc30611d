"""Who may ask: where ``api_keys`` are set, a request brings one of them, in the header in which clients of OpenAI and
text-embeddings-inference send theirs. Where none are, whoever reaches the service may, but no page of another site in
a browser that reaches it."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from embedsvc.config import Settings

_OPEN = frozenset({"/healthz", "/readyz", "/health", "/docs", "/openapi.json"})
"""What says nothing of what is kept here, and is asked for by those who cannot send a header: probes and browsers."""
_OPEN_FOLDERS = ("/page/", "/static-offline-docs/")


def is_open(scope: Scope) -> bool:
    """Whether a request needs no key: probes, the page (which asks for the key), the documentation of the API."""
    path: str = scope["path"]
    if scope["method"] not in ("GET", "HEAD"):
        return False
    return path == "/" or path in _OPEN or path.startswith(_OPEN_FOLDERS)


def refusal(scope: Scope, keys: Sequence[str]) -> str | None:
    """Why the request is not let in, with what to do; None where it is. ``keys``: those that are; none: all are."""
    if not keys or is_open(scope):
        return None
    sent = [value for name, value in scope["headers"] if name == b"authorization"]
    if not sent:
        return "This service asks for a key. Send it as the header Authorization: Bearer KEY."
    kind, _, given = sent[0].partition(b" ")
    # All are compared, by digests of one length: how long it takes tells nothing of any of them.
    matches = [hmac.compare_digest(_digest(given.strip()), _digest(key.encode())) for key in keys]
    if kind.lower() != b"bearer" or not any(matches) or len(sent) > 1:
        return "The key in the header Authorization is none of this service's (api_keys). Send it as Bearer KEY."
    return None


def stranger(scope: Scope, settings: Settings) -> str | None:
    """The site whose page asks, in a browser of somebody who reaches the service, or whose name was made to point to
    this machine; None: no page does, or our own."""
    headers = Headers(scope=scope)
    own, asked = _host(settings.public_url), _host(f"//{headers.get('host', '')}")
    if is_this_machine(settings.host) and asked not in (own, None) and not is_this_machine(asked):
        return asked
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    # Browsers say themselves whether a page asks its own site, also where a proxy has put another name into Host, but
    # not over HTTP from afar. Another port of the same host is another site: anybody's program may serve pages there.
    if origin is None or site == "same-origin":
        return None
    theirs = _place(origin, "")  # of a page whose site is not told ("null"): none
    ours = {_place(url, origin) for url in (f"//{headers.get('host', '')}", settings.public_url)}
    return None if site is None and theirs is not None and theirs in ours else origin


def is_this_machine(host: str) -> bool:
    """Whether nobody but this machine itself is reached by, or reaches, that name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


_PORTS = {"http": 80, "https": 443}


def _place(url: str, other: str) -> tuple[str, int | None] | None:
    """Host and port of ``url``; where it tells neither port nor scheme, the port that goes with ``other``'s scheme."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme or urlsplit(other).scheme)
        return None if parts.hostname is None else (parts.hostname, port)
    except ValueError:
        return None


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
