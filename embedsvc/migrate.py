"""A collection moved to another model, while the old one answers.

<data dir>/.<name>.migration/migration.json    the model moved to; identity of the table moved from
<data dir>/.<name>.migration/<name>            the new collection in the making: what is in it is not encoded again
<data dir>/.<name>.before/<name>               after the switch: the old collection, until `--finish`

The switch is one exchange of two folders' names, under both locks. A kill right after it leaves the old collection in
the folder of the migration, where the next command finds it by its identity.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedsvc.chunking import chunk
from embedsvc.collection import (
    Collection,
    Maintaining,
    collection_directory,
    put_out_of_sight,
    remove_unseen,
)
from embedsvc.config import Settings
from embedsvc.encoding import Encoder, encoder_for, load_encoder
from embedsvc.encoding.contract import first_difference
from embedsvc.errors import Conflict, EmbedsvcError, NotFound, StorageFailure, UsageError
from embedsvc.filling import Batch, Committed, Filling
from embedsvc.ingest import chunking_for
from embedsvc.records import Chunking, Contract, Document, Heading, Passage, Tuned
from embedsvc.search import Query, search
from embedsvc.search.hits import overlap
from embedsvc.storage import Store, Turn, WholeDocument, exchange, index_lock, migration_lock, write_lock
from embedsvc.storage.store import Known
from embedsvc.syncing import fsync_path

log = logging.getLogger(__name__)

_STATE = "migration.json"
_AT_ONCE = 64
"""Documents that are read from the old collection together."""
_FEW = 200
"""Documents that changed meanwhile: with more of them to be encoded, nobody is kept from writing."""
_ROUNDS = 5
_QUERIES = 100
_SENTENCE = re.compile(r".{20,200}?[.!?](?=\s)|.{1,200}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Migrated:
    """``encoded``: documents encoded in this run; ``already``: in an earlier one. ``rechunked``: those cut anew; the
    others kept their passages. ``overlap``: share of the ten best hits of the old collection, by meaning alone, that
    the new one has among its ten, over ``queries`` titles and sentences; None: not measured, see ``note``.
    """

    name: str
    old_model: str
    new_model: str
    new_dtype: str
    chunking: Chunking
    documents: int
    passages: int
    encoded: int
    already: int
    rechunked: int
    overlap: float | None
    queries: int
    note: str | None
    switched: bool
    dropped: tuple[str, ...] = ()
    """What was tuned for the old model (``Tuned``), and means nothing for the new one."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Both collections with their encoders, before the switch, for whoever wants to compare them further."""

    old: Collection
    old_encoder: Encoder
    new: Collection
    new_encoder: Encoder


def migrate(
    name: str,
    settings: Settings,
    *,
    switch: bool = True,
    told: Callable[[int, int], None] = lambda done, of: None,
    compare: Callable[[Measured], None] = lambda both: None,
    load: Callable[[Settings], Encoder] = load_encoder,
    load_for: Callable[[Contract, Settings], Encoder] = encoder_for,
) -> Migrated:
    """Encodes every document of the collection with the model and dtype of ``settings``, from the stored text, and
    switches to that unless not to ``switch``. What an earlier run encoded is not encoded again.

    ``told``: how many documents are done, of how many. ``compare`` is called with both collections before the switch.

    Raises:
        UsageError: the collection has that model already. Conflict: an earlier migration is to another model, is not
            finished, or under way; or others write, now or so much that the new collection never came level with the
            old one.
    """
    directory = collection_directory(name, settings)
    _settle(directory, settings)
    if (before := _aside(directory, ".before")).exists():
        raise Conflict(
            f"{before} is kept from an earlier migration. First: embedsvc collections migrate {name} --finish, "
            "or --rollback."
        )
    old = Collection(directory, settings)
    encoder = load(settings)
    if first_difference(encoder.contract, old.contract) is None:
        raise UsageError(f"{name!r} is of {encoder.model.name} in {encoder.dtype} already.")
    staging = _aside(directory, ".migration")
    new = _staged(old, encoder, staging)
    with migration_lock(staging / name, settings.lock_timeout):
        already = new.store().count_documents()
        done = _catch_up(old.store, new, encoder, told)
        overlap, queries, note = _compared(old, new, encoder, compare, load_for)
        kept, dropped = _tuned_for(old.store(), encoder.contract)
        if switch:
            about = old.store().about
            if (new.store().tuned, new.store().about) != (kept, about):
                with new.writer(fold=False, maintain="never") as writer:
                    writer.tune(kept)
                    writer.tell(about)
            done += _level(old, new, encoder, told, lambda: _switch(directory, staging))
    store = Store.open(directory if switch else staging / name)
    return Migrated(
        name=name,
        old_model=old.contract.model,
        new_model=encoder.model.name,
        new_dtype=encoder.dtype,
        chunking=store.chunking,
        documents=store.count_documents(),
        passages=store.count(),
        encoded=done.encoded,
        already=already,
        rechunked=done.rechunked,
        overlap=overlap,
        queries=queries,
        note=note,
        switched=switch,
        dropped=dropped,
    )


