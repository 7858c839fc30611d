"""Bodies of requests and responses. Responses are described here for readers of /docs, not checked again when sent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from embedsvc.config import Dtype, OnDuplicate, OnOverflow
from embedsvc.records import ChunkContext, FusionMethod, Language, Normalisation
from embedsvc.storage import LABEL

_JSON = dict[str, Any]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """5.0 is 5: JSON, and so OpenAPI, has one kind of number."""
        if not isinstance(value, dict):
            return value
        return {key: int(own) if isinstance(own, float) and own.is_integer() else own for key, own in value.items()}


# -- requests ----------------------------------------------------------------------------------------------------------


class FusionIn(_Request):
    """How the two sides of a hybrid search become one ranking. What is left out is the collection's."""

    method: FusionMethod | None = Field(None, description="Weighted sum of scores, or of reciprocal ranks.")
    weight: float | None = Field(None, description="The dense side's, 0 to 1; the lexical side has the rest.")
    normalisation: Normalisation | None = Field(None, description="Of `convex`: what makes scores comparable.")
    depth: int | None = Field(None, description="Candidates that each side brings, at least; 1 to 1000.")


class BoostIn(_Request):
    """A date, or a filter; not both."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["field", "half_life_days", "weight"], "maxProperties": 3},
                {"required": ["filter", "factor"], "maxProperties": 2},
            ]
        }
    )

    field: str = Field("", description="`metadata.KEY` with a date (ISO 8601).", examples=["metadata.date"])
    half_life_days: float = Field(0, description="Days after which a date counts half as much.")
    weight: float = Field(0, description="Its share of the score, 0 to 1; all dates together have 1 at most.")
    filter: str = Field("", description="As a search's.", examples=["metadata.kind = 'manual'"])
    factor: float = Field(1, description="What it multiplies the score by, compared with the others; above 0, to 100.")


class SearchRequest(_Request):
    """Exactly one of ``query``, ``queries`` and ``vector``."""

    query: str | None = Field(None, description="What is asked, in words.", examples=["How do I restart it?"])
    queries: list[str] | None = Field(None, description="Several questions at once, at most 100; answered in order.")
    vector: list[float] | None = Field(None, description="A ready-made query vector, searched in mode `dense`.")
    k: int = Field(10, description="Hits wanted, 1 to 1000.")
    mode: Literal["hybrid", "dense", "lexical"] | None = Field(
        None, description="`hybrid` unless a vector is given: meaning and words together."
    )
    filter: str | None = Field(
        None,
        description="SQL condition over the built-in fields and `metadata.KEY`.",
        examples=["metadata.year >= 2024 AND uri LIKE '%manual%'"],
    )
    min_score: float | None = Field(
        None,
        description="Hits with a lower score are left out. In hybrid mode a score is relative: 1 would be best on both "
        "sides; in dense mode it is the cosine.",
    )
    rerank: str | None = Field(
        None,
        description="Put the best in order by this served cross-encoder. Scores are its own, 0 to 1.",
    )
    rerank_depth: int | None = Field(
        None,
        description="How many of the best it reads; at least `k`. Default: as tuned (0: none, and a warning), else 50.",
    )
    time_budget_ms: float | None = Field(
        None,
        description="Milliseconds from the beginning after which reranking is not waited for: the order is then "
        "that of the fusion, and `rerank_late` is true.",
    )
    min_confidence: float | None = Field(
        None,
        description="Hits of which it is less sure that they answer are left out: a probability, the same scale for "
        "every query and collection.",
    )
    expand: Literal["neighbours", "section", "document"] | None = Field(
        None,
        description="Also give a `context`: the hits with the passages next to them, their whole section or document, "
        "in numbered sources.",
    )
    max_context_tokens: int | None = Field(
        None,
        description="Also give a `context`, of at most so many tokens (200,000 at most). Hits come first, what is "
        "around them next.",
    )
    order: Literal["best-first", "document"] | None = Field(
        None, description="Of the context's sources: best first (default), or as they stand in their documents."
    )
    tokenizer: str | None = Field(
        None, description="Count the context by this one of the service's `tokenizers`. Default: the collection's own."
    )
    highlight: bool = Field(False, description="Tell each hit's best sentence, and where the query's words are in it.")
    on_overflow: OnOverflow | None = Field(
        None,
        description="A query longer than the model's window: refuse it, take the mean of several windows, or cut "
        "it and say so in `tokens_cut`.",
    )
    merge: bool = Field(
        True, description="Overlapping passages of one document are one hit. False: each is a hit of its own."
    )
    narrow: bool | int = Field(
        False,
        description="Hits are the best parts of passages, whole sentences of at most so many tokens together; true: of "
        "about three fifths of a passage's window. A good passage may have several. `text`, `start`, `end`, `page`, "
        "`heading` and `score` are the part's own.",
    )
    fusion: FusionIn | None = Field(None, description="Of mode hybrid. Default: the collection's own.")
    duplicates: Literal["exact", "near", "keep"] = Field(
        "exact",
        description="Passages whose text is the same, or nearly, are one hit that lists the others in its "
        "`duplicates`; `keep`: each is a hit of its own.",
    )
    diversity: float = Field(
        0, description="How much a hit's difference from those before it counts beside its score, 0 to 1."
    )
    group_by: str | None = Field(
        None,
        description="`document` or `metadata.KEY`: of each at most `per_group` hits.",
        examples=["document", "metadata.author"],
    )
    per_group: int | None = Field(None, description="Default: 1.")
    boosts: list[BoostIn] = Field(
        default_factory=list, max_length=20, description="What else counts for a passage: dates, filters."
    )
    explain: bool = Field(
        False, description="Also tell what each stage of the search made of the passages, and how long it took."
    )


class CollectionRequest(_Request):
    """Settings of a new collection. What is left out follows the service's settings."""

    model: str | None = Field(None, description="Model id, or a folder on the service's machine.")
    dtype: Dtype | None = Field(None, description="Arithmetic of the encoder.")
    chunk_tokens: int | None = Field(None, gt=0, lt=2**31, description="Tokens per passage, special tokens counted.")
    overlap: int | None = Field(None, ge=0, lt=2**31, description="Tokens that neighbouring passages share, at most.")
    finer_tokens: int | None = Field(
        None,
        ge=0,
        lt=2**31,
        description="Tokens per sub-window. A longer passage is also matched by these, its best counts. 0: none.",
    )
    chunk_context: ChunkContext | None = Field(
        None,
        description="What is encoded in front of each passage's text: the document's title, the headings over it.",
    )
    language: Language | None = Field(
        None, description="Of the text, for stems and stop words on the lexical side; `other` has neither."
    )


class RepairRequest(_Request):
    to_version: int | None = Field(
        None, ge=1, lt=2**63, description="Where the newest version cannot be read: the one to go back to."
    )
    index: bool = Field(False, description="Build the vector index anew in any case.")


class DuplicatesRequest(_Request):
    threshold: float = Field(
        0.8, gt=0, le=1, description="Share of what either says that both say; 1: but for case and white space."
    )
    drop: bool = Field(False, description="Delete all but the first of each group.")


class _Chosen(_Request):
    """By ids, by a filter, or by both."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["ids"], "properties": {"ids": {"type": "array"}}},
                {"required": ["filter"], "properties": {"filter": {"type": "string"}}},
            ]
        }
    )

    ids: list[str] | None = Field(None, description="Documents' ids.", examples=[["faq-1", "faq-2"]])
    filter: str | None = Field(
        None,
        description="SQL condition, as a search's: documents that have a passage for which it holds. Of all: `TRUE`.",
        examples=["metadata.year < 2020"],
    )


class DeleteRequest(_Chosen):
    """Documents by ids, by a filter, or by both."""


class MetadataRequest(_Chosen):
    """Documents by ids, by a filter, or by both; and what is put over their metadata."""

    metadata: _JSON = Field(
        description="Your own fields. null takes one away.", examples=[{"team": "support", "draft": None}]
    )


class UrisRequest(_Request):
    uris: list[str] = Field(
        min_length=1,
        description="As in hits and reports; of a file or an upload: all that came out of it.",
        examples=[["file:///srv/docs/faq.jsonl#1"]],
    )


class ReadRequest(_Request):
    ids: list[str] = Field(
        min_length=1, max_length=1000, description="Documents' ids, 1 to 1,000.", examples=[["faq-1", "faq-2"]]
    )


class AlikeRequest(_Request):
    threshold: float = Field(0.95, gt=0, le=1, description="Cosine from which on two passages count as alike.")


class ClustersRequest(_Request):
    count: int | None = Field(
        None, ge=1, le=100, description="How many, and no more than there are passages. Default: by these, 20 at most."
    )


class ClassifyRequest(_Request):
    labels: dict[Annotated[str, Field(pattern=r"\S")], str] = Field(
        min_length=2,
        max_length=100,
        json_schema_extra={"additionalProperties": False},
        description="What each label stands for; empty: the label itself.",
        examples=[{"billing": "invoices, prices and payments", "outage": "the service is down"}],
    )
    limit: int = Field(100, ge=1, le=1000, description="Passages per page.")
    offset: int = Field(0, ge=0, lt=2**63, description="Passages to skip.")


class SimilaritiesRequest(_Request):
    texts: list[str] = Field(min_length=1)
    others: list[str] | None = Field(None, min_length=1, description="To compare with. Default: `texts` themselves.")
    model: str | None = Field(None, description="A model that is served. Default: the first.")
    input_type: Literal["query", "passage"] = Field("passage", description="Which prompt `texts` get.")
    on_overflow: OnOverflow | None = Field(
        None, description="A text longer than the window: refuse it, take the mean of several windows, or cut it."
    )


class SnapshotRequest(_Request):
    label: str | None = Field(
        None,
        description="What to call it. Default: `v` and the version.",
        examples=["monday"],
        # Said only; where it is checked, the error says more than "does not match".
        json_schema_extra={"pattern": f"^{LABEL.pattern}$"},
    )


class RestoreRequest(_Request):
    """Exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["version"], "properties": {"version": {"type": "integer"}}},
                {"required": ["label"], "properties": {"label": {"type": "string"}}},
            ]
        }
    )

    version: int | None = Field(None, ge=1, lt=2**63, description="A version that is still there.")
    label: str | None = Field(None, description="A snapshot's label.")


