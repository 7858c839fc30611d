"""What ``embedsvc doctor`` looks at. Each check says what it found; none of them raises."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from embedsvc.collection import Collection, leftovers
from embedsvc.config import Settings, usable_cores
from embedsvc.disk_index import DiskIndex
from embedsvc.encoding import Encoder, encoder_for, load_encoder, parity
from embedsvc.encoding.choices import recorded
from embedsvc.errors import DamagedCollection, EmbedsvcError, MissingDependency
from embedsvc.readers import ocr
from embedsvc.readers.items import Limits
from embedsvc.readers.sandbox import Sandbox, described
from embedsvc.records import Contract
from embedsvc.storage import Store, audit, audit_text_index
from embedsvc.upkeep import INDEX_FOLDER
from embedsvc.vectors import VectorIndex, faiss_module, index_faults
from embedsvc.vectors.measuring import stand_ins
from embedsvc.vectors.recall import Floats, K, estimate, shares
from embedsvc.vectors.segment import RowIds, nearer, none_found

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
    yield Check("packages", True, ", ".join(map(_versioned, _PACKAGES)))
    try:
        yield Check("faiss", True, str(faiss_module().__version__))
    except EmbedsvcError as error:
        yield Check("faiss", False, str(error))
    yield check_sandbox(settings)
    yield _recognition(settings)
    yield _writable("data directory", settings.data_dir)
    yield _writable("cache directory", settings.cache)
    try:
        encoder = load_encoder(settings)
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
    yield _parity(encoder)


def _versioned(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def _parity(encoder: Encoder) -> Check:
    """That there is nothing to compare with is no fault: an export was compared where it was made, and is not used
    otherwise."""
    try:
        found = parity(encoder)
    except MissingDependency as error:
        return Check("parity", True, f"not looked at here. {error}")
    except EmbedsvcError as error:
        return Check("parity", False, str(error))
    told = f"cosine with sentence-transformers fp32: mean {found.mean_cosine:.5f}, least {found.min_cosine:.5f}"
    return Check("parity", found.ok, told)


def check_sandbox(settings: Settings) -> Check:
    """What the process that reads files is kept from on this machine."""
    try:
        with Sandbox(Limits(settings.reader_memory_mb, settings.reader_timeout_s)) as sandbox:
            return Check("sandbox", True, described(sandbox.held()))
    except EmbedsvcError as error:
        return Check("sandbox", False, str(error))


def _recognition(settings: Settings) -> Check:
    """Whether scans and pictures are read. That they are not is no fault: who has some is told by each."""
    if settings.recognised_languages is None:
        return Check("ocr", True, "off")
    program = ocr.program()
    if program is None:
        return Check("ocr", True, "scanned pages and pictures are not read: there is no tesseract on the PATH")
    return Check("ocr", True, f"scanned pages and pictures are read by {program}, in {settings.recognised_languages}")


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


def check_collection(
    name: str,
    settings: Settings,
    *,
    thorough: bool = False,
    load_for: Callable[[Contract, Settings], object] = encoder_for,
) -> list[Check]:
    """Store, contract, vectors and index of one collection; stops at the first that makes the rest meaningless.

    ``thorough``: of every passage, not a sample, and every byte of the index. ``load_for`` gives the encoder that made
    a collection, checked against its contract.
    """
    checks: list[Check] = []
    try:
        collection = Collection.open(name, settings)
        if thorough:
            checks = list(_all_of(collection, settings))
            if any(not check.ok and check.name == f"{name}: index files" for check in checks):
                # To open the index would build it anew, and leave nothing to be told of.
                return [*checks, Check(f"{name}: index", False, f"not looked at; embedsvc collections repair {name}")]
        snapshot = collection.snapshot()
        passages = snapshot.store.count()
    except DamagedCollection as error:
        remedy = f"embedsvc collections repair {name} says which versions can be read"
        return [*checks, Check(f"{name}: store", False, f"{error.fact} {remedy}")]
    except EmbedsvcError as error:
        return [*checks, Check(f"{name}: store", False, str(error))]
    checks.insert(0, Check(f"{name}: store", True, f"version {snapshot.version}, {passages:,} passages"))
    try:
        load_for(collection.contract, settings)
        checks.append(Check(f"{name}: contract", True, f"canaries of {collection.contract.model} agree"))
    except EmbedsvcError as error:
        checks.append(Check(f"{name}: contract", False, str(error)))
    store, index = snapshot.store, snapshot.index
    queries = np.empty((0, collection.contract.dimension), np.float32)
    if passages:
        queries = stand_ins(store.some_vectors(_SAMPLED_ROWS), index.kind, len(index), _RECALL_QUERIES)
    seen = _seen(store, queries, finer=not isinstance(index, DiskIndex))
    wrong = f"{seen.off:,} of {seen.vectors:,} are not of unit length"
    told = wrong if seen.off else f"all {seen.vectors:,} are of unit length"
    checks.append(Check(f"{name}: vectors", seen.off == 0, told))
    sampled = seen.row_ids[:: max(1, len(seen.row_ids) // _SAMPLE)]
    if thorough:
        off = _unlike(store, index, sampled)
        checks.append(Check(f"{name}: index vectors", not off, f"{off} of {len(sampled)} differ from the store's"))
    else:
        some = store.take(sampled.tolist())
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


def _all_of(collection: Collection, settings: Settings) -> Iterator[Check]:
    """What needs no vector index, of every passage and every byte."""
    name, store = collection.name, collection.store()
    found, text_index = audit(store), audit_text_index(store)
    asked = f"finds {text_index.asked:,} passages by a word of each"
    if found.passages and not text_index.asked:
        asked = "not checked: no passage of the sample has a word of 6 to 20 letters, in its index, to ask for"
    for what, faults, well in (
        ("spans", found.spans, f"{found.passages:,} fit their text and their neighbours'"),
        ("documents", found.order, f"the passages of {found.documents:,} give back their text"),
        ("metadata", found.metadata, "all of it is JSON"),
        ("text index", text_index.faults, asked),
        (
            "index files",
            index_faults(settings.data_dir / name / INDEX_FOLDER, store.contract.dimension, store.identity),
            "are as they were written",
        ),
    ):
        more = f" (and {len(faults) - 3:,} more)" if len(faults) > 3 else ""
        yield Check(f"{name}: {what}", not faults, "; ".join(faults[:3]) + more if faults else well)
    yield _older_versions(store, name)
    left = [path.name for path in leftovers(name, settings)]
    hint = f"; embedsvc collections repair {name} removes what no process has in the making" if left else ""
    yield Check(f"{name}: leftovers", True, (", ".join(left) or "none") + hint)


def _older_versions(store: Store, name: str) -> Check:
    """Whether they can be opened. That one cannot is a fault where it is a snapshot; others are of use to nobody."""
    folder, labels = store.path.parent, store.snapshots()
    older = {each for each in {*Store.versions_on_disk(folder), *labels.values()} if each < store.version}
    faults = {each: fault for each in older if (fault := store.fault_of(each)) is not None}
    lost = [
        f"the snapshot {label} (version {labels[label]}) cannot be opened: {faults[labels[label]]} To let go of it: "
        f"embedsvc collections snapshot {name} --delete --label {label}, then embedsvc collections repair {name}"
        for label in sorted(labels)
        if labels[label] in faults
    ]
    others = (faults.keys() - set(labels.values())) & Store.versions_on_disk(folder).keys()  # not removed meanwhile
    remedy = f"embedsvc collections repair {name} removes it, once it is an hour old at the latest"
    told = [f"version {each} cannot be opened; {remedy}" for each in sorted(others)]
    return Check(
        f"{name}: older versions", not lost, "; ".join([*lost, *told[:3]]) or f"all {len(older):,} can be opened"
    )


def _unlike(store: Store, index: VectorIndex | DiskIndex, row_ids: RowIds) -> int:
    """Of these rows, those whose own vector in the index is not that of the store. Of vectors that are none is told
    elsewhere."""
    own = store.own_vectors(row_ids.tolist()) if len(row_ids) else np.empty((0, store.contract.dimension), np.float32)
    good = np.flatnonzero(np.isfinite(own).all(axis=1))
    return sum(not index.scores(own[at], row_ids[at : at + 1])[0] > 0.99 * np.linalg.norm(own[at]) for at in good)


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
    found = none_found(queries)
    for some_ids, some in store.vector_batches(finer=finer):
        vectors += len(some)
        off += int((~(np.abs(np.linalg.norm(some, axis=1) - 1) < 1e-3)).sum())
        rows, copies = np.unique(some_ids, return_counts=True)
        row_ids.append(rows)
        found = nearer(found, queries, some_ids, some, K, int(copies.max()))  # of each passage, its best vector
    return _Seen(vectors, off, np.concatenate([*row_ids, np.empty(0, np.int64)]), found[1])
