"""What ``embedsvc doctor`` looks at. Each check says what it found; none of them raises."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from embedsvc.collection import Collection
from embedsvc.config import Settings, usable_cores
from embedsvc.disk_index import DiskIndex
from embedsvc.encoding import encoder_for, load_encoder, parity
from embedsvc.encoding.choices import recorded
from embedsvc.errors import EmbedsvcError
from embedsvc.readers.sandbox import Limits, Sandbox, described
from embedsvc.storage import Store
from embedsvc.vectors import faiss_module
from embedsvc.vectors.measuring import stand_ins
from embedsvc.vectors.recall import Floats, K, estimate, nearest, shares
from embedsvc.vectors.segment import RowIds, best

_PACKAGES = ("torch", "sentence-transformers", "onnxruntime", "pylance", "pyarrow", "fastapi")
_SAMPLE = 1000
_RECALL_QUERIES, _SAMPLED_ROWS = 200, 2000


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    ok: bool
    detail: str


def check_environment(settings: Settings) -> Iterator[Check]:
    """Machine, packages, folders, and the encoder's parity with sentence-transformers on the canary texts."""
    yield Check("machine", True, f"Python {platform.python_version()}, {usable_cores()} cores, {platform.platform()}")
    yield Check("packages", True, ", ".join(f"{name} {version(name)}" for name in _PACKAGES))
    try:
        yield Check("faiss", True, str(faiss_module().__version__))
    except EmbedsvcError as error:
        yield Check("faiss", False, str(error))
    yield check_sandbox(settings)
    yield _writable("data directory", settings.data_dir)
    yield _writable("cache directory", settings.cache)
    try:
        encoder = load_encoder(settings)
        found = parity(encoder)
    except EmbedsvcError as error:
        yield Check("encoder", False, str(error))
        return
    what = f"{encoder.model.name} on {encoder.runtime_name} {encoder.dtype}, {encoder.dimension} dimensions"
    yield Check("encoder", True, f"{what}, window {encoder.max_length} tokens")
    measured = recorded(encoder.model, settings.cache)
    if measured is None:
        yield Check("speed", True, f"not measured on this machine; embedsvc models add {encoder.model.name} does it")
    else:
        chosen = next(c for c in measured.candidates if (c.runtime, c.dtype) == (measured.runtime, measured.dtype))
        speeds = ", ".join(f"{speed:,.0f} at {length} tokens" for length, speed in chosen.tokens_per_s.items())
        yield Check("speed", True, f"{chosen.runtime} {chosen.dtype} was the fastest here: tokens/s {speeds}")
    yield Check(
        "parity",
        found.ok,
        f"cosine with sentence-transformers fp32: mean {found.mean_cosine:.5f}, least {found.min_cosine:.5f}",
    )


def check_sandbox(settings: Settings) -> Check:
    """What the process that reads files is kept from on this machine."""
    try:
        with Sandbox(Limits(settings.reader_memory_mb, settings.reader_timeout_s)) as sandbox:
            return Check("sandbox", True, described(sandbox.held()))
    except EmbedsvcError as error:
        return Check("sandbox", False, str(error))


def _writable(name: str, folder: Path) -> Check:
    """Tried, not asked: root may write where the permission bits say no, and a read-only disk may not."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return Check(name, True, f"{folder.absolute()} is writable")
    except OSError as error:
        return Check(name, False, f"{folder.absolute()} cannot be written: {error.strerror}")


def check_collection(name: str, settings: Settings) -> list[Check]:
    """Store, contract, vectors and index of one collection; stops at the first that makes the rest meaningless."""
    try:
        collection = Collection.open(name, settings)
        snapshot = collection.snapshot()
        passages = snapshot.store.count()
    except EmbedsvcError as error:
        return [Check(f"{name}: store", False, str(error))]
    checks = [Check(f"{name}: store", True, f"version {snapshot.version}, {passages:,} passages")]
    try:
        encoder_for(collection.contract, settings)
        checks.append(Check(f"{name}: contract", True, f"canaries of {collection.contract.model} agree"))
    except EmbedsvcError as error:
        checks.append(Check(f"{name}: contract", False, str(error)))
    store, index = snapshot.store, snapshot.index
    queries = np.empty((0, collection.contract.dimension), np.float32)
    if passages:
        queries = stand_ins(store.some_vectors(_SAMPLED_ROWS), _RECALL_QUERIES)
    seen = _seen(store, queries, finer=not isinstance(index, DiskIndex))
    checks.append(Check(f"{name}: vectors", seen.off == 0, f"{seen.off:,} of {seen.vectors:,} are not of unit length"))
    some = store.take(seen.row_ids[:: max(1, len(seen.row_ids) // _SAMPLE)].tolist())
    broken = sum(len(passage.text) != passage.end - passage.start for passage in some)
    checks.append(Check(f"{name}: spans", broken == 0, f"{broken} of {len(some)} do not fit their text"))
    complete = len(seen.row_ids) == passages and len(index) == seen.vectors
    detail = f"{index.kind}, {len(index):,} of {seen.vectors:,}"
    if seen.vectors != passages:
        detail += f" vectors of {passages:,} passages"
    checks.append(Check(f"{name}: index rows", complete, detail))
    if len(index):
        recall = estimate(shares(index.search_many(queries, K)[1], seen.best))
        detail = f"{recall.mean:.4f} ({recall.low:.4f} to {recall.high:.4f}) over {recall.sample} queries"
        checks.append(Check(f"{name}: index recall@10", recall.high >= settings.target_recall, detail))
    return checks


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one pass over the stored vectors saw: how many there are, how many ``off`` unit length, the passages' row
    ids, and the scores (queries, 10) of the best passages."""

    vectors: int
    off: int
    row_ids: RowIds
    best: Floats


def _seen(store: Store, queries: Floats, *, finer: bool) -> _Seen:
    vectors = off = 0
    row_ids: list[RowIds] = []
    ids, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for some_ids, some in store.vector_batches(finer=finer):
        vectors += len(some)
        off += int((~(np.abs(np.linalg.norm(some, axis=1) - 1) < 1e-3)).sum())
        rows, copies = np.unique(some_ids, return_counts=True)
        row_ids.append(rows)
        near, at = nearest(queries, some, K * int(copies.max()))
        ids, scores = np.concatenate([ids, some_ids[at]], axis=1), np.concatenate([scores, near], axis=1)
        ids, scores = best(ids, scores, K, distinct=not finer)  # of each passage, its best vector
    return _Seen(vectors, off, np.concatenate([*row_ids, np.empty(0, np.int64)]), scores)
