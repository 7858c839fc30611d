"""A collection past memory: the store's own index on the disk, seen as a vector index.

It answers as :class:`~embedsvc.vectors.VectorIndex` does, and knows its recall as that does. What changes in the store
is found at once, for the store searches rows that it has not indexed yet one by one; nothing has to be kept in step. Of
a passage with several vectors only its own counts here.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from embedsvc.errors import StorageFailure
from embedsvc.storage import Store
from embedsvc.storage.store import Floats, RowIds
from embedsvc.vectors import DISK, Recall, carry_on, disk_lists
from embedsvc.vectors.measuring import FEWEST, stand_ins
from embedsvc.vectors.recall import EXACT, K, estimate, shares
from embedsvc.vectors.segment import FLAT, nearer, none_found

log = logging.getLogger(__name__)

_FILE = "disk-index.json"
_SAMPLE = 300
"""Queries that recall is measured with: each is a read of the disk, and their exact answers one pass over it."""
_SAMPLED_ROWS = 2000
_LISTS, _REFINE = (8, 16, 32, 64, 128, 256, 512), 10
_MULTIPLE = 8
"""Of which Lance wants the dimension to be, for codes of one bit each."""
_GROWN = 2
"""The index is made anew when there are so many times as many passages as when it was made."""


@dataclass(frozen=True, slots=True, eq=False)
class DiskIndex:
    """The index of ``store``'s version. ``lists``: into how many of its lists a search looks; 0: there is no index, all
    vectors are read. ``made_of``: passages at that time."""

    store: Store
    lists: int
    recall: Recall
    build_seconds: float
    made_of: int

    parts: tuple[()] = ()
    """No segments."""

    def __len__(self) -> int:
        return self.store.count()

    @property
    def version(self) -> int:
        return self.store.version

    @property
    def kind(self) -> str:
        return DISK if self.lists else FLAT

    @property
    def is_exact(self) -> bool:
        return not self.lists

    @property
    def bytes_resident(self) -> float:
        """Bytes of memory that it always takes: the lists' centres. What the store keeps besides is bounded."""
        return 4.0 * self.store.contract.dimension * disk_lists(self.made_of) if self.lists else 0.0

    @property
    def bytes_per_vector(self) -> float:
        return self.bytes_resident / max(1, len(self))

    def search(self, query: Floats, k: int, among: str | None = None) -> tuple[RowIds, Floats]:
        """The ``k`` nearest rows of one ``query`` (dimension,): row ids and cosines, best first. ``among``: the user's
        SQL: the vectors of all rows that pass are read, for of those the lists that were looked into hold too few.

        Raises:
            BadFilter: it is not SQL over the collection's fields.
        """
        lists = self.lists if among is None else 0
        return self.store.nearest(query, k, lists=lists, refine=_REFINE, where=among)

    def search_many(self, queries: Floats, k: int, among: str | None = None) -> tuple[RowIds, Floats]:
        """As :meth:`search`, of ``queries`` (m, dimension): (m, at most k), -1 and -inf where there are no more."""
        return _lined_up([self.search(query, k, among) for query in queries])

    def exact(
        self, queries: Floats, k: int, among: str | None = None, go_on: Callable[[], None] = carry_on
    ) -> tuple[RowIds, Floats]:
        """As :meth:`search_many`, by all vectors: one pass over the disk, with a filter one for each query."""
        if among is not None:
            return _lined_up([self.store.nearest(query, k, lists=0, refine=1, where=among) for query in queries])
        found = none_found(queries)
        for row_ids, vectors in self.store.vector_batches(finer=False):
            go_on()
            found = nearer(found, queries, row_ids, vectors, k)
        return found

    def scores(self, query: Floats, row_ids: RowIds) -> Floats:
        """Exact cosines of these rows (n,) with ``query`` (dimension,)."""
        scores: Floats = self.store.own_vectors(row_ids.tolist()) @ query
        return scores

    def without(self) -> DiskIndex:
        """Where the store's index finds too little: all vectors are read."""
        return replace(self, lists=0, recall=EXACT)

    def is_due(self) -> bool:
        """Whether it is to be made, or made anew."""
        return len(self) > _GROWN * self.made_of

    def tuned(
        self, target: float, real: Floats, least: int = 0, go_on: Callable[[], None] = carry_on
    ) -> DiskIndex | None:
        """With the least effort, of ``least`` lists, that reaches recall@10 of ``target`` with 95 % confidence, for
        stand-ins for queries and, where there are enough, ``real`` (m, dimension) ones. None: none does."""
        asked = [stand_ins(self.store.some_vectors(_SAMPLED_ROWS), DISK, len(self), _SAMPLE)]
        if len(real) >= FEWEST:
            asked.append(real[-_SAMPLE:])
        truth = np.split(self.exact(np.concatenate(asked), K, go_on=go_on)[1], [len(asked[0])])
        for lists in _LISTS:
            if lists >= least:
                go_on()
                tried = replace(self, lists=lists)
                recalls = [
                    estimate(shares(tried.search_many(queries, K)[1], exact))
                    for queries, exact in zip(asked, truth, strict=False)
                ]
                recall = min(recalls, key=lambda each: each.low)
                if recall.low >= target:
                    return replace(tried, recall=recall)
        return None


