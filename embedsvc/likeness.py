"""Which documents say what another one of their collection says, or nearly: by their signatures, which are kept in step
with the store.

<data dir>/<name>/duplicates.sqlite   derived: made again from the store's text, as far as it is not there
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from embedsvc.config import OnDuplicate
from embedsvc.derived import remove_derived
from embedsvc.duplicates import Signatures, sign
from embedsvc.errors import StorageFailure
from embedsvc.outcomes import Like
from embedsvc.records import Document
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


class Likeness:
    """Tells which documents say what another one says that is stored, or came before. By the one that holds the write
    lock, for one thread."""

    def __init__(self, duplicates: OnDuplicate, store: Store, directory: Path) -> None:
        """``directory``: the collection's. Nothing is opened before there is something to compare."""
        self.drops = duplicates == "drop"
        self._ignores = duplicates == "ignore"
        self._store = store
        self._directory = directory
        self._signatures: Signatures | None = None
        self._forgotten: list[str] = []
        """What is to be forgotten once they are open."""

    def of(self, document: Document, replaces: bool, stands: Callable[[str], bool]) -> tuple[Like | None, bool]:
        """What ``document`` is like, and whether that is decided. Before it is dropped, what it is like must be known
        to stay as it is (``stands``, by id): it may change in this very run, or be the same file under its earlier
        name, about to be removed.

        Raises:
            StorageFailure: the signatures cannot be read or written.
        """
        signature = None if self._ignores else sign(document.text)
        if self._ignores or (signature is None and not replaces):
            return None, True
        if self._signatures is None:  # where nothing changed, none is needed
            self._signatures = _signatures_of(self._store, self._directory)
            self._signatures.forget(self._forgotten)
        self._signatures.forget([document.id])  # its own earlier edition
        like = None if signature is None else self._signatures.like(signature)
        if signature is not None and (like is None or not self.drops):
            self._signatures.add(document.id, document.uri, document.hash, signature)
        return like, like is None or not self.drops or stands(like.id)

    def forget(self, ids: Sequence[str]) -> None:
        """These documents go: nothing is like them any more. Raises as :meth:`of`."""
        if self._signatures is None:
            self._forgotten += ids
        else:
            self._signatures.forget(ids)

    def close(self) -> None:
        """Keeps the signatures."""
        if self._signatures is not None:
            try:
                self._signatures.close()
            except StorageFailure as error:
                log.warning("the signatures of this run are made again in the next: %s", error)

    def come_in_step(self, store: Store) -> None:
        """Once it is closed, and all that it was asked about is in ``store``: keeps that there is a signature for each
        document, so that the next run need not compare them one by one. On any thread."""
        if self._signatures is None:
            return
        try:
            signatures = Signatures(self._directory / SIGNATURES)
            try:
                signatures.come_in_step(store.identity, store.version)
            finally:
                signatures.close()
        except StorageFailure as error:
            log.warning("the signatures are compared with all documents in the next run: %s", error)


def _signatures_of(store: Store, directory: Path) -> Signatures:
    """The signatures of all documents of ``store``; those that are not there are made."""
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
