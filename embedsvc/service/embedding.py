"""What the embedding routes share: texts in, vectors and what they cost out, without a thread that waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from fastapi import Request
from starlette.requests import ClientDisconnect

from embedsvc.config import OnOverflow
from embedsvc.encoding import Encoder
from embedsvc.encoding.cross_encoder import CrossEncoder, Logits, Pair
from embedsvc.encoding.tokens import Ids, Kind
from embedsvc.encoding.windows import Windows
from embedsvc.service.problems import BodyTooLarge, Refused
from embedsvc.service.state import State, run, state_of

_T = TypeVar("_T")
Vectors = npt.NDArray[np.float32]

_SMALL = 2_000
"""Characters that are tokenised in the event loop: about 1 ms, no more than handing them to a thread takes."""

_LARGEST = 10
"""A request's tokens, at most, over those that may wait."""

_CHARACTERS_PER_TOKEN = 10
"""Prose has 4 to 5; a request with more characters than so many tokens have is not even tokenised."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request took. ``tokens`` were encoded, special tokens and prompts counted, ``cut_tokens`` left out;
    ``extra_windows`` are those that split texts have besides their first."""

    characters: int
    tokens: int
    cut_tokens: int
    extra_windows: int
    tokenization_seconds: float
    queue_seconds: float
    inference_seconds: float


@dataclass(frozen=True, slots=True)
class Embedded:
    """Unit vectors, float32 ``(texts, dimension)``, of ``windows``."""

    vectors: Vectors
    windows: Windows
    cost: Cost


@dataclass(frozen=True, slots=True)
class Scored:
    """Logits, float32 ``(pairs, labels)``."""

    logits: Logits
    cost: Cost


async def embed(
    request: Request,
    encoder: Encoder,
    texts: Sequence[str | Ids],
    *,
    kind: Kind,
    on_overflow: OnOverflow,
    keep_end: bool = False,
) -> Embedded:
    """Embeds texts, or their own tokens. ``keep_end``: ``truncate`` keeps the end of a text, not its beginning.

    Raises:
        QueryTooLong: a text exceeds the window, and ``on_overflow`` is ``error``.
        Overloaded, ModelError: as :meth:`Encoder.submit`.
        ClientDisconnect: nobody waits for the answer; what was not begun is not encoded.
    """
    state = state_of(request)
    started = time.perf_counter()
    token_ids = await tokens_of(state, encoder, texts)
    windows = encoder.prepare(token_ids, kind=kind, on_overflow=on_overflow, keep_end=keep_end)
    tokenized = time.perf_counter()
    _check_size(sum(windows.token_counts), state)
    ticket = encoder.submit(windows.token_ids, kind=kind, limit=state.settings.queue_tokens)
    vectors = await unless_gone(request, ticket.future)
    cost = cost_of(texts, windows, tokenized - started, ticket.queue_seconds, ticket.compute_seconds)
    return Embedded(windows.combine(vectors), windows, cost)


def cost_of(texts: Sequence[str | Ids], windows: Windows, tokenization: float, queue: float, inference: float) -> Cost:
    """The three durations are in seconds."""
    return Cost(
        characters=sum(len(text) for text in texts if isinstance(text, str)),
        tokens=sum(windows.token_counts),
        cut_tokens=sum(windows.cut_tokens),
        extra_windows=len(windows.token_ids) - len(windows.counts),
        tokenization_seconds=tokenization,
        queue_seconds=queue,
        inference_seconds=inference,
    )


def _check_size(tokens: int, state: State) -> None:
    """No single request may shut the others out for minutes."""
    most = _LARGEST * state.settings.queue_tokens
    if tokens > most:
        raise BodyTooLarge(f"The request has {tokens} tokens; send at most {most} at once ({_LARGEST} × queue_tokens).")


def check_dimensions(dimensions: int | None, encoder: Encoder) -> None:
    """Raises Refused unless ``dimensions`` of a vector can be kept."""
    if dimensions is not None and not 1 <= dimensions <= encoder.dimension:
        raise Refused(
            f"dimensions is {dimensions}; a vector of {encoder.model.name} has {encoder.dimension}: ask for 1 to "
            f"{encoder.dimension}.",
            param="dimensions",
        )


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    """The first so many numbers of each vector, scaled to unit length again.

    Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    kept = vectors[:, :dimensions]
    scaled: Vectors = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
    return scaled


async def tokens_of(state: State, encoder: Encoder, texts: Sequence[str | Ids]) -> list[Ids]:
    """The texts' own tokens; texts that are tokens already are looked over.

    Raises:
        Refused: a token that the model does not have. BodyTooLarge: more than could be encoded.
    """
    strings = [text for text in texts if isinstance(text, str)]
    if len(strings) < len(texts):
        given = [ids for ids in texts if not isinstance(ids, str)]
        return [_own_tokens(encoder, at, ids) for at, ids in enumerate(given)]
    characters = sum(map(len, strings))
    if characters <= _SMALL:
        return encoder.tokens.of_texts(strings)
    if characters > (most := _CHARACTERS_PER_TOKEN * _LARGEST * state.settings.queue_tokens):
        raise BodyTooLarge(f"The request has {characters} characters; send at most {most} at once.")
    return await run(state.chores, lambda: encoder.tokens.of_texts(strings))


def _own_tokens(encoder: Encoder, at: int, ids: Ids) -> Ids:
    """A text's tokens without the special ones that the client's tokenizer may have put around them."""
    size = encoder.tokenizer.get_vocab_size()
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        raise Refused(
            f"input[{at}] has the token {int(ids.max() if ids.max() >= size else ids.min())}; {encoder.model.name} has "
            f"tokens 0 to {size - 1}. Send texts, or tokens of this model's own tokenizer; with LangChain's "
            "OpenAIEmbeddings, set check_embedding_ctx_length=False.",
            param="input",
        )
    return encoder.tokens.without_special(ids)


async def score(request: Request, encoder: CrossEncoder, pairs: Sequence[Pair], *, on_overflow: OnOverflow) -> Scored:
    """The pairs' logits.

    Raises:
        QueryTooLong: a pair exceeds the window. Overloaded, ModelError, ClientDisconnect: as :func:`embed`.
    """
    state = state_of(request)
    started = time.perf_counter()
    prepared = await run(state.chores, lambda: encoder.prepare(pairs, on_overflow=on_overflow))
    _check_size(sum(prepared.token_counts), state)
    tokenized = time.perf_counter()
    ticket = encoder.submit(prepared.token_ids, limit=state.settings.queue_tokens)
    logits = await unless_gone(request, ticket.future)
    cost = Cost(
        characters=sum(len(text) for pair in pairs for text in pair if text is not None),
        tokens=sum(prepared.token_counts),
        cut_tokens=sum(prepared.cut_tokens),
        extra_windows=0,
        tokenization_seconds=tokenized - started,
        queue_seconds=ticket.queue_seconds,
        inference_seconds=ticket.compute_seconds,
    )
    return Scored(logits, cost)


async def unless_gone(request: Request, future: Future[_T]) -> _T:
    """The result of ``future``, which is cancelled when the client hangs up.

    Raises:
        ClientDisconnect: it did.
    """
    waiting = asyncio.wrap_future(future)
    if not future.done():
        gone = asyncio.ensure_future(_hung_up(request))
        try:
            await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientDisconnect
        finally:
            gone.cancel()
            waiting.cancel()  # where it is done already, this does nothing
    return await waiting


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