class MigrateRequest(_Request):
    """A model or a dtype to start with, neither (nor `switch: false`) with another action."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "properties": {"action": {"const": "start"}},
                    "anyOf": [
                        {"required": ["model"], "properties": {"model": {"type": "string"}}},
                        {"required": ["dtype"], "properties": {"dtype": {"type": "string"}}},
                    ],
                },
                {
                    "required": ["action"],
                    "properties": {
                        "action": {"enum": ["rollback", "finish", "abandon"]},
                        "model": {"type": "null"},
                        "dtype": {"type": "null"},
                        "switch": {"const": True},
                    },
                },
            ]
        }
    )

    action: Literal["start", "rollback", "finish", "abandon"] = Field(
        "start",
        description="`start` encodes, or goes on, and switches; `rollback` switches back, and forth again; `finish` "
        "removes the collection from before; `abandon` removes what was made before a switch.",
    )
    model: str | None = Field(None, description="To start: model id or folder to move to. Default: the same.")
    dtype: Dtype | None = Field(None, description="To start: arithmetic of the encoder to move to.")
    switch: bool = Field(True, description="To start: false only encodes and compares; send it again to switch.")


class DocumentIn(_Request):
    text: str = Field(description="The whole text; it is cut into passages here.")
    id: str | None = Field(
        None, min_length=1, max_length=512, description="Its id. A document with the same id is replaced."
    )
    uri: str | None = Field(None, min_length=1, max_length=4096, description="What it is cited by.")
    title: str = Field("", max_length=4096)
    metadata: _JSON = Field(default_factory=dict, description="Your own fields; filter by `metadata.KEY`.")


class DocumentsRequest(_Request):
    documents: list[DocumentIn] = Field(min_length=1, max_length=100_000)
    duplicates: OnDuplicate | None = Field(
        None,
        description="A document that says what another one says, or nearly: tell which in the job's `alike`, leave it "
        "out (`drop`), or do not look. Default: the service's.",
    )


class UploadRequest(BaseModel):
    """A form with files; the other fields matter for JSONL and CSV only."""

    model_config = ConfigDict(extra="forbid")

    files: list[bytes] = Field(
        min_length=1,
        description="txt, md, rst, html, pdf, docx, jsonl, csv … Cited by its name; the same name replaces it.",
        json_schema_extra={"items": {"type": "string", "format": "binary"}},
    )
    text_field: str = Field("", description="Field that holds the text; several, separated by commas, are joined.")
    title_field: str = ""
    id_field: str = ""
    # Which a form leaves out; it has no null.
    duplicates: OnDuplicate | SkipJsonSchema[None] = Field(None, description="As in JSON.")


class EmbeddingsRequest(_Request):
    """OpenAI's request, with ``input_type`` and ``on_overflow`` besides."""

    input: str | list[str] | list[int] | list[list[int]] = Field(
        description="A text, or up to 2048 of them, or their tokens. None may be empty.", examples=["Hello"]
    )
    model: str = Field(description="The model that the service runs.", examples=["all-MiniLM-L6-v2"])
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32.")
    dimensions: int | None = Field(None, description="Keep the first so many numbers of each vector.")
    user: str | None = Field(None, description="Accepted and not used.")
    input_type: Literal["query", "passage"] = Field("passage", description="Which of the model's prompts to use.")
    on_overflow: OnOverflow | None = Field(
        None,
        description="A text longer than the model's window: refuse it, take the mean of several windows, or cut it. "
        "What was done stands in `overflow`.",
    )


