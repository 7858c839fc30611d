"""``embedsvc mcp``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from embedsvc.api.libraries import connect_async, library_async
from embedsvc.collection import collection_directory, collection_names
from embedsvc.config import Settings
from embedsvc.errors import MissingDependency, NotFound
from embedsvc.names import check_name


def serve(settings: Settings, names: Sequence[str], url: str | None, api_key: str | None) -> None:
    """Answers until standard input ends. ``names``: of the collections that are shown; none: all.

    Raises:
        MissingDependency: the SDK is not installed. UsageError: a name or the URL is none. StorageFailure: the data
            directory cannot be read.
    """
    try:
        from embedsvc.agents.server import serve_stdio
    except ModuleNotFoundError as error:
        if (error.name or "embedsvc").startswith("embedsvc"):
            raise
        raise MissingDependency(
            f"embedsvc mcp needs the package mcp with all that it needs ({error}): pip install 'embedsvc[mcp]'."
        ) from None
    from embedsvc.agents.shelves import OfLibrary

    only = tuple(map(check_name, names))
    library = library_async(data_dir=settings.data_dir) if url is None else connect_async(url, api_key=api_key)
    if url is None:
        for absence in _absences(only, replace(settings, data_dir=settings.data_dir.absolute())):
            print(f"embedsvc: {absence}", file=sys.stderr, flush=True)
    # Whoever started this ends it, also while a thread waits for the next line; nothing here is left half done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    serve_stdio(OfLibrary(library, only), settings.public_url or url or "")


def _absences(names: Sequence[str], settings: Settings) -> Iterator[str]:
    """What is not there: told to whoever sets an agent up, and no error, for it may come yet."""
    if not names and not collection_names(settings.data_dir):
        yield f"There are no collections in {settings.data_dir} yet. Make one, or choose another place with --data-dir."
    for name in names:
        try:
            collection_directory(name, settings)
        except NotFound as error:
            yield str(error)