@dataclass(frozen=True, slots=True)
class RolledBack:
    """``model`` is that of the collection from now on; ``differing``: uris of documents that it and the other one do
    not have alike."""

    model: str
    differing: tuple[str, ...]


def rollback(name: str, settings: Settings) -> RolledBack:
    """Switches back to the collection from before the migration; the migrated one is kept in its place, so that another
    rollback switches forth.

    Raises:
        NotFound: none is kept. Conflict: what is kept is of another collection, or another process writes.
    """
    directory = collection_directory(name, settings)
    _settle(directory, settings)
    before = _kept(directory)
    with _both_locks(directory, settings):
        there, aside = Store.open(directory), Store.open(before / name)
        differing = sorted(known.uri for known in _differing(there, aside).values())
        _exchange(directory, before / name)
    return RolledBack(aside.contract.model, tuple(differing))


def finish(name: str, settings: Settings) -> bool:
    """Removes the collection from before the migration; whether there was one. Raises Conflict: somebody writes."""
    return _removed(name, settings, ".before")


def abandon(name: str, settings: Settings) -> bool:
    """Removes what a migration that has not switched has made; whether there was one. Raises Conflict."""
    return _removed(name, settings, ".migration")


def _removed(name: str, settings: Settings, suffix: str) -> bool:
    directory = collection_directory(name, settings)
    _settle(directory, settings)
    aside = _aside(directory, suffix)
    if there := aside.exists():
        with migration_lock(aside / name, settings.lock_timeout), write_lock(directory, settings.lock_timeout):
            put_out_of_sight(aside, name)
    remove_unseen(name, settings)
    return there


# -- the folders -----------------------------------------------------------------------------------------------------


def _aside(directory: Path, suffix: str) -> Path:
    return directory.with_name(f".{directory.name}{suffix}")


def _kept(directory: Path) -> Path:
    before = _aside(directory, ".before")
    try:
        moved_from = _state(before)["from"]
    except FileNotFoundError:
        raise NotFound(f"No collection from before a migration of {directory.name!r} is kept.") from None
    if moved_from not in (Store.open(directory).identity, Store.open(before / directory.name).identity):
        raise Conflict(f"{before} is not of this {directory.name!r}, which was made anew since. Remove the folder.")
    return before


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    return state


def _staged(old: Collection, encoder: Encoder, staging: Path) -> Collection:
    """The new collection in the making, as an earlier run left it or empty."""
    settings = replace(old.settings, data_dir=staging)
    identity = old.store().identity
    chunking = chunking_for(
        encoder,
        replace(
            settings,
            chunk_tokens=old.chunking.window,
            overlap=old.chunking.overlap,
            finer_tokens=old.chunking.finer,
            language=old.chunking.language,
            chunk_context=old.chunking.context,
        ),
        frozenset(),
    )
    chunking = replace(chunking, whole=old.chunking.whole)
    try:
        state = _state(staging)
    except FileNotFoundError:
        temporary = staging / f".{uuid.uuid4().hex}.tmp"
        try:
            staging.mkdir(exist_ok=True)
            temporary.write_text(json.dumps({"from": identity, "model": encoder.model.name, "dtype": encoder.dtype}))
            fsync_path(temporary)
            temporary.rename(staging / _STATE)
            fsync_path(staging)
        except OSError as error:
            raise StorageFailure(f"{staging} cannot be written: {error}.") from error
        state = _state(staging)
    remedy = f"Drop it: embedsvc collections migrate {old.name} --abandon"
    if state["from"] != identity:
        raise Conflict(f"{staging} is of an earlier collection {old.name!r}. {remedy}")
    if not (staging / old.name).exists():
        return Collection.create(old.name, encoder.contract, chunking, settings, old.store().created)
    new = Collection.open(old.name, settings)
    if first_difference(encoder.contract, new.contract) is not None:
        raise Conflict(f"A migration of {old.name!r} to {state['model']} ({state['dtype']}) is under way. {remedy}")
    return new


