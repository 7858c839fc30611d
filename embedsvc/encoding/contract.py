"""Two checks of an encoder: against the contract that a collection carries, and against sentence-transformers."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from embedsvc.config import Dtype, RuntimeName, Settings, listed
from embedsvc.encoding.canaries import CANARY_TEXTS, agrees
from embedsvc.encoding.encoder import Encoder, Vectors
from embedsvc.encoding.loading import load_encoder
from embedsvc.encoding.models import Model, resolve_model
from embedsvc.encoding.subprocesses import run_module
from embedsvc.errors import ContractMismatch, ModelError
from embedsvc.records import Contract

# int8 and fp16 kernels differ a little from one CPU or GPU to another.
LEAST_CANARY_COSINE = {"fp32": 0.999, "int8": 0.99, "int8-g64": 0.99, "fp16": 0.99, "bf16": 0.99}

# Arithmetic that only one runtime has.
_RUNTIME_OF: dict[str, RuntimeName] = {"int8": "onnx", "int8-g64": "openvino", "fp16": "torch", "bf16": "torch"}

_REMEDY = {
    "dtype": "Set --dtype {stored} (EMBEDSVC_DTYPE={stored}), or index the collection again.",
    "weights_hash": "Use the model that made it ({model}), or index the collection again.",
}


@dataclass(frozen=True, slots=True)
class Parity:
    """Cosines between an encoder and sentence-transformers fp32 on the canary texts, and the verdict."""

    min_cosine: float
    mean_cosine: float
    ok: bool


def encoder_for(contract: Contract, settings: Settings) -> Encoder:
    """The encoder that made a collection's vectors: its model and dtype from ``contract``, all else from ``settings``.

    Where the model is not in its place any more, another folder with the same weights will do: one that was unpacked
    under its name, or one that ``settings`` name.

    Raises:
        ModelError: that model is not to be had any more.
        ContractMismatch: it is, but is not what it was.
    """
    runtime: Literal["auto"] | RuntimeName = settings.runtime
    if contract.dtype in _RUNTIME_OF:
        runtime = _RUNTIME_OF[contract.dtype]
    dtype = cast("Dtype", contract.dtype)
    encoder = load_encoder(replace(settings, model=_place_of(contract, settings), runtime=runtime, dtype=dtype))
    check_contract(encoder, contract)
    return encoder


def _place_of(contract: Contract, settings: Settings) -> str:
    for name in (contract.model, Path(contract.model).name, settings.model, *listed(settings.models)):
        with contextlib.suppress(ModelError):
            if resolve_model(name, settings.cache).weights_hash == contract.weights_hash:
                return name
    return contract.model  # so that what is said is about this one


def first_difference(own: Contract, stored: Contract) -> str | None:
    """The first field in which they differ, so that their vectors may.

    The runtime is no part of a contract (fp32 is fp32 on any), nor is the model's name: the weights' hash says which
    model it is, so a folder may be moved.
    """
    names = (field.name for field in fields(Contract) if field.name not in ("model", "canary_vectors"))
    return next((name for name in names if getattr(own, name) != getattr(stored, name)), None)


def check_model(settings: Settings, stored: Contract) -> None:
    """Raise ContractMismatch unless the model that ``settings`` name has ``stored``'s weights; nothing is loaded.

    Raises:
        ModelError: there is no such model.
    """
    model = resolve_model(settings.model, settings.cache)
    if model.weights_hash != stored.weights_hash:
        raise _mismatch(model.name, stored, "weights_hash", model.weights_hash)


def _mismatch(own: str, stored: Contract, name: str, have: object) -> ContractMismatch:
    want = getattr(stored, name)
    remedy = _REMEDY.get(name, _REMEDY["weights_hash"]).format(stored=want, model=stored.model)
    return ContractMismatch(
        f"The encoder at hand ({own}) is not the one that made the collection's vectors "
        f"({stored.model}): {name} is {have!r}, the collection has {want!r}. {remedy}"
    )


def check_contract(encoder: Encoder, stored: Contract) -> None:
    """Raise ContractMismatch, naming what differs, unless ``encoder`` makes ``stored``'s vectors."""
    own = encoder.contract
    if (name := first_difference(own, stored)) is not None:
        raise _mismatch(own.model, stored, name, getattr(own, name))
    ours, theirs = np.array(own.canary_vectors), np.array(stored.canary_vectors)
    if ours.shape != theirs.shape:
        raise ContractMismatch(
            f"canary_vectors are of shape {ours.shape}, the collection has {theirs.shape}: it was made by another "
            "version of embedsvc. Index the collection again."
        )
    cosine = float((ours * theirs).sum(axis=1).min())
    least = LEAST_CANARY_COSINE[own.dtype]
    if not cosine >= least:
        raise ContractMismatch(
            f"canary_vectors: the encoder at hand ({own.model}) gives the canary texts other vectors than the "
            f"collection has (least cosine {cosine:.5f}, needed {least}), though hashes and settings agree: a library "
            "or this machine computes differently. Run embedsvc doctor; if parity holds, index the collection again."
        )


def reference_vectors(model: Model) -> Vectors:
    """What sentence-transformers itself makes of the canary texts, in fp32, in a subprocess (seconds).

    Raises:
        MissingDependency: sentence-transformers is not installed.
        ModelError: sentence-transformers could not encode them.
    """
    output = run_module(
        "embedsvc.encoding.contract",
        json.dumps(asdict(model), default=str),
        f"Encoding the canary texts of {model.name} with sentence-transformers",
    )
    return np.array(json.loads(output.splitlines()[-1]), dtype=np.float32)


def parity(encoder: Encoder, reference: Vectors | None = None) -> Parity:
    """Compare with ``reference``, by default :func:`reference_vectors` of the encoder's model (seconds).

    Raises:
        MissingDependency, ModelError: as there.
    """
    if reference is None:
        reference = reference_vectors(encoder.model)
    cosines = (np.array(encoder.contract.canary_vectors) * reference).sum(axis=1)
    least, mean = float(cosines.min()), float(cosines.mean())
    return Parity(least, mean, agrees(encoder.dtype, least, mean))


def _reference_vectors(task: dict[str, Any]) -> list[list[float]]:
    """sentence-transformers from text to vector, tokenisation and prompt included."""
    from embedsvc.encoding.torch_runtime import load_sentence_transformer

    model = Model(**{**task, **{key: Path(task[key]) for key in ("folder", "transformer")}})
    reference = load_sentence_transformer(model, "cpu")
    vectors = reference.encode(list(CANARY_TEXTS), prompt=model.passage_prompt, normalize_embeddings=True)
    return [list(map(float, row)) for row in vectors]


if __name__ == "__main__":
    try:
        print(json.dumps(_reference_vectors(json.loads(sys.argv[1]))))
    except ModelError as error:
        sys.exit(str(error))
