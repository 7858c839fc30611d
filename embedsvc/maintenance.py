"""What is done to a whole collection: its space given back, versions kept and put back, damage mended.

A kill at any point leaves the collection whole: each step is one commit of the store, or one rename, and what was
begun is done again by the same command.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from embedsvc.collection import Collection, asides, collection_directory, leftovers, remove_unseen
from embedsvc.config import Settings
from embedsvc.derived import remove_derived
from embedsvc.describe import bytes_below
from embedsvc.disk_index import DiskIndex
from embedsvc.duplicates import near_duplicates
from embedsvc.errors import DamagedCollection, EmbedsvcError, NotFound, StorageFailure, UsageError
from embedsvc.likeness import compact_signatures, stored_texts
from embedsvc.records import StoredDocument
from embedsvc.storage import (
    Store,
    StoredVersion,
    audit,
    audit_text_index,
    exchange,
    index_lock,
    write_lock,
)
from embedsvc.storage.store import TABLE, writing
from embedsvc.unread import INPUTS
from embedsvc.upkeep import INDEX_FOLDER
from embedsvc.vectors import index_faults

_GRACE = 2.0
"""Seconds between the last commit of a compaction and the end of the older versions: searches that began with one of
those end meanwhile. A later one begins with the new version."""
_SAFE_AGE = 3600.0
"""What another process may have in the making is a leftover once nothing in it has changed for so many seconds."""
_LOOKED_AT = 20
"""Older versions that are tried when the newest cannot be read."""


# -- duplicates ------------------------------------------------------------------------------------------------------


def duplicates(collection: Collection, threshold: float) -> list[tuple[StoredDocument, ...]]:
    """Groups of documents that say the same, or nearly (:func:`~embedsvc.duplicates.near_duplicates`); first in each is
    the one whose uri comes first.

    Raises:
        UsageError: ``threshold`` is no share.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"The threshold is {threshold:g}; it is a share, above 0 and up to 1.")
    store = collection.store()
    documents = {each.id: each for each in store.documents()}
    groups = near_duplicates(stored_texts(store, list(documents)), threshold)
    return [tuple(documents[id] for id in group) for group in groups]


def drop_duplicates(collection: Collection, groups: Sequence[Sequence[StoredDocument]]) -> int:
    """Deletes all but the first document of each group, in one commit; how many that are. Raises Conflict: another
    process writes."""
    doomed = [document.id for group in groups for document in group[1:]]
    if doomed:
        with collection.writer() as writer:
            writer.replace((), doomed)
    return len(doomed)


# -- compaction ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compacted:
    """``snapshots`` and ``elsewhere`` may still hold what was deleted."""

    version: int
    bytes_before: int
    bytes_after: int
    snapshots: tuple[str, ...]
    elsewhere: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "snapshots": list(self.snapshots),
            "elsewhere": list(self.elsewhere),
        }


def compact(collection: Collection, grace: float = _GRACE) -> Compacted:
    """Gives back the space of what was deleted or replaced, text and vectors, in all files of the collection but for
    those of its snapshots.

    Raises:
        Conflict: another process writes, or builds the vector index. StorageFailure: the disk is full or not writable.
    """
    directory = collection.settings.data_dir / collection.name
    before = bytes_below(directory)
    with collection.writer() as writer:
        writer.rewrite(Store.compacted)
        compact_signatures(writer.store, directory)
        remove_derived(directory / INPUTS)  # it names what went, too
        collection.upkeep.purge()
        writer.store = writer.store.latest()
        time.sleep(grace)
        writer.store.clean_up(timedelta(0), torn=True)
        kept = [label for each in writer.store.versions() for label in each.labels]
    left = [path for path in leftovers(collection.name, collection.settings) if path.is_dir()]
    elsewhere = [str(path) for path in (*asides(collection.name, collection.settings), *left)]
    return Compacted(collection.store().version, before, bytes_below(directory), tuple(sorted(kept)), tuple(elsewhere))


# -- snapshots -------------------------------------------------------------------------------------------------------


def version_dict(version: StoredVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "created": version.created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "passages": version.passages,
        "labels": list(version.labels),
    }


