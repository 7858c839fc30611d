"""``embedsvc collections verify | repair | compact | duplicates | snapshot | snapshots | restore | migrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedsvc.cli.options import DataDir, Dtype, Json, Runtime, Which, settings_of

if TYPE_CHECKING:
    from embedsvc.migrate import Measured


def add_to(app: typer.Typer) -> None:
    for name, command in (
        ("verify", verify),
        ("repair", repair),
        ("compact", compact),
        ("duplicates", duplicates),
        ("alike", alike),
        ("clusters", clusters),
        ("classify", classify),
        ("snapshot", snapshot),
        ("snapshots", snapshots),
        ("restore", restore),
        ("migrate", migrate),
    ):
        app.command(name)(command)


def verify(name: Which, data_dir: DataDir = None, json: Json = False) -> None:
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
    name: Which,
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


def compact(name: Which, data_dir: DataDir = None, json: Json = False) -> None:
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


def duplicates(
    name: Which,
    threshold: Annotated[
        float, typer.Option(help="Share of what either says that both say; 1: the same but for case and white space.")
    ] = 0.8,
    drop: Annotated[bool, typer.Option("--drop", help="Delete all but the first of each group.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Tell which documents say the same, or nearly."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.maintenance import drop_duplicates, duplicates

    collection = Collection.open(name, settings_of(data_dir=data_dir))
    groups = duplicates(collection, threshold)
    dropped = drop_duplicates(collection, groups) if drop else 0
    lines = ["\n    ".join(output.shown_uri(document.uri) for document in group) for group in groups]
    lines.append(f"{dropped:,} deleted." if drop else f"{sum(map(len, groups)) - len(groups):,} could be dropped.")
    value = {"name": name, "groups": [[document.uri for document in group] for group in groups], "dropped": dropped}
    output.message("\n".join(lines), value, json)


def alike(
    name: Which,
    threshold: Annotated[float, typer.Option(help="Cosine from which on two passages count as alike.")] = 0.95,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Tell which passages mean nearly the same, by their vectors."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.describe import place_dict
    from embedsvc.overview import near_passages

    groups = near_passages(Collection.open(name, settings_of(data_dir=data_dir)).snapshot(), threshold)
    lines = ["\n    ".join(output.shown_place(passage) for passage in group) for group in groups]
    value = {"name": name, "groups": [[place_dict(passage) for passage in group] for group in groups]}
    output.message("\n".join(lines) or "No passages are alike.", value, json)


def clusters(
    name: Which,
    count: Annotated[int | None, typer.Option("-n", help="How many. Default: by the passages, 20 at most.")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Tell what a collection is about: clusters of its passages, each with words for it and typical places."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.describe import cluster_dict
    from embedsvc.overview import clusters

    found = clusters(Collection.open(name, settings_of(data_dir=data_dir)).snapshot(), count)
    lines = [
        f"{each.passages:>8,}  {output.printable(', '.join(each.label))}\n          "
        + "\n          ".join(map(output.shown_place, each.typical))
        for each in found
    ]
    output.message("\n".join(lines), {"name": name, "clusters": list(map(cluster_dict, found))}, json)


def classify(
    name: Which,
    label: Annotated[
        list[str], typer.Option(metavar="LABEL[=DESCRIPTION]", help="A label and what it stands for; give several.")
    ],
    limit: Annotated[int, typer.Option(help="How many passages to show; the counts are of all.", min=1)] = 100,
    offset: Annotated[int, typer.Option(help="How many to leave out before them.", min=0)] = 0,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Tell which label fits each passage best, by what the labels stand for."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.describe import labelled_dict
    from embedsvc.encoding import encoder_for
    from embedsvc.overview import classify

    settings = settings_of(data_dir=data_dir)
    collection = Collection.open(name, settings)
    labels = {each.partition("=")[0].strip(): each.partition("=")[2] for each in label}
    found = classify(collection.snapshot(), encoder_for(collection.contract, settings), labels, offset, limit)
    total = sum(found.counts.values())
    lines = [
        f"{output.printable(each.label)}  {each.cosine:.3f}  {output.shown_place(each.passage)}"
        for each in found.passages
    ]
    if len(lines) < total:
        lines.append(f"{len(lines):,} of {total:,} passages are shown: see --limit and --offset.")
    lines += [f"{output.printable(label)}: {count:,} passages" for label, count in found.counts.items()]
    value = {
        "name": name,
        "total": total,
        "limit": limit,
        "offset": offset,
        "counts": found.counts,
        "passages": list(map(labelled_dict, found.passages)),
    }
    output.message("\n".join(lines), value, json)


def snapshot(
    name: Which,
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
    name: Which,
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
    name: Which,
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
    text = f"Version {done.restored} is what the collection is already: nothing was changed."
    if done.changed:
        text = f"Version {done.version} is what version {done.restored} was."
        text += f" To undo that within the hour: embedsvc collections restore {name} --version {done.before}"
    output.message(text, {"name": name, **asdict(done)}, json)


def migrate(
    name: Which,
    model: Annotated[str | None, typer.Option(help="Model id or folder to move to. Default: the same.")] = None,
    dtype: Dtype = None,
    runtime: Runtime = None,
    prepare: Annotated[bool, typer.Option("--prepare", help="Encode and compare, but do not switch yet.")] = False,
    qrels: Annotated[Path | None, typer.Option(help="BEIR folder of this corpus: nDCG@10 of both models.")] = None,
    split: Annotated[str, typer.Option(help="Which qrels.")] = "test",
    rollback: Annotated[bool, typer.Option("--rollback", help="Switch back to the collection from before.")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Remove the collection from before.")] = False,
    abandon: Annotated[bool, typer.Option("--abandon", help="Remove what was made before a switch.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Move a collection to another model, from its stored text; it answers meanwhile. After a kill, run it again."""
    from dataclasses import asdict, replace

    from embedsvc import migrate as migration
    from embedsvc.cli import output
    from embedsvc.cli.progress import progress
    from embedsvc.collection import Collection
    from embedsvc.errors import UsageError

    settings = settings_of(data_dir=data_dir, model=model, dtype=dtype, runtime=runtime)
    chosen = sum((rollback, finish, abandon, model is not None or dtype is not None))
    if chosen != 1:
        raise UsageError("Give --model or --dtype to move to, or one of --rollback, --finish and --abandon.")
    of_a_move = {
        "--prepare": prepare,
        "--qrels": qrels is not None,
        "--split": split != "test",
        "--runtime": runtime is not None,
    }
    if (rollback or finish or abandon) and any(of_a_move.values()):
        given = ", ".join(option for option, is_given in of_a_move.items() if is_given)
        raise UsageError(
            f"{given} is about a move to another model: --rollback, --finish and --abandon take none of that."
        )
    if finish or abandon:
        removed = (migration.finish if finish else migration.abandon)(name, settings)
        what = "The collection from before" if finish else "What the migration had made"
        output.message(
            f"{what} was removed." if removed else "There was nothing to remove.", {"removed": removed}, json
        )
        return
    if rollback:
        back = migration.rollback(name, settings)
        text = f"{name} is of {back.model}. The other one is kept: --rollback switches forth, --finish removes it."
        if back.differing:
            some = ", ".join(back.differing[:20])
            text += f"\n{len(back.differing)} documents are not alike in the two, index them again: {some}"
        output.message(text, {"name": name, "model": back.model, "differing": list(back.differing)}, json)
        return
    if model is None:
        settings = replace(settings, model=Collection.open(name, settings).contract.model)
    judged: dict[str, float] = {}
    if qrels is not None:
        from embedsvc.evaluate import judge  # what it needs may be missing: told before hours of encoding

    def compare(both: Measured) -> None:
        if qrels is not None:
            judged["ndcg@10_old"] = judge(both.old.snapshot(), both.old_encoder, qrels, split, "hybrid")
            judged["ndcg@10_new"] = judge(both.new.snapshot(), both.new_encoder, qrels, split, "hybrid")

    with progress(quiet=json) as tell:

        def told(documents: int, of: int) -> None:
            tell(documents, max(1, of), f"{documents:,} of {of:,} documents")

        done = migration.migrate(name, settings, switch=not prepare, told=told, compare=compare)
    value = {**asdict(done), **{key: round(figure, 5) for key, figure in judged.items()}}
    text = (
        f"{done.documents:,} documents, {done.passages:,} passages are of {done.new_model} ({done.new_dtype}): "
        f"{done.encoded:,} encoded now, {done.already:,} before; {done.rechunked:,} cut anew."
    )
    if done.overlap is not None:
        text += f"\nOf the ten best by meaning, {done.overlap:.0%} are the same ({done.queries} queries)."
    text += "".join(f"\n{key}: {figure:.4f}" for key, figure in judged.items())
    text += f"\nNot compared: {done.note}" if done.note else ""
    if done.dropped:
        what = " and ".join(each.replace("_", " ") for each in done.dropped)
        text += f"\nNot taken along, for it was measured with the old model: {what}. Tune and calibrate anew."
    text += (
        "\nThe old one is kept: --rollback switches back, --finish removes it."
        if done.switched
        else "\nNot switched: run it again without --prepare."
    )
    output.message(text, value, json)
