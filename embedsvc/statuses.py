"""The error tree over HTTP, in both directions: the status and the problem type of every class, and the class of a
problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedsvc import errors

STATUS: Mapping[type[Any], tuple[int, str]] = {
    errors.UsageError: (400, "Bad request"),
    errors.BadFilter: (400, "Bad filter"),
    errors.QueryTooLong: (400, "Query too long"),
    errors.AccessDenied: (401, "Access denied"),
    errors.NotFound: (404, "Not found"),
    errors.Overloaded: (429, "Too many requests"),
    errors.Conflict: (409, "Conflict"),
    errors.Locked: (409, "Collection in use"),
    errors.ContractMismatch: (409, "Embedding contract mismatch"),
    errors.ReadError: (422, "Unreadable input"),
    errors.ModelError: (503, "Model not available"),
    errors.MissingDependency: (503, "Missing dependency"),
    errors.Busy: (503, "Busy"),
    errors.NotReady: (503, "Not ready"),
    errors.StorageFailure: (507, "Storage failure"),
    errors.DamagedCollection: (500, "Damaged collection"),
    errors.EmbedsvcError: (500, "Internal error"),
}
"""HTTP status and title; a class that is not here has those of the nearest above it."""


def type_of(title: str) -> str:
    """RFC 9457's ``type`` of a problem."""
    return f"urn:embedsvc:problem:{title.lower().replace(' ', '-')}"


_CLASSES: Mapping[str, type[errors.EmbedsvcError]] = {type_of(title): kind for kind, (_, title) in STATUS.items()}
_BY_STATUS: Mapping[int, type[errors.EmbedsvcError]] = {
    401: errors.AccessDenied,
    403: errors.AccessDenied,
    404: errors.NotFound,
    429: errors.Overloaded,
    503: errors.NotReady,
}
"""What problems of no type of ours are; other faults of a request are UsageErrors."""


def error_of(status: int, problem: object, detail: str) -> errors.EmbedsvcError:
    """The error that an answer with this ``status`` tells of, by the type of its ``problem`` where it has one."""
    other = errors.UsageError if 400 <= status < 500 else errors.EmbedsvcError
    return _CLASSES.get(str(problem), _BY_STATUS.get(status, other)).retold(detail)
