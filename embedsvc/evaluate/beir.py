"""Retrieval quality on a BEIR folder, measured on the road that every user takes: ingest, then search.

A BEIR folder holds ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``) and
``qrels/SPLIT.tsv`` (query id, document id, relevance; with or without its header). A document's text is its title,
a space and its text, as in BEIR's own evaluations.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import ir_measures

from embedsvc.collection import Collection
from embedsvc.config import Settings
from embedsvc.encoding import Encoder, load_encoder
from embedsvc.errors import NotFound, UsageError
from embedsvc.ingest import ingest_items
from embedsvc.outcomes import Outcome
from embedsvc.readers import FieldChoice
from embedsvc.records import ChunkContext, Chunking, Document, make_document
from embedsvc.search import MAX_K, Hit, Mode, Query, Selection, search
from embedsvc.upkeep import Snapshot

Qrels = Mapping[str, Mapping[str, int]]
"""Query id → document id → relevance."""
Run = dict[str, dict[str, float]]
"""Query id → document id → score."""

EACH_DOCUMENT = Selection(duplicates="keep")
"""Judged is each document by itself, also where two say the same."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one mode. All documents of the folder were indexed, only queries with qrels were asked.

    ``documents_cut``: whose vector leaves out tokens (whole documents that exceed ``max_tokens``).
    ``judged_documents_missing``: named in the qrels, not in the corpus; they lower recall.
    ``each``: nDCG@10 of every query, by id; ``found``: the documents it found, best first.
    ``encode_tokens_per_s``: tokens that the vectors see, each counted once, over the whole ingest's seconds.
    """

    dataset: str
    split: str
    mode: Mode
    documents: int
    queries: int
    measures: Mapping[str, float]
    model: str
    runtime: str
    dtype: str
    passages: int | None
    max_tokens: int
    finer_tokens: int
    chunk_context: ChunkContext
    documents_cut: int
    documents_empty: int
    queries_cut: int
    judged_documents_missing: int
    encode_tokens_per_s: float
    ingest_seconds: float
    query_ms_p50: float
    texts: Mapping[str, str] = field(repr=False)
    each: Mapping[str, float] = field(repr=False)
    found: Mapping[str, Sequence[str]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of ``embedsvc eval --json``: the measures by name, beside the rest."""
        rest = asdict(self)
        for key in ("texts", "each", "found"):
            del rest[key]
        measures = rest.pop("measures")
        head = {key: rest.pop(key) for key in ("dataset", "documents", "queries", "mode")}
        return {**head, **measures, **rest}


@dataclass(frozen=True, slots=True)
class Folder:
    """A checked BEIR folder: its document ids, the text of its judged queries, the judgements."""

    path: Path
    document_ids: frozenset[str]
    queries: Mapping[str, str]
    qrels: Qrels


@dataclass(frozen=True, slots=True)
class _Ingested:
    seconds: float
    tokens: int
    passages: int
    cut: int
    empty: int


def check_cutoffs(ks: Sequence[int]) -> None:
    """Raise UsageError for what ``recall@k`` cannot be told of."""
    if not ks or not all(1 <= k <= MAX_K for k in ks):
        raise UsageError(f"k is {', '.join(map(str, ks)) or 'not given'}; choose cut-offs from 1 to {MAX_K}.")


def evaluate(
    folder: Path,
    settings: Settings,
    *,
    modes: Sequence[Mode] = ("hybrid",),
    ks: Sequence[int] = (10, 100),
    passages: bool = False,
    split: str = "test",
    max_tokens: int = 256,
    progress: Callable[[Outcome], None] | None = None,
) -> tuple[Evaluation, ...]:
    """One Evaluation per mode, all over one collection that is made for it and removed afterwards.

    Always nDCG@10 and MRR@10, and recall at each of ``ks``. The documents are indexed whole, their vectors seeing the
    first ``max_tokens`` tokens (special tokens counted), as published figures are made; with ``passages`` as any
    collection is (``chunk_tokens``, ``overlap``, ``finer_tokens`` and ``chunk_context`` of ``settings``), a document
    scoring as its best passage. ``progress`` is called with each document's Outcome.

    Raises:
        NotFound: the folder or one of its files is missing.
        UsageError: a malformed line (file and line are named), nothing judged, or an argument out of range.
    """
    check_cutoffs(ks)
    beir = read_folder(folder, split)
    encoder = load_encoder(settings)
    if not passages and max_tokens > encoder.max_length:
        raise UsageError(
            f"max_tokens is {max_tokens}; {encoder.model.name} takes {encoder.max_length}. Ask for no more than that."
        )
    chunking = Chunking(max_tokens, whole=True, language=settings.language)
    if passages:
        chunking = replace(
            chunking,
            window=settings.chunk_tokens,
            overlap=settings.overlap,
            whole=False,
            finer=settings.finer_tokens,
            context=settings.chunk_context,
        )
    with tempfile.TemporaryDirectory(prefix="embedsvc-eval-") as scratch:
        collection = Collection.create(
            "evaluation", encoder.contract, chunking, replace(settings, data_dir=Path(scratch))
        )
        ingested = _ingest(collection, encoder, beir, progress)
        snapshot = collection.snapshot()
        return tuple(_evaluate(mode, snapshot, encoder, beir, split, ks, passages, ingested) for mode in modes)


