"""The way in: inputs → documents → passages → vectors → one commit per batch of documents → vector index.

The stages overlap. A thread reads ahead, within a bound, others tokenise and cut; the encoder always has the next batch
in its queue; one more thread commits. Encoding is what costs, so it should never wait for the other two.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from embedsvc import __version__
from embedsvc.aside import Aside, Laid
from embedsvc.chunking import Chunks, chunk, finer_capacity
from embedsvc.collection import Collection, Writer, collection_names
from embedsvc.config import OnDuplicate, Settings, usable_cores
from embedsvc.encoding import Encoder, check_contract, check_model, encoder_for, load_encoder
from embedsvc.errors import Conflict, ReadError, UsageError
from embedsvc.filling import TELL_SECONDS, Batch, Committed, Filling, waited
from embedsvc.likeness import Likeness
from embedsvc.names import check_name
from embedsvc.outcomes import CLASHES, INTO, Like, Outcome, Status, reason_of
from embedsvc.readers import (
    ALL,
    FieldChoice,
    FoundFile,
    PathPatterns,
    Rejected,
    absolute,
    discover,
    discover_again,
    legacy,
    ocr,
)
from embedsvc.readers.discovery import is_url
from embedsvc.readers.items import Limits, is_final
from embedsvc.readers.sandbox import Sandbox
from embedsvc.readers.sitemaps import pages
from embedsvc.readers.web import Fetching
from embedsvc.records import Chunking, Contract, Document, Metadata, Source, document_id, hash_with
from embedsvc.storage import Store
from embedsvc.storage.store import Known
from embedsvc.unread import Inputs, Taken, Told

log = logging.getLogger(__name__)

Progress = Callable[[Mapping[str, float], int], None]
"""Hears how far a run is: of inputs (by uri) what share is done, from 0 to 1, and how many passages are encoded besides
those that have an outcome. Less is told of no input than was before. Called also where there is nothing new, while one
input takes long."""
Span = tuple[float, float]
"""A part of an input: the shares of it that are done before, and with it."""
Input = FoundFile | Source | Document | Rejected

FIXED = frozenset({"model", "dtype", "chunk_tokens", "overlap", "finer_tokens", "language", "chunk_context"})
"""Settings that a collection, once made, must agree with."""
_COMMIT_SECONDS = 5.0
"""A commit is made after so long, or of ``Settings.commit_tokens``, whichever comes first."""
_CHARACTERS_PER_TOKEN = 5
"""Of prose, about: what is read ahead is bounded by characters, since it is not tokenised yet."""
_ASKED = 1000
"""Inputs: of fewer, no more than what is stored of them is asked for."""
_TOPS = 32
"""Folders and files, as those. Each is compared with every document."""
_READER_SECONDS = 10.0
"""A reader that was told to stop is waited for at most so long."""
_MEGABYTE = 1_000_000
_LASTING = frozenset({"unsupported", "binary", "locked", "damaged", "too_large", "encoding", "missing_field"})
"""Reasons that stay as long as the bytes do. Others (no time, no memory, a program that was not there) may not."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A document that is being tokenised and cut, on a thread beside that which reads."""

    document: Document
    chunking: Future[tuple[Chunks, float]]
    """With the seconds that it took."""
    replaces: bool
    like: Like | None
    is_dropped: bool
    """It goes on with no passage, so that those of its earlier edition go."""
    seconds: float

    def result(self, meanwhile: Callable[[], None]) -> _Chunked:
        chunks, seconds = waited(self.chunking, meanwhile)
        return _Chunked(self.document, chunks, self.replaces, self.like, self.is_dropped, self.seconds + seconds)


@dataclass(frozen=True, slots=True)
class _Chunked:
    document: Document
    chunks: Chunks
    replaces: bool
    like: Like | None
    is_dropped: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class _Met:
    """What is met on the way through the input ``uri``, and what ``share`` of that is done with it; None: its end."""

    uri: str
    share: float
    what: _Read | Outcome | None


@dataclass(frozen=True, slots=True)
class _Gathered:
    """What makes a batch, and what of the inputs, by uri, is done with it."""

    chunked: Sequence[_Chunked]
    spans: Mapping[str, Span]


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
            self.counts = self.count(self.known if len(self.known) < _ASKED else None)
        return Outcome(uri, "unchanged", self.counts[id], seconds=time.perf_counter() - started)

    def stored_of(self, uri: str) -> dict[str, str]:
        """Hash by document id of what was stored of that input before."""
        return {id: self.known[id].hash for id in self.by_source.get(uri, ())}