class _TEIRequest(BaseModel):
    """As TEI does, unknown fields are passed over."""

    model_config = ConfigDict(strict=True)


class EmbeddingParameters(_TEIRequest):
    truncate: bool | None = Field(None, description="Cut what exceeds the window. Default: the service's on_overflow.")
    truncation_direction: Literal["Left", "Right", "left", "right"] = Field("Right", description="Which end is cut.")
    prompt_name: str | None = Field(None, description="`query` or `passage`.")


class EmbedRequest(EmbeddingParameters):
    inputs: str | list[str] | list[int] | list[list[int]] = Field(description="Texts, or their tokens.")
    normalize: bool = Field(
        True, description="False is refused for a model whose own vectors have no unit length: here all have."
    )
    dimensions: int | None = Field(None, description="Keep the first so many numbers of each vector.")


class _Sentences(_TEIRequest):
    source_sentence: str
    sentences: list[str]


class SimilarityRequest(_TEIRequest):
    inputs: _Sentences
    parameters: EmbeddingParameters = EmbeddingParameters(truncate=None, truncation_direction="Right", prompt_name=None)


class TokenizeRequest(_TEIRequest):
    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeRequest(_TEIRequest):
    ids: list[int] | list[list[int]]
    skip_special_tokens: bool = True


class TEIRerankRequest(_TEIRequest):
    query: str
    texts: list[str]
    raw_scores: bool = Field(False, description="The logits, not the sigmoid of them.")
    return_text: bool = False
    truncate: bool | None = Field(None, description="Cut a text that exceeds the window. Default: the service's.")
    truncation_direction: Literal["Right", "right"] = "Right"