def _ingest(
    collection: Collection, encoder: Encoder, beir: Folder, progress: Callable[[Outcome], None] | None
) -> _Ingested:
    whole = collection.chunking.whole
    room = collection.chunking.window - encoder.reserved("passage")
    tokens = passages = cut = empty = 0
    started = time.perf_counter()
    for outcome in ingest_items(collection, encoder, documents(beir.path), FieldChoice(), duplicates="ignore"):
        tokens += min(outcome.tokens, room) if whole else outcome.tokens
        passages += outcome.passages
        cut += whole and outcome.tokens > room
        empty += outcome.status == "empty"
        if progress is not None:
            progress(outcome)
    return _Ingested(time.perf_counter() - started, tokens, passages, cut, empty)


def _evaluate(
    mode: Mode,
    snapshot: Snapshot,
    encoder: Encoder,
    beir: Folder,
    split: str,
    ks: Sequence[int],
    passages: bool,
    ingested: _Ingested,
) -> Evaluation:
    depth = max(10, *ks)
    run: Run = {}
    times: list[float] = []
    queries_cut = 0
    for id, text in beir.queries.items():
        started = time.perf_counter()
        run[id], cut = ranked(snapshot, encoder, text, mode, depth)
        times.append(time.perf_counter() - started)
        queries_cut += cut
    judged = {document for judgements in beir.qrels.values() for document in judgements}
    return Evaluation(
        dataset=beir.path.resolve().name,
        split=split,
        mode=mode,
        documents=len(beir.document_ids),
        queries=len(beir.queries),
        measures={name: round(value, 5) for name, value in measure(beir.qrels, run, ks).items()},
        model=encoder.model.name,
        runtime=encoder.runtime_name,
        dtype=encoder.dtype,
        passages=ingested.passages if passages else None,
        max_tokens=snapshot.store.chunking.window,
        finer_tokens=snapshot.store.chunking.finer,
        chunk_context=snapshot.store.chunking.context,
        documents_cut=ingested.cut,
        documents_empty=ingested.empty,
        queries_cut=queries_cut,
        judged_documents_missing=len(judged - beir.document_ids),
        encode_tokens_per_s=round(ingested.tokens / ingested.seconds, 1),
        ingest_seconds=round(ingested.seconds, 3),
        query_ms_p50=round(1000 * statistics.median(times), 3),
        texts=beir.queries,
        each=measure_each(beir.qrels, run),
        found={id: list(found)[:10] for id, found in run.items()},
    )


def judge(snapshot: Snapshot, encoder: Encoder, folder: Path, split: str, mode: Mode) -> float:
    """nDCG@10 of a collection as it is, which holds the corpus of the BEIR ``folder``, indexed from its corpus.jsonl or
    sent with its ids.

    Raises:
        NotFound, UsageError: as :func:`evaluate`; or the collection holds no document of the corpus.
    """
    beir = read_folder(folder, split)
    run: Run = {}
    for id, text in beir.queries.items():
        run[id], _ = ranked(
            snapshot, encoder, text, mode, 10, lambda hit: (corpus_id(hit.document_id, hit.uri, beir.document_ids),)
        )
    if not any(id in beir.document_ids for found in run.values() for id in found):
        raise UsageError(f"{snapshot.name!r} holds no document of {folder}: nothing can be measured.")
    return measure(beir.qrels, run, (10,))["ndcg@10"]


def corpus_id(document_id: str, uri: str, known: Set[str]) -> str:
    """What the corpus calls the document: its id, or the record's in the uri of one that was read from a file."""
    return document_id if document_id in known else unquote(uri.rpartition("#")[2])


def measure(qrels: Qrels, run: Run, ks: Sequence[int]) -> dict[str, float]:
    """``ndcg@10``, ``recall@k`` of each of ``ks`` and ``mrr@10``: means over the judged queries, by ir-measures.

    A judged query that ``run`` lacks counts as 0. Scores of a query must be distinct: libraries differ on ties.
    """
    wanted = {"ndcg@10": ir_measures.nDCG @ 10}
    wanted |= {f"recall@{k}": ir_measures.R @ k for k in sorted(set(ks))}
    wanted["mrr@10"] = ir_measures.RR @ 10
    found = ir_measures.calc_aggregate(list(wanted.values()), qrels, run)
    return {name: float(found[asked]) for name, asked in wanted.items()}


def measure_each(qrels: Qrels, run: Run) -> dict[str, float]:
    """nDCG@10 of every judged query, by its id."""
    found = {each.query_id: each.value for each in ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, run)}
    return {id: round(float(found.get(id, 0.0)), 5) for id in qrels}


