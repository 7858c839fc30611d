"""Questions with the documents or quotes that are expected of a collection as it is, and how well it does.

A file of questions is CSV (commas, semicolons or tabs) whose first line names the columns: ``question``, and
``document`` (its id, uri, title, or the end of its path) or ``quote`` (words of it, but for white space to the letter),
or both. A question with several answers has a line for each. A BEIR folder will do as well.
"""

from __future__ import annotations

import csv
import io
import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from embedsvc.encoding import Encoder
from embedsvc.errors import NotFound, UsageError
from embedsvc.evaluate.beir import EACH_DOCUMENT, Run, measure, measure_each, ranked, read_folder
from embedsvc.search import Hit, Mode, Query, search
from embedsvc.storage import Store
from embedsvc.storage.store import Known
from embedsvc.upkeep import Snapshot

_COLUMNS = {
    "question": ("question", "query"),
    "document": ("document", "document_id", "uri", "file"),
    "quote": ("quote", "passage", "answer"),
}
_QUOTED_IN = 50
"""Passages that are looked at to find a quote: the best by its words."""
_MOST_QUOTE = 2_000
"""Characters of a quote that it is looked for by."""
_MOSTLY = 0.5
"""Share of a quote that a hit must have to be what was expected."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A document, or of it the characters ``span``. ``document_id`` None: the collection has no such thing, as
    ``told`` says. ``quoted``: characters of the quote that is not there."""

    document_id: str | None
    span: tuple[int, int] | None = None
    told: str = ""
    quoted: int = 0

    @property
    def key(self) -> str:
        if self.document_id is None:
            return f"missing {self.told}"
        return self.document_id if self.span is None else f"{self.document_id} {self.span[0]}-{self.span[1]}"

    def is_met_by(self, hit: Hit) -> bool:
        if hit.document_id != self.document_id:
            return False
        if self.span is None:
            return True
        start, end = self.span
        return min(hit.end, end) - max(hit.start, start) >= _MOSTLY * (end - start)


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    text: str
    expected: tuple[Expected, ...]

    def names(self, hit: Hit) -> Sequence[str]:
        """What the hit counts as: all that was expected and that it is; else its document or, where quotes are
        expected, itself."""
        if met := [expected.key for expected in self.expected if expected.is_met_by(hit)]:
            return met
        quoted = any(expected.span for expected in self.expected)
        return [hit.id if quoted else hit.document_id]


@dataclass(frozen=True, slots=True)
class Scored:
    """How a collection did. ``each``: nDCG@10 of every question, by id; ``found``: what it found, best first."""

    dataset: str
    collection: str
    version: int
    mode: Mode
    narrow: bool
    queries: int
    measures: Mapping[str, float]
    expected_missing: tuple[str, ...]
    queries_cut: int
    query_ms_p50: float
    texts: Mapping[str, str] = field(repr=False)
    each: Mapping[str, float] = field(repr=False)
    found: Mapping[str, Sequence[str]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "collection": self.collection,
            "version": self.version,
            "queries": self.queries,
            "mode": self.mode,
            "narrow": self.narrow,
            **self.measures,
            "expected_missing": list(self.expected_missing),
            "queries_cut": self.queries_cut,
            "query_ms_p50": self.query_ms_p50,
        }


