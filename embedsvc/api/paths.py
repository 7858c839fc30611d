"""Files that callers name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embedsvc.errors import UsageError
from embedsvc.readers.discovery import is_url, path_or_url


def named_paths(paths: Sequence[str | Path]) -> list[str]:
    """Paths and URLs of pages; ``~`` is the home folder.

    Raises:
        UsageError: there is none, one is no path, or a URL of another scheme.
    """
    if not paths:
        raise UsageError("There is nothing to index: name a file or a folder.")
    for path in paths:
        if not isinstance(path, str | Path):
            raise UsageError(f"{path!r:.80} is no path. Name several one after the other: index(FIRST, SECOND).")
    named = (path_or_url(str(path)) for path in paths)
    return [path if is_url(path) else str(Path(path).expanduser()) for path in named]
