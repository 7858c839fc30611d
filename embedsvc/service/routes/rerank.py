"""Reranking and classification by cross-encoders: ``/v1/rerank`` as Cohere and Jina have it, ``/rerank`` and
``/predict`` as text-embeddings-inference (TEI) has them."""

from __future__ import annotations

import time
import uuid
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from embedsvc.config import OnOverflow
from embedsvc.encoding.cross_encoder import CrossEncoder, Pair, probabilities
from embedsvc.errors import NotFound, QueryTooLong
from embedsvc.service.body import read_model
from embedsvc.service.embedding import Scored, score
from embedsvc.service.problems import EMPTY, Refused
from embedsvc.service.routes.common import MAX_TEXTS, fast_reply, shows, takes, tei_headers
from embedsvc.service.schemas import PredictRequest, RerankRequest, TEIRerankRequest
from embedsvc.service.state import run, state_of

router = APIRouter()

_LIST = {"type": "array", "items": {"type": "object"}}
_EXAMPLE = {
    "id": "5b2c41aa90de",
    "model": "ms-marco-MiniLM-L6-v2",
    "results": [{"index": 1, "relevance_score": 0.98}, {"index": 0, "relevance_score": 0.03}],
    "usage": {"total_tokens": 42},
    "meta": {"api_version": {"version": "1"}, "billed_units": {"search_units": 1}},
}


@router.post(
    "/v1/rerank",
    tags=["rerank"],
    summary="Rank documents by a query (Cohere, Jina)",
    description="Best first. A score is the sigmoid of the cross-encoder's logit. Documents longer than the window are "
    "refused unless `max_tokens_per_doc` or the service's `on_overflow = truncate` cuts them; `meta.warnings` then "
    "says how much was cut.",
    response_class=Response,
    responses={200: shows("The documents' places and scores.", _EXAMPLE, {"type": "object"})},
    openapi_extra=takes(
        RerankRequest, {"two": {"query": "restart", "documents": ["Bread.", "How to restart."], "top_n": 1}}
    ),
)
@router.post("/v2/rerank", include_in_schema=False)
async def rerank(request: Request) -> Response:
    body = await read_model(request, RerankRequest)
    texts = [_text_of(document, at) for at, document in enumerate(body.documents)]
    _check_count(texts, "documents", status=400)
    encoder = await _reranker(request, body.model)
    if body.max_tokens_per_doc is not None:
        whole, most = texts, body.max_tokens_per_doc
        texts, cut = await run(state_of(request).chores, lambda: _first_tokens(encoder, whole, most))
    else:
        cut = 0
    try:
        scored = await score(request, encoder, [(body.query, text) for text in texts], on_overflow=_configured(request))
    except QueryTooLong as error:
        raise Refused(error.with_remedy("send max_tokens_per_doc"), param="documents") from None
    cut += scored.cost.cut_tokens
    scores = probabilities(scored.logits)[:, 0]
    results = []
    for at in _ranking(scores)[: body.top_n]:
        result: dict[str, Any] = {"index": at, "relevance_score": float(scores[at])}
        if body.return_documents:
            result["document"] = {"text": texts[at]}
        results.append(result)
    meta: dict[str, Any] = {"api_version": {"version": "1"}, "billed_units": {"search_units": 1}}
    if cut:
        meta["warnings"] = [f"{cut} tokens of the documents were cut"]
    usage = {"total_tokens": scored.cost.tokens}
    name = body.model or state_of(request).encoders.reranker_names()[0]
    answer = {"id": uuid.uuid4().hex, "model": name, "results": results, "usage": usage, "meta": meta}
    return fast_reply(answer)


@router.post(
    "/rerank",
    tags=["text-embeddings-inference"],
    summary="Rank texts by a query (TEI)",
    description="Best first, by the first of the rerankers that are served; 424 where none is.",
    response_class=Response,
    responses={200: shows("The texts' places and scores.", [{"index": 1, "score": 0.98}], _LIST)},
    openapi_extra=takes(TEIRerankRequest, {"two": {"query": "restart", "texts": ["Bread.", "How to restart."]}}),
)
async def rerank_texts(request: Request) -> Response:
    started = time.perf_counter()
    body = await read_model(request, TEIRerankRequest)
    _check_count(body.texts, "texts", status=413)
    encoder = await _reranker(request, None)
    scored = await _tei_scores(request, encoder, [(body.query, text) for text in body.texts], body.truncate)
    scores = (scored.logits if body.raw_scores else probabilities(scored.logits))[:, 0]
    texts = [{"text": text} if body.return_text else {} for text in body.texts]
    answer = [{"index": at, "score": float(scores[at]), **texts[at]} for at in _ranking(scores)]
    return fast_reply(answer, tei_headers(scored.cost, encoder.runtime.device, started))