def make(store: Store, target: float, real: Floats, folder: Path, go_on: Callable[[], None] = carry_on) -> DiskIndex:
    """Has the store index its vectors, finds the effort that reaches recall@10 of ``target`` (:meth:`DiskIndex.tuned`),
    and writes it down in ``folder``; where none does, searches stay exact. ``go_on`` is called now and then; what it
    raises ends the work. To be called by the one process that writes.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    started, count = time.perf_counter(), store.count()
    if store.chunking.finer:
        log.warning(
            "%s: past memory, passages are found by their own vectors only, not by finer ones", store.path.parent
        )
    store = drop(store, folder)  # what was measured of another index must not be told of this one after a crash
    indexed = DiskIndex(store, 0, EXACT, 0.0, count)
    if store.contract.dimension % _MULTIPLE:
        log.warning("Lance indexes vectors of a multiple of %d dimensions only: searches are exact", _MULTIPLE)
    else:
        indexed = replace(indexed, store=store.index_vectors(disk_lists(count)), lists=_LISTS[0])
        tuned = indexed.tuned(target, real, go_on=go_on)
        if tuned is None:
            log.warning("the store's index of %d vectors does not reach recall %g: searches are exact", count, target)
        indexed = tuned or indexed.without()
    made = replace(indexed, build_seconds=round(time.perf_counter() - started, 3))
    save(made, folder)
    return made


def drop(store: Store, folder: Path) -> Store:
    """The store without its index, and without what was written down about it. To be called by the one that writes."""
    (folder / _FILE).unlink(missing_ok=True)
    return store.drop_vector_index() if store.has_vector_index() else store


def save(index: DiskIndex, folder: Path) -> None:
    """Writes down how ``index`` is to be searched. Raises StorageFailure: the disk is full or not writable."""
    about = {
        "identity": index.store.identity,
        "lists": index.lists,
        "recall": asdict(index.recall),
        "build_seconds": index.build_seconds,
        "made_of": index.made_of,
    }
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")
        temporary.rename(folder / _FILE)
    except OSError as error:
        raise StorageFailure(f"The vector index could not be written under {folder}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(store: Store, folder: Path) -> DiskIndex:
    """The index as it was saved, at the version of ``store``; one that reads all vectors where there is none."""
    try:
        about = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        if about["identity"] != store.identity:
            raise ValueError("it belongs to another collection")
        if store.has_vector_index() or not about["lists"]:
            recall = Recall(**about["recall"])
            return DiskIndex(store, int(about["lists"]), recall, about["build_seconds"], about["made_of"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is not usable (%s); it is built again", folder / _FILE, error)
    return unbuilt(store)


def unbuilt(store: Store) -> DiskIndex:
    """One that reads all vectors."""
    return DiskIndex(store, 0, EXACT, 0.0, 0)


def _lined_up(found: Sequence[tuple[RowIds, Floats]]) -> tuple[RowIds, Floats]:
    width = max((len(ids) for ids, _ in found), default=0)
    ids, scores = np.full((len(found), width), -1, np.int64), np.full((len(found), width), -np.inf, np.float32)
    for line, (some, of) in enumerate(found):
        ids[line, : len(some)], scores[line, : len(of)] = some, of
    return ids, scores