@contextmanager
def _both_locks(directory: Path, settings: Settings) -> Iterator[None]:
    with write_lock(directory, settings.lock_timeout), index_lock(directory, settings.lock_timeout):
        yield


def _switch(directory: Path, staging: Path) -> None:
    _exchange(directory, staging / directory.name)
    staging.rename(_aside(directory, ".before"))
    fsync_path(directory.parent)


def _exchange(one: Path, other: Path) -> None:
    try:
        exchange(one, other)
    except OSError as error:
        raise StorageFailure(
            f"{one} cannot be switched: {error}. It stays as it is. To switch by hand: stop the service, and swap "
            f"{one} and {other}."
        ) from error


def _settle(directory: Path, settings: Settings) -> None:
    """Ends a switch that was killed between its two steps."""
    staging = _aside(directory, ".migration")
    try:
        moved_from = _state(staging)["from"]
        switched = Store.open(staging / directory.name).identity == moved_from
    except (FileNotFoundError, EmbedsvcError):
        return
    if switched:
        with write_lock(directory, settings.lock_timeout):
            staging.rename(_aside(directory, ".before"))
            fsync_path(directory.parent)


def _tuned_for(old: Store, contract: Contract) -> tuple[Tuned, tuple[str, ...]]:
    """What of the old collection's tuning holds under ``contract``, and the names of what does not: all of it was
    measured with the old model's scores."""
    if old.contract.weights_hash == contract.weights_hash:
        return old.tuned, ()
    return Tuned(), tuple(name for name, value in old.tuned.to_dict().items() if value is not None)


# -- encoding --------------------------------------------------------------------------------------------------------


def _differing(old: Store, new: Store) -> dict[str, Known]:
    """Documents of ``old`` that ``new`` has not, or has another edition of, and those that it has and should not."""
    wanted, there = old.known_documents(), new.known_documents()
    changed = {id: known for id, known in wanted.items() if there.get(id) != known}
    return changed | {id: known for id, known in there.items() if id not in wanted}


@dataclass(frozen=True, slots=True)
class _Done:
    """Documents that were encoded, and those of them that were cut anew."""

    encoded: int = 0
    rechunked: int = 0

    def __add__(self, other: _Done) -> _Done:
        return _Done(self.encoded + other.encoded, self.rechunked + other.rechunked)


def _level(
    old: Collection, new: Collection, encoder: Encoder, told: Callable[[int, int], None], switch: Callable[[], None]
) -> _Done:
    """Makes the new collection hold what the old one does, and calls ``switch`` while that cannot change. Meanwhile
    nobody else writes, so what is left to be encoded by then is little, and its upkeep is for later.

    Raises:
        Conflict: others wrote more each time than may be left.
    """
    directory, settings = old.settings.data_dir / old.name, old.settings
    done = _Done()
    for _ in range(_ROUNDS):
        done += _catch_up(old.store, new, encoder, told)
        with _both_locks(directory, settings):
            left = len(_differing(old.store(), new.store()))
            if left <= _FEW:
                new.upkeep.close()  # what it has begun would go on under the name of the old one
                done += _catch_up(old.store, new, encoder, told, maintain="never")
                switch()
                break
    else:
        raise Conflict(
            f"{old.name!r} changes faster than it is encoded: {left:,} documents were left after the last of {_ROUNDS} "
            f"rounds, and for more than {_FEW} its writers are not made to wait. Nothing is lost: stop what writes to "
            "it, or choose a quieter hour, and run the same again."
        )
    if left:
        with suppress(Conflict), Collection(directory, settings).writer():  # who writes there by now does the upkeep
            pass
    return done


def _catch_up(
    newest: Callable[[], Store],
    new: Collection,
    encoder: Encoder,
    told: Callable[[int, int], None],
    *,
    maintain: Maintaining = "always",
) -> _Done:
    """Encodes what the old collection has and the new one has not. ``maintain``: as in :meth:`Collection.writer`."""
    differing = list(_differing(newest(), new.store()))
    if not differing:
        return _Done()
    total = newest().count_documents()
    done, rechunked = total - len(differing), 0
    told(max(0, done), total)
    with new.writer(maintain=maintain) as writer, Filling[None](writer, encoder) as filling:

        def took(committed: Iterable[Committed[None]]) -> None:
            nonlocal done
            for each in committed:
                done += len(each.batch.cut)
                told(done, total)

        for ids, documents in _batches(newest, differing, new.settings.commit_tokens):
            cut = [_cut(whole, encoder, new.chunking) for whole in documents]
            rechunked += sum(anew for _, _, anew in cut)
            took(filling.advance(Batch([(document, passages) for document, passages, _ in cut], ids, None)))
        took(filling.drain())
    return _Done(len(differing), rechunked)


