"""Documents that are cut → vectors → commits: what fills a collection, from files or from another collection.

One batch is committed while the next is encoded, and one more is in the encoder's queue by then: the cores never run
dry. A text is encoded once, in whichever documents it stands.
"""

from __future__ import annotations

import queue
from collections import ChainMap, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from embedsvc.chunking import encoded_windows
from embedsvc.collection import EncodedDocument, Writer
from embedsvc.encoding import Encoder
from embedsvc.encoding.scheduler import Ticket
from embedsvc.encoding.tokens import Ids
from embedsvc.records import Document, Passage
from embedsvc.storage import Store
from embedsvc.storage.store import Embedded, Floats, embedded

_T = TypeVar("_T")

Cut = tuple[Document, Sequence[Passage]]
"""A document and its passages."""

TELL_SECONDS = 0.5
"""Between two calls of who is told how it goes, while something is waited for."""


def waited(future: Future[_T], meanwhile: Callable[[], None] = lambda: None) -> _T:
    """What ``future`` gives; ``meanwhile`` is called twice a second until then. An interrupt that strikes in
    ``Future.result`` may leave its lock locked for ever, and so stop the thread that is to set it; a SimpleQueue has
    none."""
    done: queue.SimpleQueue[Future[_T]] = queue.SimpleQueue()
    future.add_done_callback(done.put)
    while True:
        try:
            return done.get(timeout=TELL_SECONDS).result()
        except queue.Empty:
            meanwhile()


@dataclass(frozen=True, slots=True)
class Batch(Generic[_T]):
    """What goes into one commit: documents ``cut``, and the ids of those that are ``gone``. ``about``: whatever the
    caller wants to see again with it."""

    cut: Sequence[Cut]
    gone: Sequence[str]
    about: _T


@dataclass(frozen=True, slots=True)
class Committed(Generic[_T]):
    """A batch that is durable. ``encoded_tokens``: that were put into the encoder's queue, of each document."""

    batch: Batch[_T]
    encoded_tokens: Sequence[int]


class Filling(Generic[_T]):
    """Fills a collection, batch by batch. For one thread; to be closed, which gives up what is not committed."""

    def __init__(
        self, writer: Writer, encoder: Encoder, told: Callable[[Batch[_T], int, int], None] = lambda *_: None
    ) -> None:
        """``told`` hears of the batch that is waited for, now and then, how many of its texts are encoded, and of how
        many."""
        self._told = told
        self._writer = writer
        self._encoder = encoder
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="committer")
        self._encoding: deque[_Encoding[_T]] = deque()
        self._committing: tuple[Future[None], _Encoding[_T]] | None = None

    @property
    def is_idle(self) -> bool:
        return not self._encoding and self._committing is None

    def advance(self, batch: Batch[_T] | None = None) -> list[Committed[_T]]:
        """Puts ``batch`` into the encoder's queue, and hands the one before it, once that is encoded, on to be
        committed. What is committed by then: of batches that follow each other, the last but two.

        Raises:
            StorageFailure: a batch before could not be committed.
        """
        if batch is not None:
            self._encoding.append(self._started(batch))
            if len(self._encoding) == 1:
                return []
        if not self._encoding:
            return self._committed()
        encoded = self._encoding[0].result(self._told)
        done = self._committed()
        before = self._encoding.popleft()
        self._committing = self._committer.submit(self._commit, encoded, before.batch), before
        return done

    def drain(self) -> Iterator[Committed[_T]]:
        """All that has not been told yet."""
        while not self.is_idle:
            yield from self.advance()

    def __enter__(self) -> Filling[_T]:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._encoding:
            each.ticket.future.cancel()
        self._committer.shutdown()

    def _started(self, batch: Batch[_T]) -> _Encoding[_T]:
        under_way = [*reversed(self._encoding), *(each for _, each in filter(None, [self._committing]))]
        return _start(self._encoder, self._writer.store, batch, under_way)

    def _commit(self, encoded: Sequence[EncodedDocument], batch: Batch[_T]) -> None:
        if batch.gone or any(passages for _, passages, _ in encoded):
            self._writer.replace(encoded, batch.gone)

    def _committed(self) -> list[Committed[_T]]:
        if self._committing is None:
            return []
        future, encoding = self._committing
        self._committing = None
        waited(future)
        return [Committed(encoding.batch, encoding.tokens)]


@dataclass(frozen=True, slots=True)
class _Encoding(Generic[_T]):
    """A batch whose new passages are in the encoder's queue; those whose text is known have their vectors already."""

    batch: Batch[_T]
    encoded: list[EncodedDocument]
    ticket: Ticket
    places: list[tuple[Floats, int]]
    """Where the ticket's vectors belong: a document's vectors, and the line."""
    same: list[tuple[Floats, Floats]]
    """Vectors that are those of a text met before, in this batch or one that is under way; what they are copied from
    is complete by the time that this batch is."""
    made: dict[Embedded, Floats]
    """By what is embedded: its vectors, once they are there."""
    tokens: list[int]

    def result(self, told: Callable[[Batch[_T], int, int], None]) -> list[EncodedDocument]:
        """The documents with all vectors of their passages."""
        texts = len(self.places)
        found = waited(self.ticket.future, lambda: told(self.batch, texts - self.ticket.left, texts))
        for (vectors, at), vector in zip(self.places, found, strict=True):
            vectors[at] = vector
        for vectors, known in self.same:
            vectors[:] = known
        return self.encoded


def _start(encoder: Encoder, store: Store, batch: Batch[_T], under_way: Sequence[_Encoding[_T]]) -> _Encoding[_T]:
    """Puts into the queue what has no vectors yet: neither in ``store``, word for word (those of its context, too) in
    whichever document, nor ``under_way``, latest first, nor in the batch itself."""
    asked = {embedded(document, passage) for document, passages in batch.cut for passage in passages}
    known: Mapping[Embedded, Floats] = ChainMap({}, *(each.made for each in under_way), store.vectors_of(asked))
    made: dict[Embedded, Floats] = {}
    encoded: list[EncodedDocument] = []
    places: list[tuple[Floats, int]] = []
    same: list[tuple[Floats, Floats]] = []
    new: list[Ids] = []
    tokens: list[int] = []
    for document, passages in batch.cut:
        vectors = np.empty((sum(1 + len(passage.finer) for passage in passages), encoder.dimension), np.float32)
        end, before = 0, len(new)
        for passage in passages:
            what = embedded(document, passage)
            windows = encoded_windows(passage)
            start, end = end, end + len(windows)
            vectors_known = made[what] if what in made else known.get(what)
            # The same text may, in another neighbourhood, have a token more, and with it another sub-window.
            if vectors_known is None or len(vectors_known) != len(windows):
                new += windows
                places += ((vectors, at) for at in range(start, end))
            else:
                same.append((vectors[start:end], vectors_known))
            made[what] = vectors[start:end]
        encoded.append((document, passages, vectors))
        tokens.append(sum(map(len, new[before:])))
    ticket = encoder.submit(new, kind="passage")
    return _Encoding(batch, encoded, ticket, places, same, made, tokens)
