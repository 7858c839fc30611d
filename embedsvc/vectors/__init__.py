"""The vector index: FAISS over the store's vectors. Derived, always rebuildable, never the only copy."""

from embedsvc.vectors.background import Background, ending
from embedsvc.vectors.faiss_module import faiss_module
from embedsvc.vectors.files import (
    clear,
    index_faults,
    load_index,
    not_needed,
    save_efforts,
    save_index,
    saved_versions,
)
from embedsvc.vectors.filtering import Filters
from embedsvc.vectors.gpu import has_card
from embedsvc.vectors.index import (
    Among,
    VectorIndex,
    apply_changes,
    build,
    fold,
    needs_fold,
    of_segment,
    raised,
    with_segments,
)
from embedsvc.vectors.kinds import carry_on
from embedsvc.vectors.live import Live
from embedsvc.vectors.mapping import set_aside
from embedsvc.vectors.planner import DISK, Goal, Plan, disk_lists, plan
from embedsvc.vectors.recall import Recall
from embedsvc.vectors.segment import FLAT

__all__ = [
    "DISK",
    "FLAT",
    "Among",
    "Background",
    "Filters",
    "Goal",
    "Live",
    "Plan",
    "Recall",
    "VectorIndex",
    "apply_changes",
    "build",
    "carry_on",
    "clear",
    "disk_lists",
    "ending",
    "faiss_module",
    "fold",
    "has_card",
    "index_faults",
    "load_index",
    "needs_fold",
    "not_needed",
    "of_segment",
    "plan",
    "raised",
    "save_efforts",
    "save_index",
    "saved_versions",
    "set_aside",
    "with_segments",
]
