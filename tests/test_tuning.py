"""Fusion as a query, a collection and its tuning have it."""

from __future__ import annotations

import hashlib
import json
import re
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from embedsvc.cli import output
from embedsvc.collection import Collection
from embedsvc.errors import UsageError
from embedsvc.evaluate.beir import judge
from embedsvc.evaluate.significance import bootstrap_interval, randomisation_test
from embedsvc.evaluate.tuning import Choice, Tuning, tune
from embedsvc.records import Fusion, Tuned, make_document
from embedsvc.search import Query, Rerank, check_query, search
from embedsvc.search.fusion import convex_combination, fused, reciprocal_ranks
from tests.fakes import FakeEncoder
from tests.test_reranking import FakeReranker
from tests.test_search import ask, collection_of, ids, texts

DENSE, LEXICAL = np.array([0.8, 0.4, 0.2], np.float32), np.array([0, 10, 5], np.float32)


def test_normalisations_by_hand() -> None:
    assert convex_combination(DENSE, LEXICAL, 0.5, "minmax").tolist() == pytest.approx([0.5, 1 / 6 + 0.5, 0.25])
    z = convex_combination(DENSE, LEXICAL, 0.5, "zscore")
    assert z.tolist() == pytest.approx(0.5 * (DENSE - DENSE.mean()) / DENSE.std() + 0.5 * (LEXICAL - 5) / LEXICAL.std())
    same = np.full(3, 0.3, np.float32)
    for normalisation in ("minmax", "zscore"):
        assert convex_combination(same, same, 0.5, normalisation).tolist() == [0, 0, 0]  # type: ignore[arg-type]
        assert convex_combination(same[:0], same[:0], 0.5, normalisation).tolist() == []  # type: ignore[arg-type]


def test_reciprocal_ranks_by_hand_and_what_was_not_found_gets_nothing() -> None:
    found = reciprocal_ranks(DENSE, LEXICAL, 0.5)
    assert found.tolist() == pytest.approx([0.5, 0.5 * 61 / 62 + 0.5, 0.5 * 61 / 63 + 0.5 * 61 / 62])
    assert reciprocal_ranks(np.array([np.nan, -1], np.float32), np.zeros(2, np.float32)).tolist() == [0, 0]
    assert fused(DENSE, LEXICAL, Fusion("rrf", 1.0)).tolist() == pytest.approx([1, 61 / 62, 61 / 63])


