"""The one place that imports faiss."""

from __future__ import annotations

from types import ModuleType

from embedsvc.errors import MissingDependency


def faiss_module() -> ModuleType:
    """faiss, whichever build is installed.

    Raises:
        MissingDependency: none is; the message names the extras that bring one.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingDependency(
            "FAISS is not installed. Install one of the extras: pip install 'embedsvc[cpu]' (any machine) "
            "or pip install 'embedsvc[gpu]' (CUDA)."
        ) from error
    module: ModuleType = faiss
    return module
