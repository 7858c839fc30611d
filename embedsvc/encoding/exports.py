"""The cache of exported graphs: one folder per weights, recipe and dtype, made once, whole or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedsvc.encoding.canaries import agrees
from embedsvc.encoding.export import MODEL_FILE, OPSET, WEIGHTS_FILE, task_of
from embedsvc.encoding.files import read_json, sha256, sha256_now, write_json
from embedsvc.encoding.machine import machine
from embedsvc.encoding.models import Model
from embedsvc.encoding.subprocesses import run_module
from embedsvc.errors import ModelError, ParityError

log = logging.getLogger(__name__)

RECIPE = f"5-opset{OPSET}"
"""Raise the number whenever the export would give another graph."""

_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Export:
    """An exported graph that was found whole, with the agreement it had with sentence-transformers when made.

    ``bytes`` are those of graph and weights. ``refusal``: why the model cannot be exported; then there is no graph.
    """

    file: Path
    bytes: int
    dimension: int
    min_cosine: float
    mean_cosine: float
    refusal: str | None


def export_folder(model: Model, dtype: str, cache: Path) -> Path:
    """Where the export lives. The graph also depends on config.json and pooling, so their hash is in the name."""
    recipe = hashlib.sha256(f"{model.config_hash} {model.pooling} {RECIPE}".encode()).hexdigest()[:8]
    return cache / "models" / f"{model.weights_hash[:16]}-{recipe}-{dtype}"


def record_file(model: Model, cache: Path) -> Path:
    """Where the choice among the exports is written down."""
    return export_folder(model, "choice", cache).with_suffix(".json")


def exports_of(model: Model, cache: Path) -> list[Path]:
    """The folders of the model's exports, of this recipe."""
    return [folder for dtype in ("fp32", "int8") if (folder := export_folder(model, dtype, cache)).is_dir()]


def all_exports(cache: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every export there is, of any model and recipe, with its manifest."""
    for file in sorted((cache / "models").glob(f"*/{_MANIFEST}")):
        with contextlib.suppress(ModelError):
            if manifest := read_json(file):
                yield file.parent, manifest


def remove_exports(weights_hash: str, cache: Path) -> int:
    """Removes the model's exports, of any recipe, and what was written down about it; returns the bytes that this
    freed."""
    freed = 0
    for path in sorted((cache / "models").glob(f"{weights_hash[:16]}-*")):
        freed += sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file())
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return freed


def ensure_export(model: Model, dtype: str, cache: Path) -> Export:
    """The export of ``model`` in ``dtype`` (``fp32`` or ``int8``), made now if it is missing or damaged.

    Safe when several processes call it at once: one works, the others wait and find it done. A kill at any point
    leaves either no export or a whole one.

    Raises:
        ParityError: it disagrees with sentence-transformers; the verdict is kept, so it is not made again in vain.
        ModelError: the export failed, or the cache cannot be written.
    """
    folder = export_folder(model, dtype, cache)
    if (export := _find(folder, cache)) is None:
        try:
            export = _make(model, dtype, folder, cache)
        except OSError as error:
            raise ModelError(
                f"{model.name}: cannot write its export below {cache} ({error}). Free some space or name another "
                "folder with EMBEDSVC_CACHE_DIR."
            ) from error
    if export.refusal is not None:
        raise ParityError(f"{model.name} cannot run on onnxruntime: {export.refusal} Use --runtime torch.")
    if not agrees(dtype, export.min_cosine, export.mean_cosine):
        raise ParityError(
            f"The {dtype} export of {model.name} does not agree with sentence-transformers on this machine (cosine min "
            f"{export.min_cosine:.5f}, mean {export.mean_cosine:.5f}). Use "
            + ("--runtime torch." if dtype == "fp32" else "--dtype fp32, or --runtime torch.")
        )
    return export


def _find(folder: Path, cache: Path) -> Export | None:
    """The export in ``folder`` where manifest and checksum agree; None otherwise."""
    try:
        manifest = read_json(folder / _MANIFEST)
        if manifest is None:
            return None
        accepted = manifest["refusal"] is None and agrees(manifest["dtype"], **manifest["parity"])
        if not accepted and manifest.get("machine") != machine():
            return None  # another version, or another processor, may do better
        if all(sha256(folder / name, cache) == digest for name, digest in manifest["sha256"].items()):
            return _export_of(folder, manifest)
    except (ModelError, KeyError, TypeError, AttributeError):
        pass
    log.warning("%s is damaged; exporting the model again", folder)
    return None


def _make(model: Model, dtype: str, folder: Path, cache: Path) -> Export:
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if (export := _find(folder, cache)) is not None:
            return export  # another process made it while this one waited
        # Whoever holds the lock is alone: half-made siblings are those of a process that was killed.
        for orphan in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(orphan, ignore_errors=True)
        log.info("exporting %s to ONNX %s, once; this takes about ten seconds", model.name, dtype)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            output = run_module(
                "embedsvc.encoding.export", task_of(model, dtype, temporary), f"Exporting {model.name} to ONNX {dtype}"
            )
            facts = json.loads(output.splitlines()[-1])
            written = [file for name in (MODEL_FILE, WEIGHTS_FILE) if (file := temporary / name).exists()]
            hashes = {file.name: sha256_now(file) for file in written}
            identity = {"model": model.name, "weights_hash": model.weights_hash, "dtype": dtype, "recipe": RECIPE}
            write_json(temporary / _MANIFEST, {**identity, **facts, "machine": machine(), "sha256": hashes})
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        log.info("exported %s to %s (mean cosine %.5f)", model.name, folder, facts["parity"]["mean_cosine"])
        return _export_of(folder, facts)


def _export_of(folder: Path, facts: Mapping[str, Any]) -> Export:
    size = sum(file.stat().st_size for name in (MODEL_FILE, WEIGHTS_FILE) if (file := folder / name).exists())
    return Export(folder / MODEL_FILE, size, facts["dimension"], **facts["parity"], refusal=facts["refusal"])