def ranked(
    snapshot: Snapshot,
    encoder: Encoder,
    text: str,
    mode: Mode,
    depth: int,
    names: Callable[[Hit], Sequence[str]] = lambda hit: (hit.document_id,),
    *,
    narrow: bool = False,
) -> tuple[dict[str, float], bool]:
    """The ``depth`` best documents, or what else hits count as by ``names``, each by its best hit, and whether the
    query was cut. ``narrow``: hits are parts of passages.

    Their scores are ``depth`` down to 1: the search's own order, equal ones by document id, without ties.
    """
    k = depth
    while True:
        query = Query(text, k=k, mode=mode, on_overflow="truncate", narrow=narrow, selection=EACH_DOCUMENT)
        answer = search(snapshot, encoder, query)
        best: dict[str, float] = {}
        for hit in answer.hits:
            for name in names(hit):
                best.setdefault(name, hit.score)
        if len(best) >= depth or len(answer.hits) < k or k == MAX_K:
            break
        k = min(2 * k, MAX_K)  # several passages of one document were among the hits
    order = sorted(best, key=lambda id: (-best[id], id))[:depth]
    return {id: float(depth - rank) for rank, id in enumerate(order)}, answer.tokens_cut > 0


# -- the folder ------------------------------------------------------------------------------------------------------


def read_folder(folder: Path, split: str) -> Folder:
    """Reads and checks all of it before anything is encoded."""
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}. Name a BEIR folder: corpus.jsonl, queries.jsonl, qrels/.")
    qrels_file = folder / "qrels" / f"{split}.tsv"
    if not qrels_file.is_file():
        splits = ", ".join(sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))) or "none"
        raise NotFound(f"There is no {qrels_file}. Splits in {folder / 'qrels'}: {splits}.")
    qrels, lines = _read_qrels(qrels_file)
    queries_file, corpus_file = folder / "queries.jsonl", folder / "corpus.jsonl"
    queries = {
        _field(record, "_id", at): _field(record, "text", at)
        for at, record in _records(queries_file)
        if record.get("_id") in qrels
    }
    if not queries:
        raise UsageError(f"None of the {len(qrels)} queries of {qrels_file} is in {queries_file}: not of one dataset?")
    for id in qrels.keys() - queries.keys():
        raise UsageError(f"{qrels_file}, line {lines[id]}: query {id!r} is not in {queries_file}.")
    document_ids: set[str] = set()
    for at, record in _records(corpus_file):
        id = _field(record, "_id", at)
        _field(record, "text", at)
        if id in document_ids:
            raise UsageError(f"{at}: the _id {id!r} is that of an earlier document. Make ids unique.")
        document_ids.add(id)
    if not any(id in document_ids for judgements in qrels.values() for id in judgements):
        raise UsageError(f"No document of {qrels_file} is in {corpus_file}: not of one dataset?")
    return Folder(folder, frozenset(document_ids), queries, qrels)


def _read_qrels(file: Path) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """The judgements, and the line on which each query is first named."""
    qrels: dict[str, dict[str, int]] = {}
    lines: dict[str, int] = {}
    for number, line in _lines(file):
        fields = line.split("\t")
        if number == 1 and fields[-1].strip() == "score":
            continue
        try:
            query, document, relevance = fields
            qrels.setdefault(query, {})[document] = int(relevance)
        except ValueError:
            raise UsageError(
                f"{file}, line {number}: not query id, document id and a whole number, parted by tabs: {line[:80]!r}."
            ) from None
        lines.setdefault(query, number)
    if not qrels:
        raise UsageError(f"{file} holds no judgement.")
    return qrels, lines


def documents(folder: Path) -> Iterator[Document]:
    file = folder / "corpus.jsonl"
    for at, record in _records(file):
        id, title = _field(record, "_id", at), record.get("title") or ""
        yield make_document(f"{file}#{id}", f"{title} {_field(record, 'text', at)}".strip(), id=id, title=str(title))


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place, for messages, and its JSON object."""
    for number, line in _lines(file):
        at = f"{file}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{at}: not JSON ({error}).") from None
        if not isinstance(record, dict):
            raise UsageError(f"{at}: not a JSON object.")
        yield at, record


def _field(record: Mapping[str, Any], name: str, at: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or (name == "_id" and not value):
        raise UsageError(f"{at}: {name} is {value!r}; it must be a string.")
    return value


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank, without their end."""
    try:
        with file.open("rb") as lines:
            yield from _decoded(file, lines)
    except FileNotFoundError:
        raise NotFound(f"There is no {file}. A BEIR folder has corpus.jsonl, queries.jsonl and qrels/.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}.") from error


def _decoded(file: Path, lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            raise UsageError(f"{file}, line {number}: not UTF-8 ({error.reason}).") from None
        if text.strip():
            yield number, text
