"""The store: one Lance table per collection, the single source of truth."""

from embedsvc.storage.lock import index_lock, write_lock
from embedsvc.storage.portable import export_store, read_exported
from embedsvc.storage.store import Changes, Store, StoredDocument, StoredPassage, passage_table

__all__ = [
    "Changes",
    "Store",
    "StoredDocument",
    "StoredPassage",
    "export_store",
    "index_lock",
    "passage_table",
    "read_exported",
    "write_lock",
]
