"""Evaluation on small BEIR folders whose figures can be worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from embedsvc.config import Settings
from embedsvc.errors import NotFound, UsageError
from embedsvc.evaluate import evaluate, measure
from tests.tiny_models import make_bert

pytestmark = pytest.mark.usefixtures("exports_in_process")

CORPUS = [
    {"_id": "power", "title": "Power", "text": "restart the service"},
    {"_id": "vitamin", "title": "", "text": "vitamin d " * 30},
    {"_id": "why", "title": "Why", "text": "how do I query a passage"},
]
QUERIES = [
    {"_id": "q1", "text": "vitamin"},
    {"_id": "q2", "text": "restart power"},
    {"_id": "unjudged", "text": "why"},
]
QRELS = [("q1", "vitamin", 1), ("q1", "why", 0), ("q2", "why", 1), ("q2", "power", 1)]


def write_folder(
    folder: Path,
    corpus: list[dict[str, object]] = CORPUS,
    queries: list[dict[str, object]] = QUERIES,
    qrels: list[tuple[str, str, object]] = QRELS,
) -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, records in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("evaluate")
    return Settings(
        model=str(make_bert(folder / "model")), cache_dir=folder / "cache", runtime="onnx", dtype="fp32", threads=1
    )


def test_figures_follow_from_the_ranking(tmp_path: Path, settings: Settings) -> None:
    """q1 finds its document first; q2 shares words with one of its two documents only."""
    beir = write_folder(tmp_path / "tiny")
    (found,) = evaluate(beir, settings, modes=["lexical"], ks=[1, 10, 100], max_tokens=40)
    figures = found.to_dict()
    assert list(figures)[:4] == ["dataset", "documents", "queries", "mode"]
    assert (figures["dataset"], figures["documents"], figures["queries"]) == ("tiny", 3, 2)
    ideal = 1 + 1 / math.log2(3)
    assert figures["ndcg@10"] == pytest.approx((1 + 1 / ideal) / 2, abs=1e-5)
    assert figures["recall@10"] == figures["recall@100"] == figures["recall@1"] == 0.75
    assert figures["mrr@10"] == 1
    assert figures["documents_cut"] == 1  # 60 tokens and more against 38
    assert figures["encode_tokens_per_s"] > 0


def test_several_modes_share_one_ingest(tmp_path: Path, settings: Settings) -> None:
    seen: list[str] = []
    found = evaluate(
        write_folder(tmp_path),
        settings,
        modes=["dense", "lexical", "hybrid"],
        max_tokens=40,
        progress=lambda outcome: seen.append(outcome.uri),
    )
    assert [one.mode for one in found] == ["dense", "lexical", "hybrid"]
    assert len(seen) == len(CORPUS)
    assert len({one.ingest_seconds for one in found}) == 1
    assert found[0].measures["recall@10"] == 1  # dense search ranks all three


def test_a_document_scores_as_its_best_passage(tmp_path: Path, settings: Settings) -> None:
    """The one passage that answers is the last of many; whole, the document's vector would not see it."""
    filler = "The passage. " * 40
    corpus: list[dict[str, object]] = [
        {"_id": "long", "title": "", "text": filler + "Why do I restart?"},
        {"_id": "short", "title": "", "text": "The service. Power failure."},
    ]
    beir = write_folder(
        tmp_path, corpus, [{"_id": "q", "text": "restart"}, {"_id": "p", "text": "the passage"}], [("q", "long", 1)]
    )
    settings = replace(settings, chunk_tokens=16, overlap=4)
    (found,) = evaluate(beir, settings, modes=["hybrid"], ks=[1], passages=True)
    assert found.passages is not None
    assert found.passages > 5
    assert found.documents_cut == 0
    assert found.measures == {"ndcg@10": 1, "recall@1": 1, "mrr@10": 1}
    (finer,) = evaluate(beir, replace(settings, finer_tokens=8), modes=["dense"], ks=[1], passages=True)
    assert finer.passages == found.passages
    assert (finer.to_dict()["finer_tokens"], found.to_dict()["finer_tokens"]) == (8, 0)
    with pytest.raises(UsageError, match="sub-window of 2 tokens"):
        evaluate(beir, replace(settings, finer_tokens=2), passages=True)


