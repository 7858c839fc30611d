"""The store: one Lance table per collection, the single source of truth."""

from embedsvc.storage.auditing import Audit, TextIndexAudit, audit, audit_text_index
from embedsvc.storage.durability import exchange
from embedsvc.storage.filters import metadata_keys
from embedsvc.storage.lock import index_lock, migration_lock, told_of_waiting, write_lock
from embedsvc.storage.portable import export_store, read_exported
from embedsvc.storage.store import (
    LABEL,
    Changes,
    PassagePlace,
    Store,
    StoredPassage,
    StoredVersion,
    Turn,
    WholeDocument,
    passage_table,
    turn_at,
)

__all__ = [
    "LABEL",
    "Audit",
    "Changes",
    "PassagePlace",
    "Store",
    "StoredPassage",
    "StoredVersion",
    "TextIndexAudit",
    "Turn",
    "WholeDocument",
    "audit",
    "audit_text_index",
    "exchange",
    "export_store",
    "index_lock",
    "metadata_keys",
    "migration_lock",
    "passage_table",
    "read_exported",
    "told_of_waiting",
    "turn_at",
    "write_lock",
]
