"""embedsvc: semantic search over your documents, with exact citations.

    import embedsvc

    docs = embedsvc.open("handbook")
    docs.index("~/handbook")
    answer = docs.search("how do refunds work?", k=5)

The names below are loaded when first used, and a collection's store and model with its first call: importing this
costs milliseconds. See docs/python.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from embedsvc.api.collections import AsyncCollection, Collection
    from embedsvc.api.libraries import (
        AsyncLibrary,
        Library,
        connect,
        connect_async,
        library,
        library_async,
        open,
        open_async,
    )
    from embedsvc.api.options import CollectionOptions, NewDocument, SearchOptions
    from embedsvc.errors import EmbedsvcError
    from embedsvc.outcomes import Outcome, Report
    from embedsvc.records import StoredDocument, WholeText
    from embedsvc.search.hits import Answer, Context, Hit

__all__ = [
    "Answer",
    "AsyncCollection",
    "AsyncLibrary",
    "Collection",
    "CollectionOptions",
    "Context",
    "EmbedsvcError",
    "Hit",
    "Library",
    "NewDocument",
    "Outcome",
    "Report",
    "SearchOptions",
    "StoredDocument",
    "WholeText",
    "connect",
    "connect_async",
    "library",
    "library_async",
    "open",
    "open_async",
]

_MODULES = {
    "Answer": "search.hits",
    "AsyncCollection": "api.collections",
    "AsyncLibrary": "api.libraries",
    "Collection": "api.collections",
    "CollectionOptions": "api.options",
    "Context": "search.hits",
    "EmbedsvcError": "errors",
    "Hit": "search.hits",
    "Library": "api.libraries",
    "NewDocument": "api.options",
    "Outcome": "outcomes",
    "Report": "outcomes",
    "SearchOptions": "api.options",
    "StoredDocument": "records",
    "WholeText": "records",
    "connect": "api.libraries",
    "connect_async": "api.libraries",
    "library": "api.libraries",
    "library_async": "api.libraries",
    "open": "api.libraries",
    "open_async": "api.libraries",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