def open_or_create(
    name: str,
    settings: Settings,
    asked: Set[str],
    load: Callable[[Settings], Encoder] = load_encoder,
    load_for: Callable[[Contract, Settings], Encoder] = encoder_for,
) -> tuple[Collection, Encoder]:
    """The collection ``name`` and its encoder; made from ``settings`` where there is none yet.

    ``asked``: the settings that the caller insists on (of ``model``, ``dtype``, ``chunk_tokens``, ``overlap``,
    ``finer_tokens``, ``language``, ``chunk_context``); a collection that was made with others is refused. Those not
    asked for follow the collection.
    ``load`` gives the encoder that settings name, ``load_for`` the one that made a collection.

    Raises:
        ContractMismatch: the collection has another model or dtype than asked for.
        Conflict: it has another chunking than asked for.
        UsageError: a window that the model, or the overlap, does not fit; sub-windows that do not fit the window.
    """
    if name not in collection_names(settings.data_dir):
        check_name(name)
        encoder = load(settings)
        try:
            return Collection.create(name, encoder.contract, chunking_for(encoder, settings, asked), settings), encoder
        except Conflict:
            if name not in collection_names(settings.data_dir):
                raise
            # Another process made it in between: then it is there already, as for any later caller.
    collection = Collection.open(name, settings)
    contract, chunking = collection.contract, collection.chunking
    made_with = {
        "chunk_tokens": chunking.window,
        "overlap": chunking.overlap,
        "finer_tokens": chunking.finer,
        "language": chunking.language,
        "chunk_context": chunking.context,
    }
    for key, value in made_with.items():
        if key in asked and getattr(settings, key) != value:
            raise Conflict(
                f"The collection {name!r} was made with {key} {value}, not {getattr(settings, key)}. "
                "Leave it out, or index into a new collection."
            )
    if "dtype" not in asked:  # then it is the collection's, whatever is the fastest by now
        if "model" in asked:
            check_model(settings, contract)
        return collection, load_for(contract, settings)
    encoder = load(settings if "model" in asked else replace(settings, model=contract.model))
    check_contract(encoder, contract)
    return collection, encoder


