"""The store: one Lance table per collection, the single source of truth."""

from embedsvc.storage.store import Changes, Store, StoredDocument, StoredPassage, passage_table

__all__ = ["Changes", "Store", "StoredDocument", "StoredPassage", "passage_table"]
