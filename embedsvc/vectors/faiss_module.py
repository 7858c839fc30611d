"""The one place that imports faiss."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def gently() -> Iterator[None]:
    """What this thread lets FAISS do meanwhile runs on one core, and comes after what others do there. For a thread
    that does nothing else: where the system allows it (Linux), its priority stays low."""
    faiss = faiss_module()
    threads = faiss.omp_get_max_threads()
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
    faiss.omp_set_num_threads(1)  # of this thread only
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