def score(
    snapshot: Snapshot,
    encoder: Encoder,
    questions: Sequence[Question],
    *,
    dataset: str,
    mode: Mode = "hybrid",
    ks: Sequence[int] = (10, 100),
    narrow: bool = False,
) -> Scored:
    """nDCG@10 and MRR@10, and recall at each of ``ks``, of what is expected of ``snapshot``; what it does not hold
    lowers them. Where quotes are expected, also how much of their characters is found (:func:`answer_spans`).
    ``narrow``: hits are parts of passages."""
    depth = max(10, *ks)
    run: Run = {}
    times: list[float] = []
    queries_cut = 0
    for question in questions:
        started = time.perf_counter()
        run[question.id], cut = ranked(snapshot, encoder, question.text, mode, depth, question.names, narrow=narrow)
        times.append(time.perf_counter() - started)
        queries_cut += cut
    qrels = {question.id: {expected.key: 1 for expected in question.expected} for question in questions}
    missing = (expected for question in questions for expected in question.expected if expected.document_id is None)
    return Scored(
        dataset=dataset,
        collection=snapshot.name,
        version=snapshot.version,
        mode=mode,
        narrow=narrow,
        queries=len(questions),
        measures={
            name: round(value, 5)
            for name, value in (
                *measure(qrels, run, ks).items(),
                *answer_spans(snapshot, encoder, questions, mode=mode, narrow=narrow).items(),
            )
        },
        expected_missing=tuple(dict.fromkeys(expected.told for expected in missing)),
        queries_cut=queries_cut,
        query_ms_p50=round(1000 * statistics.median(times), 3),
        texts={question.id: question.text for question in questions},
        each=measure_each(qrels, run),
        found={id: sorted(found, key=lambda key: -found[key])[:10] for id, found in run.items()},
    )


def measures_of(ks: Sequence[int], *, with_quotes: bool) -> tuple[str, ...]:
    """The names of what is measured with these cut-offs; ``with_quotes``: where questions may quote answers too."""
    names = ("ndcg@10", *(f"recall@{k}" for k in sorted(set(ks))), "mrr@10")
    return (*names, "answer_recall@5", "answer_recall@10", "answer_iou@5") if with_quotes else names


def answer_spans(
    snapshot: Snapshot,
    encoder: Encoder,
    questions: Sequence[Question],
    *,
    mode: Mode = "hybrid",
    narrow: bool = False,
) -> dict[str, float]:
    """``answer_recall@5`` and ``@10``: the share of a question's quoted characters that are in its first hits, and
    ``answer_iou@5``: those over all characters of hits and quotes; means over the questions that have quotes, nothing
    where none has. ``narrow``: hits are parts of passages. Each k is searched for on its own, for what is joined to a
    hit depends on it.
    """
    quoting = [each for each in questions if any(expected.span or expected.quoted for expected in each.expected)]
    if not quoting:
        return {}
    query = Query(mode=mode, on_overflow="truncate", narrow=narrow, selection=EACH_DOCUMENT)
    found = {
        k: [
            overlap(each.expected, search(snapshot, encoder, replace(query, text=each.text, k=k)).hits)
            for each in quoting
        ]
        for k in (5, 10)
    }
    recalls = {f"answer_recall@{k}": statistics.mean(recall for recall, _ in each) for k, each in found.items()}
    return {**recalls, "answer_iou@5": statistics.mean(iou for _, iou in found[5])}


def overlap(expected: Sequence[Expected], hits: Sequence[Hit]) -> tuple[float, float]:
    """Recall and IoU of the characters quoted in ``expected``, one at least, by what ``hits`` hold of any document."""
    quoted = _joined((each.document_id, *each.span) for each in expected if each.document_id and each.span)
    held = _joined((hit.document_id, hit.start, hit.end) for hit in hits)
    wanted = sum(end - start for _, start, end in quoted) + sum(each.quoted for each in expected)
    both = sum(
        max(0, min(end, high) - max(start, low))
        for document, start, end in quoted
        for other, low, high in held
        if other == document
    )
    return both / wanted, both / (wanted + sum(high - low for _, low, high in held) - both)