class PredictRequest(_TEIRequest):
    inputs: str | list[str] | list[list[str]] = Field(
        description="A text, a pair of texts, or a list of lists of one or two texts each."
    )
    raw_scores: bool = Field(False, description="The logits, not the probabilities.")
    truncate: bool | None = None


class RerankRequest(BaseModel):
    """Cohere's and Jina's. Unknown fields are passed over."""

    model_config = ConfigDict(strict=True)

    model: str | None = Field(None, description="A reranker that is served; default: the first.")
    query: str = Field(min_length=1)
    documents: list[str | _JSON] = Field(min_length=1, description="Texts, or objects with `text`.")
    top_n: int | None = Field(None, ge=1, description="Only the best so many.")
    return_documents: bool = False
    max_tokens_per_doc: int | None = Field(None, ge=1, description="A longer document is cut to so many tokens.")


# -- responses ---------------------------------------------------------------------------------------------------------


class ScoresOut(BaseModel):
    dense: float | None = Field(description="Cosine of query and passage.")
    lexical: float | None = Field(description="BM25.")
    rerank: float | None


class PlaceOut(BaseModel):
    rank: int = Field(description="From 1.")
    score: float


class HighlightOut(BaseModel):
    """In characters of the document, as `start` and `end` of the hit are."""

    sentence: tuple[int, int] = Field(description="The best sentence.")
    terms: list[tuple[int, int]] = Field(description="The words of the query.")
    by: Literal["vector", "terms"] = Field(
        description="How the sentence was chosen: by its meaning and its words, or by its words alone."
    )
    page: int | None = Field(description="The page that it stands on.")
    heading: str | None = Field(description="The heading that it stands under; the hit's is where that begins.")


class CitationOut(BaseModel):
    id: str
    document_id: str
    uri: str
    title: str
    start: int
    end: int
    page: int | None
    heading: str | None


class HitOut(BaseModel):
    id: str = Field(description="The passage's id.")
    document_id: str
    uri: str
    title: str
    text: str = Field(description="The document's text from `start` to `end`, to the letter.")
    start: int
    end: int
    page: int | None
    heading: str | None
    score: float
    scores: ScoresOut
    confidence: float | None = Field(
        None, description="The probability that the hit answers; null where the model has no calibration."
    )
    metadata: _JSON
    explain: dict[str, PlaceOut] | None = Field(
        None, description="Where its passage stood: on each side, and after each stage that ranked. Only if asked for."
    )
    highlight: HighlightOut | None = Field(None, description="Only if asked for.")
    duplicates: list[CitationOut] | None = Field(
        None, description="Other passages that say the same, the first 100; only where there are some."
    )


class ScoredOut(BaseModel):
    id: str
    score: float


class StepOut(BaseModel):
    stage: str
    ms: float
    passages: int = Field(description="How many it left.")
    rankings: dict[str, list[ScoredOut]] = Field(description="The best, as many as hits were asked for.")


class ExplanationOut(BaseModel):
    rounds: int = Field(description="How often the stages ran, each time with more candidates; the times are added up.")
    stages: list[StepOut]


class SourceOut(BaseModel):
    marker: int = Field(description="What the context calls it: `[marker]`.")
    document_id: str
    uri: str
    title: str
    page: int | None
    heading: str | None
    start: int
    end: int
    text: str = Field(description="The document's text from `start` to `end`, to the letter.")
    hits: list[int] = Field(description="Places, from 1, of the hits that lie in it.")
    complete: bool = Field(description="False where it was to reach further, or was cut, for want of room.")


class ContextOut(BaseModel):
    """What a language model is to read."""

    text: str = Field(description="The sources, each below a line with its marker, title, heading and page.")
    tokens: int
    sources: list[SourceOut]
    left_out: list[int] = Field(description="Places, from 1, of the hits for which there was no room.")


