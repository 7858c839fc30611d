"""``embedsvc mcp``."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from embedsvc.api.libraries import connect_async, library_async
from embedsvc.config import Settings
from embedsvc.errors import MissingDependency
from embedsvc.names import check_name


def serve(settings: Settings, names: Sequence[str], url: str | None, api_key: str | None) -> None:
    """Answers until standard input ends. ``names``: of the collections that are shown; none: all.

    Raises:
        MissingDependency: the SDK is not installed. UsageError: a name or the URL is none.
    """
    try:
        from embedsvc.agents.server import serve_stdio
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types"):
            raise
        raise MissingDependency(
            "embedsvc mcp needs the package mcp, which is not installed: pip install 'embedsvc[mcp]'."
        ) from None
    from embedsvc.agents.shelves import OfLibrary

    only = tuple(map(check_name, names))
    library = library_async(data_dir=settings.data_dir) if url is None else connect_async(url, api_key=api_key)
    # Whoever started this ends it, also while a thread waits for the next line; nothing here is left half done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    serve_stdio(OfLibrary(library, only), settings.public_url or url or "")
