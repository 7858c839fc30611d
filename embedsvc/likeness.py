"""Which documents of a collection say the same, or nearly: their signatures, kept in step with the store.

<data dir>/<name>/duplicates.sqlite   derived: made again from the store's text, as far as it is not there
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from embedsvc.derived import remove_derived
from embedsvc.duplicates import Signatures, sign
from embedsvc.errors import StorageFailure
from embedsvc.storage import Store
from embedsvc.storage.store import Known

log = logging.getLogger(__name__)

SIGNATURES = "duplicates.sqlite"
_READ_AT_ONCE = 500
_MANY = 2_000
"""Texts whose signatures take long enough to say so: about a second."""


def stored_texts(store: Store, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Id and text of these documents, in this order, of those that there are."""
    for start in range(0, len(ids), _READ_AT_ONCE):
        some = ids[start : start + _READ_AT_ONCE]
        found = {whole.passages[0].document_id: whole.text for whole in store.whole_documents(some)}
        yield from ((id, found[id]) for id in some if id in found)


def signatures_of(store: Store, directory: Path) -> Signatures:
    """The signatures of all documents of ``store``, from the collection's ``directory``; those that are not there are
    made. By the one that holds the write lock.

    Raises:
        StorageFailure: they cannot be read or written.
    """
    signatures = Signatures(directory / SIGNATURES)
    known, missing = _missing(store, signatures)
    if len(missing) > _MANY:
        log.info("%s: %d documents are looked at once, to tell duplicates of them", directory.name, len(missing))
    for id, text in stored_texts(store, missing):
        if (signature := sign(text)) is not None:
            signatures.add(id, known[id].uri, known[id].hash, signature)
    return signatures


def _missing(store: Store, signatures: Signatures) -> tuple[Mapping[str, Known], Sequence[str]]:
    """What is stored without a signature, among what is known of it; signatures of what is not are forgotten. Where
    that can be told from what changed since they were in step, no more is read."""
    since = signatures.in_step_with(store.identity)
    if since:
        known = store.known_documents(since)
        missing = signatures.missing({id: document.hash for id, document in known.items()})
        # By now there is one for every document, so where there are as many, there is none too many: none was deleted.
        if signatures.count() + len(missing) == store.count_documents():
            return known, missing
    known = store.known_documents()
    return known, signatures.keep_only({id: document.hash for id, document in known.items()})


def in_step(store: Store, directory: Path) -> None:
    """Keeps that there is a signature for each document of ``store``, once all those that :func:`signatures_of` was
    opened for are committed: so the next run need not compare them one by one."""
    try:
        signatures = Signatures(directory / SIGNATURES)
        try:
            signatures.come_in_step(store.identity, store.version)
        finally:
            signatures.close()
    except StorageFailure as error:
        log.warning("the signatures are compared with all documents in the next run: %s", error)


def compact_signatures(store: Store, directory: Path) -> None:
    """Leaves nothing of what was derived from the text of documents that ``store`` has not any more. By the one that
    holds the write lock."""
    file = directory / SIGNATURES
    if not file.exists():
        remove_derived(file)
        return
    try:
        signatures = Signatures(file)
        try:
            signatures.keep_only({id: document.hash for id, document in store.known_documents().items()})
            signatures.compact()
        finally:
            signatures.close()
    except StorageFailure as error:
        log.warning("%s Removed.", error)
        remove_derived(file)
