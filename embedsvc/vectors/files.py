"""The vector index on the disk: ``faiss/<store version>/``, whole or not at all.

A folder holds FAISS's own file, the row ids as plain numpy, and a manifest with sizes and checksums. Anything that
does not fit (missing, cut short, altered, another FAISS, another dimension) makes :func:`load_index` answer None with
a warning: the store has all it takes to build it again.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedsvc.errors import StorageFailure
from embedsvc.vectors.faiss_module import faiss_module
from embedsvc.vectors.index import VectorIndex

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Layout:
    """File names of one saved index."""

    index: str = "index.faiss"
    row_ids: str = "row_ids.npy"
    manifest: str = "index.json"


_LAYOUT = Layout()


def _checksum(file: Path) -> dict[str, int]:
    crc = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return {"bytes": file.stat().st_size, "crc32": crc}


def save_index(index: VectorIndex, folder: Path) -> None:
    """Writes the base of ``index``, which must be folded, as ``folder/<version>`` and removes older ones.

    Raises:
        StorageFailure: the disk is full or not writable; what was there stays.
    """
    faiss = faiss_module()
    target = folder / str(index.version)
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        temporary.mkdir(parents=True)
        faiss.write_index(index.base, str(temporary / _LAYOUT.index))
        np.save(temporary / _LAYOUT.row_ids, index.row_ids, allow_pickle=False)
        manifest = {
            "kind": index.kind,
            "version": index.version,
            "dimension": index.dimension,
            "recall@10": index.recall_at_10,
            "recall_sample": index.recall_sample,
            "depth": index.depth,
            "build_seconds": round(index.build_seconds, 3),
            "faiss": faiss.__version__,
            "files": {name: _checksum(temporary / name) for name in (_LAYOUT.index, _LAYOUT.row_ids)},
        }
        (temporary / _LAYOUT.manifest).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except (OSError, RuntimeError) as error:
        raise StorageFailure(
            f"The vector index could not be written under {folder}: {error}. "
            "Nothing is lost, it is built again from the store."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    # A reader that is opening the one before gets to finish; what is older than that goes.
    for version in _versions(folder)[2:]:
        shutil.rmtree(folder / str(version), ignore_errors=True)


def _versions(folder: Path) -> list[int]:
    """Store versions that have a saved index, newest first."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted((int(entry.name) for entry in entries if entry.name.isdigit()), reverse=True)


def load_index(folder: Path, dimension: int, newest: int, known: VectorIndex | None = None) -> VectorIndex | None:
    """The saved index of the latest store version that is not after ``newest``, unless it is not after ``known``'s.

    None where there is none to be used.
    """
    for version in _versions(folder):
        if known is not None and version <= known.version:
            return None
        if version <= newest:
            try:
                return _load(folder / str(version), dimension)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                log.warning("vector index %s is not usable (%s); it is built again", folder / str(version), error)
                return None
    return None


def _load(folder: Path, dimension: int) -> VectorIndex:
    faiss = faiss_module()
    manifest: dict[str, Any] = json.loads((folder / _LAYOUT.manifest).read_text(encoding="utf-8"))
    if manifest["faiss"] != faiss.__version__:
        raise ValueError(f"written by FAISS {manifest['faiss']}, this is {faiss.__version__}")
    for name, expected in manifest["files"].items():
        if _checksum(folder / name) != expected:
            raise ValueError(f"{name} is not what was written")
    base = faiss.read_index(str(folder / _LAYOUT.index))
    row_ids = np.load(folder / _LAYOUT.row_ids, allow_pickle=False)
    if base.d != dimension or base.ntotal != len(row_ids) or manifest["version"] != int(folder.name):
        raise ValueError("it belongs to another collection")
    return VectorIndex(
        kind=manifest["kind"],
        version=manifest["version"],
        base=base,
        row_ids=row_ids,
        dead=np.zeros(len(row_ids), bool),
        fresh_ids=np.empty(0, np.int64),
        fresh_vectors=np.empty((0, dimension), np.float32),
        recall_at_10=manifest["recall@10"],
        recall_sample=manifest["recall_sample"],
        depth=manifest["depth"],
        build_seconds=manifest["build_seconds"],
    )