def _batches(
    newest: Callable[[], Store], ids: Sequence[str], tokens: int
) -> Iterator[tuple[list[str], list[WholeDocument]]]:
    """Documents of about so many tokens, as they are in the newest version; ids without one are gone by now."""
    asked: list[str] = []
    found: list[WholeDocument] = []
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        asked += some
        found += newest().whole_documents(some)
        if sum(len(whole.text) for whole in found) > 4 * tokens:
            yield asked, found
            asked, found = [], []
    if asked:
        yield asked, found


def _cut(whole: WholeDocument, encoder: Encoder, chunking: Chunking) -> tuple[Document, tuple[Passage, ...], bool]:
    """The document and its passages for the new model, and whether they were cut anew.

    A document that has pages or headings keeps its passages, unless one does not fit the new window: one stored before
    there were turns tells only which hold where passages begin. Any other document is cut as a new one would be.
    """
    document, reserved = _document(whole), encoder.reserved("passage")
    if document.page_starts or document.headings:
        kept: list[Passage] = []
        for old in whole.passages:
            text = replace(document, text=old.text, headings=(Heading(0, 1, old.heading or ""),))
            pieces = chunk(text, encoder.tokenizer, replace(chunking, overlap=0), reserved=reserved).passages
            if len(pieces) != 1 or pieces[0].end - pieces[0].start != len(old.text):
                break
            kept.append(replace(pieces[0], ordinal=len(kept), start=old.start, end=old.end))
        else:
            return document, tuple(kept), False
    return document, chunk(document, encoder.tokenizer, chunking, reserved=reserved).passages, True


def _document(whole: WholeDocument) -> Document:
    first = whole.passages[0]
    starts: list[int] = []
    headings: list[Heading] = []
    beginnings = (Turn(passage.start, passage.page, passage.heading) for passage in whole.passages)
    for at, page, heading in sorted((*beginnings, *whole.turns), key=lambda turn: turn.start):
        if page is not None:
            # The pages up to this one begin here at the latest; the first at the start of the text.
            starts += [at if starts or page > 1 else 0] * (page - len(starts))
        title = heading or ""
        if title != (headings[-1].title if headings else ""):
            headings.append(Heading(at, 1, title))  # the whole path as one
    return Document(
        id=first.document_id,
        uri=first.uri,
        text=whole.text,
        title=first.title,
        hash=whole.hash,
        page_starts=tuple(starts),
        headings=tuple(headings),
        metadata=first.metadata,
        source=whole.source,
    )


# -- comparing -------------------------------------------------------------------------------------------------------


def _compared(
    old: Collection,
    new: Collection,
    encoder: Encoder,
    compare: Callable[[Measured], None],
    load_for: Callable[[Contract, Settings], Encoder],
) -> tuple[float | None, int, str | None]:
    try:
        old_encoder = load_for(old.contract, old.settings)
    except EmbedsvcError as error:
        return None, 0, f"the old model cannot be asked any more: {error}"
    compare(Measured(old, old_encoder, new, encoder))
    before, after = old.snapshot(), new.snapshot()
    shares = []
    for text in _questions(before.store):
        was, now = (
            search(snapshot, by, Query(text, mode="dense", on_overflow="truncate")).hits
            for snapshot, by in ((before, old_encoder), (after, encoder))
        )
        if was:
            shares.append(sum(any(overlap(hit, other) for other in now) for hit in was) / len(was))
    return (round(float(np.mean(shares)), 4) if shares else None), len(shares), None


def _questions(store: Store) -> list[str]:
    """Titles and first sentences of passages all over the collection: texts of live queries are not stored."""
    texts: dict[str, None] = {}
    for at, (title, text) in enumerate(store.some_texts(_QUERIES)):
        sentence = _SENTENCE.match(text)
        texts[title if (at % 2 and len(title.split()) > 1) or sentence is None else sentence[0]] = None
    return [text for text in texts if text.strip()]
