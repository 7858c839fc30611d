"""The stage that reranks, by a cross-encoder whose arithmetic can be seen."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.errors import QueryTooLong, UsageError
from embedsvc.ingest import ingest_items
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking, make_document
from embedsvc.search import Answer, Query, Rerank, Selection, search
from embedsvc.search.reranking import relevance
from tests.fakes import FakeEncoder

KEPT = Selection(duplicates="keep")
"""Folding reads texts too."""


class Never(Future[Any]):
    def result(self, timeout: float | None = None) -> Any:
        assert timeout is not None
        raise TimeoutError


class FakeReranker:
    """A passage's logit is how often it says blue, less one; a window holds query, passage and three special tokens."""

    def __init__(self, max_length: int = 100, labels: tuple[str, ...] = ("rank",), *, answers: bool = True) -> None:
        self.model = SimpleNamespace(name="reranker", max_length=max_length)
        self.labels = labels
        self.tokenizer = FakeEncoder().tokenizer
        self.read: list[str] = []
        self.answers = answers
        self.given_up: list[Future[Any]] = []

    def prepare(self, pairs: list[tuple[str, str]], *, on_overflow: str) -> Any:
        for query, text in pairs:
            assert len(self.tokenizer.encode(query).ids) + len(self.tokenizer.encode(text).ids) <= self.model.max_length
        return SimpleNamespace(token_ids=[text for _, text in pairs])

    def submit(self, texts: list[str], *, limit: int | None) -> Any:
        self.read += texts
        future: Future[Any] = Future() if self.answers else Never()
        if self.answers:
            future.set_result(np.array([[text.count("blue") - 1] for text in texts], np.float32))
        self.given_up.append(future)
        return SimpleNamespace(future=future)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    tmp_path, fake = tmp_path_factory.mktemp("collection"), FakeEncoder()
    made = Collection.create("c", fake.contract, Chunking(64, 0), Settings(data_dir=tmp_path, durability="os"))
    texts = {
        "a": "red red red",
        "b": "red red blue",
        "c": "red blue blue",
        "d": "red " * 9 + "green " * 30 + "blue " * 9,
    }
    documents = [make_document(f"t:{id}", text, id=id) for id, text in texts.items()]
    for _ in ingest_items(made, fake, documents, FieldChoice(), duplicates="ignore"):  # type: ignore[arg-type]
        pass
    return made


def reranked(collection: Collection, fake: Any, reranker: Any, k: int = 4, **wanted: Any) -> Answer:
    query = Query("red", k=k, mode="dense", rerank=Rerank(reranker, **wanted))
    return search(collection.snapshot(), fake, query)


def ids(answer: Answer) -> list[str]:
    return [hit.document_id for hit in answer.hits]


def test_hits_come_in_the_cross_encoders_order(collection: Collection, fake: FakeEncoder) -> None:
    answer = reranked(collection, fake, FakeReranker())
    assert ids(answer) == ["d", "c", "b", "a"]
    assert [hit.score for hit in answer.hits] == [hit.scores.rerank for hit in answer.hits]
    assert answer.hits[1].score == pytest.approx(1 / (1 + np.exp(-1)))
    assert answer.hits[3].scores.dense == pytest.approx(1)
    assert not answer.rerank_late


def test_what_lies_deeper_is_not_read(collection: Collection, fake: FakeEncoder) -> None:
    reranker = FakeReranker()
    answer = reranked(collection, fake, reranker, k=2, depth=2)
    assert ids(answer) == ["b", "a"]
    assert sorted(reranker.read) == ["red red blue", "red red red"]


def test_a_long_passage_is_read_in_windows_of_which_the_best_counts(collection: Collection, fake: FakeEncoder) -> None:
    reranker = FakeReranker(max_length=20)
    answer = reranked(collection, fake, reranker)
    assert ids(answer)[0] == "d"
    windows = [text for text in reranker.read if text not in ("red red red", "red red blue", "red blue blue")]
    assert len(windows) > 2
    assert windows[0].startswith("red red")
    assert windows[-1].endswith("blue blue")
    assert answer.hits[0].score == pytest.approx(1 / (1 + np.exp(1 - max(text.count("blue") for text in windows))))


def test_the_order_from_before_where_time_runs_out(collection: Collection, fake: FakeEncoder) -> None:
    reranker = FakeReranker(answers=False)
    before = search(collection.snapshot(), fake, Query("red", k=4, mode="dense"))  # type: ignore[arg-type]
    answer = reranked(collection, fake, reranker, budget_ms=1e-3)
    assert answer.rerank_late
    assert (ids(answer), answer.hits[0].scores.rerank) == (ids(before), None)
    answer = reranked(collection, fake, reranker, budget_ms=1e6)
    assert answer.rerank_late
    assert reranker.given_up[-1].cancelled(), "nobody waits for it any more"


