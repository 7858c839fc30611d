"""What the default search finds, and what it costs: the table of the issue on answers, by one command.

    python benchmarks/answers.py [--data FOLDER] [--xquad FOLDER] [--chunking FOLDER] [--sts FILE] [--json FILE]

``--data``, ``--xquad``: BEIR folders (default ../shared/data/scifact, …/xquad/en), as by ``embedsvc eval FOLDER``.
``--chunking``: ``corpora/*.md`` and ``questions_df.csv`` (default ../shared/data/chunking): long texts, questions, and
the spans that answer them. All corpora are one collection, of 512-token passages; recall and IoU of answer characters
as by ``embedsvc eval QUESTIONS.csv``, of whole passages and of hits narrowed to their best parts; and of the first five
hits that hold an answer whole, how many have their best sentence in it, or have it in that (by half of the shorter).
Cost: the median over questions of a hybrid query's time over a dense one's, asked in turn; so is what narrowing adds.
``--sts``: as benchmarks/quality.py has it; unanswerable questions, of XQuAD, as benchmarks/abstention.py.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import abstention
from common import arguments
from figures import Figure, at_least, at_most, interleaved, ratio, report
from quality import STS, spearman

from embedsvc.collection import Collection
from embedsvc.config import load_settings
from embedsvc.encoding import Encoder, load_encoder
from embedsvc.evaluate import Expected, Question, answer_spans, evaluate
from embedsvc.ingest import chunking_for, ingest_items
from embedsvc.readers import FieldChoice
from embedsvc.records import Document, make_document
from embedsvc.search import Evidence, Mode, Query, search
from embedsvc.upkeep import Snapshot

XQUAD, CHUNKING = "../shared/data/xquad/en", "../shared/data/chunking"
ASKS = {"scifact": 0.745, "en": 0.978}
WHOLE = {"answer_recall@5": 0.965, "answer_recall@10": 0.985}
NARROWED = {"answer_recall@5": 0.93, "answer_recall@10": 0.97, "answer_iou@5": 0.041}


def main() -> None:
    given = arguments(__doc__, texts=("xquad", "chunking", "sts"))
    settings = load_settings({"runtime": "onnx"})
    figures: list[Figure] = []
    for folder in (given.data, Path(given.xquad or XQUAD)):
        if (folder / "corpus.jsonl").is_file():
            for found in evaluate(folder, settings, modes=("dense", "lexical", "hybrid"), ks=(10,)):
                name, value = f"{folder.name} nDCG@10, {found.mode}", found.measures["ndcg@10"]
                asked = ASKS.get(folder.name) if found.mode == "hybrid" else None
                figures.append(Figure(name, value, "") if asked is None else at_least(name, value, asked))
    folder = Path(given.chunking or CHUNKING)
    if (folder / "questions_df.csv").is_file():
        encoder = load_encoder(settings)
        with tempfile.TemporaryDirectory() as scratch:
            chunking = chunking_for(encoder, settings, frozenset())
            collection = Collection.create(
                "spans", encoder.contract, chunking, replace(settings, data_dir=Path(scratch))
            )
            for _ in ingest_items(collection, encoder, corpora(folder), FieldChoice(), duplicates="ignore"):
                pass
            figures += spans(collection.snapshot(), encoder, questions(folder))
    xquad, sentences = Path(given.xquad or XQUAD), Path(given.sts or STS)
    if sentences.is_file():
        value = spearman(sentences, "fp32")
        figures.append(Figure("STS-b Spearman, fp32", value, "", ".819 to .821", 0.819 <= value <= 0.821))
    if (xquad / "corpus.jsonl").is_file():
        figures += abstention.measured(xquad)[0]
    report(figures, given.json)


def spans(snapshot: Snapshot, encoder: Encoder, asked: Sequence[Question]) -> Iterator[Figure]:
    rows: tuple[tuple[Mode, bool, dict[str, float]], ...] = (
        ("dense", False, {}),
        ("lexical", False, {}),
        ("hybrid", False, WHOLE),
        ("hybrid", True, NARROWED),
    )
    for mode, narrow, asks in rows:
        for name, value in answer_spans(snapshot, encoder, asked, mode=mode, narrow=narrow).items():
            title = f"{name}, {mode}{', narrowed' if narrow else ''}"
            yield at_least(title, value, asks[name]) if name in asks else Figure(title, value, "")

    yield Figure("best sentences in an answer, hybrid", _pointed_out(snapshot, encoder, asked), "")
    times: dict[str, list[float]] = {"dense": [], "hybrid": [], "hybrid, narrowed": []}
    for each in asked:
        # One word more for each, so that no vector is known from before.
        queries = {
            "dense": Query(f"{each.text} dense", mode="dense"),
            "hybrid": Query(f"{each.text} hybrid"),
            "hybrid, narrowed": Query(f"{each.text} narrowed", narrow=True),
        }
        contestants: dict[str, Callable[[], object]] = {
            name: lambda query=query: search(snapshot, encoder, query)  # type: ignore[misc]
            for name, query in queries.items()
        }
        for name, seconds in interleaved(contestants, 1).items():
            times[name] += seconds
    for name, seconds in times.items():
        yield Figure(f"a query, {name}: p50", 1000 * statistics.median(seconds), "ms")
    yield at_most("all default stages over dense search", ratio(times["hybrid"], times["dense"]), 2, "x")


def _pointed_out(snapshot: Snapshot, encoder: Encoder, asked: Sequence[Question]) -> float:
    right = []
    for each in asked:
        for hit in search(snapshot, encoder, Query(each.text, k=5, evidence=Evidence(highlight=True))).hits:
            answers = [one.span for one in each.expected if one.span and one.document_id == hit.document_id]
            held = [(start, end) for start, end in answers if hit.start <= start and end <= hit.end]
            if held and hit.highlight:
                low, high = hit.highlight.sentence
                shared = [min(end, high) - max(start, low) for start, end in held]
                shorter = [min(end - start, high - low) for start, end in held]
                right.append(any(2 * one >= other for one, other in zip(shared, shorter, strict=True)))
    return statistics.fmean(right)


def corpora(folder: Path) -> Iterable[Document]:
    for file in sorted((folder / "corpora").iterdir()):
        yield make_document(file.name, file.read_text(encoding="utf-8"), id=file.stem, title=file.stem)


def questions(folder: Path) -> list[Question]:
    with (folder / "questions_df.csv").open(encoding="utf-8", newline="") as lines:
        return [
            Question(
                str(number),
                row["question"],
                tuple(
                    Expected(row["corpus_id"], (each["start_index"], each["end_index"]))
                    for each in json.loads(row["references"])
                ),
            )
            for number, row in enumerate(csv.DictReader(lines))
        ]


if __name__ == "__main__":
    main()
