"""The vector index on GPUs: everything but the cards' own work, with an owner whose cards are FAISS's CPU indexes
(fake_card.py); and, where a card is present, with it."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from embedsvc.vectors import (
    Goal,
    VectorIndex,
    apply_changes,
    build,
    cards,
    gpu,
    load_index,
    of_segment,
    save_index,
    segment,
    with_segments,
)
from embedsvc.vectors.cards import Cards
from embedsvc.vectors.gpu import OnCards
from embedsvc.vectors.kinds import Effort
from embedsvc.vectors.owner import CAGRA16, FLAT16, IVFPQ8, checked, code_length
from embedsvc.vectors.recall import Recall

COUNT, DIMENSION = 6000, 32
NO_ROWS = np.empty(0, np.int64)
NO_VECTORS = np.empty((0, DIMENSION), np.float32)
ROOMY = 10**9


def grouped(count: int, dimension: int, seed: int) -> np.ndarray:
    """Unit vectors in groups of ten that lie near each other, as the passages of a text do."""
    rng = np.random.default_rng(seed)
    vectors = np.repeat(rng.normal(size=(count // 10, dimension)), 10, axis=0)
    vectors += 0.5 * rng.normal(size=vectors.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS = grouped(COUNT, DIMENSION, 1)
QUERIES = VECTORS[::20] + 0.02 * np.random.default_rng(2).normal(size=(COUNT // 20, DIMENSION)).astype(np.float32)
QUERIES /= np.linalg.norm(QUERIES, axis=1, keepdims=True)


def made(folder: Path, vectors: np.ndarray = VECTORS) -> VectorIndex:
    rows = iter([(np.arange(len(vectors), dtype=np.int64), vectors)])
    return of_segment(build(rows, len(vectors), vectors.shape[1], Goal(exact=1), folder), 1)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of VECTORS, saved."""
    folder = tmp_path_factory.mktemp("sound")
    save_index(made(folder), folder)
    return folder


@pytest.fixture
def index(sound: Path) -> VectorIndex:
    loaded = load_index(sound, DIMENSION, newest=1)
    assert loaded is not None
    return loaded


class Fake:
    """Cards that are none, and what was asked of them."""

    def __init__(self, log: Path, count: int, free: int, mode: str) -> None:
        self._log = log
        owner = str(Path(__file__).with_name("fake_card.py"))
        self.cards = Cards([sys.executable, owner, str(count), str(free), mode, str(log)])
        self.there = OnCards(self.cards)

    def requests(self, what: str) -> list[dict[str, Any]]:
        lines = self._log.read_text("utf-8").splitlines() if self._log.exists() else []
        return [each for each in map(json.loads, lines) if each["do"] == what]


Start = Callable[..., Fake]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Puts fake cards into this process, which is told to use them from a thousand vectors on."""
    started: list[Fake] = []

    def begin(count: int = 1, free: int = ROOMY, mode: str = "works") -> Fake:
        fake = Fake(tmp_path / "requests", count, free, mode)
        started.append(fake)
        monkeypatch.setattr(gpu, "_LEAST", 1000)
        monkeypatch.setattr(gpu, "on_cards", lambda: fake.there)
        monkeypatch.setattr(gpu, "_cpu_seconds", lambda *_: math.inf)  # the fake one is never quicker
        monkeypatch.setattr(gpu, "_KINDS", (FLAT16, CAGRA16, IVFPQ8))  # an exact one, to compare with
        return fake

    yield begin
    for fake in started:
        fake.cards.close()


def place(index: VectorIndex, fake: Fake) -> str:
    """Asks until the index's segment lies on the cards; the kind of it there."""
    index.search_many(QUERIES, 10)
    segment = index.parts[0].segment
    wait_for(lambda: fake.there.holds(segment))
    return fake.there._places[gpu._key(segment)].kind.name