def snapshot(collection: Collection, label: str | None = None) -> StoredVersion:
    """Keeps the newest version, under ``label`` (default: ``v`` and its number), until it is deleted.

    Raises:
        UsageError: no label. Conflict: there is one of that name.
    """
    store = collection.store()
    label = f"v{store.version}" if label is None else label
    store.snapshot(label)
    return next(each for each in store.versions() if label in each.labels)


@dataclass(frozen=True, slots=True)
class Restored:
    """``before``: the version that was the newest until then; ``changed``: whether anything had to be done."""

    version: int
    restored: int
    before: int
    changed: bool


def version_of(store: Store, version: int | None = None, label: str | None = None) -> int:
    """The version of that number or label.

    Raises:
        UsageError: not exactly one of the two. NotFound: it is not there (any more).
    """
    if (version is None) == (label is None):
        raise UsageError("Name one version to go back to: by its number or by its label.")
    return store.snapshot_version(str(label)) if version is None else store.at(version).version


def restore(collection: Collection, version: int | None = None, label: str | None = None) -> Restored:
    """Makes a new version that is what an earlier one was, in one commit. Searches see it at once.

    Raises:
        UsageError: not exactly one of version and label. NotFound: it is not there any more.
        Conflict: another process writes. DamagedCollection: it cannot be read.
    """
    version_of(collection.store(), version, label)  # before anybody waits for the lock
    with collection.writer() as writer:
        before = writer.store.version
        wanted = version_of(writer.store, version, label)
        changed = writer.put_back(wanted)
    return Restored(collection.store().version, wanted, before, changed)


# -- repair ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repaired:
    """``done``: sentences, none where all was well. ``lost``: what is not there any more."""

    version: int
    done: tuple[str, ...]
    lost: tuple[str, ...]


def repair(
    name: str, settings: Settings, *, to_version: int | None = None, index: bool = False, safe_age: float = _SAFE_AGE
) -> Repaired:
    """Mends what can be mended from the store: text index, vector index, leftovers of killed processes.

    ``to_version``: where the newest version cannot be read, an earlier one to go back to. ``index``: the vector index
    is built anew also where nothing is wrong with it.

    Raises:
        DamagedCollection: the newest version cannot be read; the message says to which one can be gone back.
        UsageError: it can, so there is nothing to go back from. Conflict: another process writes.
    """
    directory = collection_directory(name, settings)
    done: list[str] = []
    lost: list[str] = []
    with ExitStack() as locks:
        locks.enter_context(write_lock(directory, settings.lock_timeout))
        locks.enter_context(index_lock(directory, settings.lock_timeout))
        fault = _unreadable(directory, settings)
        if fault is None and to_version is not None:
            raise UsageError(
                f"The newest version of {name!r} can be read, so there is nothing to mend by going back. To undo "
                f"changes: embedsvc collections restore {name} --version {to_version}"
            )
        if fault is not None:
            if to_version is None:
                raise _way_back(name, directory, settings, fault)
            lost += _go_back(directory, settings, to_version)
            done.append(f"went back to version {to_version}, the newest could not be read: {fault}")
        for path in leftovers(name, settings):
            if path.suffix == ".deleted":
                done.append(f"removed {path}, which a process that was killed had left")
            elif path.parent != settings.data_dir or _age(path) > safe_age:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                done.append(f"removed {path}, which a process that was killed had left")
    remove_unseen(name, settings)
    collection = Collection.open(name, settings)
    with collection.writer() as writer:
        if faults := audit_text_index(writer.store).faults:
            writer.rewrite(Store.with_text_index)
            done.append(f"built the text index anew: {faults[0]}")
        if problem := "it was asked for" if index else _index_fault(collection):
            collection.upkeep.rebuild()
            done.append(f"built the vector index anew from the store: {problem}")
        removed = writer.store.clean_up(torn=True)
        if removed:
            done.append(f"removed {removed:,} bytes of old versions and of commits that were killed")
    return Repaired(collection.store().version, tuple(done), tuple(lost))


