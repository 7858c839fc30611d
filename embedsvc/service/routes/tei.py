"""The routes of text-embeddings-inference (TEI), for its clients: same paths, bodies, headers and errors.

``POST /`` is what ``huggingface_hub.InferenceClient`` calls. There is one model per server in TEI, so here it is the
default one. Without ``prompt_name`` a text is encoded as a passage.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response
from tokenizers import Encoding

from embedsvc import __version__
from embedsvc.config import OnOverflow
from embedsvc.encoding import Encoder
from embedsvc.encoding.tokens import Ids, Kind
from embedsvc.errors import QueryTooLong
from embedsvc.service.body import read_model
from embedsvc.service.embedding import Embedded, check_dimensions, cost_of, embed, shortened, tokens_of
from embedsvc.service.problems import EMPTY, Refused
from embedsvc.service.routes.common import MAX_TEXTS, fast_reply, reply, shows, takes, tei_headers
from embedsvc.service.schemas import (
    DecodeRequest,
    EmbeddingParameters,
    EmbedRequest,
    SimilarityRequest,
    TokenizeRequest,
)
from embedsvc.service.state import State, run, state_of

router = APIRouter(tags=["text-embeddings-inference"])

_NUMBER = {"type": "number"}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_MOST_TOKENS = 16_384
"""Of one request to /embed_all: its answer has 100 MB of JSON."""

_KINDS: dict[str | None, Kind] = {
    None: "passage",
    "query": "query",
    "passage": "passage",
    "document": "passage",
    "corpus": "passage",
}


@router.post(
    "/embed",
    summary="Embed texts (TEI)",
    description="`truncate` cuts what exceeds the window. Without it the service's `on_overflow` holds. The headers "
    "`x-embedsvc-tokens-cut` and `x-embedsvc-extra-windows` say what became of long texts. Texts or tokens, one or a "
    "list. Vectors have unit length; `normalize: false` is refused for a model whose own vectors have not.",
    response_class=Response,
    responses={200: shows("One vector per text.", [[0.013, -0.021]], _array(_array(_NUMBER)))},
    openapi_extra=takes(EmbedRequest, {"two": {"inputs": ["Hello", "world"]}}),
)
@router.post("/", include_in_schema=False)
async def embed_texts(request: Request) -> Response:
    started = time.perf_counter()
    state = state_of(request)
    body = await read_model(request, EmbedRequest)
    encoder = await state.encoder(None)
    check_dimensions(body.dimensions, encoder)
    if not body.normalize and not encoder.model.normalize:
        raise Refused(
            f"Vectors of {encoder.model.name} come at unit length only: leave normalize out.",
            param="normalize",
            status=422,
        )
    embedded = await _embed(request, encoder, _texts(body.inputs), body)
    vectors = shortened(embedded.vectors, body.dimensions)
    answer = vectors.tolist() if len(vectors) <= 64 else await run(state.chores, vectors.tolist)
    return fast_reply(answer, tei_headers(embedded.cost, encoder.runtime.device, started))


@router.post(
    "/embed_all",
    summary="A vector for every token (TEI)",
    description="What the transformer makes of each token before pooling, special tokens included; not of unit "
    f"length. At most {_MOST_TOKENS:,} tokens at once. The fields are those of `/embed`.",
    response_class=Response,
    responses={200: shows("Per text its tokens' vectors.", [[[0.013, -0.021]]], _array(_array(_array(_NUMBER))))},
    openapi_extra=takes(EmbedRequest, {"one": {"inputs": "Hello"}}),
)
async def embed_tokens(request: Request) -> Response:
    started = time.perf_counter()
    state = state_of(request)
    body = await read_model(request, EmbedRequest)
    encoder = await state.encoder(None)
    kind, on_overflow, keep_end = _wishes(request, body)
    texts = _texts(body.inputs)
    token_ids = await tokens_of(state, encoder, texts)
    if on_overflow == "split":  # which only vectors of whole texts allow
        on_overflow = "error"
    try:
        windows = encoder.prepare(token_ids, kind=kind, on_overflow=on_overflow, keep_end=keep_end)
    except QueryTooLong as error:
        raise Refused(error.with_remedy('send "truncate": true'), param="inputs", status=422) from None
    if (tokens := sum(windows.token_counts)) > _MOST_TOKENS:
        raise Refused(f"inputs has {tokens} tokens; send at most {_MOST_TOKENS} at once.", param="inputs", status=413)

    tokenized = time.perf_counter()

    def work() -> Response:
        begun = time.perf_counter()
        vectors = [encoder.token_vectors(ids, kind=kind) for ids in windows.token_ids]
        took = time.perf_counter() - begun
        cost = cost_of(texts, windows, tokenized - started, begun - tokenized, took)
        return fast_reply([each.tolist() for each in vectors], tei_headers(cost, encoder.runtime.device, started))

    return await state.token_vectors.run(work)


@router.post(
    "/similarity",
    summary="Cosines of one sentence with others (TEI)",
    description="The parameters are those of `/embed`.",
    response_class=Response,
    responses={200: shows("One cosine per sentence.", [0.83, 0.12], _array(_NUMBER))},
    openapi_extra=takes(
        SimilarityRequest, {"two": {"inputs": {"source_sentence": "a cat", "sentences": ["a kitten", "a bus"]}}}
    ),
)
async def similarity(request: Request) -> Response:
    started = time.perf_counter()
    state = state_of(request)
    body = await read_model(request, SimilarityRequest)
    encoder = await state.encoder(None)
    if not body.inputs.source_sentence:
        raise Refused("inputs.source_sentence is empty.", param="inputs", code=EMPTY)
    sentences = [body.inputs.source_sentence, *_texts(body.inputs.sentences, "inputs.sentences")]
    embedded = await _embed(request, encoder, sentences, body.parameters)
    cosines = np.clip(embedded.vectors[1:] @ embedded.vectors[0], -1, 1)  # unit vectors are rounded
    return fast_reply(cosines.tolist(), tei_headers(embedded.cost, encoder.runtime.device, started))


@router.post(
    "/tokenize",
    summary="The tokens of texts (TEI)",
    description="`start` and `stop` count characters of the text, prompt included; special tokens have none.",
    response_class=Response,
    responses={
        200: shows(
            "Per text its tokens.",
            [[{"id": 7592, "text": "Hello", "special": False, "start": 0, "stop": 5}]],
            _array(_array({"type": "object"})),
        )
    },
    openapi_extra=takes(TokenizeRequest, {"one": {"inputs": "Hello"}}),
)
async def tokenize(request: Request) -> Response:
    state = state_of(request)
    body = await read_model(request, TokenizeRequest)
    encoder = await state.encoder(None)
    texts = _some([body.inputs] if isinstance(body.inputs, str) else body.inputs)
    prompt = _prompt(encoder, body.prompt_name)

    def work() -> Response:
        whole = [prompt + text for text in texts]
        encodings = encoder.tokenizer.encode_batch(whole, add_special_tokens=body.add_special_tokens)
        return reply([_tokens_of(encoding, text) for encoding, text in zip(encodings, whole, strict=True)])

    return await run(state.chores, work)


@router.post(
    "/decode",
    summary="Texts of tokens (TEI)",
    description="As the model's tokenizer joins them; that need not be the text they came from.",
    response_class=Response,
    responses={200: shows("One text per list of tokens.", ["hello world"], _array({"type": "string"}))},
    openapi_extra=takes(DecodeRequest, {"one": {"ids": [101, 7592, 2088, 102]}}),
)
async def decode(request: Request) -> Response:
    body = await read_model(request, DecodeRequest)
    encoder = await state_of(request).encoder(None)
    lists = [ids if isinstance(ids, list) else [ids] for ids in body.ids]
    if lists and not isinstance(body.ids[0], list):
        lists = [[token for ids in lists for token in ids]]
    size = encoder.tokenizer.get_vocab_size()
    for ids in _some(lists):
        for token in ids:
            if not 0 <= token < size:
                raise Refused(f"ids: {encoder.model.name} has no token {token}.", param="ids", status=422)
    texts = [encoder.tokenizer.decode(ids, skip_special_tokens=body.skip_special_tokens) for ids in lists]
    return reply(texts)


@router.get(
    "/info",
    summary="What is served (TEI)",
    description="The default model, its dtype and pooling, and what a request may hold.",
    response_class=Response,
    responses={
        200: shows(
            "The default model and the limits.",
            {"model_id": "all-MiniLM-L6-v2", "max_input_length": 512},
            {"type": "object"},
        )
    },
)
async def info(request: Request) -> Response:
    state = state_of(request)
    encoder = await state.encoder(None)
    return reply(_info(state, encoder))


@router.get(
    "/health",
    summary="Can it answer? (TEI)",
    description="200 without a body if it can, else 503; see `/readyz`.",
    response_class=Response,
    responses={200: shows("It can.", "", {})},
)
async def health(request: Request) -> Response:
    await state_of(request).encoders.probe()
    return Response()


async def _embed(request: Request, encoder: Encoder, texts: Sequence[str | Ids], body: EmbeddingParameters) -> Embedded:
    kind, on_overflow, keep_end = _wishes(request, body)
    try:
        return await embed(request, encoder, texts, kind=kind, on_overflow=on_overflow, keep_end=keep_end)
    except QueryTooLong as error:
        raise Refused(error.with_remedy('send "truncate": true'), param="inputs", status=422) from None


def _wishes(request: Request, body: EmbeddingParameters) -> tuple[Kind, OnOverflow, bool]:
    """Which prompt, what becomes of too long a text, and whether its end is what is kept."""
    kind = _kind(body.prompt_name)
    configured: OnOverflow = state_of(request).settings.on_overflow
    on_overflow: OnOverflow = configured if body.truncate is None else "truncate" if body.truncate else "error"
    return kind, on_overflow, body.truncation_direction.lower() == "left"


def _kind(prompt_name: str | None) -> Kind:
    if prompt_name not in _KINDS:
        raise Refused(
            f"prompt_name is {prompt_name!r}; choose one of {', '.join(filter(None, _KINDS))}.",
            param="prompt_name",
            status=422,
        )
    return _KINDS[prompt_name]


def _texts(inputs: Any, field: str = "inputs") -> list[str | Ids]:
    """A text, a list of texts, tokens, or a list of lists of tokens, as a list."""
    if isinstance(inputs, str) or (inputs and isinstance(inputs[0], int)):
        inputs = [inputs]
    for at, text in enumerate(_some(inputs, field)):
        if not len(text):
            raise Refused(f"{field}[{at}] is empty.", param="inputs", code=EMPTY)
        if not isinstance(text, str) and (far := next((token for token in text if abs(token) >= 2**31), None)):
            raise Refused(f"inputs[{at}] holds {far}, which is no token.", param="inputs", status=422)
    return [text if isinstance(text, str) else np.array(text, dtype=np.int32) for text in inputs]


def _some(texts: list[Any], field: str = "inputs") -> list[Any]:
    if not texts:
        raise Refused(f"{field} is empty.", param="inputs", code=EMPTY)
    if len(texts) > MAX_TEXTS:
        raise Refused(f"{field} has {len(texts)} entries; send at most {MAX_TEXTS}.", param="inputs", status=413)
    return texts


def _prompt(encoder: Encoder, name: str | None) -> str:
    if name is None:
        return ""
    return encoder.model.query_prompt if _kind(name) == "query" else encoder.model.passage_prompt


def _tokens_of(encoding: Encoding, text: str) -> list[dict[str, Any]]:
    tokens = []
    for id, piece, special, (start, stop) in zip(
        encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
    ):
        if special:
            tokens.append({"id": id, "text": piece, "special": True, "start": None, "stop": None})
        else:
            tokens.append({"id": id, "text": text[start:stop], "special": False, "start": start, "stop": stop})
    return tokens


def _info(state: State, encoder: Encoder) -> dict[str, Any]:
    model = encoder.model
    return {
        "model_id": model.name,
        "model_sha": model.weights_hash,
        "model_dtype": {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(encoder.dtype, encoder.dtype),
        "served_model_name": state.encoders.names()[0],
        "model_type": {"embedding": {"pooling": model.pooling}},
        "max_concurrent_requests": state.settings.queue_tokens // encoder.max_length,
        "max_input_length": encoder.max_length,
        "max_batch_tokens": encoder.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": MAX_TEXTS,
        "auto_truncate": state.settings.on_overflow == "truncate",
        "tokenization_workers": state.settings.encoder_threads,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }
