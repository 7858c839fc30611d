"""The ``onnx`` runtime: an exported graph from token ids to unit vectors. CPU default; never imports torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedsvc.errors import ModelError

_SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""The fused kernel takes several times as long as the addition and the normalisation that it stands for: without it
int8 ran 1.08 times as fast on one short text, 1.10 to 1.18 times on batches (docs/performance.md)."""


class OnnxRuntime:
    """One single-threaded session, run by ``parallel`` Python threads at once (onnxruntime drops the GIL).

    On 2 cores with 1,024-token batches this was 4 % faster than one session with two threads in int8, 1 % slower in
    fp32; and a single query needs no thread hand-over.
    """

    budget = 256

    def __init__(self, file: Path, dimension: int, parallel: int) -> None:
        import onnxruntime

        self.dimension = dimension
        self.parallel = parallel
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # Its plan of one block per batch shape is kept for every shape seen: 100 MB more resident, and no faster.
        options.enable_mem_pattern = False
        options.log_severity_level = 3  # errors reach us as exceptions; its warnings would go to the user's terminal
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
            )
        except Exception as error:  # onnxruntime's own classes derive from Exception alone
            raise ModelError(
                f"{file}: onnxruntime cannot load it: {error}. Delete its folder to export anew."
            ) from error
        self._first_output = self._session.get_outputs()[0].name
        self._has_types = "token_type_ids" in {each.name for each in self._session.get_inputs()}

    def run(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], types: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.float32]:
        """Unit vectors (of a cross-encoder: logits), float32 ``(rows, dimension)``, of padded ids, their mask and, in
        pairs, which text each token is of; all ``(rows, tokens)``."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        if types is not None and self._has_types:
            inputs["token_type_ids"] = types
        return self._run(self._first_output, inputs)

    def run_tokens(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The transformer's own output for every token, float32 ``(rows, tokens, width)``."""
        return self._run("tokens", {"input_ids": ids, "attention_mask": mask})

    def _run(self, output: str, inputs: dict[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        try:
            found: npt.NDArray[np.float32] = self._session.run([output], inputs)[0]
        except Exception as error:  # as above
            raise ModelError(f"onnxruntime failed on a batch of shape {inputs['input_ids'].shape}: {error}") from error
        return found