def _joined(spans: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Spans of documents, those that overlap as one."""
    joined: list[tuple[str, int, int]] = []
    for document, start, end in sorted(spans):
        if joined and joined[-1][0] == document and start <= joined[-1][2]:
            joined[-1] = document, joined[-1][1], max(end, joined[-1][2])
        else:
            joined.append((document, start, end))
    return joined


def questions_from(source: Path, store: Store, *, split: str = "test") -> list[Question]:
    """The questions of a CSV file or a BEIR folder, with what ``store`` has of what is expected.

    Raises:
        NotFound: there is no such file. UsageError: it is not one of these (its line is named), or nothing of what it
            expects is in the store.
    """
    if source.is_dir():
        beir = read_folder(source, split)
        rows = [
            _Row(id, text, document, "", f"{source}: {document}")
            for id, text in beir.queries.items()
            for document, relevance in beir.qrels[id].items()
            if relevance > 0
        ]
    else:
        rows = _read_csv(source)
    find = _Finder(store)
    grouped: dict[str, tuple[str, dict[str, Expected]]] = {}
    for row in rows:
        expected = find(row)
        grouped.setdefault(row.id, (row.question, {}))[1][expected.key] = expected
    questions = [Question(id, text, tuple(expected.values())) for id, (text, expected) in grouped.items()]
    if not any(expected.document_id for question in questions for expected in question.expected):
        raise UsageError(f"Nothing of what {source} expects is in {store.path.parent.name!r}: nothing can be measured.")
    return questions


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    question: str
    document: str
    quote: str
    at: str


def _read_csv(file: Path) -> list[_Row]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"There is no {file}. Name a CSV file of questions or a BEIR folder.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 ({error.reason}). Save it as CSV in UTF-8.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}.") from error
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    rows: list[_Row] = []
    try:
        names = [name.strip().casefold() for name in next(reader, [])]
        places = {column: _place(names, known) for column, known in _COLUMNS.items()}
        if places["question"] is None or (places["document"] is None and places["quote"] is None):
            raise UsageError(
                f"{file}, line 1: names the columns {', '.join(names) or 'not at all'}; it must name question, and "
                "document or quote or both."
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            question, document, quote = (_cell(cells, places[column]) for column in ("question", "document", "quote"))
            at = f"{file}, line {reader.line_num}"
            if not question:
                raise UsageError(f"{at}: there is no question.")
            if not document and not quote:
                raise UsageError(f"{at}: neither a document nor a quote is expected.")
            rows.append(_Row(question, question, document, quote, at))
    except csv.Error as error:
        raise UsageError(f"{file}, line {reader.line_num}: not CSV ({error}).") from None
    if not rows:
        raise UsageError(f"{file} holds no question.")
    return rows


def _place(names: Sequence[str], known: Iterable[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _cell(cells: Sequence[str], place: int | None) -> str:
    return cells[place].strip() if place is not None and place < len(cells) else ""


class _Finder:
    """What a store has of what is expected."""

    def __init__(self, store: Store) -> None:
        self._store = store
        documents = store.known_documents()
        titles = {document.id: document.title for document in store.documents()}
        self._by_name: dict[str, set[str]] = {}
        for id, known in documents.items():
            for name in {titles[id], *_names(known)} - {""}:
                self._by_name.setdefault(name, set()).add(id)
        self._ids = documents.keys()

    def __call__(self, row: _Row) -> Expected:
        """
        Raises:
            UsageError: several documents are called that.
        """
        ids = self._documents(row) if row.document else None
        if not row.quote:
            return Expected(ids[0], told=row.document) if ids else Expected(None, told=row.document)
        words = row.quote.split()
        if ids is None:
            rows, _ = self._store.lexical(row.quote[:_MOST_QUOTE], _QUOTED_IN)
            ids = list(dict.fromkeys(passage.document_id for passage in self._store.take(rows.tolist())))
        pattern = re.compile(r"\s+".join(map(re.escape, words)))
        texts = {each.passages[0].document_id: each.text for each in self._store.whole_documents(ids)} if ids else {}
        for id in ids:
            if found := pattern.search(texts[id]):
                return Expected(id, found.span(), row.quote)
        told = f"{row.document}: {row.quote}" if row.document else row.quote
        return Expected(None, told=told, quoted=len(row.quote))

    def _documents(self, row: _Row) -> list[str]:
        if row.document in self._ids:
            return [row.document]
        ids = sorted(self._by_name.get(row.document.strip("/"), ()))
        if len(ids) > 1:
            raise UsageError(
                f"{row.at}: {len(ids)} documents are called {row.document!r}. Give more of the path, or the id."
            )
        return ids


def _names(known: Known) -> Iterable[str]:
    """The uri, what is behind its ``#``, and every end of its path."""
    uri = unquote(known.uri)
    yield uri
    path, _, fragment = uri.partition("#")
    if fragment:
        yield fragment
    parts = path.split("/")
    yield from ("/".join(parts[at:]) + (f"#{fragment}" if fragment else "") for at in range(1, len(parts)))
