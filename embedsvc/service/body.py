"""From a request body to data: JSON that may come in any state, and multipart forms."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel

from embedsvc.records import without_surrogates
from embedsvc.service.problems import InvalidBody, UnsupportedMedia
from embedsvc.service.state import run, state_of

_M = TypeVar("_M", bound=BaseModel)
_T = TypeVar("_T")

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SMALL = 256_000
"""Bytes of a body that is read in the event loop, at about 5 ms; a larger one is handed to a thread."""


async def read_json(request: Request) -> Any:
    """The body as JSON. Lone surrogates are left as they are; see :func:`clean`.

    Raises:
        UnsupportedMedia: the content type says that it is something else.
        InvalidBody: it is not JSON (NaN and Infinity are not), or not UTF-8.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMedia(f"The content type is {kind}; send application/json.")
    body = await request.body()
    return await apart(request, lambda: _parsed(body))


async def read_clean(request: Request) -> Any:
    """As :func:`read_json`, without lone surrogates, which only their escapes can have brought in."""
    value = await read_json(request)
    if not _SURROGATE.search(await request.body()):
        return value
    return await apart(request, lambda: clean(value))


async def apart(request: Request, work: Callable[[], _T]) -> _T:
    """``work`` on what a body holds: at once if it is small, else on a thread, so that others are served meanwhile."""
    if len(await request.body()) <= _SMALL:
        return work()
    return await run(state_of(request).chores, work)


def _parsed(body: bytes) -> Any:
    if not body:
        raise InvalidBody("The body is empty; send JSON.")
    try:
        return json.loads(body.decode(), parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise InvalidBody(f"The body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}.") from None
    except RecursionError:
        raise InvalidBody("The body is nested too deep.") from None
    except json.JSONDecodeError as error:
        raise InvalidBody(f"The body is not JSON: {error}.") from None
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise InvalidBody("The body has a number with too many digits.") from None
        raise InvalidBody(f"The body has a number that cannot be kept: {error}.") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; use null or leave the field out")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:40]} is too large")
    return value


def clean(value: Any) -> Any:
    """``value`` without the lone surrogates that any of its strings might carry."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(without_surrogates(text))
    return value


async def read_model(request: Request, model: type[_M], *, empty: Any = None) -> _M:
    """The body as ``model``; ValidationError where it does not fit. ``empty`` stands for a body of no bytes."""
    if empty is not None and not await request.body():
        return model.model_validate(empty)
    value = await read_clean(request)
    return await apart(request, lambda: model.model_validate(value))