def chunking_for(encoder: Encoder, settings: Settings, asked: Set[str]) -> Chunking:
    """That of ``settings``, made to fit ``encoder`` where it was not ``asked`` for. Raises UsageError: it was."""
    window = settings.chunk_tokens
    if window > encoder.max_length:
        if "chunk_tokens" in asked:
            raise UsageError(
                f"chunk_tokens is {window}, but {encoder.model.name} takes {encoder.max_length} tokens at most."
            )
        window = encoder.max_length
    room = window - encoder.reserved("passage")
    overlap = settings.overlap if "overlap" in asked else max(0, min(settings.overlap, room // 2))
    if overlap >= room:
        raise UsageError(
            f"A window of {window} tokens leaves {room} for text; overlap is {overlap} and must be smaller."
        )
    finer = settings.finer_tokens
    if finer >= window:
        if "finer_tokens" in asked:
            raise UsageError(f"finer_tokens is {finer}; it must be smaller than the window of {window} tokens.")
        finer = 0  # every passage fits into one: it would have its own vector only
    chunking = Chunking(window, overlap, finer=finer, language=settings.language, context=settings.chunk_context)
    finer_capacity(chunking, encoder.reserved("passage"))
    return chunking


def ingest_paths(
    collection: Collection,
    encoder: Encoder,
    paths: Sequence[str | Path],
    *,
    fields: FieldChoice,
    max_file_mb: int,
    exact: bool = False,
    selection: PathPatterns = ALL,
    progress: Progress = lambda *_: None,
) -> Iterator[Outcome]:
    """Brings ``collection`` in step with the files under ``paths``, which may also be URLs; yields one Outcome per
    input once it is durable.

    Unchanged files are skipped by hash, changed ones replaced. ``exact`` also removes the documents under ``paths``
    whose files are not there any more, or are left out by now (``selection``, ignore files).

    Raises:
        NotFound: none of ``paths`` exists; nothing was done.
        ContractMismatch, Conflict, StorageFailure: what was yielded before is committed, the rest is not.
    """
    urls = [str(path) for path in paths if is_url(str(path))]
    files = [path for path in paths if not is_url(str(path))]
    within = tuple(absolute(path).as_uri() for path in files) if exact else ()
    found: Iterator[Input] = discover(files, max_file_bytes=max_file_mb * _MEGABYTE, selection=selection)
    known: _Asking = Store.known_documents
    if urls:
        set_up = collection.settings
        how = Fetching(max_file_mb * _MEGABYTE, set_up.url_timeout_s, set_up.allow_private_urls)
        found = chain(found, pages(urls, how, other_hosts=set_up.sitemap_other_hosts))
    elif exact:
        known = _known_below(within)
    else:
        first = list(islice(found, _ASKED))
        found, known = chain(first, found), _known_of(first)
    return _ingest(collection, encoder, found, fields, known, within, max_file_mb, fold=True, progress=progress)


def ingest_changed(
    collection: Collection,
    encoder: Encoder,
    changed: Sequence[Path],
    tops: Sequence[Path],
    *,
    fields: FieldChoice,
    max_file_mb: int,
    selection: PathPatterns = ALL,
) -> Iterator[Outcome]:
    """As :func:`ingest_paths` of ``tops`` with ``exact``, where only what is at or below ``changed`` can have changed:
    nothing else is looked at. All paths from the root (:func:`~embedsvc.readers.absolute`)."""
    found = discover_again(changed, tops, max_file_bytes=max_file_mb * _MEGABYTE, selection=selection)
    within = tuple(path.as_uri() for path in changed)
    return _ingest(collection, encoder, found, fields, _known_below(within), within, max_file_mb, fold=True)


def ingest_items(
    collection: Collection,
    encoder: Encoder,
    items: Iterable[Source | Document | Rejected],
    fields: FieldChoice,
    *,
    fold: bool = True,
    duplicates: OnDuplicate | None = None,
    ahead: Sequence[Source | Document | Rejected] | None = None,
    progress: Progress = lambda *_: None,
) -> Iterator[Outcome]:
    """As :func:`ingest_paths` for inputs that are in memory: uploads and ready-made documents. ``fold``: as in
    :meth:`Collection.writer`. ``duplicates``: otherwise than the collection's settings say. ``ahead``: the ``items``,
    where they are known before they come; of the store no more is looked at then than what it has of those."""
    known = Store.known_documents if ahead is None else _known_of(ahead)
    limit = collection.settings.max_file_mb
    return _ingest(collection, encoder, items, fields, known, (), limit, fold, duplicates, progress)


_Asking = Callable[[Store], Mapping[str, Known]]
"""Asks the store for what it has of the documents that a run may meet: all of them take seconds, where there are
hundreds of thousands."""


def _known_of(inputs: Sequence[Input]) -> _Asking:
    """Of all inputs that will come, or of as many as are asked for at once: then there may be more. Not known then is a
    document that was handed over ready-made under a uri within a file that is read now: it is replaced all the same."""
    if len(inputs) >= _ASKED:
        return Store.known_documents
    ids = {item.id if isinstance(item, Document) else document_id(item.uri) for item in inputs}
    uris = {item.uri for item in inputs}
    return lambda store: store.known_among(ids, uris)


def _known_below(within: Sequence[str]) -> _Asking:
    return (lambda store: store.known_below(within)) if len(within) <= _TOPS else Store.known_documents


def _ingest(
    collection: Collection,
    encoder: Encoder,
    items: Iterable[Input],
    fields: FieldChoice,
    known: _Asking,
    within: Sequence[str],
    max_file_mb: int,
    fold: bool,
    duplicates: OnDuplicate | None = None,
    progress: Progress = lambda *_: None,
) -> Iterator[Outcome]:
    def encoding(batch: Batch[_Gathered], texts: int, of: int) -> None:
        part = texts / max(1, of)
        progress({uri: start + (end - start) * part for uri, (start, end) in batch.about.spans.items()}, texts)

    check_contract(encoder, collection.contract)
    commit_tokens = max(1, collection.settings.commit_tokens)
    with collection.writer(fold=fold) as writer:
        store = writer.store
        reading = _Reading(known(store), lambda ids: writer.store.passage_counts(ids))
        ahead: queue.Queue[_Met | BaseException | None] = queue.Queue(maxsize=256)
        room = _Room(2 * commit_tokens * _CHARACTERS_PER_TOKEN)
        stop = threading.Event()
        limits = _limits(collection.settings, max_file_mb)
        sandbox = Sandbox(limits)
        directory = collection.settings.data_dir / collection.name
        inputs = Inputs(directory, repr((__version__, fields, limits, ocr.program(), legacy.program())))
        chunkers = ThreadPoolExecutor(usable_cores(), thread_name_prefix="chunker")
        reserved = encoder.reserved("passage")

        def read(source: Source) -> Iterator[Document | Rejected]:
            return (_with_own(item, source.metadata) for item in sandbox.read(source, fields))

        def chunked(document: Document) -> tuple[Chunks, float]:
            started = time.perf_counter()
            chunks = chunk(document, encoder.tokenizer, collection.chunking, reserved=reserved)
            return chunks, time.perf_counter() - started

        def chunk_apart(document: Document) -> Future[tuple[Chunks, float]]:
            return chunkers.submit(chunked, document)

        likeness = Likeness(duplicates or collection.settings.duplicates, store, directory)
        reader = _Reader(reading, read, lambda: sandbox.share, chunk_apart, likeness, inputs, within)

        def read_ahead() -> None:
            try:
                for met in reader.read_all(items):
                    room.take(len(met.what.document.text) if isinstance(met.what, _Read) else 0, stop)
                    _put(ahead, met, stop)
                _put(ahead, None, stop)
            except BaseException as error:
                _put(ahead, error, stop)
            finally:
                likeness.close()
                reading.undecided.close()

        thread = threading.Thread(target=read_ahead, name="reader", daemon=True)
        thread.start()
        try:
            with Filling[_Gathered](writer, encoder, encoding) as filling:
                yield from _encode_and_commit(filling, ahead, room, commit_tokens, progress)
            yield from _remove(writer, reading, within)
            _keep_taken(inputs, writer, reading)
            thread.join()  # it keeps the signatures
            likeness.come_in_step(writer.store)
        finally:
            stop.set()
            sandbox.close()
            # It ends at its next look at `stop`. Where an interrupt struck inside a lock that the two share, it never
            # comes to that; being a daemon, it holds up nothing.
            thread.join(_READER_SECONDS)
            inputs.close()
            chunkers.shutdown(wait=False, cancel_futures=True)


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

    def read_all(self, items: Iterable[Input]) -> Iterator[_Met]:
        for item in items:
            share = 1.0
            for what in self._read_input(item):
                share = self.share_read()
                yield _Met(item.uri, share, what)
            if share < 1:
                yield _Met(item.uri, 1.0, None)
        self.likeness.forget([id for id, _ in _vanished(self.reading, self.within)])
        yield from self._decide()

    def _read_input(self, item: Input) -> Iterator[_Read | Outcome]:
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
    ) -> Iterator[_Read | Outcome]:
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
                    told.append(Told(document.uri, "empty", _why_empty(document), document.notes))
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

    def _compare(self, document: Document, item: Laid, started: float, *, again: bool) -> Iterator[_Read | Outcome]:
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
            yield _Read(document, self.chunk_apart(document), replaces, like, False, seconds)
        elif replaces:
            nothing: Future[tuple[Chunks, float]] = Future()
            nothing.set_result((Chunks((), 0, 0), 0.0))
            yield _Read(document, nothing, True, like, True, seconds)
        else:
            yield Outcome(document.uri, "duplicate", seconds=seconds, like=like)

    def _decide(self) -> Iterator[_Met]:
        """What was not decided before."""
        for item, ids in self.reading.undecided:
            started = time.perf_counter()
            try:
                loaded = item.load() if isinstance(item, FoundFile) else item
                for document in self.read(loaded) if isinstance(loaded, Source) else (loaded,):
                    if isinstance(document, Document) and document.id in ids:
                        ids.discard(document.id)
                        for what in self._compare(document, item, started, again=True):
                            yield _Met(item.uri, 1.0, what)
                    started = time.perf_counter()
            except ReadError as error:
                seconds = time.perf_counter() - started
                yield _Met(
                    item.uri, 1.0, Outcome(item.uri, "quarantined", seconds=seconds, reason=reason_of(item.uri, error))
                )


def _is_of(uri: str, rejected: Set[str]) -> bool:
    """Whether it is one of the ``rejected`` uris, or lies in one."""
    return uri in rejected or any(uri[: into.start()] in rejected for into in INTO.finditer(uri))


def _encode_and_commit(
    filling: Filling[_Gathered],
    ahead: queue.Queue[_Met | BaseException | None],
    room: _Room,
    commit_tokens: int,
    progress: Progress,
) -> Iterator[Outcome]:
    def nothing_new() -> None:
        progress({}, 0)

    ended = False
    # The first batches are small: nothing is encoded while they are gathered, 0.35 s for 100,000 tokens.
    target = -(-commit_tokens // 8)
    spans = _Spans()
    while not ended:
        batch: list[_Chunked] = []
        deadline = time.monotonic() + _COMMIT_SECONDS
        tokens = 0
        while tokens < target:
            # A slow file does not hold up what is encoded already, nor the news of what is committed.
            patient = filling.is_idle and not batch
            try:
                item = ahead.get(timeout=TELL_SECONDS if patient else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                if patient:
                    nothing_new()
                    continue
                break
            if item is None:
                ended = True
                break
            if isinstance(item, BaseException):
                raise item
            if isinstance(item.what, Outcome):
                yield item.what
            elif item.what is not None:
                document = item.what.result(nothing_new)
                room.give(len(document.document.text))
                tokens += document.chunks.tokens
                batch.append(document)
            spans.add(item)
            if patient and not batch:  # nothing before it is under way
                progress(_ends(spans.take()), 0)
        target = min(commit_tokens, 2 * target)
        for committed in filling.advance(_batch(_Gathered(batch, spans.take())) if batch else None):
            yield from _told(committed)
            progress(_ends(committed.batch.about.spans), 0)
    for committed in filling.drain():
        yield from _told(committed)
        progress(_ends(committed.batch.about.spans), 0)
    progress(_ends(spans.take()), 0)


class _Spans:
    """What has been met of the inputs since it was last taken."""

    def __init__(self) -> None:
        self._open: dict[str, float] = {}
        """Of inputs that are not at their end: where they were when it was last taken."""
        self._spans: dict[str, Span] = {}

    def add(self, met: _Met) -> None:
        start, _ = self._spans.get(met.uri) or (self._open.pop(met.uri, 0.0), 0.0)
        self._spans[met.uri] = start, met.share

    def take(self) -> Mapping[str, Span]:
        spans, self._spans = self._spans, {}
        self._open.update((uri, end) for uri, (_, end) in spans.items() if end < 1)
        return spans


def _ends(spans: Mapping[str, Span]) -> Mapping[str, float]:
    return {uri: end for uri, (_, end) in spans.items()}


def _batch(gathered: _Gathered) -> Batch[_Gathered]:
    cut = [(each.document, each.chunks.passages) for each in gathered.chunked]
    # What became empty has no row left to say so: it is removed by its id alone.
    gone = [each.document.id for each in gathered.chunked if each.replaces and not each.chunks.passages]
    return Batch(cut, gone, gathered)


def _told(committed: Committed[_Gathered]) -> Iterator[Outcome]:
    for item, encoded_tokens in zip(committed.batch.about.chunked, committed.encoded_tokens, strict=True):
        document, chunks = item.document, item.chunks
        notes = document.notes
        if chunks.tokens_cut:
            notes = (*notes, f"the vector leaves out {chunks.tokens_cut} of {chunks.tokens} tokens")
        status: Status = "replaced" if item.replaces else "indexed"
        reason = None
        if item.is_dropped:
            status = "duplicate"
        elif not chunks.passages:
            status, reason = "empty", _why_empty(document)
        count = len(chunks.passages)
        yield Outcome(
            document.uri, status, count, chunks.tokens, encoded_tokens, item.seconds, reason, notes, item.like
        )


def _why_empty(document: Document) -> str:
    return "; ".join(document.notes) or "there is no text in it"


def _keep_taken(inputs: Inputs, writer: Writer, reading: _Reading) -> None:
    """Once all is committed: what is stored of them by now is what the next run must find."""
    if not reading.taken:
        return
    stored: dict[str, dict[str, str]] = {}
    few = len(reading.taken) < _ASKED
    known = writer.store.known_among((), reading.taken) if few else writer.store.known_documents()
    for id, document in known.items():
        if document.source in reading.taken:
            stored.setdefault(document.source, {})[id] = document.hash
    inputs.keep(reading.taken, stored)


def _remove(writer: Writer, reading: _Reading, within: Sequence[str]) -> Iterator[Outcome]:
    gone = _vanished(reading, within)
    if gone:
        writer.replace((), [id for id, _ in gone])
    for _, uri in gone:
        yield Outcome(uri, "removed")


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


def _put(
    ahead: queue.Queue[_Met | BaseException | None],
    item: _Met | BaseException | None,
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        try:
            ahead.put(item, timeout=0.1)
            return
        except queue.Full:
            continue
