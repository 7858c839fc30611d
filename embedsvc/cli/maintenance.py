"""``embedsvc collections verify | repair | compact | snapshot | snapshots | restore``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embedsvc.cli.options import DataDir, Json, settings_of


def add_to(app: typer.Typer) -> None:
    for name, command in (
        ("verify", verify),
        ("repair", repair),
        ("compact", compact),
        ("snapshot", snapshot),
        ("snapshots", snapshots),
        ("restore", restore),
    ):
        app.command(name)(command)


def verify(name: str, data_dir: DataDir = None, json: Json = False) -> None:
    """Check all of a collection: every passage, vector and byte of the index. Exit code 3: something is damaged."""
    from embedsvc.checks import check_collection
    from embedsvc.cli import output
    from embedsvc.collection import collection_directory

    settings = settings_of(data_dir=data_dir)
    collection_directory(name, settings)  # a name that is not there is no damage
    found = check_collection(name, settings, thorough=True)
    output.checks(found, json)
    raise typer.Exit(0 if all(check.ok for check in found) else 3)


def repair(
    name: str,
    to_version: Annotated[
        int | None, typer.Option(help="Where the newest version cannot be read: the one to go back to.")
    ] = None,
    index: Annotated[bool, typer.Option("--index", help="Build the vector index anew in any case.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Mend a collection from its store: indexes, and what killed processes left. Tells what was done."""
    from embedsvc.cli import output
    from embedsvc.maintenance import repair

    done = repair(name, settings_of(data_dir=data_dir), to_version=to_version, index=index)
    value = {"name": name, "version": done.version, "done": list(done.done), "lost": list(done.lost)}
    lines = [*done.done, *(f"lost: {each}" for each in done.lost)] or ["nothing was to be mended"]
    output.message("\n".join(lines), value, json)


def compact(name: str, data_dir: DataDir = None, json: Json = False) -> None:
    """Give back the space of what was deleted, and leave none of it on the disk but in snapshots."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.maintenance import compact

    done = compact(Collection.open(name, settings_of(data_dir=data_dir)))
    text = f"{done.bytes_before / 1e6:,.1f} MB before, {done.bytes_after / 1e6:,.1f} MB now (version {done.version})."
    if done.snapshots:
        text += (
            f"\nSnapshots keep what they held: {', '.join(done.snapshots)}. To let go: collections snapshot --delete"
        )
    if done.elsewhere:
        text += f"\nThese may hold old text too: {', '.join(done.elsewhere)}"
    output.message(text, {"name": name, **done.to_dict()}, json)


def snapshot(
    name: str,
    label: Annotated[str | None, typer.Option(help="What to call it. Default: v and the version.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the snapshot of that label instead.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Keep the collection as it is now, to be restored later. Costs no space until something is deleted or replaced."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.errors import UsageError
    from embedsvc.maintenance import snapshot, version_dict

    collection = Collection.open(name, settings_of(data_dir=data_dir))
    if delete:
        if label is None:
            raise UsageError("Name the snapshot to delete with --label.")
        collection.store().delete_snapshot(label)
        output.message(f"Deleted the snapshot {label}.", {"name": name, "deleted": label}, json)
        return
    made = snapshot(collection, label)
    text = f"Version {made.version} ({made.passages:,} passages) is kept as {', '.join(made.labels)}."
    output.message(text, {"name": name, **version_dict(made)}, json)


def snapshots(
    name: str,
    every: Annotated[bool, typer.Option("--all", help="Also versions that go within the hour.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List the snapshots of a collection, newest first."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.maintenance import version_dict

    found = Collection.open(name, settings_of(data_dir=data_dir)).store().versions()
    values: list[dict[str, Any]] = [version_dict(each) for each in found if every or each.labels]
    lines = [
        f"version {value['version']:<8} {value['created']}  {value['passages']:>12,} passages  "
        f"{', '.join(value['labels'])}".rstrip()
        for value in values
    ]
    output.message("\n".join(lines) or "There are no snapshots.", {"name": name, "snapshots": values}, json)


def restore(
    name: str,
    version: Annotated[int | None, typer.Option(help="The version to go back to.")] = None,
    label: Annotated[str | None, typer.Option(help="The snapshot to go back to.")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make a collection what it was: a new version, equal to an earlier one. Searches see it at once."""
    from dataclasses import asdict

    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.maintenance import restore

    done = restore(Collection.open(name, settings_of(data_dir=data_dir)), version, label)
    text = f"Version {done.version} is what version {done.restored} was."
    if done.changed:
        text += f" To undo that within the hour: embedsvc collections restore {name} --version {done.before}"
    output.message(text, {"name": name, **asdict(done)}, json)
