"""The vector index: FAISS over the store's vectors. Derived, always rebuildable, never the only copy."""

from embedsvc.vectors.faiss_module import faiss_module
from embedsvc.vectors.files import load_index, save_index
from embedsvc.vectors.index import IndexPlan, VectorIndex, apply_changes, build_index, fold

__all__ = [
    "IndexPlan",
    "VectorIndex",
    "apply_changes",
    "build_index",
    "faiss_module",
    "fold",
    "load_index",
    "save_index",
]