class Answer(BaseModel):
    query: str
    collection: str
    version: int = Field(description="The collection's version that was searched.")
    mode: str
    took_ms: float
    answerable: bool | None = Field(
        description="Whether the best of the hits seems to be the answer; false where there is none, null where that "
        "is not known (mode `lexical`, a `vector`, a model without calibration, a query of stop words)."
    )
    warnings: list[str] = Field(
        description="What of the query was not understood or not looked at, in sentences: a language that the model "
        "does not know, words too common to be looked up, what was cut; or that no passage passes the filter."
    )
    hits: list[HitOut]
    rerank_late: bool | None = Field(None, description="True where there was no time to rerank; else absent.")
    context: ContextOut | None = Field(None, description="Only if asked for.")
    tokens_cut: int | None = Field(None, description="Tokens of the query that were left out; absent when none were.")
    explain: ExplanationOut | None = Field(None, description="Only if asked for.")


class Answers(BaseModel):
    """The answer to ``queries``."""

    results: list[Answer]


class ContractOut(BaseModel):
    model: str
    weights_hash: str
    tokenizer_hash: str
    pooling: str
    normalize: bool
    query_prompt: str
    passage_prompt: str
    dimension: int
    dtype: str
    max_length: int


class ChunkingOut(BaseModel):
    window: int
    overlap: int
    whole: bool
    finer: int = Field(description="Tokens per sub-window that longer passages are also matched by; 0: none.")
    language: str = Field(description="Of the text, for stems and stop words on the lexical side.")
    context: ChunkContext = Field(description="What is encoded in front of each passage's text.")


class LiveRecallOut(BaseModel):
    """Of the last queries that people asked and that were searched for again, exactly."""

    recall_at_10: float = Field(alias="recall@10")
    recall_interval: tuple[float, float]
    recall_sample: int


class IndexOut(BaseModel):
    """Only ``kind`` where it is not built yet."""

    kind: Literal["flat", "hnsw8", "ivfpq4", "disk-ivfrq", "not built yet"] = Field(description="`flat` is exact.")
    bytes_per_vector: float | None = None
    recall_at_10: float | None = Field(None, alias="recall@10", description="Measured against exact search.")
    recall_interval: tuple[float, float] | None = Field(None, description="Its 95 % confidence interval.")
    recall_sample: int | None = Field(None, description="Queries it was measured with.")
    segments: int | None = Field(None, description="Parts that were indexed together; other rows are searched exactly.")
    build_seconds: float | None = None
    gpu: bool | None = Field(None, description="Whether FAISS sees a GPU here.")
    live: LiveRecallOut | None = Field(None, description="Unfiltered queries, where there were some.")
    live_filtered: LiveRecallOut | None = Field(None, description="Filtered queries, where there were some.")


class CollectionOut(BaseModel):
    name: str
    documents: int
    passages: int
    vectors: int | None = Field(None, description="Where passages have sub-windows and so more vectors than one each.")
    version: int
    contract: ContractOut
    chunking: ChunkingOut
    index: IndexOut
    bytes: int


class UnreadableOut(BaseModel):
    """A collection that cannot be opened."""

    name: str
    error: str


class CollectionList(BaseModel):
    collections: list[CollectionOut | UnreadableOut]


class FailureOut(BaseModel):
    uri: str
    reason: str


class NoteOut(BaseModel):
    uri: str
    note: str


class AlikeOut(BaseModel):
    uri: str
    like: str = Field(description="The uri of the document that was there, or came, before it.")
    similarity: float = Field(description="1: the same to the letter; else an estimate, 0.99 at most.")


