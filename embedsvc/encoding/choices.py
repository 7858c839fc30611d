"""What was measured of a model on this machine, and the runtime and dtype that were chosen by it; written down beside
its exports and looked up at every load."""

from __future__ import annotations

import logging
import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from embedsvc.config import Dtype, RuntimeName
from embedsvc.encoding.exports import record_file
from embedsvc.encoding.files import read_json, write_json
from embedsvc.encoding.machine import machine
from embedsvc.encoding.models import Model
from embedsvc.errors import ModelError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A runtime and dtype: tokens per second by length of text, agreement with sentence-transformers fp32 on the canary
    texts, and why it is out of the question, if it is."""

    runtime: RuntimeName
    dtype: Dtype
    tokens_per_s: dict[int, float]
    mean_cosine: float | None
    min_cosine: float | None
    refusal: str | None

    @property
    def speed(self) -> float:
        """The geometric mean over the lengths, so that none counts more than another."""
        return math.exp(statistics.fmean(math.log(speed) for speed in self.tokens_per_s.values()))


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured of a model on a machine, and the candidate that was chosen."""

    model: str
    machine: str
    candidates: tuple[Candidate, ...]
    runtime: RuntimeName
    dtype: Dtype


def record(calibration: Calibration, model: Model, cache: Path) -> None:
    """Writes it down.

    Raises:
        ModelError: ``cache`` cannot be written.
    """
    try:
        write_json(record_file(model, cache), asdict(calibration))
    except OSError as error:
        raise ModelError(
            f"The choice cannot be written below {cache} ({error}). Free some space or name another folder with "
            "EMBEDSVC_CACHE_DIR."
        ) from error


def recorded(model: Model, cache: Path) -> Calibration | None:
    """What was written down about ``model`` on a machine like this one; None where nothing was, or it is damaged."""
    try:
        found = read_json(record_file(model, cache))
        if found is None or found["machine"] != machine():
            return None
        candidates = tuple(
            Candidate(
                **{**each, "tokens_per_s": {int(length): speed for length, speed in each["tokens_per_s"].items()}}
            )
            for each in found["candidates"]
        )
        return Calibration(found["model"], found["machine"], candidates, found["runtime"], found["dtype"])
    except (ModelError, KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("What was measured of %s is damaged (%s). Run embedsvc models add again.", model.name, error)
        return None
