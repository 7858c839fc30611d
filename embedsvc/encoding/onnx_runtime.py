"""The ``onnx`` runtime: an exported graph from token ids to unit vectors. CPU default; never imports torch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsvc.errors import ModelError

_SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""The fused kernel takes several times as long as the addition and the normalisation that it stands for: without it
int8 ran 1.08 times as fast on one short text, 1.10 to 1.18 times on batches (docs/performance.md)."""

_LONE_THREADS = 4
"""For a batch that is alone, at most: a query's products are too small for more."""


class OnnxRuntime:
    """Two sessions over the same graph. Where several batches run at once, each has one thread (onnxruntime drops the
    GIL): the most texts per second. A batch that finds no other running has the cores to itself: the shortest wait.
    """

    budget = 256
    device = "cpu"

    def __init__(self, file: Path, dimension: int, parallel: int) -> None:
        self.dimension = dimension
        self.parallel = parallel
        self._one_thread = self._all_threads = _session(file, 1)
        if parallel > 1:
            self._all_threads = _session(file, min(parallel, _LONE_THREADS))
        self._running = 0
        self._lock = threading.Lock()
        self._first_output = self._one_thread.get_outputs()[0].name
        self._has_types = "token_type_ids" in {each.name for each in self._one_thread.get_inputs()}

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
        with self._lock:
            session = self._one_thread if self._running else self._all_threads
            self._running += 1
        try:
            found: npt.NDArray[np.float32] = session.run([output], inputs)[0]
        except Exception as error:  # onnxruntime's own classes derive from Exception alone
            raise ModelError(f"onnxruntime failed on a batch of shape {inputs['input_ids'].shape}: {error}") from error
        finally:
            with self._lock:
                self._running -= 1
        return found


def _session(file: Path, threads: int) -> Any:
    """Raises ModelError where onnxruntime cannot load ``file``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Between the operators of a run its threads wait awake, for waking them would take as long as the work; but not
    # for long, and not after it.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "200")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Its plan of one block per batch shape is kept for every shape seen: 100 MB more resident, and no faster.
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors reach us as exceptions; its warnings would go to the user's terminal
    try:
        return onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
        )
    except Exception as error:  # as above
        raise ModelError(f"{file}: onnxruntime cannot load it: {error}. Delete its folder to export anew.") from error
