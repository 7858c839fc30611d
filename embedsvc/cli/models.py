"""``embedsvc models``: prepare a model for this machine, look at it, carry it to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from embedsvc.cli.options import Dtype, Json, Runtime, settings_of

app = typer.Typer(help="Prepare models for this machine, look at them, carry them to another.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="ID|PATH", help="Model id or folder.")]


@app.command()
def add(name: Name, runtime: Runtime = None, dtype: Dtype = None, json: Json = False) -> None:
    """Export a model, measure it on this machine, and choose the fastest runtime that keeps its vectors."""
    from embedsvc.cli import output
    from embedsvc.encoding import resolve_model
    from embedsvc.encoding.calibration import calibrate
    from embedsvc.encoding.cross_encoder import load_cross_encoder

    settings = settings_of(model=name, runtime=runtime, dtype=dtype)
    if resolve_model(name, settings.cache).labels:
        encoder = load_cross_encoder(settings)
        facts = {"model": name, "runtime": encoder.runtime_name, "dtype": encoder.dtype, "labels": encoder.labels}
        output.message(f"{name} is a cross-encoder; it runs on {encoder.runtime_name} in {encoder.dtype}.", facts, json)
    else:
        output.calibration(calibrate(settings), json)


@app.command("list")
def list_models(json: Json = False) -> None:
    """The ids that are known, and the models that were prepared."""
    from embedsvc.cli import output
    from embedsvc.encoding.exports import all_exports
    from embedsvc.encoding.models import KNOWN_MODELS

    found: dict[str, dict[str, Any]] = {name: {"name": name, "exports": [], "bytes": 0} for name in KNOWN_MODELS}
    for folder, manifest in all_exports(settings_of().cache):
        entry = found.setdefault(manifest["model"], {"name": manifest["model"], "exports": [], "bytes": 0})
        entry["exports"].append(manifest["dtype"])
        entry["bytes"] += sum(file.stat().st_size for file in folder.iterdir())
    output.models(list(found.values()), json)


@app.command()
def show(name: Name, json: Json = False) -> None:
    """What a model is, and what was measured of it here."""
    from dataclasses import asdict

    from embedsvc.cli import output
    from embedsvc.encoding import resolve_model
    from embedsvc.encoding.choices import recorded

    settings = settings_of(model=name)
    model = resolve_model(name, settings.cache)
    measured = recorded(model, settings.cache)
    facts = asdict(model) | {"folder": str(model.folder), "transformer": str(model.transformer)}
    output.model(facts | {"calibration": None if measured is None else asdict(measured)}, measured, json)


@app.command()
def remove(name: Name, json: Json = False) -> None:
    """Delete what was prepared of a model. The model itself stays."""
    from embedsvc.cli import output
    from embedsvc.encoding import resolve_model
    from embedsvc.encoding.exports import all_exports, remove_exports
    from embedsvc.errors import ModelError, NotFound

    cache = settings_of().cache
    try:
        hashes = {resolve_model(name, cache).weights_hash}
    except ModelError:  # its folder is gone: the exports know what they were made of
        hashes = {manifest["weights_hash"] for _, manifest in all_exports(cache) if manifest["model"] == name}
    freed = sum(remove_exports(each, cache) for each in hashes)
    if not freed:
        raise NotFound(f"Nothing was prepared of {name!r}. See embedsvc models list.")
    output.message(f"Removed {freed / 1e6:,.1f} MB.", {"removed": name, "bytes": freed}, json)


@app.command()
def pack(
    name: Name,
    file: Path,
    weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Without: what its exports need, to run from them only.")
    ] = True,
    json: Json = False,
) -> None:
    """Write a model and its exports to one FILE, for a machine without a network."""
    from embedsvc.cli import output
    from embedsvc.encoding import resolve_model
    from embedsvc.encoding.packing import pack

    cache = settings_of().cache
    size = pack(resolve_model(name, cache), cache, file, weights=weights)
    output.message(f"Wrote {size / 1e6:,.1f} MB to {file}.", {"file": str(file), "bytes": size}, json)


@app.command()
def unpack(
    file: Path,
    to: Annotated[Path | None, typer.Option(help="Folder for the model. Default: where its name finds it.")] = None,
    json: Json = False,
) -> None:
    """Check a FILE that `pack` wrote, and put its model where it can be used."""
    from embedsvc.cli import output
    from embedsvc.encoding.packing import unpack

    model = unpack(file, settings_of().cache, to)
    use = str(model.folder) if to else model.folder.name
    output.message(f"Unpacked to {model.folder}. Use it with --model {use}", {"folder": str(model.folder)}, json)