class JobOut(BaseModel):
    job: str
    collection: str
    kind: Literal["documents", "verify", "repair", "compact", "duplicates", "restore", "migrate", "metadata"]
    status: Literal["queued", "waiting", "running", "done", "failed", "interrupted"] = Field(
        description="`waiting`: it is its turn, and another process writes to the collection."
    )
    total: int = Field(description="Inputs sent. A JSONL or CSV file is one, though each of its records is counted.")
    counts: dict[str, int] = Field(
        description="Inputs by what became of them: indexed, unchanged, replaced, removed, duplicate, quarantined, "
        "empty. What is put in counts once it is committed. Of a migration, and where metadata are set: documents that "
        "are `done`."
    )
    failures: list[FailureOut] = Field(description="Inputs that gave no passage, the first 100.")
    failures_left_out: int
    notes: list[NoteOut] = Field(description="What reading had to change or guess, the first 100.")
    notes_left_out: int
    alike: list[AlikeOut] = Field(description="Documents that are like another one, the first 100.")
    alike_left_out: int
    passages: int = Field(description="Of the inputs so far.")
    tokens: int
    encoded_tokens: int = Field(description="The encoder was given; text whose vectors were known it is not.")
    progress: float | None = Field(
        description="The share that is done, from 0 to 1, by bytes (of a migration: documents); it also moves within a "
        "file of many documents, and within a large one. null where that is not known."
    )
    seconds: float | None = Field(description="Since it is running.")
    tokens_per_s: float | None = Field(description="Encoded.")
    eta_s: float | None = Field(description="Seconds that are left, by `progress`.")
    result: _JSON | None = Field(description="Of another job than one that puts documents in: what it came to.")
    error: str | None = Field(description="Why the job as a whole failed or was interrupted.")
    created: str
    started: str | None
    finished: str | None


class SnapshotOut(BaseModel):
    version: int
    created: str
    passages: int
    labels: list[str]


class SnapshotList(BaseModel):
    snapshots: list[SnapshotOut] = Field(description="Newest first.")


class DocumentSummary(BaseModel):
    id: str
    uri: str
    title: str
    hash: str
    passages: int
    characters: int


class DeletedCount(BaseModel):
    deleted: int = Field(description="How many of them there were.")


class DocumentList(BaseModel):
    total: int
    limit: int
    offset: int
    documents: list[DocumentSummary]


class Deleted(BaseModel):
    deleted: list[str]


class PassageOut(BaseModel):
    id: str
    start: int
    end: int
    page: int | None
    heading: str | None


class DocumentOut(BaseModel):
    id: str
    uri: str
    title: str
    metadata: _JSON
    text: str = Field(description="The whole text, without white space at its very end; or the part asked for.")
    passages: list[PassageOut]
    start: int | None = Field(None, description="Only of a part: where it begins.")
    end: int | None = Field(None, description="Only of a part: where it ends.")
    characters: int | None = Field(None, description="Only of a part: how many the whole document has.")


class DocumentsOut(BaseModel):
    documents: list[DocumentOut]


class EmbeddingOut(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class UsageOut(BaseModel):
    prompt_tokens: int
    total_tokens: int


class OverflowOut(BaseModel):
    index: int = Field(description="Which text.")
    tokens_cut: int | None = Field(None, description="Its tokens that were left out.")
    windows: int | None = Field(None, description="The windows whose mean is its vector.")


class EmbeddingsOut(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingOut]
    model: str
    usage: UsageOut
    overflow: list[OverflowOut] | None = Field(None, description="Texts longer than the window; absent without any.")


class OpenAIErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorOut(BaseModel):
    error: OpenAIErrorBody


class FieldProblem(BaseModel):
    pointer: str
    detail: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldProblem] | None = Field(None, description="Of an invalid request: each fault and its place.")
    fact: str | None = Field(None, description="Of a query that is too long: `detail` without what to do about it.")


class Health(BaseModel):
    status: str


class Ready(BaseModel):
    status: str
    model: str
    runtime: str
    dtype: str
    dimension: int
    read_only: bool = Field(description="The data folder cannot be written: searches only, what writes answers 507.")
