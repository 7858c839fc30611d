"""Keeps the vector index of one collection in step with its store, and as good as it was asked to be.

Readers take the newest snapshot, and nothing that happens here makes them wait. Whoever holds the write lock folds new
rows into the index on a thread of its own. Where live queries find less than the target, efforts are raised at once;
what that does not mend is built anew as soon as nobody else writes.
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from weakref import WeakMethod

import numpy as np

from embedsvc import disk_index
from embedsvc.config import Settings
from embedsvc.disk_index import DiskIndex
from embedsvc.errors import Conflict, EmbedsvcError, StorageFailure
from embedsvc.storage import Store, index_lock, write_lock
from embedsvc.storage.store import Floats, RowIds
from embedsvc.vectors import (
    DISK,
    Among,
    Background,
    Filters,
    Goal,
    Live,
    VectorIndex,
    apply_changes,
    build,
    carry_on,
    clear,
    ending,
    fold,
    load_index,
    needs_fold,
    of_segment,
    plan,
    raised,
    save_efforts,
    save_index,
    saved_versions,
    set_aside,
    with_segments,
)

log = logging.getLogger(__name__)

INDEX_FOLDER = "faiss"
_FEW = 1000
"""Rows that are named to the store in a lexical search: 5 ms."""
_FILTERS = 1 / 16
"""Share of the index's memory that what is kept of filters may take."""
_LIVE_FILE = "live-queries.npz"
_RETRY, _RETRY_MOST = 30.0, 900.0
"""Seconds until what could not be done in the background is tried again, and how far they are doubled."""

# One for all collections of a process, however many there are.
_background = Background("upkeep")


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
        among = self.passing(condition)
        if condition is not None and isinstance(self.index, VectorIndex):
            self._filters.asked(self.index, condition)
        found = self.index.search(query, k, among)  # type: ignore[arg-type]  # each has its own kind of filter
        self._live.saw(self.index, query, k, condition)
        return found

    def passing(self, condition: str | None) -> Among | str | None:
        """The user's SQL ``condition`` as a search of the index takes it; raises as :meth:`nearest`."""
        return condition if condition is None or isinstance(self.index, DiskIndex) else self._among(condition)

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

    def passes_any(self, condition: str) -> bool:
        """Whether the user's SQL ``condition`` holds for any passage; raises as :meth:`nearest`."""
        if isinstance(self.index, DiskIndex):
            return bool(self.store.some_metadata(condition, 1))
        few = self.index.few(self._among(condition), _FEW)
        return few is None or len(few) > 0

    def _among(self, condition: str) -> Among:
        assert isinstance(self.index, VectorIndex)
        return self._filters.among(self.index, condition, lambda since: self.store.matching(condition, since))


_small_budgets: set[int] = set()
"""Budgets of memory that were told to be too small: once each, not once per collection and look at it."""


class _Stopped(Exception):
    """A fold is not wanted any more."""