@pytest.mark.parametrize("slow", ["tokenizer", "store"])
def test_time_that_reading_takes_is_of_the_budget(
    tmp_path: Path, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """Looked at before each portion, not only when all are read."""
    made = Collection.create("c", fake.contract, Chunking(64, 0), Settings(data_dir=tmp_path, durability="os"))
    text = " ".join(f"red w{at} " + "blue " * 40 for at in range(400))
    for _ in ingest_items(made, fake, [make_document("t:a", text, id="a")], FieldChoice(), duplicates="ignore"):  # type: ignore[arg-type]
        pass
    late, real = 0.0, time.perf_counter
    monkeypatch.setattr("embedsvc.search.reranking.time.perf_counter", lambda: real() + late)
    reranker: Any = FakeReranker()
    snapshot = made.snapshot()
    prepare, columns, prepared, read = reranker.prepare, type(snapshot.store).columns, [], []

    def slowly_prepare(pairs: list[tuple[str, str]], *, on_overflow: str) -> Any:
        nonlocal late
        late += 1e6 * (slow == "tokenizer")
        prepared.extend(pairs)
        return prepare(pairs, on_overflow=on_overflow)

    def slowly_read(store: Any, rows: list[int], names: list[str]) -> Any:
        nonlocal late
        late += 1e6 * (slow == "store")
        read.extend(rows)
        return columns(store, rows, names)

    reranker.prepare = slowly_prepare
    monkeypatch.setattr(type(snapshot.store), "columns", slowly_read)
    query = Query("red", k=4, mode="dense", rerank=Rerank(reranker, 300, 1e6), selection=KEPT)
    answer = search(snapshot, fake, query)  # type: ignore[arg-type]
    assert answer.rerank_late
    assert all(hit.scores.rerank is None for hit in answer.hits)
    assert len(prepared if slow == "tokenizer" else read) < 200
    assert all(future.cancelled() or future.done() for future in reranker.given_up)


def test_a_query_that_fills_the_window_is_refused_before_any_passage_is_read(
    collection: Collection, fake: FakeEncoder
) -> None:
    reranker: Any = FakeReranker(max_length=20)
    reranker.prepare = None
    query = Query("red " * 30, mode="dense", rerank=Rerank(reranker))
    with pytest.raises(QueryTooLong, match="reranker, which is to rerank, takes 20 of query and passage"):
        search(collection.snapshot(), fake, query)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 3, 120])
def test_portions_give_each_passage_its_own_score(
    collection: Collection, fake: FakeEncoder, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr("embedsvc.search.reranking._PORTION", 200)
    texts = ["blue " * (at % 7) + "red " * (at % 30) + "green" for at in range(count)]
    best = relevance(Rerank(FakeReranker(max_length=20)), "red", iter(texts), 0.0)  # type: ignore[arg-type]
    assert best is not None
    assert best.tolist() == pytest.approx([1 / (1 + np.exp(1 - at % 7)) for at in range(count)])


@pytest.mark.parametrize(
    ("reranker", "query", "message"),
    [
        (FakeReranker(labels=("yes", "no")), {}, "classifier of 2 labels"),
        (FakeReranker(), {"depth": 3}, "rerank_depth is 3; it is at least k, which is 10"),
        (FakeReranker(), {"depth": 1001}, "at most 1000"),
        (FakeReranker(), {"budget_ms": 0}, "must be more than 0"),
    ],
)
def test_what_cannot_be_reranked(
    collection: Collection, fake: FakeEncoder, reranker: Any, query: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        reranked(collection, fake, reranker, k=10, **query)


def test_rounds_read_a_passage_once_and_the_depth_once(tmp_path: Path, fake: FakeEncoder) -> None:
    """The best passages are of one document: groups take several rounds, of which only the first has the time."""
    made = Collection.create("c", fake.contract, Chunking(5, 0), Settings(data_dir=tmp_path, durability="os"))
    long = make_document("t:long", " ".join(f"red red w{at} ." for at in range(300)), id="long")
    others = [make_document(f"t:{at}", f"red green {'blue ' * at}", id=str(at)) for at in range(2)]
    for _ in ingest_items(made, fake, [long, *others], FieldChoice(), duplicates="ignore"):  # type: ignore[arg-type]
        pass
    reranker: Any = FakeReranker()
    submit = reranker.submit

    def last(texts: list[str], *, limit: int | None) -> Any:
        submitted = submit(texts, limit=limit)
        reranker.submit, reranker.answers = submit, False
        return submitted

    reranker.submit = last
    selection = Selection(group_by="document")
    wanted = Rerank(reranker, depth=50, budget_ms=1e6)
    query = Query("red", k=3, mode="dense", rerank=wanted, selection=selection, explain=True)
    answer = search(made.snapshot(), fake, query)  # type: ignore[arg-type]
    assert answer.explanation is not None
    assert answer.explanation.rounds > 1
    assert not answer.rerank_late
    assert len(reranker.read) == 50
    assert [hit.scores.rerank for hit in answer.hits] == [pytest.approx(1 / (1 + np.e)), None, None]
    assert ids(answer) == ["long", "0", "1"]


def test_reranked_hits_below_min_score_take_one_round(collection: Collection, fake: FakeEncoder) -> None:
    """What was not read scores 0: no further round can bring a hit."""
    wanted = Rerank(FakeReranker(), depth=2)  # type: ignore[arg-type]
    query = Query("red", k=1, mode="hybrid", rerank=wanted, min_score=0.99, explain=True)
    answer = search(collection.snapshot(), fake, query)  # type: ignore[arg-type]
    assert (answer.hits, answer.warnings) == ((), ())
    assert answer.explanation is not None
    assert answer.explanation.rounds == 1
