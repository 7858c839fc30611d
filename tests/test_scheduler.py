"""The scheduler, on an encoder whose vectors tell what they were made of and whose batches end when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc.encoding.scheduler import INTERACTIVE_TOKENS, Scheduler
from embedsvc.errors import ModelError, Overloaded


def text(number: int, tokens: int = 4) -> np.ndarray:
    """A text of so many tokens whose vector is ``(number, tokens)``."""
    return np.full(tokens, number, dtype=np.int32)


class Desk:
    """Runs batches; each waits for :meth:`finish` while ``held``. ``batches`` are their texts' numbers."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.held = False
        self.changed = threading.Condition()
        self.permits = 0
        self.poison: set[int] = set()

    def run(self, texts: list[np.ndarray]) -> np.ndarray:
        numbers = [int(ids[0]) for ids in texts]
        with self.changed:
            self.batches.append(numbers)
            self.changed.notify_all()
            if self.held:
                assert self.changed.wait_for(lambda: self.permits > 0, timeout=20)
                self.permits -= 1
        if self.poison & set(numbers):
            raise ModelError(f"poison in {numbers}")
        return np.array([[ids[0], len(ids)] for ids in texts], dtype=np.float32)

    def started(self, count: int) -> None:
        """Waits until so many batches have begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.batches) >= count, timeout=20), self.batches

    def finish(self, count: int = 1) -> None:
        """Lets so many batches end."""
        with self.changed:
            self.permits += count
            self.changed.notify_all()


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.finish(10_000)


def scheduler(desk: Desk, parallel: int = 1, budget: int = 256) -> Scheduler:
    return Scheduler(desk.run, 2, parallel, budget)


def bulk(first: int, batches: int) -> list[np.ndarray]:
    """A bulk request of so many batches of one text each."""
    tokens = INTERACTIVE_TOKENS // batches + 256
    return [text(first + at, tokens) for at in range(batches)]


@given(st.lists(st.lists(st.integers(1, 300), max_size=12), max_size=12), st.integers(1, 3))
def test_every_caller_gets_its_own_vectors(requests: list[list[int]], parallel: int) -> None:
    shared = scheduler(Desk(), parallel, 64)
    asked = [[text(1000 * at + row, tokens) for row, tokens in enumerate(each)] for at, each in enumerate(requests)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(shared.encode, asked))
    for texts, vectors in zip(asked, answers, strict=True):
        assert vectors.tolist() == [[ids[0], len(ids)] for ids in texts]


def test_an_idle_encoder_starts_at_once_and_a_busy_one_takes_what_has_gathered(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk)
    first = shared.submit([text(1)])
    desk.started(1)
    rest = [shared.submit([text(number)]) for number in (2, 3, 4)]
    desk.finish(2)
    assert first.future.result(20).tolist() == [[1, 4]]
    assert [ticket.future.result(20)[0, 0] for ticket in rest] == [2, 3, 4]
    assert desk.batches == [[1], [2, 3, 4]]


def test_a_batch_keeps_to_the_budget_and_to_like_lengths(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk, budget=64)
    tickets = [shared.submit([text(0)])]
    desk.started(1)
    lengths = {1: 16, 2: 60, 3: 17, 4: 16, 5: 16, 6: 59}
    tickets += [shared.submit([text(number, tokens)]) for number, tokens in lengths.items()]
    desk.finish(20)
    for ticket in tickets:
        ticket.future.result(20)
    assert desk.batches == [[0], [1, 4, 5], [2], [3], [6]]


def test_of_very_many_the_oldest_go_first(desk: Desk) -> None:
    """More than are looked at for one batch."""
    desk.held = True
    shared = scheduler(desk)
    tickets = [shared.submit([text(number, 100 + number % 3)]) for number in range(1000)]
    desk.finish(2000)
    assert [ticket.future.result(20)[0, 0] for ticket in tickets] == list(range(1000))
    firsts = [batch[0] for batch in desk.batches]
    assert sorted(number for batch in desk.batches for number in batch) == list(range(1000))
    left = [min(number for batch in desk.batches[at:] for number in batch) for at in range(len(firsts))]
    assert firsts == left


def test_a_small_request_does_not_wait_for_a_large_one(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk)
    book = shared.submit(bulk(100, 4))
    desk.started(1)
    question = shared.submit([text(1)])
    desk.started(2)  # beside the book's batch, which has not ended
    assert desk.batches == [[100], [1]]
    assert not question.future.done()
    desk.finish(10)
    assert question.future.result(20).tolist() == [[1, 4]]
    assert len(book.future.result(20)) == 4


def test_large_requests_take_turns(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk)
    books = [shared.submit(bulk(first, 3)) for first in (100, 200)]
    desk.finish(10)
    for book in books:
        book.future.result(20)
    # The first book may have had the desk to itself for one batch.
    assert [batch[0] // 100 for batch in desk.batches] in ([1, 1, 2, 1, 2, 2], [1, 2, 1, 2, 1, 2])


def test_small_requests_do_not_starve_a_large_one(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk, budget=4)
    shared.submit([text(0)])
    desk.started(1)
    questions = [shared.submit([text(number)]) for number in range(1, 40)]
    book = shared.submit(bulk(100, 2))
    desk.finish(100)
    book.future.result(20)
    for question in questions:
        question.future.result(20)
    first = next(at for at, batch in enumerate(desk.batches) if batch[0] >= 100)
    assert 8 <= first <= 12
    assert len(desk.batches) == 42


def test_equal_texts_in_flight_are_encoded_once(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk)
    busy = shared.submit([text(0)])
    desk.started(1)
    tickets = [shared.submit([text(7), text(8), text(7)]) for _ in range(3)]
    desk.finish(2)
    busy.future.result(20)
    for ticket in tickets:
        assert ticket.future.result(20)[:, 0].tolist() == [7, 8, 7]
    assert desk.batches == [[0], [7, 8]]


def test_vectors_are_kept_where_asked_for(desk: Desk) -> None:
    shared = scheduler(desk)
    for keep in (False, True, True, False):
        assert shared.encode([text(5)], keep=keep).tolist() == [[5, 4]]
    assert desk.batches == [[5], [5], [5]]


def test_a_cancelled_request_leaves_the_queue(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk)
    busy = shared.submit([text(0)])
    desk.started(1)
    gone, stays = shared.submit([text(1), text(2)]), shared.submit([text(2), text(3)])
    assert gone.future.cancel()
    desk.finish(5)
    busy.future.result(20)
    assert stays.future.result(20)[:, 0].tolist() == [2, 3]
    with pytest.raises(CancelledError):
        gone.future.result()
    assert desk.batches == [[0], [2, 3]]


def test_a_fault_reaches_those_it_concerns(desk: Desk) -> None:
    desk.held, desk.poison = True, {2}
    shared = scheduler(desk)
    busy = shared.submit([text(0)])
    desk.started(1)
    good, bad = shared.submit([text(1)]), shared.submit([text(2), text(3)])
    desk.finish(20)
    busy.future.result(20)
    assert good.future.result(20).tolist() == [[1, 4]]
    with pytest.raises(ModelError, match=r"poison in \[2\]"):
        bad.future.result(20)
    assert shared.encode([text(3)]).tolist() == [[3, 4]]


def test_a_full_queue_refuses_and_says_when_to_come_back(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk)
    ticket = shared.submit([text(0, 50)], limit=10)  # nothing waits, so it is taken
    desk.started(1)
    with pytest.raises(Overloaded, match="50 tokens of other requests are waiting") as refused:
        shared.submit([text(1)], limit=53)
    assert refused.value.retry_after >= 1
    second = shared.submit([text(1)], limit=54)
    unlimited = shared.submit([text(2)])
    desk.finish(5)
    for each in (ticket, second, unlimited):
        each.future.result(20)
    shared.submit([text(3, 99)], limit=10).future.result(20)


def test_a_large_request_refuses_others_only_as_long_as_it_waits_itself(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk)
    book = shared.submit([text(number, 300) for number in range(10)], limit=1500)
    desk.started(1)
    with pytest.raises(Overloaded, match="3000 tokens"):
        shared.submit([text(number, 300) for number in range(20, 24)], limit=1500)
    question = shared.submit([text(50)], limit=1500)  # small requests wait for small ones only
    desk.started(2)
    desk.finish(8)
    desk.started(9)
    second = shared.submit([text(number, 300) for number in range(20, 24)], limit=2900)
    desk.finish(20)
    for each in (book, question, second):
        each.future.result(20)
    assert shared._waiting_tokens == {False: 0, True: 0}


def test_a_cancelled_large_request_leaves_nothing_behind(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk)
    first = shared.submit([text(0, 2000)])
    desk.started(1)
    cancelled = shared.submit(bulk(100, 40), limit=10**6)
    last = shared.submit([text(1, 2000)])
    cancelled.future.cancel()
    desk.finish(1)
    first.future.result(20)
    desk.started(2)
    assert not shared._bulk
    assert len(shared._in_flight) == 1
    desk.finish(1)
    last.future.result(20)
    assert shared._waiting_tokens == {False: 0, True: 0}


def test_who_joins_a_batch_that_runs_has_not_waited(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk)
    shared.submit([text(1)])
    desk.started(1)
    joined = shared.submit([text(1)])
    desk.finish(1)
    joined.future.result(20)
    assert joined.queue_seconds >= 0
    assert joined.compute_seconds >= 0


def test_rows_of_another_shape_are_an_error(desk: Desk) -> None:
    for rows in (np.ones((1, 3)), np.ones((2, 2)), np.ones(2)):
        shared = Scheduler(lambda texts, rows=rows: rows, 2, 1, 256)  # type: ignore[misc]
        with pytest.raises(ModelError, match="numbers for 1 texts of 2"):
            shared.encode([text(1)])


def test_a_cancelled_request_makes_room(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk)
    shared.submit([text(0)])
    desk.started(1)
    shared.submit([text(1, 90)], limit=100).future.cancel()
    shared.submit([text(2, 90)], limit=100)


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_no_more_batches_at_once_than_cores_and_one_beside_bulk_work(desk: Desk, parallel: int) -> None:
    desk.held = True
    shared = scheduler(desk, parallel, budget=4)
    book = shared.submit(bulk(100, 6))
    desk.started(parallel)
    questions = [shared.submit([text(number)]) for number in range(5)]
    desk.started(parallel + 1)
    assert shared._next() is None  # nothing else may start now
    desk.finish(100)
    for ticket in (book, *questions):
        ticket.future.result(20)


def test_an_interrupted_caller_leaves_the_encoder_usable(desk: Desk) -> None:
    shared = scheduler(desk)
    run: Callable[..., np.ndarray] = desk.run

    def interrupted(texts: list[np.ndarray]) -> np.ndarray:
        shared._run = run
        raise KeyboardInterrupt

    shared._run = interrupted
    with pytest.raises(KeyboardInterrupt):
        shared.encode([text(1)])
    assert shared.encode([text(1)]).tolist() == [[1, 4]]


def test_a_closed_one_cancels_what_waits_and_what_comes(desk: Desk) -> None:
    desk.held = True
    shared = scheduler(desk)
    book = shared.submit(bulk(100, 4))
    desk.started(1)
    shared.close()
    with pytest.raises(CancelledError):
        book.future.result(20)
    with pytest.raises(CancelledError):
        shared.encode([text(1)])
    desk.finish(10)
    shared._pool.shutdown()
    assert desk.batches == [[100]]


def test_no_texts(desk: Desk) -> None:
    shared = scheduler(desk)
    assert shared.encode([]).shape == (0, 2)
    assert shared.submit([]).future.result().shape == (0, 2)
    assert desk.batches == []