class Upkeep:
    """See the module. Any number of threads may call :meth:`current`."""

    def __init__(self, directory: Path, settings: Settings, goal: Goal, store: Store) -> None:
        self.name = directory.name
        self.goal = goal
        self._directory = directory
        self._folder = directory / INDEX_FOLDER
        self._patience = settings.lock_timeout
        self._newest = store
        self._snapshot: Snapshot | None = None
        """None until somebody searches: much of what is done with a collection needs no vector index."""
        self._wanted = False
        """Whether somebody searches, or may come to: then the snapshot stays once it is there."""
        self._refreshing = threading.Lock()
        """Held by the one who loads or builds an index."""
        self._swapping = threading.Lock()
        """Held by the one who puts another snapshot in the place of the newest."""
        self._writing = False
        """Whether this process's own writer is at work."""
        self._added = 0
        """Vectors committed since the last fold in the midst of writing."""
        self._tending: list[Future[None]] = []
        self._looked_after = self._closed = False
        self._retry_at, self._retry_after = math.inf, _RETRY
        self._raised = False
        """Whether efforts were raised that are not saved yet."""
        self.live = Live(
            settings.recall_sample,
            goal.target_recall,
            directory / _LIVE_FILE,
            store.contract.dimension,
            _weakly(self._present),
            _weakly(self._fell_short),
        )
        self._filters = Filters(goal.target_recall, self.live.queries, goal.memory * _FILTERS)

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

    @property
    def bytes_resident(self) -> float:
        """Bytes of memory that the index takes, and what is kept of filters."""
        index = self.loaded
        return 0.0 if index is None else index.bytes_resident + self._filters.nbytes

    def current(self) -> Snapshot:
        """The newest version with its vector index, which is loaded or brought up to date where it has to be.

        While this process's own writer is at work, nobody else commits, and the writer brings the index up to date
        before it acknowledges a commit: searches neither ask the disk nor wait for that. Of what other processes
        commit, the search that finds it first brings the index up to date; those beside it go on with what there is.
        """
        self._wanted = True
        if time.monotonic() >= self._retry_at:
            self._retry_at = math.inf
            self._tend_if_due()
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
            return disk_index.load(store, self._directory)
        saved = self._saved_of(store, None, check=False)
        if saved is None and store.count_vectors() <= self.goal.exact:
            return self.current().index
        return saved

    def look_after(self) -> None:
        """From now on has the index folded in the background whenever it should be, whoever committed the rows, and
        built there where there is none, or one for a lower target. For a process that stays."""
        self._looked_after = self._wanted = True
        self._tend_if_due()

    def _tend_if_due(self) -> None:
        index = self.loaded
        if not self._looked_after or self._writing or index is None:
            return
        if isinstance(index, DiskIndex) or needs_fold(index, self.goal):
            self.tend()

    def _refreshed(self, *, locked: bool) -> Snapshot:
        """``locked``: the caller holds the index lock."""
        store, current = self.store(), self._snapshot
        if current is not None and store.version == current.version:
            return current
        with self._refreshing:
            current = self._snapshot
            if current is not None and store.version <= current.version:
                return current
            index = self._index_for(store, None if current is None else current.index, locked)
            store = index.store if isinstance(index, DiskIndex) else store
            current = Snapshot(self.name, store, index, self._filters, self.live)
            self._swap(lambda _: current)
        self._tend_if_due()
        return current

    def _swap(self, change: Callable[[Snapshot | None], Snapshot | None]) -> None:
        """Puts what ``change`` makes of the newest snapshot in its place, and lets go of what was there before."""
        with self._swapping:
            self._snapshot = change(self._snapshot)
            index = self.loaded
            self._filters.turn_to(index if isinstance(index, VectorIndex) else None)

    def _is_past_memory(self, store: Store) -> bool:
        """Whether not even the most compact codes of the vectors fit the memory that they may take."""
        planned = plan(store.count_vectors(), store.contract.dimension, self.goal)
        if planned.least > self.goal.memory and self.goal.memory not in _small_budgets:
            _small_budgets.add(self.goal.memory)
            log.warning(
                "%s needs %d MB of memory at least for its vector index, and %d are allowed: it is searched through "
                "the store's own index on the disk, as all others that do not fit. Raise index_memory_mb, or put "
                "less into one collection.",
                self.name,
                math.ceil(planned.least / 1e6),
                self.goal.memory // 1_000_000,
            )
        return planned.kind == DISK

    def _index_for(
        self, store: Store, known: VectorIndex | DiskIndex | None, locked: bool, *, aside: Path | None = None
    ) -> VectorIndex | DiskIndex:
        """The index of exactly this store version: the saved or the known one, and what has changed since. ``aside``:
        the vectors of that lie on the disk of that folder, not in memory."""
        known = None if isinstance(known, DiskIndex) else known
        if self._is_past_memory(store):
            on_disk = disk_index.load(store, self._directory)
            # Outgrown, the known one serves on until the other is made, or what came since takes as much again.
            if known is None or not on_disk.is_due() or known.fresh.vectors.nbytes > self.goal.memory:
                return self._made_on_disk(on_disk)
        for source in (known, None):
            index = self._saved_of(store, source) or source
            if index is not None:
                try:
                    return _brought_to(index, store, aside)
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

    def _saved_of(self, store: Store, known: VectorIndex | None, *, check: bool = True) -> VectorIndex | None:
        dimension = store.contract.dimension
        return load_index(self._folder, dimension, store.version, known, identity=store.identity, check=check)

    def _made_on_disk(self, index: DiskIndex) -> DiskIndex:
        """The store's own index, which may bring the store to a later version; made where it has to be, but not in the
        midst of writing. Where it cannot be, searches read all vectors."""
        if index.is_due() and not self._writing:
            try:
                with write_lock(self._directory, 0):
                    return disk_index.make(index.store, self.goal.target_recall, self.live.queries(), self._directory)
            except EmbedsvcError as error:
                log.warning("%s: no vector index can be made now, searches are exact: %s", self.name, error)
        return index

    def _built(self, store: Store, locked: bool) -> VectorIndex | None:
        """An index of all that is in the store, built and saved; None where somebody else is at it, or where nothing
        can be written or fits the memory, and for searches where it will be built in the background: the files of the
        saved one are damaged, say, and a build takes minutes. Searches are exact then."""
        if not locked and (self._writing or self._looked_after):
            return None
        rows, count, dimension = store.vector_batches(), store.count_vectors(), store.contract.dimension
        go_on = _unless_ending if locked else carry_on

        def make() -> VectorIndex:
            segment = build(rows, count, dimension, self.goal, self._folder, self.live.queries(), go_on)
            return of_segment(segment, store.version)

        try:
            with nullcontext() if locked else index_lock(self._directory, 0):
                return self._saved(store, make, kept=1)  # what there was could not be used
        except EmbedsvcError as error:
            log.warning("%s: no vector index can be built now, searches are exact: %s", self.name, error)
            return None

    def _saved(self, store: Store, make: Callable[[], VectorIndex], kept: int = 2) -> VectorIndex:
        """The index that ``make`` gives of this store version; ``kept`` saved versions stay. By the one that holds the
        index lock."""
        self._check_identity()
        # From its beginning on, for it may take long: what came since is told by the difference to this version.
        store.keep(store.version)
        try:
            index = make()
            self._check_identity()
            save_index(index, self._folder, store.identity, kept, store.durability)
            return index
        finally:
            with suppress(EmbedsvcError, ValueError, OSError):  # it is gone, say; else the next one does
                store.keep_only(saved_versions(self._folder))

    # -- for the one that holds the write lock -------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While this lasts, nobody else writes."""
        self._writing, self._added = True, 0
        try:
            self._catch_up()  # with what others committed before: from here on nobody else does
            yield
        finally:
            self._writing = False

    def committed(self, vectors: int) -> None:
        """So many ``vectors`` more were committed: makes them visible to those who search already, and folds once there
        are many, so that searches need not look at more and more rows one by one. Not before the fold under way ends,
        so that there is a moment between two of them in which the store can be maintained."""
        self._catch_up()
        self._added += vectors
        if self._added <= self.goal.exact:
            return
        if self._is_past_memory(self.store()):
            self._added = 0
            if self._snapshot is not None:
                self._try(self._fold_on_disk)  # here and now, for it commits
        elif not self.is_tending:
            self._added = 0
            self.tend()

    def _catch_up(self) -> None:
        if self._snapshot is not None:
            try:
                self._refreshed(locked=False)
            except Exception:
                log.exception("%s: the vector index is loaded anew", self.name)
                self._swap(lambda _: None)

    def fold_on_disk(self, store: Store) -> Store:
        """Has the newest ``store`` index its vectors where their codes are past memory, and forget that index where
        they are not any more; gives the store as it is then. What goes wrong is logged."""
        self._try(self._fold_on_disk)
        return store.latest()

    def purge(self) -> None:
        """Leaves no vector of a row that went on the disk, and only the newest store version kept for the index. Who
        has an older index open goes on with it until its next search.

        Raises:
            Conflict: another process builds the index. StorageFailure: the disk is full or not writable.
        """
        with index_lock(self._directory, self._patience):
            snapshot = self._refreshed(locked=True)
            store, index = snapshot.store, snapshot.index
            if isinstance(index, DiskIndex):
                if store.has_vector_index():
                    index = disk_index.make(store, self.goal.target_recall, self.live.queries(), self._directory)
                    made = index
                    self._swap(lambda now: now and replace(now, store=made.store, index=made))
                clear(self._folder, kept=0)
                store.keep_only(())
            elif not index.parts:
                shutil.rmtree(self._folder, ignore_errors=True)
                store.keep_only(())
            else:
                queries, folder = self.live.queries(), self._folder

                def make() -> VectorIndex:
                    if index.version == index.folded and all(part.alive is None for part in index.parts):
                        return index
                    return fold(index, self.goal, folder, queries, _unless_ending, dead_share=0.0)

                self._put(self._saved(store, make, kept=1))

    def rebuild(self) -> None:
        """Drops the saved index, whatever is wrong with it, and builds it anew from the store. As :meth:`purge`, but
        searches are exact meanwhile.

        Raises:
            StorageFailure: it could not be built, or not be written; searches are exact until it is.
        """
        with index_lock(self._directory, self._patience):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._swap(lambda _: None)
            store = self.store()
            store.keep_only(())
            if self._is_past_memory(store) or store.count_vectors() <= self.goal.exact:
                self._refreshed(locked=True)
                return
            built = self._built(store, locked=True)
            if built is not None:
                self._put(built)
                return
        raise StorageFailure(
            f"The vector index of {self.name!r} could not be built; the log says why. Searches are exact until it is. "
            "Nothing is lost: make room, or whatever it lacks, then run this again."
        )

    def _fold_on_disk(self) -> None:
        store = self.store()
        if not self._is_past_memory(store):
            disk_index.drop(store, self._directory)
            return
        raised, self._raised = self._raised, False  # before the index is taken: it has them then
        try:
            index = self.loaded
            if not isinstance(index, DiskIndex) or index.version != store.version:
                index = disk_index.load(store, self._directory)
            known = index
            if index.is_due():
                queries = self.live.queries()
                index = disk_index.make(store, self.goal.target_recall, queries, self._directory, _unless_ending)
            elif raised:
                disk_index.save(index, self._directory)
        except BaseException:
            self._raised = self._raised or raised
            raise

        def put(now: Snapshot | None) -> Snapshot | None:
            if now is None:
                return None
            meanwhile = now.index
            if isinstance(meanwhile, DiskIndex) and meanwhile.made_of == index.made_of and meanwhile is not known:
                return replace(now, store=index.store, index=replace(meanwhile, store=index.store))  # raised
            return replace(now, store=index.store, index=index)

        self._swap(put)

    # -- for the one that holds the index lock -------------------------------------------------------------------

    def fold(self) -> None:
        """Makes a segment of the rows that no segment of the vector index holds, where there are enough of them, and
        saves the index where no such rows are left; commits and searches go on meanwhile. What goes wrong is logged,
        for all that was committed can be found without."""
        self.settle()
        self._try(lambda: self._fold(self._patience, _unless_ending))

    def settle(self) -> None:
        """Returns when nothing is done in the background."""
        with self._swapping:
            tending = tuple(self._tending)
        for each in tending:
            if not each.cancel():
                each.exception()  # waits

    def _fold(self, timeout: float, go_on: Callable[[], None]) -> None:
        with index_lock(self._directory, timeout):
            if self._snapshot is None and self._is_folded(self.store()):
                return
            if not self._wanted:
                self._fold_unseen(go_on)
                return
            raised, self._raised = self._raised, False  # before the snapshot is taken: it has them then
            try:
                snapshot = self._refreshed(locked=True)
                if self._is_past_memory(snapshot.store):
                    self._raised = self._raised or raised
                    return
                made = self._folded(snapshot, go_on, raised)
            except BaseException:
                self._raised = self._raised or raised
                raise
            if made is not None:
                self._put(made)

    def _fold_unseen(self, go_on: Callable[[], None]) -> None:
        """As :meth:`_fold`, where nobody searches: an ingest that goes on for long has no use for the index, and would
        keep in memory what it commits while it is folded."""
        store = self.store()
        if self._is_past_memory(store):
            return
        index = self._index_for(store, None, locked=True, aside=self._folder)
        self._folded(Snapshot(self.name, store, index, self._filters, self.live), go_on, raised=False)

    def _is_folded(self, store: Store) -> bool:
        """Whether the saved index is that of this very version and as good as it should be, or there are so few vectors
        that there is none. Told without reading vectors or codes, for a run that found nothing new."""
        if not self._folder.exists():
            return store.count_vectors() <= self.goal.exact
        saved = self._saved_of(store, None, check=False)
        return saved is not None and saved.version == store.version and not needs_fold(saved, self.goal)

    def _folded(self, snapshot: Snapshot, go_on: Callable[[], None], raised: bool) -> VectorIndex | None:
        """Another index for the snapshot, which is saved; None: there is nothing to be changed. ``raised``: its efforts
        are to be saved in any case."""
        index, store = snapshot.index, snapshot.store
        if isinstance(index, DiskIndex):  # no other could be built when it was loaded
            made = self._index_for(store, None, locked=True)
            return None if isinstance(made, DiskIndex) else made
        if needs_fold(index, self.goal):
            saved = self._saved_of(store, index)
            if saved is not None and saved.version == store.version and not needs_fold(saved, self.goal):
                return saved  # another process was at it
            kept = 2 if index.parts else 1  # what there was could not be used
            return self._saved(store, lambda: fold(index, self.goal, self._folder, self.live.queries(), go_on), kept)
        if not index.parts:
            if self._folder.exists():
                self._check_identity()
                shutil.rmtree(self._folder, ignore_errors=True)
                store.keep_only(())
        elif len(index.fresh):
            if raised:
                save_efforts(index, self._folder, store.durability)
        elif raised or index.version != index.folded:
            return self._saved(store, lambda: replace(index, folded=index.version))
        return None

    def _check_identity(self) -> None:
        """Raise Conflict where another table lies there by now: what is written here would be read as its index."""
        if Store.open(self._directory).identity != self._newest.identity:
            raise Conflict(f"The collection {self.name!r} was replaced by another meanwhile. Open it again.")

    def _put(self, made: VectorIndex) -> None:
        """Has searches use this index, with what came since."""
        with self._refreshing:  # so that the version stays while what came since is read
            current = self._snapshot
            if current is None or self._is_past_memory(current.store):
                return
            later = _brought_to(made, current.store)

            def put(now: Snapshot | None) -> Snapshot | None:
                if now is None or now.version != later.version:
                    return now
                index = later
                if isinstance(now.index, VectorIndex):  # whose efforts may have been raised meanwhile
                    index = with_segments(later, {part.segment.name: part.segment for part in now.index.parts})
                return replace(now, index=index)

            self._swap(put)
        self._tend_if_due()

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Stopped:
            log.info("%s: the vector index was not folded: it is not wanted any more", self.name)
        except Exception as error:
            if not self._directory.exists():
                return
            self._retry_later()
            if isinstance(error, EmbedsvcError):
                log.warning("%s: the vector index stays as it is: %s", self.name, error)
            else:
                log.exception("%s: the vector index stays as it is", self.name)

    def _retry_later(self) -> None:
        """Has a search after a while look whether there is something to fold still: nobody may write for days."""
        self._retry_at = time.monotonic() + self._retry_after
        self._retry_after = min(2 * self._retry_after, _RETRY_MOST)

    def _go_on(self) -> None:
        if self._closed:
            raise _Stopped
        _unless_ending()

    # -- in the background ---------------------------------------------------------------------------------------

    def _present(self, condition: str | None) -> tuple[VectorIndex | DiskIndex, Among | str | None] | None:
        """The index that live queries are measured in, and what passes the user's SQL ``condition`` there; None where
        nobody searches any more, or the store cannot tell."""
        snapshot = self._snapshot
        if snapshot is not None:
            with suppress(EmbedsvcError):
                return snapshot.index, snapshot.passing(condition)
        return None

    def _fell_short(self, filtered: bool) -> None:
        """Live queries found less than the target."""
        if filtered:
            self._filters.distrust()
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
        self._swap(lambda now: None if now is None else replace(now, index=change(now.index)))

    @property
    def is_tending(self) -> bool:
        """Whether something is done in the background, or will be."""
        return any(not each.done() for each in tuple(self._tending))

    def tend(self) -> None:
        """Folds soon, in the background, where there is something to fold that nobody else is folding by then."""
        # Of several threads that come at once each may submit: the later ones find nothing to do.
        if all(each.running() or each.done() for each in tuple(self._tending)):
            submitted = _background.submit(self._tend)
            with self._swapping:
                self._tending = [*(each for each in self._tending if not each.done()), submitted]

    def close(self) -> None:
        """Lets go of the index, and gives up what :meth:`tend` does, now and later: the collection is not searched here
        any more, though somebody may still be writing to it."""
        self._closed = True
        self._swap(lambda _: None)

    def _tend(self) -> None:
        if not self._closed:
            self._try(self._fold_if_free)
        if not self._closed and self.loaded is not None and self._is_past_memory(self.store()):
            self._try(self._fold_on_disk_if_free)

    def _fold_if_free(self) -> None:
        try:
            self._fold(0, self._go_on)
            self._retry_after = _RETRY
        except Conflict:  # whoever has the lock is folding: what comes of that is taken over then
            self._retry_later()

    def _fold_on_disk_if_free(self) -> None:
        with suppress(Conflict), write_lock(self._directory, 0), self.writing():  # who writes will fold
            self._check_identity()
            self._fold_on_disk()


_Asked = TypeVar("_Asked")
_Given = TypeVar("_Given")


def _weakly(method: Callable[[_Asked], _Given]) -> Callable[[_Asked], _Given | None]:
    """``method`` while there is whose it is. Held in a ring, what is closed would stay until the garbage collector
    comes by, with its memory and files."""
    own = WeakMethod(method)

    def call(asked: _Asked) -> _Given | None:
        there = own()
        return None if there is None else there(asked)

    return call


def _unless_ending() -> None:
    if ending():
        raise _Stopped


def _brought_to(index: VectorIndex, store: Store, aside: Path | None = None) -> VectorIndex:
    """``index`` at the version of ``store``, which is the same or a later one. ``aside``: see ``_index_for``."""
    if index.version == store.version:
        return index
    if aside is not None:
        deleted = store.deleted_since(index.version)
        row_ids, vectors = set_aside(store.vector_batches(since=index.version), index.dimension, aside)
        return apply_changes(index, row_ids, vectors, deleted, store.version)
    changes = store.changes_since(index.version)
    return apply_changes(index, changes.row_ids, changes.vectors, changes.deleted, store.version)