def _unreadable(directory: Path, settings: Settings, version: int | None = None) -> str | None:
    """Why a version, the newest by default, cannot be read from end to end; None: it can."""
    try:
        store = Store.open(directory, settings.durability, version=version)
        if version is None and (newest := next(iter(Store.versions_on_disk(directory)), store.version)) > store.version:
            return f"version {newest} has a manifest, and {store.version} is the newest that opens"
        audit(store)
    except DamagedCollection as error:
        return error.fact
    return None


def _way_back(name: str, directory: Path, settings: Settings, fault: str) -> DamagedCollection:
    for version, created in list(Store.versions_on_disk(directory).items())[1 : 1 + _LOOKED_AT]:
        if _unreadable(directory, settings, version) is None:
            store = Store.open(directory, settings.durability, version=version)
            if not store.count():
                continue  # as it was made: to go back to that is to lose all
            return DamagedCollection(
                f"{fault}\nVersion {version} of {created:%Y-%m-%d %H:%M:%S} UTC can be read: "
                f"{store.count_documents():,} documents, {store.count():,} passages. What was committed after it would "
                f"be lost, and has to be indexed again. To go back: embedsvc collections repair {name} --to-version "
                f"{version}"
            )
    return DamagedCollection(
        f"{fault}\nNo earlier version with a passage in it can be read either: restore the folder from a backup, or "
        "delete it and index again."
    )


def _go_back(directory: Path, settings: Settings, version: int) -> list[str]:
    """Puts a copy of the table that ends with ``version`` in its place; says what is lost. The damaged one is kept."""
    if version not in Store.versions_on_disk(directory):
        there = ", ".join(map(str, Store.versions_on_disk(directory))) or "none"
        raise NotFound(f"Version {version} is not there. There are: {there}.")
    if (fault := _unreadable(directory, settings, version)) is not None:
        raise DamagedCollection(f"Version {version} cannot be read either: {fault}")
    staging = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}.tmp")
    aside = directory.with_name(f".{directory.name}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}.damaged")
    try:
        Store.copy_of_version(directory, staging, version)
        lost = _lost(directory, Store.open(staging), settings)
        with writing(directory):
            # Before the swap: an index of a version that went must not be taken for that of a later one.
            shutil.rmtree(directory / INDEX_FOLDER, ignore_errors=True)
            exchange(directory / TABLE, staging / TABLE)
            staging.rename(aside)
    except OSError as error:
        raise StorageFailure(f"{directory} cannot be put back to version {version}: {error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [*lost, f"the damaged table is kept in {aside}; remove it when nothing in it is wanted any more"]


def _lost(directory: Path, kept: Store, settings: Settings) -> list[str]:
    try:
        newest = Store.open(directory, settings.durability).known_documents()
    except EmbedsvcError:
        return [
            f"everything that was committed after version {kept.version - 1}; index your files again with --exact: "
            "what was deleted since is there again"
        ]
    there = kept.known_documents()
    missing = sorted(known.uri for id, known in newest.items() if there.get(id) != known)
    back = sum(id not in newest for id in there)
    lost = [f"{uri}: index it again" for uri in missing[:100]]
    lost += [f"{len(missing) - 100:,} more documents"] if len(missing) > 100 else []
    again = f"{back:,} documents that were deleted are there again: index your files again with --exact"
    return [*lost, again] if back else lost


def _index_fault(collection: Collection) -> str | None:
    """What is wrong with the vector index; None: nothing. Whether it finds enough is for `verify` to measure."""
    folder = collection.settings.data_dir / collection.name / INDEX_FOLDER
    if faults := index_faults(folder, collection.contract.dimension, collection.store().identity):
        return faults[0]
    current = collection.snapshot()
    wanted = current.store.count() if isinstance(current.index, DiskIndex) else current.store.count_vectors()
    return None if len(current.index) == wanted else f"it has {len(current.index):,} of {wanted:,} vectors"


def _age(path: Path) -> float:
    """Seconds since anything in it changed."""
    inside: Sequence[Path] = [path, *path.rglob("*")] if path.is_dir() else [path]
    newest = 0.0
    for each in inside:
        try:
            newest = max(newest, each.lstat().st_mtime)
        except FileNotFoundError:
            return 0.0  # somebody is at work in it
    return time.time() - newest