@pytest.mark.parametrize(
    ("fusion", "says"),
    [
        (Fusion(weight=1.1), "weight is 1.1"),
        (Fusion(weight=-0.1), "weight is -0.1"),
        (Fusion(weight=float("nan")), "weight is nan"),
        (Fusion(depth=0), "depth is 0"),
        (Fusion("sum"), "'sum'; choose convex, rrf"),  # type: ignore[arg-type]
        (Fusion(normalisation="softmax"), "'softmax'; choose max"),  # type: ignore[arg-type]
    ],
)
def test_bad_fusions(fusion: Fusion, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_query(Query("red", fusion=fusion))


def test_a_query_fuses_as_it_says_else_as_the_collection_does(tmp_path: Path, fake: FakeEncoder) -> None:
    collection = texts(tmp_path, fake, meaning="red red red", words="red apple apple pie apple")
    assert ids(ask(collection, fake, "red apple", fusion=Fusion(weight=1.0)))[0] == "meaning"
    assert ids(ask(collection, fake, "red apple", fusion=Fusion(weight=0.0)))[0] == "words"
    with collection.writer() as writer:
        writer.tune(Tuned(Fusion(weight=1.0)))
    for each in (collection, Collection.open("c", collection.settings)):
        assert each.store().fusion == Fusion(weight=1.0)
        assert ids(ask(each, fake, "red apple"))[0] == "meaning"
        assert ids(ask(each, fake, "red apple", fusion=Fusion(weight=0.0)))[0] == "words"


def test_intervals_and_p_values() -> None:
    better, nothing = np.linspace(0.0, 0.2, 50), np.linspace(-0.1, 0.1, 51)
    low, high = bootstrap_interval(better)
    assert 0.05 < low < 0.1 < high < 0.15
    assert randomisation_test(better) < 0.001
    low, high = bootstrap_interval(nothing)
    assert low < 0 < high
    assert randomisation_test(nothing) > 0.9
    assert randomisation_test(np.zeros(5)) == 1


@pytest.fixture
def judged(tmp_path: Path, fake: FakeEncoder) -> tuple[Collection, Path]:
    """Words mislead: the judged document says what is meant, and another one repeats the query's odd word."""
    documents, queries = [], []
    for at in range(40):
        mix = "red " * (at % 7 + 1) + "green " * (at // 7 + 1)
        odd = f"odd{'x' * at}"
        documents += [(f"good{at}", mix), (f"bad{at}", f"{odd} red green blue white")]
        queries.append(mix + odd)
    return judging(tmp_path, fake, documents, queries)


@pytest.fixture
def worded(tmp_path: Path, fake: FakeEncoder) -> tuple[Collection, Path]:
    """The judged document has the query's words one after the other; another one, which was there first, apart."""
    documents, queries = [], []
    for at in range(40):
        one, other = f"one{'x' * at}", f"other{'y' * at}"
        documents += [(f"bad{at}", f"{other} red {one}"), (f"good{at}", f"red {one} {other}")]
        queries.append(f"{one} {other} red")
    return judging(tmp_path, fake, documents, queries)


def judging(
    tmp_path: Path, fake: FakeEncoder, documents: list[tuple[str, str]], asked: list[str]
) -> tuple[Collection, Path]:
    """A collection of the documents by id, and a folder by which each query is answered by ``good`` and its number."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    queries = [{"_id": f"q{at}", "text": text} for at, text in enumerate(asked)]
    qrels = [f"q{at}\tgood{at}\t1" for at in range(len(asked))]
    records = [{"_id": id, "title": "", "text": text} for id, text in documents]
    for name, lines in (("corpus", records), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels))
    made = [make_document(f"t:{id}", text, id=id) for id, text in documents]
    return collection_of(tmp_path / "d", fake, *made), folder


def test_tuning_chooses_on_one_half_and_proves_on_the_other(judged: tuple[Collection, Path], fake: Any) -> None:
    collection, folder = judged
    with collection.writer() as writer:
        writer.tune(Tuned(Fusion(weight=0.0)))
    found = tune(collection.snapshot(), fake, folder, "test")
    fusion = found.fusion
    assert fusion.current == Fusion(weight=0.0)
    assert sum(found.queries) == 40
    assert min(found.queries) > 5
    assert fusion.best.weight > 0
    assert fusion.after > fusion.before
    assert fusion.proved == (fusion.interval[0] > 0)
    assert found.rerank_depth is None
    assert tune(collection.snapshot(), fake, folder, "test") == found, "the same data give the same answer"
    assert collection.store().fusion == Fusion(weight=0.0), "nothing is kept unasked"
    with collection.writer() as writer:
        writer.tune(Tuned(fusion.best))
    assert tune(collection.snapshot(), fake, folder, "test").fusion.best == fusion.best, "as good is not better"


class Oracle(FakeReranker):
    """Knows which passage is right: of a query's words, the one that has them all and no odd one."""

    def submit(self, texts: list[str], *, limit: int | None) -> Any:
        self.read += texts
        future: Future[Any] = Future()
        future.set_result(np.array([[-5.0 if "odd" in text else 5.0 - len(text) / 100] for text in texts], np.float32))
        return SimpleNamespace(future=future)


def test_the_depth_of_reranking_is_tuned_and_each_passage_read_once(judged: tuple[Collection, Path], fake: Any) -> None:
    collection, folder = judged
    oracle = Oracle()
    found = tune(collection.snapshot(), fake, folder, "test", oracle)  # type: ignore[arg-type]
    assert found.rerank_depth is not None
    assert found.rerank_depth.current == 50
    assert found.rerank_depth.best in (0, 10, 20, 50, 100)
    chosen_on, proved_on = found.queries
    # Eighty passages there are; each is read for a query once, whatever depths are tried.
    assert len(oracle.read) <= chosen_on * 80 + proved_on * 80
    with collection.writer() as writer:
        writer.tune(Tuned(found.fusion.best, 10))
    query = Query("red green", k=2, rerank=Rerank(oracle))  # type: ignore[arg-type]
    oracle.read.clear()
    search(collection.snapshot(), fake, query)
    assert len(oracle.read) == 10, "as the collection was tuned"
    oracle.read.clear()
    search(collection.snapshot(), fake, replace(query, rerank=Rerank(oracle, 4)))  # type: ignore[arg-type]
    assert len(oracle.read) == 4, "unless the query says otherwise"


class Reverse(Oracle):
    """Puts last what is right."""

    def submit(self, texts: list[str], *, limit: int | None) -> Any:
        future: Future[Any] = Future()
        future.set_result(-super().submit(texts, limit=limit).future.result())
        return SimpleNamespace(future=future)


@pytest.mark.parametrize(
    "current", [Fusion(), Fusion(weight=0.0), Fusion("rrf", 0.3), Fusion("convex", 0.2, "zscore", 50)]
)
def test_what_is_compared_is_what_a_search_gives(worded: tuple[Collection, Path], fake: Any, current: Fusion) -> None:
    collection, folder = worded
    with collection.writer() as writer:
        writer.tune(Tuned(current))
    lines = (folder / "qrels" / "test.tsv").read_text().splitlines()
    held_out = [line for line in lines if hashlib.blake2b(line.partition("\t")[0].encode()).digest()[0] % 2]
    (folder / "qrels" / "held_out.tsv").write_text("\n".join(held_out))
    measured = judge(collection.snapshot(), fake, folder, "held_out", "hybrid")
    assert tune(collection.snapshot(), fake, folder, "test").fusion.before == pytest.approx(measured)


def test_a_reranker_that_harms_is_not_to_be_asked_and_proves_no_fusion(
    judged: tuple[Collection, Path], fake: Any
) -> None:
    collection, folder = judged
    with collection.writer() as writer:
        writer.tune(Tuned(tune(collection.snapshot(), fake, folder, "test").fusion.best))
    found = tune(collection.snapshot(), fake, folder, "test", Reverse())  # type: ignore[arg-type]
    assert found.rerank_depth is not None
    assert found.rerank_depth.after > found.rerank_depth.before
    assert found.proved == {"rerank_depth": 0}, "and no fusion with it"


def test_where_reranking_does_not_pay_none_is_done_unasked(judged: tuple[Collection, Path], fake: Any) -> None:
    collection, folder = judged
    oracle = Oracle()
    with collection.writer() as writer:
        writer.tune(Tuned(rerank_depth=0))
    query = Query("red green", k=2, rerank=Rerank(oracle))  # type: ignore[arg-type]
    answer = search(collection.snapshot(), fake, query)
    assert answer.hits == search(collection.snapshot(), fake, replace(query, rerank=None)).hits
    assert oracle.read == []
    assert "Nothing was reranked" in answer.warnings[-1]
    answer = search(collection.snapshot(), fake, replace(query, rerank=Rerank(oracle, 4)))  # type: ignore[arg-type]
    assert (len(oracle.read), answer.warnings) == (4, ())
    found = tune(collection.snapshot(), fake, folder, "test", oracle)  # type: ignore[arg-type]
    assert found.rerank_depth is not None
    assert found.rerank_depth.current == 0


@pytest.mark.parametrize("as_json", [True, False])
def test_what_was_found_is_told_for_each_by_itself(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    fusion = Choice(Fusion(), Fusion(weight=0.3), 0.7, 0.71, (-0.01, 0.03), 0.4)
    depth = Choice(50, 0, 0.6, 0.71, (0.05, 0.2), 0.001)
    found = Tuning(fusion, depth, (20, 22), 0)
    assert found.proved == {"rerank_depth": 0}
    output.tuning(found, found.proved, as_json)
    told = capsys.readouterr().out
    if as_json:
        value = json.loads(told)
        assert (value["fusion"]["proved"], value["rerank_depth"]["proved"]) == (False, True)
        assert value["kept"] == ["rerank_depth"]
    else:
        assert re.search(r"fusion\.kept +no: the gain is not proved", told)
        assert re.search(r"rerank depth\.best +0: do not rerank", told)
        assert re.search(r"rerank depth\.kept +yes", told)


def test_an_oracle_ranks_as_well_as_the_candidates_let_it(judged: tuple[Collection, Path], fake: Any) -> None:
    """Whatever is right among the first `depth` comes first; what lies deeper stays where it was."""
    collection, _ = judged
    snapshot = collection.snapshot()

    class Knows(Oracle):
        def __init__(self, right: str) -> None:
            super().__init__()
            self.right = right

        def submit(self, texts: list[str], *, limit: int | None) -> Any:
            future: Future[Any] = Future()
            future.set_result(np.array([[3.0 if text == self.right else -3.0] for text in texts], np.float32))
            return SimpleNamespace(future=future)

    before = search(snapshot, fake, Query("red red green", k=40, merge=False)).hits
    for depth in (10, 40):
        for rank in (0, 9, 15, 39):
            query = Query("red red green", k=10, merge=False, rerank=Rerank(Knows(before[rank].text), depth))  # type: ignore[arg-type]
            hits = search(snapshot, fake, query).hits
            is_first = hits[0].text == before[rank].text
            assert is_first == (rank < depth), (depth, rank)


def test_too_few_queries_to_tune_by(judged: tuple[Collection, Path], fake: Any) -> None:
    collection, folder = judged
    lines = (folder / "qrels" / "test.tsv").read_text().splitlines()
    (folder / "qrels" / "few.tsv").write_text("\n".join(lines[:5]))
    with pytest.raises(UsageError, match="5 queries; tuning takes 20"):
        tune(collection.snapshot(), fake, folder, "few")
