"""Documents that are stored deleted, or given other metadata: by their ids, by their uris, or by a condition."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from embedsvc.collection import Collection, Maintaining
from embedsvc.errors import BadFilter, NotFound, UsageError
from embedsvc.records import Metadata, clean_metadata
from embedsvc.storage import Store
from embedsvc.storage.store import with_metadata

_PART = 5_000
"""Passages that are written with other metadata at once: their whole rows are in memory meanwhile."""
_NAMED = 20
"""Documents that an error names at most."""

Change = Callable[[Metadata], Metadata]


def chosen(store: Store, ids: Sequence[str] | None, condition: str | None) -> list[str]:
    """Ids of the documents that are meant: those of ``ids`` that there are, those with a passage for which the user's
    SQL ``condition`` holds; where both are given, those of which both is true.

    Raises:
        UsageError: neither is given. BadFilter: the condition is empty, no SQL, or the store cannot evaluate it.
    """
    if ids is None and condition is None:
        raise UsageError("Say which documents are meant: by ids, by a filter, or both. If all are: filter TRUE.")
    if condition is None:
        return list(store.known_among(ids, ())) if ids else []
    if not condition.strip():  # the variable that was to hold one is empty, say
        raise BadFilter("The filter is empty, so no document is meant. If all are: TRUE.")
    holding = store.documents_where(condition)
    return holding if ids is None else sorted(set(ids).intersection(holding))


def delete_document(collection: Collection, id: str) -> None:
    """Deletes the document of this id; its text is in no answer any more, and the index is brought in step later.

    Raises:
        NotFound: there is none. Conflict: another process writes.
    """
    collection.store().check_document(id)  # before anybody waits for the lock
    with collection.writer(fold=False, maintain="seldom") as writer:
        writer.store.check_document(id)
        writer.replace((), [id])


def delete_many(collection: Collection, ids: Sequence[str] | None = None, condition: str | None = None) -> int:
    """Deletes, in one commit, the documents that are meant (:func:`chosen`, which raises too); how many they were.

    Raises:
        Conflict: another process writes.
    """
    if not chosen(collection.store(), ids, condition):  # before anybody waits for the lock
        return 0
    with collection.writer(fold=False, maintain="seldom") as writer:
        there = chosen(writer.store, ids, condition)
        if there:
            writer.remove(there)
        return len(there)


def delete_documents(collection: Collection, names: Sequence[str], *, fold: bool = True) -> list[str]:
    """Deletes, in one commit, the documents of these ids or uris, and all that came out of files and uploads of these
    uris; the uris of what is gone. ``fold``: as in :meth:`Collection.writer`; without, the text index waits, too.

    Raises:
        NotFound: there is none of some of the names; nothing was deleted. Conflict: another process writes.
    """

    def doomed(store: Store) -> dict[str, str]:
        found = store.known_as(names)
        called = {name for id, known in found.items() for name in (id, known.uri, known.source)}
        unknown = [name for name in dict.fromkeys(names) if name not in called]
        if unknown:
            told = ", ".join(map(repr, unknown[:_NAMED]))
            more = f" (and {len(unknown) - _NAMED:,} more)" if len(unknown) > _NAMED else ""
            raise NotFound(
                f"No document of {collection.name!r} has the id or uri {told}{more}, so none was deleted. "
                "Leave out what is not there, or name it as hits and reports do."
            )
        return {id: known.uri for id, known in found.items()}

    seen = collection.store()
    gone = doomed(seen)  # before anybody waits for the lock
    with collection.writer(fold=fold, maintain="always" if fold else "seldom") as writer:
        if writer.store.version != seen.version:
            gone = doomed(writer.store)
        writer.replace((), list(gone))
    return sorted(gone.values())


def put_over(metadata: Metadata) -> Change:
    """Puts the values of these keys in the place of a document's own; None takes a key away. Others stay.

    Raises:
        TypeError, ValueError: it is not JSON.
    """
    given = clean_metadata(metadata)

    def change(own: Metadata) -> Metadata:
        return {key: value for key, value in {**own, **given}.items() if value is not None or key not in given}

    return change


def set_metadata(
    collection: Collection,
    change: Change,
    ids: Sequence[str] | None = None,
    condition: str | None = None,
    told: Callable[[int, int], None] = lambda done, of: None,
    *,
    maintain: Maintaining = "always",
) -> int:
    """Gives the documents that are meant (:func:`chosen`, which raises too) the metadata that ``change`` makes of
    theirs; nothing is encoded. How many were changed by it: one that has them already is not written.

    Some thousand passages are one commit: after a kill some documents are changed and the others as they were, and the
    same call changes these. ``told`` hears after each how many documents are done, of how many, and may raise.
    ``maintain``: as in :meth:`Collection.writer`.

    Raises:
        Conflict: another process writes.
    """
    if not chosen(collection.store(), ids, condition):  # before anybody waits for the lock
        return 0
    changed = done = 0
    with collection.writer(fold=False, maintain=maintain) as writer:
        meant = chosen(writer.store, ids, condition)
        for part in _parts(writer.store, meant):
            own = writer.store.metadata_of(part)
            others = [id for id in part if _written(change(own[id])) != _written(own[id])]
            if others:
                writer.replace_rows(with_metadata(writer.store.rows_of(others), change), others)
            changed, done = changed + len(others), done + len(part)
            told(done, len(meant))
    return changed


def _parts(store: Store, ids: Sequence[str]) -> Iterator[list[str]]:
    """``ids`` of documents that are there, as many on end as are written at once."""
    passages = store.passage_counts(ids) if ids else {}
    part: list[str] = []
    size = 0
    for id in ids:
        if part and size + passages[id] > _PART:
            yield part
            part, size = [], 0
        part.append(id)
        size += passages[id]
    if part:
        yield part


def _written(metadata: Metadata) -> str:
    """In a form that tells 1 and True apart, and not the order of keys."""
    return json.dumps(dict(metadata), sort_keys=True)
