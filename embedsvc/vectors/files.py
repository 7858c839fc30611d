"""The vector index on the disk: segments in folders of their own, and for a store version the list of its segments.

    faiss/segment-<id>/    codes, vectors and row ids of a segment (:mod:`.building`)
    faiss/<version>/       index.json names the segments; <segment>.alive.npy says which rows of one are still there

A version with a segment that is not what was written is left out with a warning: the store has all it takes to build
the index again.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embedsvc.errors import StorageFailure
from embedsvc.syncing import fsync_folder, fsync_path
from embedsvc.vectors.building import load_segment, segment_faults
from embedsvc.vectors.fresh import Fresh
from embedsvc.vectors.index import Part, VectorIndex, alive_rows
from embedsvc.vectors.kinds import Effort
from embedsvc.vectors.recall import Recall

log = logging.getLogger(__name__)

_MANIFEST = "index.json"
_ALIVE = ".alive.npy"
_KEPT = 2
"""Versions that stay: a reader that is opening the one before gets to finish."""


def save_index(
    index: VectorIndex,
    folder: Path,
    identity: str | None = None,
    kept: int = _KEPT,
    durability: Literal["fsync", "os"] = "fsync",
) -> None:
    """Writes which segments, all under ``folder``, make up ``index``, which must have no fresh rows, and removes what
    neither it nor the one before it (``kept``: how many) needs. ``identity`` tells the store from others that were made
    under its name. With ``fsync``, the files of a version are on the disk before it has its name: after a power cut
    blocks of them might be zeros, and of large files not every byte is read when they are opened. To be called by the
    one process that writes.

    Raises:
        StorageFailure: the disk is full or not writable; what was there stays.
    """
    target = folder / str(index.version)
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(exist_ok=True)  # not its parents, as in building.py
        temporary.mkdir()
        for part in index.parts:
            if part.alive is not None:
                np.save(temporary / f"{part.segment.name}{_ALIVE}", part.alive.bitmap, allow_pickle=False)
        manifest = {
            "version": index.version,
            "identity": identity,
            "dimension": index.dimension,
            "segments": [
                {
                    "name": part.segment.name,
                    "alive": len(part),
                    # May have been raised since the segment was built.
                    "effort": asdict(part.segment.effort),
                    "recall": asdict(part.segment.recall),
                }
                for part in index.parts
            ],
        }
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if durability == "fsync":
            for part in index.parts:  # of those that were saved before nothing is left to be written
                fsync_folder(folder / part.segment.name)
            fsync_folder(temporary)
        if target.exists():  # with the same segments and rows, by other efforts; readers always find one or the other
            for file in sorted(temporary.iterdir(), key=lambda file: file.name == _MANIFEST):
                file.replace(target / file.name)
        else:
            temporary.rename(target)
        if durability == "fsync":  # before what this takes the place of is removed
            fsync_path(target)
            fsync_path(folder)
    except OSError as error:
        raise StorageFailure(
            f"The vector index could not be written under {folder}: {error}. "
            "Nothing is lost, it is built again from the store."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    clear(folder, kept)


def save_efforts(index: VectorIndex, folder: Path, durability: Literal["fsync", "os"] = "fsync") -> None:
    """Writes the efforts of its segments to what was saved of ``index`` last, which may have fresh rows by now.
    ``durability``: as in :func:`save_index`.

    Raises:
        StorageFailure: the disk is full or not writable; what was there stays.
    """
    file = folder / str(index.folded) / _MANIFEST
    temporary = file.with_name(f".{uuid.uuid4().hex}.tmp")
    segments = {part.segment.name: part.segment for part in index.parts}
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        for about in manifest["segments"]:
            segment = segments[about["name"]]
            about |= {"effort": asdict(segment.effort), "recall": asdict(segment.recall)}
        temporary.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if durability == "fsync":
            fsync_path(temporary)
        temporary.replace(file)
    except (OSError, ValueError, KeyError) as error:
        raise StorageFailure(f"The efforts of the vector index could not be written to {file}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def clear(folder: Path, kept: int = _KEPT) -> None:
    """Removes all but the newest versions and their segments. What is open stays readable, as removed files do."""
    for entry in not_needed(folder, saved_versions(folder)[:kept]):
        shutil.rmtree(entry, ignore_errors=True)


def not_needed(folder: Path, versions: Sequence[int]) -> list[Path]:
    """What lies in ``folder`` beside these versions and their segments. A file is none of ours (see disk_index.py)."""
    needed = {str(version) for version in versions}
    for version in versions:
        try:
            needed.update(_segments(folder, version))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(entry for entry in entries if entry.name not in needed and entry.is_dir())


def _segments(folder: Path, version: int) -> list[str]:
    manifest = json.loads((folder / str(version) / _MANIFEST).read_text(encoding="utf-8"))
    return [segment["name"] for segment in manifest["segments"]]


def index_faults(folder: Path, dimension: int, identity: str | None) -> list[str]:
    """What is wrong with the saved versions and their segments, every byte of which is read."""
    faults, looked_at = [], set()
    for version in saved_versions(folder):
        try:
            names = _segments(folder, version)
        except (OSError, ValueError, KeyError, TypeError) as error:
            faults.append(f"{version}/{_MANIFEST} cannot be read ({error})")
            continue
        for name in names:
            if name not in looked_at:
                looked_at.add(name)
                faults += segment_faults(folder / name)
        if not faults:
            try:
                _load(folder, version, dimension, identity, None, check=False)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                faults.append(f"{version}: {error}")
    return faults


def saved_versions(folder: Path) -> list[int]:
    """Store versions that have a saved index, newest first."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted((int(entry.name) for entry in entries if entry.name.isdigit()), reverse=True)


def load_index(
    folder: Path,
    dimension: int,
    newest: int,
    known: VectorIndex | None = None,
    *,
    identity: str | None = None,
    check: bool = True,
) -> VectorIndex | None:
    """The saved index of the latest version, not after ``newest``, of the store with this ``identity``, unless
    ``known`` has its segments.

    None where there is none to be used. Not to ``check`` what the files hold is for those who only tell about it.
    """
    for version in saved_versions(folder):
        if known is not None and version <= known.folded:
            return None
        if version <= newest:
            try:
                return _load(folder, version, dimension, identity, known, check)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                log.warning("vector index %s is not usable (%s); it is built again", folder / str(version), error)
    return None


def _load(
    folder: Path, version: int, dimension: int, identity: str | None, known: VectorIndex | None, check: bool
) -> VectorIndex:
    manifest: dict[str, Any] = json.loads((folder / str(version) / _MANIFEST).read_text(encoding="utf-8"))
    if (manifest["version"], manifest["identity"], manifest["dimension"]) != (version, identity, dimension):
        raise ValueError("it belongs to another collection")
    open_already = {part.segment.name: part.segment for part in known.parts} if known is not None else {}
    parts = []
    for about in manifest["segments"]:
        name = about["name"]
        segment = open_already.get(name)
        if segment is None:
            segment = load_segment(folder / name, dimension, check=check)
            segment = replace(segment, effort=Effort(**about["effort"]), recall=Recall(**about["recall"]))
        alive = None
        if about["alive"] != len(segment):
            bits = np.load(folder / str(version) / f"{name}{_ALIVE}", allow_pickle=False)
            mask = np.unpackbits(bits, bitorder="little", count=len(segment)).astype(bool)
            alive = alive_rows(segment, mask)
            if alive.count != about["alive"]:
                raise ValueError(f"{name}{_ALIVE} is not what was written")
        parts.append(Part(segment, alive))
    return VectorIndex(dimension, version, version, tuple(parts), Fresh.empty(dimension))
