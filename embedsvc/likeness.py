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


def signatures_of(store: Store, known: Mapping[str, Known], directory: Path) -> Signatures:
    """The signatures of all documents of ``store``, which ``known`` names, from the collection's ``directory``; those
    that are not there are made. By the one that holds the write lock.

    Raises:
        StorageFailure: they cannot be read or written.
    """
    signatures = Signatures(directory / SIGNATURES)
    missing = signatures.keep_only({id: document.hash for id, document in known.items()})
    if len(missing) > _MANY:
        log.info("%s: %d documents are looked at once, to tell duplicates of them", directory.name, len(missing))
    for id, text in stored_texts(store, missing):
        if (signature := sign(text)) is not None:
            signatures.add(id, known[id].uri, known[id].hash, signature)
    return signatures


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