def test_equal_scores_are_ordered_by_document_id(tmp_path: Path, settings: Settings) -> None:
    corpus: list[dict[str, object]] = [{"_id": id, "text": "power failure"} for id in ("c", "a", "b")]
    for relevant, reciprocal in (("a", 1), ("b", 1 / 2), ("c", 1 / 3)):
        beir = write_folder(tmp_path / relevant, corpus, [{"_id": "q", "text": "power"}], [("q", relevant, 1)])
        (found,) = evaluate(beir, settings, modes=["lexical"], max_tokens=40)
        assert found.measures["mrr@10"] == pytest.approx(reciprocal, abs=1e-5)


def test_a_judged_query_without_answer_counts_as_nothing() -> None:
    figures = measure({"q": {"a": 1}, "r": {"a": 1}}, {"q": {"a": 2.0, "b": 1.0}}, [10])
    assert figures == {"ndcg@10": 0.5, "recall@10": 0.5, "mrr@10": 0.5}


def test_a_judged_document_that_is_missing_is_counted(tmp_path: Path, settings: Settings) -> None:
    beir = write_folder(tmp_path, qrels=[("q1", "vitamin", 1), ("q1", "nowhere", 1)])
    (found,) = evaluate(beir, settings, modes=["lexical"], max_tokens=40)
    assert found.judged_documents_missing == 1
    assert found.measures["recall@10"] == 0.5


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "b"\n', "corpus.jsonl, line 2: not JSON"),
        ("corpus.jsonl", "[1]\n", "corpus.jsonl, line 1: not a JSON object"),
        ("corpus.jsonl", '{"_id": 7, "text": "x"}\n', "corpus.jsonl, line 1: _id is 7"),
        ("corpus.jsonl", '{"_id": "a"}\n', "corpus.jsonl, line 1: text is None"),
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n' * 2, "corpus.jsonl, line 2: the _id 'a'"),
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n', "No document of"),
        ("corpus.jsonl", '\n{"_id": "a", "text": "\xff"}\n', "corpus.jsonl, line 2: not UTF-8"),
        ("queries.jsonl", "", "None of the 2 queries"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}\n', "test.tsv, line 4: query 'q2' is not in"),
        ("queries.jsonl", '{"_id": "q1"}\n', "queries.jsonl, line 1: text is None"),
        ("qrels/test.tsv", "q1\tvitamin\t1\nq1 vitamin 1\n", "test.tsv, line 2: not query id"),
        ("qrels/test.tsv", "q1\tvitamin\thigh\n", "test.tsv, line 1: not query id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "holds no judgement"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, file: str, content: str, message: str) -> None:
    (write_folder(tmp_path) / file).write_text(content, encoding="latin-1")
    with pytest.raises(UsageError) as caught:
        evaluate(tmp_path, Settings())
    assert message in str(caught.value)


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_missing_files_are_named(tmp_path: Path, file: str) -> None:
    (write_folder(tmp_path) / file).unlink()
    with pytest.raises(NotFound, match=file):
        evaluate(tmp_path, Settings())


def test_missing_folder_and_split(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no folder"):
        evaluate(tmp_path / "nowhere", Settings())
    with pytest.raises(NotFound, match=r"dev\.tsv\. Splits in .*: test\."):
        evaluate(write_folder(tmp_path), Settings(), split="dev")


def test_arguments_out_of_range(tmp_path: Path, settings: Settings) -> None:
    beir = write_folder(tmp_path)
    with pytest.raises(UsageError, match="k is 0"):
        evaluate(beir, settings, ks=[0])
    with pytest.raises(UsageError, match="max_tokens is 4096"):
        evaluate(beir, settings, max_tokens=4096)
