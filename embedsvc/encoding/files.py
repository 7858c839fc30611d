"""File helpers that model resolution and the export cache share: sha256 with a memory, JSON, whole-file writes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from embedsvc.errors import ModelError


def sha256(path: Path, cache: Path) -> str:
    """sha256 of the file, hex; hashed anew only when the file is not the very one that was hashed last time.

    The memory (``cache/hashes/``) is keyed by path and holds device, inode, size, mtime and ctime. No program can set
    a ctime back, so a file that was rewritten, even with its old mtime restored, is hashed again.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        path = path.resolve(strict=True)
        before = _stamp(path)
        memory = cache / "hashes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(memory.read_bytes())
            if known["stamp"] == before:
                return str(known["sha256"])
        digest = sha256_now(path)
        after = _stamp(path)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}). Check that it exists and its permissions."
        ) from error
    if before == after:
        # A cache that cannot be written costs time at the next start, nothing else.
        with contextlib.suppress(OSError):
            write_json(memory, {"path": str(path), "stamp": after, "sha256": digest})
    return digest


def sha256_now(path: Path) -> str:
    """sha256 of the file as it is, hex; OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``; None where there is no such file.

    Raises:
        ModelError: the file is not a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON ({error}). Fetch the model again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds no JSON object. Fetch the model again.")
    return value


def write_json(path: Path, value: object) -> None:
    """Write ``value`` so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
