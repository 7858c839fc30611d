"""The store: one Lance table per collection, the single source of truth."""

from embedsvc.storage.auditing import Audit, audit, text_index_faults
from embedsvc.storage.durability import exchange
from embedsvc.storage.lock import index_lock, told_of_waiting, write_lock
from embedsvc.storage.portable import export_store, read_exported
from embedsvc.storage.store import (
    LABEL,
    Changes,
    Store,
    StoredDocument,
    StoredPassage,
    StoredVersion,
    WholeDocument,
    passage_table,
)

__all__ = [
    "LABEL",
    "Audit",
    "Changes",
    "Store",
    "StoredDocument",
    "StoredPassage",
    "StoredVersion",
    "WholeDocument",
    "audit",
    "exchange",
    "export_store",
    "index_lock",
    "passage_table",
    "read_exported",
    "text_index_faults",
    "told_of_waiting",
    "write_lock",
]
