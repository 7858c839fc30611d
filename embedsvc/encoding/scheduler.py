"""Who is encoded next: texts of all callers share batches, and small requests overtake large ones.

A request of few tokens is *interactive*. Whatever interactive texts have gathered when a core falls free share its next
batch, oldest first. A larger request is *bulk*: it is cut into full batches when it arrives, and bulk requests take
turns, batch by batch. Bulk work never holds all cores against a query: one more thread than there are cores stands by
for the interactive lane while bulk batches run, and the operating system shares the cores out.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from embedsvc.encoding.batches import plan
from embedsvc.errors import ModelError, Overloaded

Ids = npt.NDArray[np.int32]
Vectors = npt.NDArray[np.float32]

INTERACTIVE_TOKENS = 1024
"""A request of no more tokens than this is interactive: two windows of 512, or 50 questions."""

_PATIENCE = 8
"""So many interactive batches in a row go first; then a bulk batch that could have run gets its turn."""

_LOOK = 256
"""Waiting interactive texts, oldest first, among which those that share a batch are sought."""

_LARGEST_PADDING = 1.25
"""Padded tokens over real ones, at most, in an interactive batch."""

_RECENT = 2048
"""Vectors of the latest queries that are kept, 3 MB at 384 dimensions."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A request on its way. ``future`` gives its vectors, float32 ``(texts, dimension)``; cancelling it takes what does
    not run yet out of the queue. Once done, ``queue_seconds`` tells how long its first batch waited, and
    ``compute_seconds`` how long the batches it had a part in ran, end to end."""

    future: Future[Vectors]
    vectors: Vectors
    left: int
    bulk: bool
    submitted: float
    started: float
    ended: float
    waiting_tokens: int = 0
    """Of a request with a limit: its tokens that are not encoded yet."""

    @property
    def queue_seconds(self) -> float:
        return self.started - self.submitted

    @property
    def compute_seconds(self) -> float:
        return self.ended - self.started


@dataclass(eq=False, slots=True)
class _Text:
    """One text in flight, with all who wait for it: (ticket, row of its vectors)."""

    ids: Ids
    key: bytes
    bulk: bool
    keep: bool = False
    takers: list[tuple[Ticket, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Batch:
    texts: list[_Text]
    bulk: bool


class Scheduler:
    """Runs ``run`` (texts' whole token ids → unit vectors) on batches of at most ``budget`` padded tokens, no more than
    ``parallel`` at once but for the one that bulk work cannot hold up. Safe to use from any thread."""

    def __init__(self, run: Callable[[Sequence[Ids]], Vectors], dimension: int, parallel: int, budget: int) -> None:
        self._run = run
        self._dimension = dimension
        self._parallel = parallel
        self._budget = budget
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(parallel + 1, thread_name_prefix="encoder")
        self._interactive: deque[_Text] = deque()
        self._bulk: deque[deque[list[_Text]]] = deque()
        self._running = {False: 0, True: 0}  # batches, by whether they are bulk
        self._overtaken = 0
        self._closed = False
        self._in_flight: dict[bytes, _Text] = {}
        self._recent: OrderedDict[bytes, Vectors] = OrderedDict()
        self._waiting_tokens = {False: 0, True: 0}  # of requests with a limit, by whether they are bulk
        self._rate = 5000.0  # tokens per second, until the first batch has been timed

    def encode(self, texts: Sequence[Ids], *, keep: bool = False) -> Vectors:
        """The vectors, in the order given. Waits for as long as it takes; ``keep`` as in :meth:`submit`."""
        ticket = self._enqueue(texts, keep=keep, limit=None, inline=True)
        try:
            return ticket.future.result()
        except BaseException:  # an interrupted caller leaves nothing in the queue
            ticket.future.cancel()
            raise

    def submit(self, texts: Sequence[Ids], *, keep: bool = False, limit: int | None = None) -> Ticket:
        """Puts ``texts`` in the queue. ``keep``: their vectors may be kept, and such as are kept may be given.

        Raises:
            Overloaded: with these, more than ``limit`` tokens of requests with a limit would be waiting: of interactive
                ones for an interactive request, of bulk ones for a bulk one. A request that finds none is always taken.
        """
        return self._enqueue(texts, keep=keep, limit=limit, inline=False)

    def close(self) -> None:
        """Cancels every request that is not done, and all that come later."""
        with self._lock:
            self._closed = True
            tickets = [ticket for text in self._in_flight.values() for ticket, _ in text.takers]
        for ticket in tickets:
            ticket.future.cancel()

    def _enqueue(self, texts: Sequence[Ids], *, keep: bool, limit: int | None, inline: bool) -> Ticket:
        """``inline``: where the encoder is idle and one batch will do, the calling thread runs it itself, which saves
        two changes of thread."""
        lengths = [len(ids) for ids in texts]
        tokens = sum(lengths)
        now = time.perf_counter()
        vectors = np.empty((len(texts), self._dimension), dtype=np.float32)
        bulk = tokens > INTERACTIVE_TOKENS
        ticket = Ticket(Future(), vectors, len(texts), bulk, now, now, now)
        keys = [ids.tobytes() for ids in texts]
        own = None
        with self._lock:
            if self._closed:
                ticket.future.cancel()
                return ticket
            if limit is not None:
                waiting = self._waiting_tokens[bulk]
                if waiting and waiting + tokens > limit:
                    raise Overloaded(f"{waiting} tokens of other requests", waiting / self._rate)
                self._waiting_tokens[bulk] += tokens
                ticket.waiting_tokens = tokens
            new = self._enlist(ticket, texts, keys, bulk=bulk, keep=keep)
            if bulk and new:
                batches = plan([len(text.ids) for text in new], self._budget)
                self._bulk.append(deque([new[at] for at in batch] for batch in batches))
            elif new:
                idle = inline and not self._interactive
                self._interactive.extend(new)
                own = self._next() if idle else None
            self._start()
        if limit is not None:
            ticket.future.add_done_callback(lambda _: self._forget(ticket))
        if own is not None:
            self._do(own)
        if not ticket.left:
            _complete(ticket)
        return ticket

    def _enlist(
        self, ticket: Ticket, texts: Sequence[Ids], keys: Sequence[bytes], *, bulk: bool, keep: bool
    ) -> list[_Text]:
        """Makes ``ticket`` wait for its texts; returns those that are in nobody's batch or queue yet."""
        new = []
        for row, (ids, key) in enumerate(zip(texts, keys, strict=True)):
            if keep and (vector := self._recent.get(key)) is not None:
                self._recent.move_to_end(key)
                ticket.vectors[row] = vector
                ticket.left -= 1
                self._waits_no_more(ticket, len(ids))
                continue
            text = self._in_flight.get(key)
            # A small request does not wait for the same text in another's book.
            if text is None or (text.bulk and not bulk):
                text = self._in_flight[key] = _Text(ids, key, bulk)
                new.append(text)
            text.keep |= keep
            text.takers.append((ticket, row))
        return new

    def _forget(self, ticket: Ticket) -> None:
        """A ticket is done: whatever of it was still waiting does so no more."""
        with self._lock:
            self._waits_no_more(ticket, ticket.waiting_tokens)

    # The lock is held by whoever calls the next seven.

    def _waits_no_more(self, ticket: Ticket, tokens: int) -> None:
        tokens = min(tokens, ticket.waiting_tokens)
        ticket.waiting_tokens -= tokens
        self._waiting_tokens[ticket.bulk] -= tokens

    def _start(self) -> None:
        while (batch := self._next()) is not None:
            self._pool.submit(self._do, batch)

    def _next(self) -> _Batch | None:
        """The batch that starts now, counted as running; None where none waits, or all cores are taken."""
        interactive, bulk = self._running[False], self._running[True]
        batch = None
        if interactive + bulk < self._parallel and (self._overtaken >= _PATIENCE or not self._interactive):
            batch = self._take_bulk()
        if batch is None and interactive < max(1, self._parallel - bulk):
            batch = self._take_interactive()
        if batch is not None:
            self._running[batch.bulk] += 1
            self._overtaken = 0 if batch.bulk or not self._bulk else self._overtaken + 1
        return batch

    def _take_bulk(self) -> _Batch | None:
        while self._bulk:
            batches = self._bulk.popleft()
            texts = [text for text in batches.popleft() if self._is_wanted(text)]
            if not texts:  # perhaps the whole request was cancelled: then none of it stays in memory
                batches = deque(batch for batch in batches if any(self._is_wanted(text) for text in batch))
            if batches:
                self._bulk.append(batches)
            if texts:
                return _Batch(texts, bulk=True)
        return None

    def _take_interactive(self) -> _Batch | None:
        """The oldest text, and with it those most like it in length among the next, as long as they fit the budget and
        little is padded."""
        waiting: list[_Text] = []
        while self._interactive and len(waiting) < _LOOK:
            text = self._interactive.popleft()
            if self._is_wanted(text):
                waiting.append(text)
        texts: list[_Text] = []
        if waiting:
            first = len(waiting[0].ids)
            longest = real = 0
            for text in sorted(waiting, key=lambda text: abs(len(text.ids) - first)):
                longest, real = max(longest, len(text.ids)), real + len(text.ids)
                padded = (len(texts) + 1) * longest
                if texts and (padded > self._budget or padded > _LARGEST_PADDING * real):
                    break
                texts.append(text)
        taken = set(map(id, texts))
        self._interactive.extendleft(text for text in reversed(waiting) if id(text) not in taken)
        return _Batch(texts, bulk=False) if texts else None

    def _is_wanted(self, text: _Text) -> bool:
        """Whether somebody still waits for it; if not, it is in flight no more."""
        if any(not ticket.future.done() for ticket, _ in text.takers):
            return True
        self._leave(text)
        return False

    def _leave(self, text: _Text) -> None:
        if self._in_flight.get(text.key) is text:
            del self._in_flight[text.key]

    def _do(self, batch: _Batch) -> None:
        """Encodes a batch and hands out what came of it."""
        started = time.perf_counter()
        try:
            rows = self._rows(batch.texts)
        except BaseException:  # the thread that ran it for itself was stopped; others may have joined
            self._settle(batch, [ModelError("Encoding was interrupted. Ask again.")] * len(batch.texts), started)
            raise
        self._settle(batch, rows, started)

    def _settle(self, batch: _Batch, rows: Sequence[Vectors | Exception], started: float) -> None:
        ended = time.perf_counter()
        finished: list[Ticket] = []
        failed: list[tuple[Ticket, Exception]] = []
        with self._lock:
            self._running[batch.bulk] -= 1
            tokens = sum(len(text.ids) for text in batch.texts)
            self._rate += 0.1 * (self._parallel * tokens / max(ended - started, 1e-6) - self._rate)
            for text, row in zip(batch.texts, rows, strict=True):
                self._leave(text)
                if text.keep and not isinstance(row, Exception):
                    self._recent[text.key] = row.copy()
                for ticket, at in text.takers:
                    self._waits_no_more(ticket, len(text.ids))
                    if ticket.started == ticket.submitted:  # it may have joined a batch that ran already
                        ticket.started = max(started, ticket.submitted)
                    ticket.ended = ended
                    if isinstance(row, Exception):
                        failed.append((ticket, row))
                        continue
                    ticket.vectors[at] = row
                    ticket.left -= 1
                    if not ticket.left:
                        finished.append(ticket)
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
            self._start()
        for ticket, error in failed:
            if not ticket.future.done():
                with contextlib.suppress(InvalidStateError):
                    ticket.future.set_exception(error)
        for ticket in finished:
            _complete(ticket)

    def _rows(self, texts: Sequence[_Text]) -> Sequence[Vectors | Exception]:
        """A vector for each text, or why there is none: a fault in a batch is put down to the texts that have it alone
        too."""
        try:
            rows = self._run([text.ids for text in texts])
            if rows.shape != (len(texts), self._dimension):
                raise ModelError(f"The model gave {rows.shape} numbers for {len(texts)} texts of {self._dimension}.")
            return list(rows)
        except Exception as error:
            if len(texts) == 1:
                return [error]
            return [row for text in texts for row in self._rows([text])]


def _complete(ticket: Ticket) -> None:
    if not ticket.future.done():
        with contextlib.suppress(InvalidStateError):  # cancelled in this very moment
            ticket.future.set_result(ticket.vectors)
