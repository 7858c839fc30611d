"""Collections of a data directory, in this process. Imports store, index and encoders: not before one is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from embedsvc.api.options import CollectionOptions, Kind, NewDocument, checked
from embedsvc.api.paths import named_paths
from embedsvc.api.steps import Steps, T, Work
from embedsvc.collection import collection_names, delete_collection
from embedsvc.config import OnOverflow, Settings, load_settings
from embedsvc.describe import read_document, read_documents
from embedsvc.editing import delete_document, delete_documents, delete_many, put_over, set_metadata
from embedsvc.encoders import Encoders
from embedsvc.encoding.tokens import load_counter
from embedsvc.errors import Closed
from embedsvc.ingest import FIXED, ingest_items, ingest_paths
from embedsvc.opened import Collections, Opened
from embedsvc.outcomes import Report
from embedsvc.readers import FieldChoice, PathPatterns, check_patterns, discover
from embedsvc.readers.discovery import is_url
from embedsvc.records import Metadata, StoredDocument, WholeText
from embedsvc.search.asking import Asked, answers_to, queries_of
from embedsvc.search.hits import Answer

_MOST_TEXTS = 2048
"""That are in memory as tokens at once."""
_OF_ENCODERS = (
    "model", "runtime", "dtype", "threads", "batch_tokens", "cache_dir", "models", "rerankers", "model_memory_mb",
)  # fmt: skip


@dataclass(frozen=True)
class _Shared:
    """What all of this process share who have the same settings; encoders also those whose settings differ in nothing
    that they depend on. Kept when its last user is forgotten, so that the next call finds a model loaded; let go of
    when its last user is closed."""

    collections: Collections
    encoders: Encoders
    users: WeakSet[Embedded] = field(default_factory=WeakSet)


_shared: dict[Settings, _Shared] = {}
_encoders: WeakValueDictionary[tuple[Any, ...], Encoders] = WeakValueDictionary()
_sharing = threading.Lock()


def _share(settings: Settings, user: Embedded) -> _Shared:
    with _sharing:
        if settings not in _shared:
            own = {name: getattr(settings, name) for name in _OF_ENCODERS}
            encoders = _encoders.setdefault(tuple(own.values()), Encoders(Settings(**own)))
            _shared[settings] = _Shared(Collections(settings, encoders), encoders)
        shared = _shared[settings]
        shared.users.add(user)
        return shared


def _leave(settings: Settings, user: Embedded) -> None:
    with _sharing:
        shared = _shared.get(settings)
        if shared is None or user not in shared.users:
            return
        shared.users.remove(user)
        if not shared.users:
            del _shared[settings]
            shared.collections.close()


class Embedded:
    """A :class:`~embedsvc.api.place.Place`: the data directory of ``settings``. ``asked``: those that the caller
    insists on, of which a collection keeps some for good."""

    def __init__(self, settings: Settings, asked: Iterable[str]) -> None:
        self._settings = settings
        self._fixed = {name: getattr(settings, name) for name in FIXED.intersection(asked)}
        self._shared: _Shared | None = _share(settings, self)
        self._counters = cache(lambda file: load_counter(Path(file).expanduser()))

    def close(self) -> None:
        """Lets go of open collections and loaded models, where nobody else in this process uses them; a call that
        comes later is refused."""
        self._shared = None
        _leave(self._settings, self)

    def _open(self) -> _Shared:
        if (shared := self._shared) is None:
            raise Closed(self)
        return shared

    @property
    def _collections(self) -> Collections:
        return self._open().collections

    @property
    def _encoders(self) -> Encoders:
        return self._open().encoders

    def __str__(self) -> str:
        return str(self._settings.data_dir)

    def search(self, name: str, asked: Asked) -> Steps[Answer]:
        return _work(lambda: self._search(name, asked))

    def _search(self, name: str, asked: Asked) -> Answer:
        collections = self._collections
        count = None if asked.tokenizer is None else self._counters(asked.tokenizer)
        reranker = None if asked.rerank is None else self._encoders.reranker(asked.rerank)
        queries = queries_of(asked, self._settings.on_overflow, count, reranker)
        if not collections.is_ready(name):
            collections.load(name)

        def work(opened: Opened) -> Answer:
            return answers_to(asked, queries, opened.collection.snapshot(), opened.encoder)[0]

        return collections.call(name, work)

    def index(
        self, name: str, paths: Sequence[str | Path], exclude: Sequence[str], include: Sequence[str]
    ) -> Steps[Report]:
        return _work(lambda: self._index(name, paths, PathPatterns(tuple(exclude), tuple(include))))

    def _index(self, name: str, paths: Sequence[str | Path], selection: PathPatterns) -> Report:
        named = named_paths(paths)
        check_patterns((*selection.exclude, *selection.include))
        limit = self._settings.max_file_mb
        # Before a collection is made: whether any of them is there.
        discover([path for path in named if not is_url(path)], max_file_bytes=limit * 1_000_000)
        opened = self._made(name)
        fields = FieldChoice()
        outcomes = ingest_paths(
            opened.collection, opened.encoder, named, fields=fields, max_file_mb=limit, selection=selection
        )
        return Report(name, tuple(outcomes))

    def add(self, name: str, documents: Iterable[NewDocument]) -> Steps[Report]:
        return _work(lambda: self._add(name, documents))

    def _add(self, name: str, documents: Iterable[NewDocument]) -> Report:
        made, _, clashing = checked(documents)
        opened = self._made(name)
        outcomes = ingest_items(opened.collection, opened.encoder, made, FieldChoice(), fold=False, ahead=made)
        return Report(name, (*clashing, *outcomes))

    def _made(self, name: str) -> Opened:
        self._make(name, self._fixed)
        return self._collections.open(name)

    def _make(self, name: str, fixed: dict[str, Any]) -> None:
        self._collections.steadily(name, lambda: self._collections.make(name, fixed))

    def get(self, name: str, id: str) -> Steps[WholeText]:
        return self._call(name, lambda opened: read_document(opened.collection.store(), id))

    def get_many(self, name: str, ids: Sequence[str]) -> Steps[list[WholeText]]:
        return self._call(name, lambda opened: read_documents(opened.collection.store(), ids))

    def delete(self, name: str, id: str) -> Steps[None]:
        return self._call(name, lambda opened: delete_document(opened.collection, id))

    def delete_many(self, name: str, ids: Sequence[str] | None, filter: str | None) -> Steps[int]:
        return self._call(name, lambda opened: delete_many(opened.collection, ids, filter))

    def set_metadata(self, name: str, metadata: Metadata, ids: Sequence[str] | None, filter: str | None) -> Steps[int]:
        return self._call(name, lambda opened: set_metadata(opened.collection, put_over(metadata), ids, filter))

    def delete_uris(self, name: str, uris: Sequence[str]) -> Steps[list[str]]:
        return self._call(name, lambda opened: delete_documents(opened.collection, uris, fold=False) if uris else [])

    def documents(self, name: str, limit: int, offset: int, filter: str | None) -> Steps[list[StoredDocument]]:
        return self._call(name, lambda opened: opened.collection.store().documents(offset, limit, filter))

    def count(self, name: str, filter: str | None) -> Steps[int]:
        return self._call(name, lambda opened: opened.collection.store().count_documents(filter))

    def describe(self, name: str) -> Steps[dict[str, Any]]:
        return _work(lambda: self._collections.describe(name))

    def names(self) -> Steps[list[str]]:
        return _work(lambda: self._names())

    def _names(self) -> list[str]:
        self._open()
        return collection_names(self._settings.data_dir)

    def create(self, name: str, options: CollectionOptions) -> Steps[None]:
        settings = load_settings(options)
        fixed = self._fixed | {option: getattr(settings, option) for option in options}
        return _work(lambda: self._make(name, fixed))

    def embed(
        self, texts: Sequence[str], kind: Kind, model: str | None, on_overflow: OnOverflow | None
    ) -> Steps[list[list[float]]]:
        return _work(lambda: self._embed(texts, kind, model, on_overflow or self._settings.on_overflow))

    def _embed(self, texts: Sequence[str], kind: Kind, model: str | None, on_overflow: OnOverflow) -> list[list[float]]:
        encoder = self._encoders.default() if model is None else self._encoders.named(model)
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _MOST_TEXTS):
            part = texts[start : start + _MOST_TEXTS]
            encoded = encoder.encode_texts(part, kind=kind, on_overflow=on_overflow)
            vectors += encoded.vectors.tolist()
        return vectors

    def remove(self, name: str) -> Steps[None]:
        return _work(lambda: self._remove(name))

    def _remove(self, name: str) -> None:
        collections = self._collections
        delete_collection(name, self._settings)
        collections.forget(name)

    def _call(self, name: str, work: Callable[[Opened], T]) -> Steps[T]:
        return _work(lambda: self._collections.call(name, work))


def _work(do: Callable[[], T]) -> Steps[T]:
    done: T = yield Work(do)
    return done
