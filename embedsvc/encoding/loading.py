"""From settings to an encoder: which runtimes and dtypes may be tried, which of them keeps the promise of parity."""

from __future__ import annotations

import logging

from embedsvc.config import Dtype, RuntimeName, Settings
from embedsvc.encoding.batches import pad
from embedsvc.encoding.canaries import agrees, canary_ids
from embedsvc.encoding.choices import recorded
from embedsvc.encoding.encoder import Encoder, Runtime
from embedsvc.encoding.exports import ensure_export
from embedsvc.encoding.models import Model, resolve_model
from embedsvc.encoding.onnx_runtime import OnnxRuntime
from embedsvc.encoding.openvino_runtime import OpenVinoRuntime, openvino_installed
from embedsvc.encoding.tokens import Tokens, load_tokens
from embedsvc.encoding.torch_runtime import TorchRuntime, runs_on_cuda
from embedsvc.errors import ModelError, ParityError, UsageError

log = logging.getLogger(__name__)


def load_encoder(settings: Settings) -> Encoder:
    """The encoder that ``settings`` ask for: model, runtime, dtype, threads, batch_tokens, cache_dir.

    The first use of a model on the onnx runtime exports it (about ten seconds, in a subprocess); later ones load it.

    Raises:
        ModelError: the model is missing, damaged, not the pinned one, or cannot be exported.
        UsageError: a dtype that the runtime does not have.
        MissingDependency: the runtime asked for is not installed.
    """
    model = resolve_model(settings.model, settings.cache)
    if model.labels:
        raise ModelError(
            f"{model.name} is a cross-encoder: it scores pairs of texts and gives no vectors. Use it as a reranker, "
            "and another model to embed with."
        )
    tokens = load_tokens(model)
    on_cuda = runs_on_cuda(settings.runtime)
    candidates = candidates_for(settings)
    if chosen := recorded(model, settings.cache):
        # The sort is stable: what was chosen comes first, the others stay in their order.
        candidates.sort(key=lambda candidate: candidate != (chosen.runtime, chosen.dtype))
    for position, (name, dtype) in enumerate(candidates):
        try:
            runtime, weight_bytes = _load_runtime(model, tokens, name, dtype, on_cuda, settings)
            break
        except ParityError as error:
            if position + 1 == len(candidates):
                raise
            log.warning("%s Going on with %s on %s.", error, candidates[position + 1][1], candidates[position + 1][0])
    return Encoder(
        model=model,
        runtime_name=name,
        dtype=dtype,
        tokens=tokens,
        runtime=runtime,
        batch_tokens=settings.batch_tokens or runtime.budget,
        weight_bytes=weight_bytes,
    )


def _load_runtime(
    model: Model, tokens: Tokens, name: RuntimeName, dtype: Dtype, on_cuda: bool, settings: Settings
) -> tuple[Runtime, int]:
    """The runtime, and the bytes of its weights."""
    if name == "onnx":
        export = ensure_export(model, dtype, settings.cache)
        return OnnxRuntime(export.file, export.dimension, settings.encoder_threads), export.bytes
    if name == "openvino":
        export = ensure_export(model, "fp32", settings.cache)
        openvino = OpenVinoRuntime(export.file, export.dimension, settings.encoder_threads, dtype)
        _compare(openvino, OnnxRuntime(export.file, export.dimension, 1), model, tokens, f"openvino in {dtype}", dtype)
        return openvino, export.bytes
    device = "cuda" if on_cuda else "cpu"
    runtime = TorchRuntime(model, dtype, device)
    if dtype != "fp32":
        _compare(runtime, TorchRuntime(model, "fp32", device), model, tokens, f"torch in {dtype}", dtype)
    return runtime, sum(file.stat().st_size for file in model.transformer.glob("*.safetensors"))


def _compare(runtime: Runtime, reference: Runtime, model: Model, tokens: Tokens, what: str, dtype: Dtype) -> None:
    """An export is compared with sentence-transformers when it is made; other runtimes are at every load, with what was
    compared so, or is sentence-transformers in fp32.

    Raises:
        ParityError: the canary texts' vectors do not agree, or are not numbers.
    """
    batch = pad(canary_ids(tokens, model.max_length), tokens.pad_id)
    cosines = (runtime.run(*batch) * reference.run(*batch)).sum(axis=1)
    if not agrees(dtype, cosines.min(), cosines.mean()):
        raise ParityError(
            f"{model.name} on {what} does not agree with sentence-transformers on this machine (cosine "
            f"min {cosines.min():.5f}, mean {cosines.mean():.5f}). Use another --dtype or --runtime."
        )


def candidates_for(settings: Settings) -> list[tuple[RuntimeName, Dtype]]:
    """Runtimes and dtypes to try, best first by rule of thumb: those that ``settings`` leave open.

    Raises:
        UsageError: the runtime asked for has no such dtype.
    """
    on_cuda = runs_on_cuda(settings.runtime)
    known: dict[RuntimeName, tuple[Dtype, ...]] = {
        "onnx": ("int8", "fp32"),
        "openvino": ("int8-g64", "fp32"),
        "torch": ("fp16", "bf16", "fp32") if on_cuda else ("fp32",),
    }
    # OpenVINO last, for it is the choice of `models add` only.
    order: tuple[RuntimeName, ...] = ("torch",) if on_cuda else ("onnx", "torch")
    if not on_cuda and openvino_installed():
        order = (*order, "openvino")
    runtimes = order if settings.runtime == "auto" else (settings.runtime,)
    every = [(runtime, dtype) for runtime in runtimes for dtype in known[runtime]]
    candidates = [(runtime, dtype) for runtime, dtype in every if settings.dtype in ("auto", dtype)]
    if not candidates:
        place = " on CUDA" if on_cuda else " on the CPU" if runtimes[0] == "torch" else ""
        raise UsageError(
            f"The {runtimes[0]} runtime{place} has no dtype {settings.dtype}; choose one of "
            f"{', '.join(known[runtimes[0]])}."
        )
    return candidates
