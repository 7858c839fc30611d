"""Inputs → documents that are new or changed, being cut; of all the rest is told at once what becomes of it.

A thread reads ahead, within a bound, what another one takes and commits; more threads tokenise and cut.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from embedsvc import __version__
from embedsvc.aside import Aside, Laid
from embedsvc.chunking import Chunks, chunk
from embedsvc.collection import Collection
from embedsvc.config import OnDuplicate, Settings, usable_cores
from embedsvc.encoding import Encoder
from embedsvc.errors import ReadError
from embedsvc.filling import waited
from embedsvc.likeness import Likeness
from embedsvc.outcomes import CLASHES, INTO, Like, Outcome, reason_of
from embedsvc.readers import FieldChoice, FoundFile, Rejected, legacy, ocr
from embedsvc.readers.items import Limits, is_final
from embedsvc.readers.sandbox import Sandbox
from embedsvc.records import Document, Metadata, Source, document_id, hash_with
from embedsvc.storage import Store
from embedsvc.storage.store import Known
from embedsvc.unread import Inputs, Taken, Told

Input = FoundFile | Source | Document | Rejected

MOST_ASKED = 1000
"""Inputs: of fewer, no more than what is stored of them is asked for."""
_READER_SECONDS = 10.0
"""A reader that was told to stop is waited for at most so long."""
_LASTING = frozenset({"unsupported", "binary", "locked", "damaged", "too_large", "encoding", "missing_field"})
"""Reasons that stay as long as the bytes do. Others (no time, no memory, a program that was not there) may not."""


@dataclass(frozen=True, slots=True)
class Read:
    """A document that is being tokenised and cut, on a thread beside that which reads."""

    document: Document
    chunking: Future[tuple[Chunks, float]]
    """With the seconds that it took."""
    replaces: bool
    like: Like | None
    is_dropped: bool
    """It goes on with no passage, so that those of its earlier edition go."""
    seconds: float

    def result(self, meanwhile: Callable[[], None]) -> Chunked:
        chunks, seconds = waited(self.chunking, meanwhile)
        return Chunked(self.document, chunks, self.replaces, self.like, self.is_dropped, self.seconds + seconds)


@dataclass(frozen=True, slots=True)
class Chunked:
    document: Document
    chunks: Chunks
    replaces: bool
    like: Like | None
    is_dropped: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Met:
    """What is met on the way through the input ``uri``, and what ``share`` of that is done with it; None: its end."""

    uri: str
    share: float
    what: Read | Outcome | None


class Intake:
    """Reads ahead while it is entered, for the one thread that asks for what is met."""

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder,
        items: Iterable[Input],
        fields: FieldChoice,
        known: Mapping[str, Known],
        latest: Callable[[], Store],
        *,
        within: Sequence[str],
        max_file_mb: int,
        duplicates: OnDuplicate,
        characters: int,
    ) -> None:
        """``known``: by id, what is stored of the documents that may come of ``items``; ``latest``: the store as it is
        by then; ``within``: uris below which documents vanish whose input is not met; ``characters``: of text that are
        read ahead at most, but for a document that is larger."""
        limits = _limits(collection.settings, max_file_mb)
        directory = collection.settings.data_dir / collection.name
        self._items, self._within = items, within
        self._ahead: queue.Queue[Met | BaseException | None] = queue.Queue(maxsize=256)
        self._room = _Room(characters)
        self._stop = threading.Event()
        self._sandbox = Sandbox(limits)
        self._inputs = Inputs(directory, repr((__version__, fields, limits, ocr.program(), legacy.program())))
        self._chunkers = ThreadPoolExecutor(usable_cores(), thread_name_prefix="chunker")
        self._likeness = Likeness(duplicates, latest(), directory)
        self._reading = _Reading(known, lambda ids: latest().passage_counts(ids))
        self._thread = threading.Thread(target=self._read_ahead, name="reader", daemon=True)
        reserved = encoder.reserved("passage")

        def read(source: Source) -> Iterator[Document | Rejected]:
            return (_with_own(item, source.metadata) for item in self._sandbox.read(source, fields))

        def chunked(document: Document) -> tuple[Chunks, float]:
            started = time.perf_counter()
            chunks = chunk(document, encoder.tokenizer, collection.chunking, reserved=reserved)
            return chunks, time.perf_counter() - started

        def chunk_apart(document: Document) -> Future[tuple[Chunks, float]]:
            return self._chunkers.submit(chunked, document)

        self._reader = _Reader(
            self._reading, read, lambda: self._sandbox.share, chunk_apart, self._likeness, self._inputs, within
        )

    def __enter__(self) -> Intake:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._sandbox.close()
        # It ends at its next look at `stop`. Where an interrupt struck inside a lock that the two share, it never
        # comes to that; being a daemon, it holds up nothing.
        self._thread.join(_READER_SECONDS)
        self._inputs.close()
        self._chunkers.shutdown(wait=False, cancel_futures=True)

    def met(self, timeout: float) -> Met | None:
        """What is met next; None: that was all.

        Raises:
            queue.Empty: there is nothing within ``timeout`` seconds. And whatever ended the reading.
        """
        item = self._ahead.get(timeout=timeout)
        if isinstance(item, BaseException):
            raise item
        return item

    def cut(self, read: Read, meanwhile: Callable[[], None]) -> Chunked:
        """``read`` once it is cut, in the place of which more is read ahead; ``meanwhile`` is called until then."""
        chunked = read.result(meanwhile)
        self._room.give(len(chunked.document.text))
        return chunked

    def vanished(self) -> list[tuple[str, str]]:
        """(document id, uri) of what is stored and not there any more, once all was met."""
        return _vanished(self._reading, self._within)

    def keep(self, store: Store) -> None:
        """Once all is committed, in ``store``: what the next run need not read, and signatures, are kept."""
        _keep_taken(self._inputs, store, self._reading)
        self._thread.join()  # it keeps the signatures
        self._likeness.come_in_step(store)

    def _read_ahead(self) -> None:
        try:
            for met in self._reader.read_all(self._items):
                self._room.take(len(met.what.document.text) if isinstance(met.what, Read) else 0, self._stop)
                self._put(met)
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            self._likeness.close()
            self._reading.undecided.close()

    def _put(self, item: Met | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._ahead.put(item, timeout=0.1)
                return
            except queue.Full:
                continue


@dataclass(slots=True)
class _Reading:
    """What the reading thread has learnt so far; read by others only after it has ended."""

    known: Mapping[str, Known]
    """By document id, as stored before: all documents, or those of the inputs."""
    count: Callable[[Iterable[str] | None], Mapping[str, int]]
    """As :meth:`Store.passage_counts`, of the store as it is by then."""
    by_source: dict[str, list[str]] = field(default_factory=dict)
    """Source uri → ids of the stored documents that came out of it (a JSONL file has many)."""
    seen: set[str] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)
    gone: list[tuple[str, str]] = field(default_factory=list)
    """(document id, uri) of stored records that their re-read file no longer has."""
    taken: dict[str, Taken] = field(default_factory=dict)
    """By uri: inputs that need not be read again while they and the store stay as they are by the end of the run."""
    counts: Mapping[str, int] | None = None
    """Passages by document id, of all that are known, once one of them is asked for."""
    undecided: Aside = field(default_factory=Aside)
    """Inputs to be read again for some of their documents."""

    def __post_init__(self) -> None:
        for id, document in self.known.items():
            if document.source is not None:
                self.by_source.setdefault(document.source, []).append(id)

    def hash_of(self, id: str) -> str | None:
        """As stored before; None for a document that was not there."""
        return self.known[id].hash if id in self.known else None

    def unchanged(self, id: str, uri: str, started: float) -> Outcome:
        """What there is to tell of a document that is known and the same."""
        if self.counts is None:
            self.counts = self.count(self.known if len(self.known) < MOST_ASKED else None)
        return Outcome(uri, "unchanged", self.counts[id], seconds=time.perf_counter() - started)

    def stored_of(self, uri: str) -> dict[str, str]:
        """Hash by document id of what was stored of that input before."""
        return {id: self.known[id].hash for id in self.by_source.get(uri, ())}


def _with_own(item: Document | Rejected, metadata: Metadata) -> Document | Rejected:
    if isinstance(item, Rejected) or not metadata:
        return item
    return replace(item, metadata={**item.metadata, **metadata}, hash=hash_with(item.hash, metadata))


def _limits(settings: Settings, max_file_mb: int) -> Limits:
    return Limits(
        settings.reader_memory_mb,
        settings.reader_timeout_s,
        settings.ocr_timeout_s,
        settings.recognised_languages,
        max_file_mb,
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Inputs → documents, on a thread of their own: what is new or changed goes on to be cut, of the rest is told what
    becomes of it."""

    reading: _Reading
    read: Callable[[Source], Iterator[Document | Rejected]]
    share_read: Callable[[], float]
    """Of the input that ``read`` reads, what is read with the item that it gave last."""
    chunk_apart: Callable[[Document], Future[tuple[Chunks, float]]]
    likeness: Likeness
    inputs: Inputs
    within: Sequence[str]

    def read_all(self, items: Iterable[Input]) -> Iterator[Met]:
        for item in items:
            share = 1.0
            for what in self._read_input(item):
                share = self.share_read()
                yield Met(item.uri, share, what)
            if share < 1:
                yield Met(item.uri, 1.0, None)
        self.likeness.forget([id for id, _ in _vanished(self.reading, self.within)])
        yield from self._decide()

    def _read_input(self, item: Input) -> Iterator[Read | Outcome]:
        started = time.perf_counter()
        uri = item.uri
        try:
            if isinstance(item, Rejected):
                raise item.error
            if isinstance(item, Document):
                yield from self._take(item, (item,), "", started)
                return
            source = item.load() if isinstance(item, FoundFile) else item
            told = self._unchanged(uri, source.hash, started)
            yield from self._take(item, self.read(source), source.hash, started) if told is None else told
        except ReadError as error:
            # The file is there, only not readable now: what was stored of it stays, also with --exact.
            self.reading.seen.update(self.reading.by_source.get(uri, ()))
            self.reading.unreadable.append(f"{uri}/")  # it may be a folder
            yield Outcome(uri, "quarantined", seconds=time.perf_counter() - started, reason=reason_of(uri, error))

    def _unchanged(self, uri: str, hash: str, started: float) -> Iterator[Outcome] | None:
        """What there is to tell of an input that need not be read; None: it has to be."""
        reading = self.reading
        id = document_id(uri)
        if id not in reading.seen and reading.hash_of(id) == hash:
            reading.seen.add(id)
            return iter([reading.unchanged(id, uri, started)])
        stored = reading.stored_of(uri)
        again = None if reading.seen & {id, *stored} else self.inputs.told(uri, hash, stored)
        if again is None:
            return None
        reading.seen.update(stored, (document_id(each.uri) for each in again))
        return self._told_again(stored, again, started)

    def _told_again(self, stored: Iterable[str], again: Iterable[Told], started: float) -> Iterator[Outcome]:
        for id in stored:
            yield self.reading.unchanged(id, self.reading.known[id].uri, started)
            started = time.perf_counter()
        for each in again:
            seconds = time.perf_counter() - started
            yield Outcome(each.uri, each.status, seconds=seconds, reason=each.reason, notes=each.notes)
            started = time.perf_counter()

    def _take(
        self, item: Laid, documents: Iterable[Document | Rejected], hash: str, started: float
    ) -> Iterator[Read | Outcome]:
        """All ``documents`` of an input; ``hash``: of its bytes."""
        reading, uri = self.reading, item.uri
        rejected: set[str] = set()
        told: list[Told] = []
        lasts, is_known_by_hash = True, False
        for document in documents:
            if isinstance(document, Rejected):
                rejected.add(document.uri.rpartition("#")[0] if document.placed else document.uri)
                told.append(Told(document.uri, "quarantined", reason_of(document.uri, document.error), ()))
                lasts = lasts and document.error.reason in _LASTING
                yield Outcome(document.uri, "quarantined", reason=told[-1].reason)
                continue
            if document.id in reading.seen:
                lasts = False
                yield Outcome(document.uri, "quarantined", reason=CLASHES.format(document.id))
                continue
            reading.seen.add(document.id)
            if reading.hash_of(document.id) == document.hash:
                yield reading.unchanged(document.id, document.uri, started)
            else:
                if not document.text.strip():
                    told.append(Told(document.uri, "empty", why_empty(document), document.notes))
                else:
                    is_known_by_hash = is_known_by_hash or (document.uri, document.hash) == (uri, hash)
                    # It may be left out, for another that may go.
                    lasts = lasts and not self.likeness.drops
                yield from self._compare(document, item, started, again=False)
            lasts = lasts and is_final(document)
            started = time.perf_counter()
        if isinstance(item, Document):
            return
        left = [id for id in reading.by_source.get(uri, ()) if id not in reading.seen]
        reading.seen.update(left)
        # What cannot be read today keeps what was stored of it before.
        gone = [id for id in left if uri not in rejected and not _is_of(reading.known[id].uri, rejected)]
        reading.gone += [(id, reading.known[id].uri) for id in gone]
        self.likeness.forget(gone)
        if lasts and not is_known_by_hash and len(gone) == len(left):
            reading.taken[uri] = Taken(hash, told)

    def _compare(self, document: Document, item: Laid, started: float, *, again: bool) -> Iterator[Read | Outcome]:
        """What becomes of a ``document`` that is new or changed, by what it is like; nothing, where that is not decided
        before the end. Then it comes ``again``."""
        replaces = self.reading.hash_of(document.id) is not None
        like, is_decided = self.likeness.of(document, replaces, lambda id: again or id in self.reading.seen)
        if not is_decided:
            self.reading.undecided.add(item, document.id)
            return
        is_dropped = self.likeness.drops and like is not None
        seconds = time.perf_counter() - started
        if not is_dropped:
            yield Read(document, self.chunk_apart(document), replaces, like, False, seconds)
        elif replaces:
            nothing: Future[tuple[Chunks, float]] = Future()
            nothing.set_result((Chunks((), 0, 0), 0.0))
            yield Read(document, nothing, True, like, True, seconds)
        else:
            yield Outcome(document.uri, "duplicate", seconds=seconds, like=like)

    def _decide(self) -> Iterator[Met]:
        """What was not decided before."""
        for item, ids in self.reading.undecided:
            started = time.perf_counter()
            try:
                loaded = item.load() if isinstance(item, FoundFile) else item
                for document in self.read(loaded) if isinstance(loaded, Source) else (loaded,):
                    if isinstance(document, Document) and document.id in ids:
                        ids.discard(document.id)
                        for what in self._compare(document, item, started, again=True):
                            yield Met(item.uri, 1.0, what)
                    started = time.perf_counter()
            except ReadError as error:
                seconds = time.perf_counter() - started
                yield Met(
                    item.uri, 1.0, Outcome(item.uri, "quarantined", seconds=seconds, reason=reason_of(item.uri, error))
                )


