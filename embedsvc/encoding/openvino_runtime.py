"""The ``openvino`` runtime, optional: the onnx runtime's fp32 export on OpenVINO, in fp32 or with int8 products.

Prepared anew for each shape of batch, it is slower than onnxruntime for single queries and mixed lengths; where the
processor has matrix instructions (AMX), or texts are of one length, it may be faster. ``embedsvc models add`` measures.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsvc.encoding.graphs import mask_everywhere
from embedsvc.errors import MissingDependency, ModelError

_GROUP = 64
"""Activations that share one int8 scale: a neighbour's outliers cost a value its precision no further than that, and
no other text does."""


def openvino_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


class OpenVinoRuntime:
    """``parallel`` requests of one thread each. ``dtype`` is ``fp32`` or ``int8-g64``."""

    budget = 256
    device = "cpu"

    def __init__(self, file: Path, dimension: int, parallel: int, dtype: str) -> None:
        """Takes a second or two.

        Raises:
            MissingDependency: OpenVINO is not installed. ModelError: it cannot load the graph in ``file``.
        """
        import onnx

        # On import it would report its use over the network, from a fork of this process; without it OpenVINO does not.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        try:
            import openvino
        except ImportError as error:
            raise MissingDependency(
                f"The openvino runtime needs OpenVINO ({error}). Run pip install 'embedsvc[openvino]', or use "
                "--runtime onnx."
            ) from error
        self.dimension = dimension
        self.parallel = parallel
        # Its default is bf16 where the processor has that (AMX): beside int8 that cost small models their parity.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if dtype != "fp32":
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = _GROUP
        requests = parallel + 1  # one more stands by for small batches beside large ones
        streams = {"NUM_STREAMS": requests, "INFERENCE_NUM_THREADS": requests, "ENABLE_CPU_PINNING": False}
        try:
            core = openvino.Core()
            # Its `If` gave NaN in the first row of a batch (2026.4).
            model = core.read_model(mask_everywhere(onnx.load(file)).SerializeToString())
            if dtype != "fp32":
                _weights_to_int8(model)
            compiled = core.compile_model(model, "CPU", {**options, **streams})
            self._outputs = {output.any_name: at for at, output in enumerate(compiled.outputs)}
            self._requests: SimpleQueue[Any] = SimpleQueue()
            for _ in range(requests):
                self._requests.put(compiled.create_infer_request())
        except RuntimeError as error:
            raise ModelError(f"{file}: OpenVINO cannot load it: {error}. Use --runtime onnx.") from error

    def run(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Unit vectors, float32 ``(rows, dimension)``, of padded ids and their mask, both ``(rows, tokens)``."""
        return self._run("vectors", ids, mask)

    def run_tokens(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The transformer's own output for every token, float32 ``(rows, tokens, width)``."""
        return self._run("tokens", ids, mask)

    def _run(self, name: str, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        request = self._requests.get()
        try:
            request.infer({"input_ids": ids, "attention_mask": mask}, share_inputs=True)
            return np.array(request.get_output_tensor(self._outputs[name]).data)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO failed on a batch of shape {ids.shape}: {error}") from error
        finally:
            self._requests.put(request)


def _weights_to_int8(model: Any) -> None:
    """Weights of products become int8 with a scale per output channel: the form in which OpenVINO's CPU plugin
    quantises the activations too, while it runs.

    Source: OpenVINO, "Dynamic quantization" and "Weight compression" (symmetric int8), made here without NNCF.
    """
    from openvino import opset13

    for product in model.get_ops():
        if product.get_type_name() != "MatMul":
            continue
        weight = product.input(1).get_source_output().get_node()
        if weight.get_type_name() != "Constant" or len(weight.shape) != 2:
            continue
        values = weight.data
        scale = np.abs(values).max(axis=1 if product.get_attributes()["transpose_b"] else 0, keepdims=True) / 127
        scale = np.maximum(scale, np.float32(1e-12))  # a channel of zeros would divide by zero
        quantized = opset13.constant(np.round(values / scale).astype(np.int8))
        whole = opset13.multiply(opset13.convert(quantized, "f32"), opset13.constant(scale.astype(np.float32)))
        product.input(1).replace_source_output(whole.output(0))