@router.post(
    "/predict",
    tags=["text-embeddings-inference"],
    summary="Classify texts or pairs of texts (TEI)",
    description="By the first of the rerankers that are served: the probability of every label, the likeliest first.",
    response_class=Response,
    responses={200: shows("Labels and scores.", [{"score": 0.98, "label": "entailment"}], _LIST)},
    openapi_extra=takes(PredictRequest, {"pair": {"inputs": [["A man sleeps.", "A man is awake."]]}}),
)
async def predict(request: Request) -> Response:
    started = time.perf_counter()
    body = await read_model(request, PredictRequest)
    single = isinstance(body.inputs, str) or (bool(body.inputs) and isinstance(body.inputs[0], str))
    given: list[Any] = [body.inputs] if single else list(body.inputs)
    _check_count(given, "inputs", status=413)
    texts = [[each] if isinstance(each, str) else each for each in given]
    for at, each in enumerate(texts):
        if len(each) not in (1, 2):
            raise Refused(f"inputs[{at}] has {len(each)} texts; send one or two.", param="inputs", status=422)
    encoder = await _cross_encoder(request, None)
    pairs = [(each[0], each[1] if len(each) == 2 else None) for each in texts]
    scored = await _tei_scores(request, encoder, pairs, body.truncate)
    rows = scored.logits if body.raw_scores else probabilities(scored.logits)
    answers = [
        [{"score": float(row[label]), "label": encoder.labels[label]} for label in _ranking(row)] for row in rows
    ]
    return fast_reply(answers[0] if single else answers, tei_headers(scored.cost, encoder.runtime.device, started))


async def _reranker(request: Request, name: str | None) -> CrossEncoder:
    """The cross-encoder asked for, if it has a single score.

    Raises:
        Refused: none such is served, or it classifies.
    """
    encoder = await _cross_encoder(request, name)
    if len(encoder.labels) != 1:
        raise Refused(
            f"{encoder.model.name} is a classifier of {len(encoder.labels)} labels ({', '.join(encoder.labels[:4])}), "
            "not a reranker: none of them is a rank. Ask /predict, or serve a reranker first in EMBEDSVC_RERANKERS.",
            param="model",
        )
    return encoder


async def _cross_encoder(request: Request, name: str | None) -> CrossEncoder:
    state = state_of(request)
    try:
        return await state.reranker(name)
    except NotFound as error:
        tei = name is None and not state.encoders.reranker_names()
        raise Refused(str(error), param="model", status=424 if tei else 404) from None


async def _tei_scores(request: Request, encoder: CrossEncoder, pairs: list[Pair], truncate: bool | None) -> Scored:
    on_overflow = _configured(request) if truncate is None else "truncate" if truncate else "error"
    try:
        return await score(request, encoder, pairs, on_overflow=on_overflow)
    except QueryTooLong as error:
        raise Refused(error.with_remedy('send "truncate": true'), param="texts", status=422) from None


def _configured(request: Request) -> OnOverflow:
    """The service's own choice; a pair that it would split is refused."""
    return "truncate" if state_of(request).settings.on_overflow == "truncate" else "error"


def _check_count(texts: list[Any], field: str, *, status: int) -> None:
    if not texts:
        raise Refused(f"{field} is empty.", param=field, code=EMPTY)
    if len(texts) > MAX_TEXTS:
        raise Refused(f"{field} has {len(texts)} entries; send at most {MAX_TEXTS}.", param=field, status=status)


def _text_of(document: str | dict[str, Any], at: int) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str):
        raise Refused(f"documents[{at}] has no text: send a string, or an object with `text`.", param="documents")
    return text


def _first_tokens(encoder: CrossEncoder, texts: list[str], count: int) -> tuple[list[str], int]:
    """Texts that end with their token ``count``, and the tokens that were left out."""
    kept, cut = [], 0
    for text, encoding in zip(texts, encoder.tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
        offsets = encoding.offsets
        kept.append(text[: offsets[count - 1][1]] if len(offsets) > count else text)
        cut += max(0, len(offsets) - count)
    return kept, cut


def _ranking(scores: Any) -> list[int]:
    """Places, the highest score first; equal ones in their order."""
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return order