def _is_of(uri: str, rejected: Set[str]) -> bool:
    """Whether it is one of the ``rejected`` uris, or lies in one."""
    return uri in rejected or any(uri[: into.start()] in rejected for into in INTO.finditer(uri))


def why_empty(document: Document) -> str:
    return "; ".join(document.notes) or "there is no text in it"


def _keep_taken(inputs: Inputs, store: Store, reading: _Reading) -> None:
    """Once all is committed: what is stored of them by now is what the next run must find."""
    if not reading.taken:
        return
    by_uri: dict[str, dict[str, str]] = {}
    few = len(reading.taken) < MOST_ASKED
    known = store.known_among((), reading.taken) if few else store.known_documents()
    for id, document in known.items():
        if document.source in reading.taken:
            by_uri.setdefault(document.source, {})[id] = document.hash
    inputs.keep(reading.taken, by_uri)


def _vanished(reading: _Reading, within: Sequence[str]) -> list[tuple[str, str]]:
    """(document id, uri) of what is stored and not there any more, once all was read."""
    gone = list(reading.gone)
    unreadable = tuple(reading.unreadable)
    tops = {top.rstrip("/") for top in within}  # "/" ends with its slash
    for id, document in reading.known.items():
        source = document.source
        if id in reading.seen or source is None or source.startswith(unreadable):
            continue
        if _lies_in(source, tops):
            gone.append((id, document.uri))
    return gone


def _lies_in(source: str, tops: Set[str]) -> bool:
    """Looked up part by part: a watch may name thousands of ``tops``."""
    end = len(source)
    while end > 0:
        if source[:end] in tops:
            return True
        end = source.rfind("/", 0, end)
    return False


class _Room:
    """Bounds the characters that are read but not encoded yet; one document may always pass, however large it is."""

    def __init__(self, characters: int) -> None:
        self._free = self._all = characters
        # The lock itself is entered, not the condition: an interrupt between the two would leave it locked for ever.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def take(self, characters: int, stop: threading.Event) -> None:
        with self._lock:
            while self._free < self._all and self._free < characters and not stop.is_set():
                self._changed.wait(0.1)
            self._free -= characters

    def give(self, characters: int) -> None:
        with self._lock:
            self._free += characters
            self._changed.notify()