def wait_for(met: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def truth(rows: np.ndarray, queries: np.ndarray = QUERIES, k: int = 10, vectors: np.ndarray = VECTORS) -> np.ndarray:
    return -np.sort(-(queries @ vectors[rows].T), axis=1)[:, :k]


def recall(scores: np.ndarray, wanted: np.ndarray) -> float:
    return float((scores >= wanted[:, -1:] - 1e-6).mean())


EVERYTHING = np.arange(COUNT)
KINDS = {
    "cagra16": (ROOMY, (CAGRA16, FLAT16, IVFPQ8)),
    "flat16": (ROOMY, (FLAT16, IVFPQ8)),
    # .9 of it fits none but the last
    "ivfpq8": (int(COUNT * FLAT16.bytes_per_vector(COUNT, DIMENSION)), (CAGRA16, FLAT16, IVFPQ8)),
}
"""Free memory, and the kinds that are tried."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_that_is_asked_for_often_is_searched_on_a_card(
    index: VectorIndex, start: Start, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    free, tried = KINDS[kind]
    fake = start(free=free)
    monkeypatch.setattr(gpu, "_KINDS", tried)
    index.search_many(QUERIES[:199], 10)
    assert not fake.requests("place")  # one search from the command line is not worth it
    assert place(index, fake) == kind
    before = len(fake.requests("search"))
    ids, scores = index.search_many(QUERIES, 10)
    assert len(fake.requests("search")) == before + 1
    assert recall(scores, truth(EVERYTHING)) >= 0.95
    assert scores == pytest.approx(np.einsum("ijk,ik->ij", VECTORS[ids], QUERIES), abs=1e-5)  # cosines, not estimates
    assert len(index.search(QUERIES[0], 3)[0]) == 3


def test_what_finds_less_on_the_card_stays_on_the_cpu(
    index: VectorIndex, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    segment = index.parts[0].segment
    fake = start(free=KINDS["ivfpq8"][0])
    with caplog.at_level(logging.INFO):
        fake.there.put(segment, [FLAT16, replace(IVFPQ8, efforts=(Effort(1, 1),))])
    assert "flat16: 0 MB are needed, and 0 MB of each card can be taken" in caplog.text
    assert "ivfpq8: recall@10 of" in caplog.text
    assert not fake.there.holds(segment)
    wait_for(lambda: fake.requests("drop"))
    assert not fake.cards.failed
    assert recall(index.search_many(QUERIES, 10)[1], truth(EVERYTHING)) >= 0.95


def test_card_and_cpu_are_compared_by_the_same_questions(index: VectorIndex, start: Start) -> None:
    """Not by what the segment says of itself, which may be of what people asked."""
    fake = start()
    weak = replace(IVFPQ8, efforts=(Effort(1, 1),))
    for told, kind, is_there in ((0.2, weak, False), (1.0, FLAT16, True)):
        segment = replace(index.parts[0].segment, recall=Recall(told, told, told, 1000))
        fake.there.put(segment, [kind])
        assert fake.there.holds(segment) is is_there


def test_what_is_slower_on_the_card_stays_on_the_cpu(
    index: VectorIndex, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    segment = index.parts[0].segment
    fake = start()
    monkeypatch.setattr(gpu, "_cpu_seconds", lambda *_: 0.0)
    with caplog.at_level(logging.INFO):
        fake.there.put(segment, [FLAT16])
    assert re.search(r"flat16: recall@10 of 1\.000 in \d+ ms, on the CPU [.\d]+ in 0 ms", caplog.text)
    assert not fake.there.holds(segment)


def test_it_is_cut_where_no_card_can_hold_it_and_copied_where_all_can() -> None:
    free = {0: 1000, 1: 2000, 2: 1500}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedsvc.vectors.owner.free_memory", free.__getitem__)
        assert checked(900, [0]) == 1
        assert checked(900, [0, 1, 2]) == 1
        assert checked(901, [0, 1, 2]) == 3
        assert checked(2700, [0, 1, 2]) == 3
        for need, devices in ((901, [0]), (2701, [0, 1, 2])):
            with pytest.raises(MemoryError, match="MB are needed"):
                checked(need, devices)


@pytest.mark.parametrize("free", [ROOMY, KINDS["ivfpq8"][0]], ids=["replicas", "shards"])
def test_several_cards_give_what_one_gives(index: VectorIndex, start: Start, free: int) -> None:
    fake = start(count=3, free=free)
    assert place(index, fake) == "flat16"
    alone = index.parts[0].segment.exact(QUERIES, 10, None)
    ids, scores = index.search_many(QUERIES, 10)
    assert scores == pytest.approx(alone[1], abs=1e-6)
    assert (ids == alone[0]).mean() > 0.999


def test_product_codes_have_lengths_that_a_card_can_read() -> None:
    assert [code_length(dimension) for dimension in (384, 768, 1024, 32, 100, 50, 7, 1)] == [96, 96, 64, 8, 20, 2, 1, 1]


@pytest.mark.parametrize("count", [3, 20, 200])
def test_one_sort_ranks_as_two_keys_do(count: int) -> None:
    rng = np.random.default_rng(count)
    positions = np.stack([rng.permutation(1000)[:count] for _ in range(50)])
    scores = rng.integers(-4, 5, positions.shape).astype(np.float32) / 7  # many are equal
    positions[:, 1::5], scores[:, 1::5] = -1, -np.inf
    found, wanted = segment._foremost(positions, scores, 10), segment.best(positions, scores, 10, distinct=True)
    assert (found[0] == wanted[0]).all()
    assert (found[1] == wanted[1]).all()


def test_queries_of_many_threads_share_batches(index: VectorIndex, start: Start) -> None:
    fake = start()
    place(index, fake)
    before = len(fake.requests("search"))
    ks = [1 + at % 30 for at in range(64)]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda at: index.search(QUERIES[at], ks[at]), range(64)))
    asked = fake.requests("search")[before:]
    assert sum(each["rows"] for each in asked) == 64
    assert len(asked) < 32
    for at, (ids, scores) in enumerate(found):
        wanted = truth(EVERYTHING, QUERIES[at : at + 1], ks[at])[0]
        assert len(ids) == ks[at]
        assert scores == pytest.approx(wanted, abs=1e-5)


def test_a_batch_takes_what_is_for_the_same_segment_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_BATCH", 10)

    def job(segment: str, rows: int, depth: int = 0) -> cards._Job:
        return cards._Job(
            {"do": "search", "segment": segment, "depth": depth, "count": rows}, np.zeros((rows, 2), "f4")
        )

    make = cards._Job({"do": "place", "segment": "a"})
    jobs = [job("a", 4), job("b", 1), job("a", 4), make, job("a", 4), job("a", 2), job("a", 1, depth=3)]
    taken, left = cards._first_batch(jobs)
    assert [jobs.index(each) for each in taken] == [0, 2, 5]
    assert [jobs.index(each) for each in left] == [1, 3, 4, 6]
    assert cards._first_batch([make, *jobs])[0] == [make]
    assert len(cards._first_batch([job("a", 99), job("a", 1)])[0]) == 1


def test_rows_that_went_are_left_out_by_asking_for_more(index: VectorIndex, start: Start) -> None:
    fake = start()
    place(index, fake)
    near = index.search_many(QUERIES[:5], 60)[0].ravel()  # all that lies near these five
    gone = np.union1d(near, EVERYTHING[::17])
    changed = apply_changes(index, NO_ROWS, NO_VECTORS, gone, 2)
    before = len(fake.requests("search"))
    ids, scores = changed.search_many(QUERIES, 10)
    assert len(fake.requests("search")) == before + 1
    assert not np.isin(ids, gone).any()
    assert recall(scores, truth(np.setdiff1d(EVERYTHING, gone))) >= 0.99
    rare = changed.among(np.arange(0, COUNT, 100, dtype=np.int64))
    many_went = apply_changes(index, NO_ROWS, NO_VECTORS, EVERYTHING[: COUNT // 3], 2)
    before = len(fake.requests("search"))
    for each, among, rows in (
        (changed, rare, np.setdiff1d(EVERYTHING[::100], gone)),
        (many_went, None, EVERYTHING[COUNT // 3 :]),
    ):
        assert recall(each.search_many(QUERIES, 10, among)[1], truth(rows)) >= 0.95
    assert recall(index.search_many(QUERIES[:20], 2100)[1], truth(EVERYTHING, QUERIES[:20], 2100)) >= 0.95
    assert len(fake.requests("search")) == before  # few pass, many went, many are wanted: the CPU


@pytest.mark.parametrize("mode", ["aborts", "raises", "hangs"])
def test_a_card_that_disappears_fails_no_request(
    index: VectorIndex, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    monkeypatch.setattr(cards, "_SEARCH_SECONDS", 2)
    fake = start(mode=mode)
    place(index, fake)
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda at: index.search(QUERIES[at], 10)[1], range(100)))
    assert recall(np.stack(found), truth(EVERYTHING, QUERIES[:100])) >= 0.95
    assert fake.cards.failed
    assert [record.message.startswith("the GPU is not used any more") for record in caplog.records] == [True]
    assert recall(index.search_many(QUERIES, 10)[1], truth(EVERYTHING)) >= 0.95


def test_a_search_does_not_wait_for_what_a_card_is_busy_with(
    index: VectorIndex, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = start(mode="hangs")
    place(index, fake)
    monkeypatch.setattr(gpu, "_PATIENCE", 0.1)
    for at in range(10):  # the fifth is not answered, nor are those behind it
        assert recall(index.search_many(QUERIES[at : at + 50], 10)[1], truth(EVERYTHING, QUERIES[at : at + 50])) >= 0.95
    assert not fake.cards.failed


def test_an_owner_that_does_not_start_fails_no_request(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    there = OnCards(Cards([sys.executable, "-c", "raise SystemExit(3)"]))
    monkeypatch.setattr(gpu, "_LEAST", 1000)
    monkeypatch.setattr(gpu, "on_cards", lambda: there)
    with caplog.at_level(logging.WARNING):
        there.put(index.parts[0].segment, [FLAT16])
    assert "exit code: 3" in caplog.text or "exit code: -9" in caplog.text
    assert recall(index.search_many(QUERIES, 10)[1], truth(EVERYTHING)) >= 0.95


def test_a_graph_built_on_a_card_serves_on_a_cpu(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = start()
    with caplog.at_level(logging.INFO):
        save_index(made(tmp_path / "index"), tmp_path / "index")
    assert len(fake.requests("build")) == 1
    assert "the CPU builds" not in caplog.text
    assert not list(tmp_path.rglob("links.npy"))
    fake.cards.close()
    index = load_index(tmp_path / "index", DIMENSION, newest=1)
    assert index is not None
    assert index.kind == "hnsw8"
    assert recall(index.search_many(QUERIES, 10)[1], truth(EVERYTHING)) >= 0.95
    half = index.among(EVERYTHING[::2])
    assert recall(index.search_many(QUERIES, 10, half)[1], truth(EVERYTHING[::2])) >= 0.95


@pytest.mark.parametrize(
    ("free", "mode", "reason"), [(1000, "works", "MB are needed"), (ROOMY, "misleads", "a link leads nowhere")]
)
def test_what_a_card_cannot_build_is_built_by_the_cpu(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, free: int, mode: str, reason: str
) -> None:
    start(free=free, mode=mode)
    with caplog.at_level(logging.INFO):
        index = made(tmp_path / "index")
    assert re.search(f"the CPU builds the index: .*{reason}", caplog.text)
    assert index.kind == "hnsw8"
    assert recall(index.search_many(QUERIES, 10)[1], truth(EVERYTHING)) >= 0.95


def test_a_segment_that_nobody_has_any_more_leaves_the_card(sound: Path, start: Start) -> None:
    fake = start()
    index = load_index(sound, DIMENSION, newest=1)
    assert index is not None
    place(index, fake)
    del index
    wait_for(lambda: fake.requests("drop"))
    assert not fake.there._places


def test_a_segment_with_more_effort_stays_on_the_card_when_the_one_before_goes(sound: Path, start: Start) -> None:
    fake = start()
    index = load_index(sound, DIMENSION, newest=1)
    assert index is not None
    place(index, fake)
    segment = index.parts[0].segment
    harder = with_segments(index, {segment.name: replace(segment, effort=Effort(99, 9))})
    del segment
    place(harder, fake)
    del index
    wait_for(lambda: fake.requests("drop"))
    before = len(fake.requests("search"))
    assert recall(harder.search_many(QUERIES, 10)[1], truth(EVERYTHING)) >= 0.95
    assert len(fake.requests("search")) == before + 1
    assert not fake.cards.failed


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="there is a card")
def test_without_a_card_one_line_is_logged(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.on_cards.cache_clear()
    monkeypatch.setattr(gpu, "_LEAST", 1000)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            index.search_many(QUERIES, 10)
    assert [record.message.startswith("no GPU for the vector index") for record in caplog.records] == [True]


# -- on a real card --------------------------------------------------------------------------------------------------

LARGE = 384
on_a_card = pytest.mark.skipif(not faiss.get_num_gpus(), reason="FAISS sees no card")
has_cagra = pytest.mark.skipif("CUVS" not in faiss.get_compile_options(), reason="FAISS is built without cuVS")


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return grouped(120_000, LARGE, 5)


@pytest.mark.gpu
@on_a_card
@pytest.mark.parametrize("kind", [FLAT16, IVFPQ8, pytest.param(CAGRA16, marks=has_cagra)], ids=lambda kind: kind.name)
def test_every_kind_on_a_card(many: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setattr("embedsvc.vectors.building.build_on_card", lambda *_: None)
    monkeypatch.setattr(gpu, "_cpu_seconds", lambda *_: math.inf)
    index = made(tmp_path, many)
    with closing(Cards()) as real:
        there = OnCards(real)
        segment = index.parts[0].segment
        there.put(segment, [kind])
        assert there._places[gpu._key(segment)].kind is kind
        queries = many[::100]
        scores = there.search(segment, queries, 10, None)[1]
        assert recall(scores, truth(np.arange(len(many)), queries, 10, many)) >= (0.99 if kind is FLAT16 else 0.95)
        assert not real.failed


@pytest.mark.gpu
@on_a_card
@has_cagra
def test_a_graph_of_a_real_card_serves_on_a_cpu(
    many: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Cards()) as real, caplog.at_level(logging.INFO):
        there = OnCards(real)
        monkeypatch.setattr(gpu, "on_cards", lambda: there)
        save_index(made(tmp_path, many), tmp_path)
        assert "the CPU builds" not in caplog.text
    monkeypatch.setattr(gpu, "on_cards", lambda: None)
    index = load_index(tmp_path, LARGE, newest=1)
    assert index is not None
    assert index.kind == "hnsw8"
    queries = many[::100]
    assert recall(index.search_many(queries, 10)[1], truth(np.arange(len(many)), queries, 10, many)) >= 0.95
