"""What the default search finds, and what it costs: nDCG@10 of SciFact and XQuAD, recall and IoU of answer spans.

    python benchmarks/answers.py [--data FOLDER] [--xquad FOLDER] [--chunking FOLDER] [--json FILE]

``--data``, ``--xquad``: BEIR folders (default ../shared/data/scifact, …/xquad/en), as by ``embedsvc eval FOLDER``.
``--chunking``: ``corpora/*.md`` and ``questions_df.csv`` (default ../shared/data/chunking): long texts, questions, and
the spans that answer them. All corpora are one collection, of 512-token passages. Recall: the share of a question's
answer characters in the first k hits; IoU: those over all characters of hits and answers; means over the questions.
Cost: the median over questions of a hybrid query's time over a dense one's, asked in turn.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments
from figures import Figure, at_least, at_most, interleaved, ratio, report

from embedsvc.collection import Collection
from embedsvc.config import load_settings
from embedsvc.encoding import Encoder, load_encoder
from embedsvc.evaluate import evaluate
from embedsvc.ingest import chunking_for, ingest_items
from embedsvc.readers import FieldChoice
from embedsvc.records import Document, make_document
from embedsvc.search import Hit, Mode, Query, search
from embedsvc.upkeep import Snapshot

XQUAD, CHUNKING = "../shared/data/xquad/en", "../shared/data/chunking"
ASKS = {"scifact": 0.745, "en": 0.978}
SPANS = {5: 0.965, 10: 0.985}


@dataclass(frozen=True, slots=True)
class Question:
    """``spans``: where the answer stands in the document, [start, end) each."""

    text: str
    document: str
    spans: tuple[tuple[int, int], ...]


def main() -> None:
    given = arguments(__doc__, texts=("xquad", "chunking"))
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
    report(figures, given.json)


def spans(snapshot: Snapshot, encoder: Encoder, asked: Sequence[Question]) -> Iterator[Figure]:
    modes: tuple[Mode, ...] = ("dense", "lexical", "hybrid")
    for mode in modes:
        for k, least in SPANS.items():
            hits = [search(snapshot, encoder, Query(each.text, k=k, mode=mode)).hits for each in asked]
            recall, iou = map(statistics.mean, zip(*map(overlap, asked, hits), strict=True))
            name = f"answer characters, recall@{k}, {mode}"
            yield at_least(name, recall, least) if mode == "hybrid" else Figure(name, recall, "")
            yield Figure(f"answer characters, IoU@{k}, {mode}", iou, "")

    times: dict[str, list[float]] = {"dense": [], "hybrid": []}
    for each in asked:
        # One word more for each, so that no vector is known from before.
        contestants = {
            mode: lambda text=f"{each.text} {mode}", mode=mode: search(snapshot, encoder, Query(text, mode=mode))
            for mode in ("dense", "hybrid")
        }
        for mode, seconds in interleaved(contestants, 1).items():  # type: ignore[arg-type]
            times[mode] += seconds
    for mode, seconds in times.items():
        yield Figure(f"a query, {mode}: p50", 1000 * statistics.median(seconds), "ms")
    yield at_most("all default stages over dense search", ratio(times["hybrid"], times["dense"]), 2, "x")


def overlap(question: Question, hits: Sequence[Hit]) -> tuple[float, float]:
    """Recall and IoU of the characters of ``question``'s answer, by what ``hits`` hold of its document and others."""
    answer = {at for start, end in question.spans for at in range(start, end)}
    found = {(hit.document_id, at) for hit in hits for at in range(hit.start, hit.end)}
    both = sum((question.document, at) in found for at in answer)
    return both / len(answer), both / (len(answer) + len(found) - both)


def corpora(folder: Path) -> Iterable[Document]:
    for file in sorted((folder / "corpora").iterdir()):
        yield make_document(file.name, file.read_text(encoding="utf-8"), id=file.stem, title=file.stem)


def questions(folder: Path) -> list[Question]:
    with (folder / "questions_df.csv").open(encoding="utf-8", newline="") as lines:
        return [
            Question(
                row["question"],
                row["corpus_id"],
                tuple((each["start_index"], each["end_index"]) for each in json.loads(row["references"])),
            )
            for row in csv.DictReader(lines)
        ]


if __name__ == "__main__":
    main()
