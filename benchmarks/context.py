"""What is encoded in front of a passage: nothing, its document's title, the headings over it, or both.

    python benchmarks/context.py [--data FOLDER] [--long FOLDER] [--only SET] [--json FILE]

``--data``: SciFact (default ../shared/data/scifact): abstracts without their titles, which stay apart; the judged ones
and as many others as make 1,083; windows of 512 and of 128 tokens. ``--long``: a folder (default ../shared/data/long)
with ``fastapi-en``, Markdown but for the release notes, and ``peps``, of which those that are asked for and every 40th
are taken. These two are asked the questions of ``benchmarks/questions/``, written without looking at titles, each
for a document; and, for a passage, 200 sentences that were taken out of the files before they were read: what is
expected is the passage where one stood. nDCG@10 for two halves of the questions (every other one), the p-value of the
paired randomisation test against no context over all of them, and the tokens that were encoded.
"""

from __future__ import annotations

import csv
import json
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from common import arguments
from figures import Figure, report

from embedsvc.collection import Collection
from embedsvc.config import load_settings
from embedsvc.encoding import load_encoder
from embedsvc.evaluate import Question
from embedsvc.evaluate.beir import read_folder
from embedsvc.evaluate.questions import Expected, score
from embedsvc.evaluate.significance import randomisation_test
from embedsvc.ingest import chunking_for, ingest_items
from embedsvc.readers import FieldChoice
from embedsvc.readers.markdown import read_markdown
from embedsvc.readers.restructured import read_restructured
from embedsvc.records import ChunkContext, Document, Source, make_document
from embedsvc.search import Mode
from embedsvc.search.terms import query_terms, sentence_spans

LONG = "../shared/data/long"
ABSTRACTS, SENTENCES, EVERY = 1083, 200, 40
TERMS = range(6, 31)


@dataclass(frozen=True, slots=True)
class Set:
    """``questions``: by what kind of question they are."""

    name: str
    documents: Sequence[Document]
    questions: dict[str, list[Question]]
    window: int = 512


def main() -> None:
    given = arguments(__doc__, texts=("long", "only"))
    long = Path(given.long or LONG)
    figures: list[Figure] = []
    each: dict[str, dict[str, float]] = {}
    for found in sets(given.data, long):
        if given.only in (None, found.name):
            for line, values in measured(found):
                figures.append(line)
                report([line], None)
                each[line.name] = values
    if given.json:
        report(figures, given.json, each=each)


def sets(scifact: Path, long: Path) -> Iterator[Set]:
    if (long / "fastapi-en").is_dir():
        top = long / "fastapi-en" / "en" / "docs"
        files = [file for file in sorted(top.rglob("*.md")) if file.name != "release-notes.md"]
        yield files_of("fastapi", top, files)
    if (long / "peps").is_dir():
        top = long / "peps"
        asked = {document for _, document in questions_in("peps")}
        others = [file for file in sorted(top.glob("*.rst")) if file.name not in asked]
        yield files_of("peps", top, sorted([*(top / name for name in asked), *others[::EVERY]]))
    yield from abstracts(scifact)


def abstracts(folder: Path) -> Iterator[Set]:
    beir = read_folder(folder, "test")
    judged = {id for judgements in beir.qrels.values() for id, relevance in judgements.items() if relevance > 0}
    with (folder / "corpus.jsonl").open(encoding="utf-8") as lines:
        records = sorted(map(json.loads, lines), key=lambda record: record["_id"] not in judged)[:ABSTRACTS]
    documents = [
        make_document(f"scifact:{record['_id']}", record["text"], id=record["_id"], title=record["title"])
        for record in records
    ]
    asked = [
        Question(id, text, tuple(Expected(found) for found, relevance in beir.qrels[id].items() if relevance > 0))
        for id, text in beir.queries.items()
    ]
    for window in (512, 128):
        yield Set(f"scifact-{window}", documents, {"claims": asked}, window)


def files_of(name: str, top: Path, files: Sequence[Path]) -> Set:
    """Documents read from ``files``, sentences taken out of some, and what is asked for."""
    chance = random.Random(0)
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    taken: dict[Path, list[tuple[int, int]]] = {file: [] for file in files}
    all_spans = [(file, span) for file, text in texts.items() for span in sentence_spans(text) if fits(text, span)]
    for file, span in sorted(chance.sample(all_spans, SENTENCES)):
        if not taken[file] or span[0] > taken[file][-1][1]:
            taken[file].append(span)
    documents, sentences = [], []
    for file, spans in taken.items():
        text, uri = texts[file], file.relative_to(top).as_posix()
        for start, end in reversed(spans):  # from behind, so that places in front of it hold
            text = text[:start] + text[end:]
        gone = 0
        for start, end in spans:
            place = start - gone
            gone += end - start
            expected = Expected(uri, (max(0, place - 20), place + 20))
            sentences.append(Question(f"{uri}:{start}", texts[file][start:end], (expected,)))
        read = read_markdown if file.suffix == ".md" else read_restructured
        (document,) = read(Source(uri, file.name, text.encode()), FieldChoice())
        documents.append(replace(document, id=uri))
    questions = [Question(f"q{at}", text, (Expected(uri),)) for at, (text, uri) in enumerate(questions_in(name))]
    return Set(name, documents, {"questions": questions, "sentences": sentences})


def fits(text: str, span: tuple[int, int]) -> bool:
    sentence = text[slice(*span)]
    return sentence[0].isupper() and sentence[-1] == "." and len(query_terms(sentence)) in TERMS


def questions_in(name: str) -> list[tuple[str, str]]:
    with (Path(__file__).parent / "questions" / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
        return [(row["question"], row["document"]) for row in csv.DictReader(lines)]


def measured(of: Set) -> Iterator[tuple[Figure, dict[str, float]]]:
    settings = load_settings({"runtime": "onnx", "chunk_tokens": of.window})
    encoder = load_encoder(settings)
    modes: tuple[Mode, ...] = ("dense", "hybrid")
    before: dict[str, dict[str, float]] = {}
    contexts: Iterable[ChunkContext] = get_args(ChunkContext)
    if of.name.startswith("scifact"):  # there are no headings
        contexts = ("none", "title")
    for context in contexts:
        with tempfile.TemporaryDirectory() as scratch:
            here = replace(settings, data_dir=Path(scratch), durability="os", chunk_context=context)
            collection = Collection.create("c", encoder.contract, chunking_for(encoder, here, frozenset()), here)
            outcomes = list(ingest_items(collection, encoder, of.documents, FieldChoice(), duplicates="ignore"))
            snapshot = collection.snapshot()
            tokens, passages = sum(outcome.encoded_tokens for outcome in outcomes), snapshot.store.count()
            yield Figure(f"{of.name}, {context}: tokens encoded", tokens, f"{passages} passages"), {}
            for kind, asked in of.questions.items():
                for mode in modes:
                    scored = score(snapshot, encoder, asked, dataset=of.name, mode=mode, ks=(10,)).each
                    base = before.setdefault(f"{kind} {mode}", dict(scored))
                    values = np.array([scored[question.id] for question in asked])
                    gained = values - np.array([base[question.id] for question in asked])
                    halves = f"{values[::2].mean():.3f} / {values[1::2].mean():.3f}"
                    chance = "" if context == "none" else f", p {randomisation_test(gained):.3f}"
                    name = f"{of.name}, {context}: {kind}, {mode}, nDCG@10"
                    yield Figure(name, float(values.mean()), f"{halves}{chance}"), dict(scored)


if __name__ == "__main__":
    main()
