"""Whether confidence tells that a collection lacks the answer: XQuAD's questions, with and without their paragraph.

    python benchmarks/abstention.py [--data FOLDER] [--json FILE]

The 48 articles (five paragraphs each, in order) are dealt out in turn: the calibration is fitted to the questions about
one half of them, and what is reported is of the other half. All paragraphs are there for either, so a question without
its own still meets four of the same article. The weights are those that are shipped for the default model.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import common
from figures import Figure, at_least, report

from embedsvc.collection import Collection
from embedsvc.config import load_settings
from embedsvc.encoding import load_encoder
from embedsvc.evaluate import Question, calibrate, questions_from
from embedsvc.evaluate.beir import documents
from embedsvc.evaluate.calibrating import best_confidences
from embedsvc.ingest import ingest_items
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking
from embedsvc.search.confidence import SHIPPED, Calibration, auroc

XQUAD = Path("../shared/data/xquad/en")
PARAGRAPHS = 5


def main() -> None:
    common.SCIFACT = XQUAD
    given = common.arguments(__doc__)
    figures, fitted, shipped = measured(given.data)
    report(figures, given.json, calibration=asdict(fitted), is_shipped=fitted == shipped)
    print(fitted, "(shipped)" if fitted == shipped else "(another one is shipped)")


def measured(folder: Path) -> tuple[list[Figure], Calibration, Calibration | None]:
    """The figures, what was fitted, and what is shipped for this model."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = load_settings({"data_dir": scratch, "durability": "os"})
        encoder = load_encoder(settings)
        chunking = Chunking(settings.chunk_tokens, settings.overlap)
        collection = Collection.create("xquad", encoder.contract, chunking, settings)
        for _ in ingest_items(collection, encoder, documents(folder), FieldChoice(), duplicates="ignore"):
            pass
        snapshot = collection.snapshot()
        questions = questions_from(folder, snapshot.store)
        fitted = calibrate(snapshot, encoder, [each for each in questions if not article(each) % 2])
        unseen = [each for each in questions if article(each) % 2]
        present, absent = best_confidences(snapshot, encoder, unseen, fitted)
    figures = [
        at_least("AUROC of the best confidence, unseen articles", auroc(present, absent), 0.85),
        Figure("said to be answerable, with the answer", float((present >= fitted.answers_from).mean()), ""),
        Figure("said to be answerable, without", float((absent >= fitted.answers_from).mean()), ""),
        Figure("AUROC, five folds of what it was fitted to", fitted.auroc or 0.0, ""),
    ]
    return figures, fitted, SHIPPED.get(encoder.contract.weights_hash)


def article(question: Question) -> int:
    (expected,) = question.expected
    return int(str(expected.document_id).removeprefix("p")) // PARAGRAPHS


if __name__ == "__main__":
    main()
