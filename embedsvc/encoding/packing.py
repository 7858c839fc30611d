"""A prepared model as one file, to be carried to a machine without a network: an uncompressed zip of the model's folder
and its exports, with the sha256 of every file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from embedsvc.encoding.exports import exports_of
from embedsvc.encoding.files import sha256_now
from embedsvc.encoding.models import WEIGHTS_RECORD, Model, packed_folder, read_model, weights_hash
from embedsvc.errors import Conflict, ModelError

_MANIFEST = "embedsvc-model.json"
_SUFFIXES = frozenset((".json", ".safetensors", ".txt", ".model"))
"""Files of a model that are carried along: nothing that could run."""


def pack(model: Model, cache: Path, target: Path, *, weights: bool = True) -> int:
    """Writes ``target``; returns its bytes. It appears whole or not at all. Without ``weights`` it is a quarter as
    large, or less: where it is unpacked the model runs from the exports that came along, and cannot be exported anew.

    Raises:
        ModelError: ``target`` cannot be written; or without weights there is no export, which was all there is.
    """
    files = {f"model/{file.relative_to(model.folder).as_posix()}": file for file in _files_below(model.folder)}
    records: dict[str, bytes] = {}
    exports = exports_of(model, cache)
    if not weights:
        if not exports:
            raise ModelError(f"{model.name} has no export to run from. Make one: embedsvc models add {model.name}")
        for folder in {file.parent for file in files.values() if file.suffix == ".safetensors"}:
            below = (PurePosixPath("model") / folder.relative_to(model.folder).as_posix() / WEIGHTS_RECORD).as_posix()
            records[below] = json.dumps({"sha256": weights_hash(folder, cache)}).encode()
        left_out = (".safetensors", ".safetensors.index.json")
        files = {name: file for name, file in files.items() if not name.endswith(left_out)}
    for folder in exports:
        files |= {f"exports/{folder.name}/{file.name}": file for file in sorted(folder.iterdir()) if file.is_file()}
    manifest = {
        "format": 1,
        "name": Path(model.name).name,
        "weights_hash": model.weights_hash,
        "files": {name: sha256_now(file) for name, file in files.items()}
        | {name: hashlib.sha256(record).hexdigest() for name, record in records.items()},
    }
    try:
        with _appearing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_MANIFEST, json.dumps(manifest, indent=1))
            for name, file in files.items():
                archive.write(file, name)
            for name, record in records.items():
                archive.writestr(name, record)
        return target.stat().st_size
    except OSError as error:
        raise ModelError(f"{target} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    os.close(handle)
    try:
        yield Path(name)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


def _files_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in _SUFFIXES and file.is_file())


def unpack(file: Path, cache: Path, to: Path | None = None) -> Model:
    """Checks every byte of what :func:`pack` wrote and puts the model where its name finds it, or into the folder
    ``to``, and its exports into ``cache``. Both appear whole or not at all.

    Raises:
        ModelError: ``file`` is no such file, cut short or altered; or the place cannot be written.
        Conflict: another model of this name is there already.
    """
    try:
        with zipfile.ZipFile(file) as archive, tempfile.TemporaryDirectory(dir=_made(cache)) as scratch:
            manifest = _manifest(archive, file)
            for name, digest in manifest["files"].items():
                _extract(archive, name, digest, Path(scratch) / name, file)
            target = to or packed_folder(manifest["name"], cache)
            if target.exists() and _hash_of(target, cache) != manifest["weights_hash"]:
                raise Conflict(f"{target} is there already and holds something else. Remove it, or use --to FOLDER.")
            model = read_model(Path(scratch) / "model", cache)  # refuses what could not be used
            exports = sorted((Path(scratch) / "exports").glob("*"))
            ours = f"{model.weights_hash[:16]}-"
            if stranger := next((folder for folder in exports if not folder.name.startswith(ours)), None):
                raise ModelError(f"{file}: exports/{stranger.name} in it is of another model. Pack the model again.")
            if not target.exists():
                _made(target.parent)
                shutil.move(Path(scratch) / "model", target)
            for folder in exports:
                place = _made(cache / "models") / folder.name
                if not place.exists():
                    folder.rename(place)
            return read_model(target, cache)
    except FileNotFoundError as error:
        raise ModelError(f"{error.filename}: there is no such file.") from None
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{file}: not a whole file of embedsvc models pack ({error}). Copy it again.") from error
    except OSError as error:
        raise ModelError(f"{file} cannot be unpacked: {error.strerror or error}.") from error


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _hash_of(folder: Path, cache: Path) -> str | None:
    try:
        return read_model(folder, cache).weights_hash
    except ModelError:
        return None


def _manifest(archive: zipfile.ZipFile, file: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(archive.read(_MANIFEST))
        files, name = manifest["files"], manifest["name"]
        if manifest["format"] != 1 or name != Path(name).name or name in ("", ".", ".."):
            raise ValueError("its manifest is not one of ours")
        named = set(archive.namelist()) - {_MANIFEST}
        if named != files.keys() or len(archive.namelist()) != len(named) + 1:
            raise ValueError("it holds other files than its manifest says")
        for path in map(PurePosixPath, files):
            # Relative, below one of two folders, and of a kind that cannot run.
            if path.is_absolute() or ".." in path.parts or path.parts[0] not in ("model", "exports"):
                raise ValueError(f"it holds the path {path}")
            if path.suffix not in _SUFFIXES | {".onnx", ".data"}:
                raise ValueError(f"it holds {path}, a kind of file that no model needs")
        return dict(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{file}: not a file of embedsvc models pack ({error}).") from error


def _extract(archive: zipfile.ZipFile, name: str, digest: str, target: Path, file: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    hashed = hashlib.sha256()
    with archive.open(name) as source, target.open("wb") as out:
        while block := source.read(1 << 20):
            hashed.update(block)
            out.write(block)
    if hashed.hexdigest() != digest:
        raise ModelError(f"{file}: {name} in it is not what was packed (its sha256 differs). Copy the file again.")
