"""Keeps the vector index of one collection in step with its store, and as good as it was asked to be.

Readers take the newest snapshot, and nothing that happens here makes them wait. Whoever holds the write lock folds new
rows into the index on a thread of its own. Where live queries find less than the target, efforts are raised at once;
what that does not mend is built anew as soon as nobody else writes.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedsvc import disk_index
from embedsvc.config import Settings
from embedsvc.disk_index import DiskIndex
from embedsvc.errors import Conflict, EmbedsvcError, UsageError
from embedsvc.storage import Store, write_lock
from embedsvc.storage.store import Floats, RowIds
from embedsvc.vectors import (
    DISK,
    Among,
    Filters,
    Goal,
    Live,
    VectorIndex,
    apply_changes,
    build,
    carry_on,
    fold,
    gently,
    load_index,
    needs_fold,
    of_segment,
    plan,
    raised,
    save_index,
    saved_versions,
    with_segments,
)

log = logging.getLogger(__name__)

_INDEX_FOLDER = "faiss"
_FEW = 1000
"""Rows that are named to the store in a lexical search: 5 ms."""
_COPIES = 1 / 16
"""Share of the index's memory that codes copied for filters may take."""
_LIVE_FILE = "live-queries.npz"

# Builds that nobody waits for, one after the other however many collections a process has open.
_pool = ThreadPoolExecutor(1, thread_name_prefix="upkeep")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A collection at one store version: what a search sees from its first step to its last."""

    name: str
    store: Store
    index: VectorIndex | DiskIndex
    _filters: Filters
    _live: Live

    @property
    def version(self) -> int:
        return self.store.version

    def nearest(self, query: Floats, k: int, condition: str | None = None) -> tuple[RowIds, Floats]:
        """Row ids and cosines of the ``k`` rows nearest to ``query`` (dimension,), best first, of those for which the
        user's SQL ``condition`` holds.

        Raises:
            BadFilter: it is not SQL, or the store cannot evaluate it.
        """
        if condition is None or isinstance(self.index, DiskIndex):
            among: Among | str | None = condition
        else:
            among = self._among(condition)
            self._filters.asked(self.index, condition)
        found = self.index.search(query, k, among)  # type: ignore[arg-type]  # each has its own kind of filter
        self._live.saw(self.index, query, k, among)
        return found

    def lexical(self, query: str, k: int, condition: str | None = None) -> tuple[RowIds, Floats]:
        """As :meth:`Store.lexical`, of the rows for which the user's SQL ``condition`` holds.

        The store would evaluate the condition for every query, for all rows. Which rows pass is known here: few are
        named to it; where they are many, it is asked for more and more of what matches, until enough of that passes.
        The scores are the same.

        Raises:
            BadFilter: it is not SQL, or the store cannot evaluate it.
        """
        if condition is None or isinstance(self.index, DiskIndex):
            return self.store.lexical(query, k, where=condition)
        among, wanted = self._among(condition), k
        few = self.index.few(among, _FEW)
        if few is not None:
            return self.store.lexical(query, k, among=few.tolist())
        while True:
            ids, scores = self.store.lexical(query, wanted)
            passing = np.flatnonzero(self.index.passing(ids, among))
            if len(passing) >= k or len(ids) < wanted:
                return ids[passing[:k]], scores[passing[:k]]
            wanted *= 10

    def _among(self, condition: str) -> Among:
        assert isinstance(self.index, VectorIndex)
        return self._filters.among(self.index, condition, lambda since: self.store.matching(condition, since))


class _Stopped(Exception):
    """A fold is not wanted any more."""


class Upkeep:
    """See the module. Any number of threads may call :meth:`current`."""

    def __init__(self, directory: Path, settings: Settings, goal: Goal, store: Store) -> None:
        self.name = directory.name
        self.goal = goal
        self._directory = directory
        self._folder = directory / _INDEX_FOLDER
        self._newest = store
        self._snapshot: Snapshot | None = None
        """None until somebody searches: much of what is done with a collection needs no vector index."""
        self._refreshing = threading.Lock()
        self._counting = threading.Lock()
        self._writing = self._folds = self._tending = self._closed = False
        self._waiting = 0
        self._added = 0
        self._folding: threading.Thread | None = None
        self._stop = threading.Event()
        self._raised = False
        """Whether efforts were raised that are not saved yet."""
        self.live = Live(
            settings.recall_sample,
            goal.target_recall,
            directory / _LIVE_FILE,
            store.contract.dimension,
            self._fell_short,
        )
        self._filters = Filters(goal.target_recall, self.live.queries, goal.memory * _COPIES)

    # -- for those who read --------------------------------------------------------------------------------------

    def store(self) -> Store:
        """The store at its newest version, whichever process committed it. Costs microseconds when nothing changed."""
        newest = self._newest.latest()
        if newest.version > self._newest.version:
            self._newest = newest
        return newest

    @property
    def loaded(self) -> VectorIndex | DiskIndex | None:
        """The index of the snapshot that there is already, of whatever version."""
        snapshot = self._snapshot
        return None if snapshot is None else snapshot.index

    def current(self) -> Snapshot:
        """The newest version with its vector index, which is loaded or brought up to date where it has to be.

        While this process's own writer is at work, nobody else commits, and the writer brings the index up to date
        before it acknowledges a commit: searches neither ask the disk nor wait for that. Of what other processes
        commit, the search that finds it first brings the index up to date; those beside it go on with what there is.
        """
        current = self._snapshot
        if current is not None and (self._writing or self._refreshing.locked()):
            return current
        return self._refreshed(locked=False)

    def known(self) -> VectorIndex | DiskIndex | None:
        """The index to tell about, without building or checking one: the loaded one, else the saved one as it was then.
        None: it is not built yet."""
        if self.loaded is not None:
            return self.loaded
        store = self.store()
        if self._is_past_memory(store):
            return disk_index.load(store, self._folder)
        saved = load_index(self._folder, store.contract.dimension, store.version, check=False)
        if saved is None and store.count_vectors() <= self.goal.exact:
            return self.current().index
        return saved

    def look_after(self) -> None:
        """Has the index built anew in the background where it was built for a lower target, or should be folded."""
        index = self.loaded
        if isinstance(index, VectorIndex) and needs_fold(index, self.goal):
            self.tend()

    def _refreshed(self, *, locked: bool) -> Snapshot:
        """``locked``: the caller holds the write lock."""
        store, current = self.store(), self._snapshot
        if current is not None and store.version == current.version:
            return current
        with self._refreshing:
            current = self._snapshot
            if current is None or store.version > current.version:
                index = self._index_for(store, None if current is None else current.index, locked)
                store = index.store if isinstance(index, DiskIndex) else store
                self._snapshot = current = Snapshot(self.name, store, index, self._filters, self.live)
            return current

    def _is_past_memory(self, store: Store) -> bool:
        """Whether not even the most compact codes of the vectors fit the memory that they may take."""
        try:
            return plan(store.count_vectors(), store.contract.dimension, self.goal).kind == DISK
        except UsageError as error:
            log.warning("%s: %s", self.name, error)
            return True

    def _index_for(self, store: Store, known: VectorIndex | DiskIndex | None, locked: bool) -> VectorIndex | DiskIndex:
        """The index of exactly this store version: the saved or the known one, and what has changed since."""
        if self._is_past_memory(store):
            return self._index_on_disk_for(store)
        known = None if isinstance(known, DiskIndex) else known
        for source in (known, None):
            index = load_index(self._folder, store.contract.dimension, store.version, source) or source
            if index is not None:
                try:
                    return _brought_to(index, store)
                except (ValueError, OSError, RuntimeError) as error:  # the older version was cleaned up, say
                    log.warning("%s: no difference to version %s (%s)", self.name, index.version, error)
        count, dimension = store.count_vectors(), store.contract.dimension
        built = self._built(store, locked) if count > self.goal.exact else None
        if built is not None:
            return built
        if count > self.goal.exact and 4 * dimension * count > self.goal.memory:
            return disk_index.unbuilt(store)
        row_ids, vectors = store.vectors()
        none = row_ids[:0]
        return apply_changes(VectorIndex.empty(dimension), row_ids, vectors, none, store.version)

    def _index_on_disk_for(self, store: Store) -> DiskIndex:
        """The store's own index, which may bring the store to a later version; made where it has to be, but not in the
        midst of writing. Where it cannot be, searches read all vectors."""
        index = disk_index.load(store, self._folder)
        if index.is_due() and not self._writing:
            try:
                with write_lock(self._directory, 0):
                    return disk_index.make(store, self.goal.target_recall, self.live.queries(), self._folder)
            except EmbedsvcError as error:
                log.warning("%s: no vector index can be made now, searches are exact: %s", self.name, error)
        return index

    def _built(self, store: Store, locked: bool) -> VectorIndex | None:
        """An index of all that is in the store, built and saved; None where somebody else writes, who will do that, or
        where nothing can be written or fits the memory. Searches are exact then."""
        if self._writing and not locked:
            return None
        try:
            with nullcontext() if locked else write_lock(self._directory, 0):
                rows, count, dimension = store.vector_batches(), store.count_vectors(), store.contract.dimension
                go_on = self._go_on if locked else carry_on
                segment = build(rows, count, dimension, self.goal, self._folder, self.live.queries(), go_on)
                return self._saved(of_segment(segment, store.version), store)
        except EmbedsvcError as error:
            log.warning("%s: no vector index can be built now, searches are exact: %s", self.name, error)
            return None

    def _saved(self, index: VectorIndex, store: Store) -> VectorIndex:
        # Kept before it is saved: a saved index whose version is cleaned up could not be brought up to date.
        store.keep(index.version)
        save_index(index, self._folder)
        store.keep_only(saved_versions(self._folder))
        return index

    # -- for the one that holds the write lock -------------------------------------------------------------------

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Around waiting for the write lock: what :meth:`tend` does with it is given up."""
        with self._counting:
            self._waiting += 1
        try:
            yield
        finally:
            with self._counting:
                self._waiting -= 1

    @contextmanager
    def writing(self, *, fold: bool) -> Iterator[None]:
        """While this lasts, nobody else writes. With ``fold``, rows are folded in meanwhile; a fold that is under way
        when an error ends it is given up."""
        self._catch_up()  # with what others committed before: from here on nobody else does
        self._writing, self._folds = True, fold
        self._stop.clear()
        try:
            yield
        except BaseException:
            self._stop.set()
            raise
        finally:
            self.settle()
            self._writing = False

    def settle(self) -> None:
        """Waits for the fold that is under way."""
        if self._folding is not None:
            self._folding.join()
            self._folding = None

    def committed(self, vectors: int) -> None:
        """So many ``vectors`` more were committed: makes them visible to those who search already, and folds once there
        are many, so that searches need not look at more and more rows one by one."""
        self._catch_up()
        self._added += vectors
        # The store keeps its own index up to date itself.
        folds = self._folds and not isinstance(self.loaded, DiskIndex)
        if folds and self._added > self.goal.exact and (self._folding is None or not self._folding.is_alive()):
            self._added = 0
            self._folding = threading.Thread(target=self._fold_gently, name="fold", daemon=True)
            self._folding.start()

    def _catch_up(self) -> None:
        if self._snapshot is not None:
            try:
                self._refreshed(locked=True)
            except Exception:
                log.exception("%s: the vector index is loaded anew", self.name)
                self._snapshot = None

    def _fold_gently(self) -> None:
        with gently():
            self._try(self._fold)

    def fold(self) -> None:
        """Makes a segment of the rows that no segment of the vector index holds, where there are enough of them, and
        saves the index where no such rows are left; searches go on meanwhile. What goes wrong is logged, for all that
        was committed can be found without. Not while a commit is under way."""
        self._try(self._fold)
        self._try(self._fold_on_disk)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Stopped:
            log.info("%s: the vector index was not folded: the writer gave up", self.name)
        except EmbedsvcError as error:
            log.warning("%s: the vector index stays as it is: %s", self.name, error)
        except Exception:
            log.exception("%s: the vector index stays as it is", self.name)

    def _fold(self) -> None:
        snapshot = self._refreshed(locked=True)
        index, raised_before = snapshot.index, self._raised
        if isinstance(index, DiskIndex):
            return
        self._raised = False
        if needs_fold(index, self.goal):
            index = fold(index, self.goal, self._folder, self.live.queries(), self._go_on)
        elif not index.parts:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        elif len(index.fresh) or (index.version == index.folded and not raised_before):
            return
        self._saved(index, snapshot.store)
        with self._refreshing:
            current = self._snapshot or snapshot
            if isinstance(current.index, VectorIndex):
                # Efforts may have been raised meanwhile.
                kept = {part.segment.name: part.segment for part in current.index.parts}
                self._snapshot = replace(current, index=with_segments(_brought_to(index, current.store), kept))

    def _fold_on_disk(self) -> None:
        """Has the store index its vectors where their codes are past memory, and forget that index where they are not
        any more."""
        snapshot = self._refreshed(locked=True)
        index = snapshot.index
        if not isinstance(index, DiskIndex):
            if snapshot.store.has_vector_index():
                snapshot.store.drop_vector_index()
        elif index.is_due():
            made = disk_index.make(index.store, self.goal.target_recall, self.live.queries(), self._folder)
            with self._refreshing:
                self._snapshot = replace(snapshot, store=made.store, index=made)
        elif self._raised:
            self._raised = False
            disk_index.save(index, self._folder)

    def _go_on(self) -> None:
        if self._stop.is_set() or (self._tending and (self._waiting or self._closed)):
            raise _Stopped

    # -- in the background ---------------------------------------------------------------------------------------

    def _fell_short(self, filtered: bool) -> None:
        """Live queries found less than the target."""
        if filtered:
            self._filters.distrust()
        with self._refreshing:
            snapshot = self._snapshot
        if snapshot is None or filtered:
            return
        target, queries = self.goal.target_recall, self.live.queries()
        index = snapshot.index
        if isinstance(index, DiskIndex):
            harder = index.tuned(target, queries, least=index.lists + 1) or index.without()
            self._change(lambda now: replace(harder, store=now.store) if isinstance(now, DiskIndex) else now)
        else:
            changed = raised(index, target, queries)
            self._change(lambda now: with_segments(now, changed) if isinstance(now, VectorIndex) else now)
        self._raised = True
        self.tend()

    def _change(self, change: Callable[[VectorIndex | DiskIndex], VectorIndex | DiskIndex]) -> None:
        """Puts another index into the newest snapshot, which may be a later one by now."""
        with self._refreshing:
            if self._snapshot is not None:
                self._snapshot = replace(self._snapshot, index=change(self._snapshot.index))

    def tend(self) -> None:
        """Folds soon, on a thread in the background, where there is something to fold and nobody writes by then."""
        _pool.submit(self._tend)

    def close(self) -> None:
        """Gives up what :meth:`tend` does, now and later: the process ends, and its threads are waited for."""
        self._closed = True

    def _tend(self) -> None:
        try:
            with gently(), write_lock(self._directory, 0), self.writing(fold=False):
                self._tending = True
                self.fold()
        except Conflict:
            pass  # whoever writes will fold
        except Exception:
            log.exception("%s: the vector index stays as it is", self.name)
        finally:
            self._tending = False


def _brought_to(index: VectorIndex, store: Store) -> VectorIndex:
    """``index`` at the version of ``store``, which is the same or a later one."""
    if index.version == store.version:
        return index
    changes = store.changes_since(index.version)
    return apply_changes(index, changes.row_ids, changes.vectors, changes.deleted, store.version)
