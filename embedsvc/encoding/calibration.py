"""Which runtime and dtype a model runs best in on this machine: measured once, and written down.

The choice is for new collections; one that is there keeps the dtype of its contract.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from embedsvc.config import Dtype, RuntimeName, Settings
from embedsvc.encoding.choices import Calibration, Candidate, record
from embedsvc.encoding.contract import parity, reference_vectors
from embedsvc.encoding.encoder import Encoder
from embedsvc.encoding.loading import candidates_for, load_encoder
from embedsvc.encoding.machine import machine
from embedsvc.encoding.models import resolve_model
from embedsvc.encoding.tokens import Ids
from embedsvc.errors import ModelError

_LENGTHS = (16, 128, 512)
"""Tokens of a short, a medium and a full window; the last no more than the model's own."""
_TOKENS = 4096
"""So many tokens are encoded for one measurement."""
_ROUNDS = 3


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest that keeps the promise of parity; of equally fast ones the first.

    Raises:
        ModelError: there is none.
    """
    able = [candidate for candidate in candidates if candidate.refusal is None]
    if not able:
        reasons = "; ".join(f"{each.runtime} {each.dtype}: {each.refusal}" for each in candidates)
        raise ModelError(f"No runtime can run the model. {reasons}")
    return max(able, key=lambda candidate: candidate.speed)


def calibrate(settings: Settings) -> Calibration:
    """Measures every runtime and dtype that ``settings`` leave open, which takes about a minute. The choice is written
    down if they left all open: the fastest of some is nobody's default.

    Raises:
        ModelError: no such model, or nothing can run it. UsageError: a dtype that the runtime does not have.
    """
    model = resolve_model(settings.model, settings.cache)
    reference = reference_vectors(model)
    loaded: dict[tuple[RuntimeName, Dtype], Encoder] = {}
    out: dict[tuple[RuntimeName, Dtype], str] = {}
    found = {}
    for runtime, dtype in candidates_for(settings):
        try:
            encoder = load_encoder(replace(settings, runtime=runtime, dtype=dtype))
            found[runtime, dtype] = parity(encoder, reference)
        except ModelError as error:  # it cannot run here, or not well; another may
            out[runtime, dtype] = str(error)
            continue
        loaded[runtime, dtype] = encoder
        if not found[runtime, dtype].ok:
            out[runtime, dtype] = "its vectors of the canary texts are not sentence-transformers'."
    speeds = _speeds(loaded)
    candidates = tuple(
        Candidate(
            *key,
            tokens_per_s=speeds.get(key, {}),
            mean_cosine=found[key].mean_cosine if key in found else None,
            min_cosine=found[key].min_cosine if key in found else None,
            refusal=out.get(key),
        )
        for key in candidates_for(settings)
    )
    best = choose(candidates)
    calibration = Calibration(model.name, machine(), candidates, best.runtime, best.dtype)
    if settings.runtime == settings.dtype == "auto":
        record(calibration, model, settings.cache)
    return calibration


def _speeds(encoders: dict[tuple[RuntimeName, Dtype], Encoder]) -> dict[tuple[RuntimeName, Dtype], dict[int, float]]:
    """Tokens per second of each encoder by length: the median of rounds in which all take turns."""
    times: dict[tuple[RuntimeName, Dtype], dict[int, list[float]]] = {key: {} for key in encoders}
    for turn in range(_ROUNDS + 1):
        for key, encoder in encoders.items():
            for length, texts in _texts(encoder, turn):
                started = time.perf_counter()
                encoder.encode(texts, kind="passage")
                if turn:  # the first warms up
                    speed = length * len(texts) / (time.perf_counter() - started)
                    times[key].setdefault(length, []).append(speed)
    return {key: {length: statistics.median(each) for length, each in found.items()} for key, found in times.items()}


def _texts(encoder: Encoder, seed: int) -> Iterator[tuple[int, list[Ids]]]:
    """Texts of any tokens, no two alike: equal ones would be encoded once."""
    chance = np.random.default_rng(seed)
    high = encoder.tokenizer.get_vocab_size()
    for length in sorted({min(length, encoder.max_length) for length in _LENGTHS}):
        shape = max(2, _TOKENS // length), max(1, length - encoder.reserved("passage"))
        yield length, cast("list[Ids]", list(chance.integers(high // 2, high, shape, dtype=np.int32)))
