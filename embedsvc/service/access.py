"""Who may ask: where ``api_keys`` are set, a request brings one of them, in the header in which clients of OpenAI and
text-embeddings-inference send theirs."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import Scope

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


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
