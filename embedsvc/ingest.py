"""The way in: inputs → documents → passages → vectors → one commit per batch of documents → vector index.

The stages overlap. Other threads read ahead, tokenise and cut (:mod:`.intake`); the encoder always has the next batch
in its queue; one more thread commits (:mod:`.filling`). Encoding is what costs, so it should never wait for the other
two.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from embedsvc.chunking import finer_capacity
from embedsvc.collection import Collection, collection_names
from embedsvc.config import OnDuplicate, Settings
from embedsvc.encoding import Encoder, check_contract, check_model, encoder_for, load_encoder
from embedsvc.errors import Conflict, UsageError
from embedsvc.filling import TELL_SECONDS, Batch, Committed, Filling
from embedsvc.intake import MOST_ASKED, Chunked, Input, Intake, Met, why_empty
from embedsvc.names import check_name
from embedsvc.outcomes import Outcome, Status
from embedsvc.readers import ALL, FieldChoice, PathPatterns, Rejected, absolute, discover, discover_again
from embedsvc.readers.discovery import is_url
from embedsvc.readers.sitemaps import pages
from embedsvc.readers.web import Fetching
from embedsvc.records import Chunking, Contract, Document, Source, document_id
from embedsvc.storage import Store
from embedsvc.storage.store import Known

Progress = Callable[[Mapping[str, float], int], None]
"""Hears how far a run is: of inputs (by uri) what share is done, from 0 to 1, and how many passages are encoded besides
those that have an outcome. Less is told of no input than was before. Called also where there is nothing new, while one
input takes long."""
Span = tuple[float, float]
"""A part of an input: the shares of it that are done before, and with it."""

FIXED = frozenset({"model", "dtype", "chunk_tokens", "overlap", "finer_tokens", "language", "chunk_context"})
"""Settings that a collection, once made, must agree with."""
_COMMIT_SECONDS = 5.0
"""A commit is made after so long, or of ``Settings.commit_tokens``, whichever comes first."""
_CHARACTERS_PER_TOKEN = 5
"""Of prose, about: what is read ahead is bounded by characters, since it is not tokenised yet."""
_TOPS = 32
"""Folders and files, as those. Each is compared with every document."""
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class _Gathered:
    """What makes a batch, and what of the inputs, by uri, is done with it."""

    chunked: Sequence[Chunked]
    spans: Mapping[str, Span]


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
        first = list(islice(found, MOST_ASKED))
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
    if len(inputs) >= MOST_ASKED:
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
    with (
        collection.writer(fold=fold) as writer,
        Intake(
            collection,
            encoder,
            items,
            fields,
            known(writer.store),
            lambda: writer.store,
            within=within,
            max_file_mb=max_file_mb,
            duplicates=duplicates or collection.settings.duplicates,
            characters=2 * commit_tokens * _CHARACTERS_PER_TOKEN,
        ) as intake,
    ):
        with Filling[_Gathered](writer, encoder, encoding) as filling:
            yield from _encode_and_commit(filling, intake, commit_tokens, progress)
        gone = intake.vanished()
        if gone:
            writer.replace((), [id for id, _ in gone])
        for _, uri in gone:
            yield Outcome(uri, "removed")
        intake.keep(writer.store)


def _encode_and_commit(
    filling: Filling[_Gathered],
    intake: Intake,
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
        batch: list[Chunked] = []
        deadline = time.monotonic() + _COMMIT_SECONDS
        tokens = 0
        while tokens < target:
            # A slow file does not hold up what is encoded already, nor the news of what is committed.
            patient = filling.is_idle and not batch
            try:
                item = intake.met(TELL_SECONDS if patient else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                if patient:
                    nothing_new()
                    continue
                break
            if item is None:
                ended = True
                break
            if isinstance(item.what, Outcome):
                yield item.what
            elif item.what is not None:
                document = intake.cut(item.what, nothing_new)
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

    def add(self, met: Met) -> None:
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
            status, reason = "empty", why_empty(document)
        count = len(chunks.passages)
        yield Outcome(
            document.uri, status, count, chunks.tokens, encoded_tokens, item.seconds, reason, notes, item.like
        )
