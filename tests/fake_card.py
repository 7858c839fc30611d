"""The owner with cards that are none: FAISS's CPU indexes behind the few GPU calls that it makes.

    python tests/fake_card.py CARDS FREE MODE LOG FD FD

Each of CARDS has FREE bytes. MODE is what happens at the fifth search: ``works``, ``aborts`` (what FAISS does on a CUDA
error), ``raises``, ``hangs``; or ``misleads``: its graph leads out of the collection. Requests go to LOG, a line each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np

from embedsvc.vectors import owner


class Resources:
    def setTempMemory(self, size: int) -> None:  # noqa: N802
        assert size > 0


def flat(resources: Resources, dimension: int, config: Any) -> Any:
    assert config.use_cuvs is False
    kind = faiss.ScalarQuantizer.QT_fp16 if getattr(config, "useFloat16", False) else faiss.ScalarQuantizer.QT_8bit
    return faiss.IndexScalarQuantizer(dimension, kind, faiss.METRIC_INNER_PRODUCT)


def ivf(
    resources: Resources, dimension: int, lists: int, length: int, bits: int, metric: int, config: Any
) -> faiss.IndexIVFPQ:
    assert config.useFloat16LookupTables
    assert not config.use_cuvs
    return faiss.IndexIVFPQ(faiss.IndexFlatIP(dimension), dimension, lists, length, bits, metric)


class Cagra:
    """Everybody's nearest, exactly."""

    def __init__(self, resources: Resources, dimension: int, metric: int, config: Any) -> None:
        self.degree, self.misleads = config.graph_degree, MODE == "misleads"
        assert metric == faiss.METRIC_INNER_PRODUCT

    def train(self, vectors: np.ndarray, numeric_type: int) -> None:
        assert vectors.dtype == np.float16
        assert numeric_type == faiss.Float16
        self.vectors = vectors.astype(np.float32)

    def search(self, queries: np.ndarray, count: int, params: Any, numeric_type: int) -> Any:
        assert queries.dtype == np.float16
        assert count <= params.itopk_size <= 512
        found = faiss.knn(queries.astype(np.float32), self.vectors, count, metric=faiss.METRIC_INNER_PRODUCT)
        return found[0], np.where(np.arange(count) < params.itopk_size // 3, found[1], -1)  # not all of them

    def get_knngraph(self) -> Any:
        near = faiss.knn(self.vectors, self.vectors, self.degree, metric=faiss.METRIC_INNER_PRODUCT)[1]
        links = faiss.Int64Vector()
        faiss.copy_array_to_vector(near.ravel() + (len(near) if self.misleads else 0), links)
        return links


class Watched(owner.Owner):
    searches = 0

    def answer(self, about: dict[str, Any], queries: np.ndarray) -> Any:
        with open(LOG, "a") as file:  # noqa: PTH123
            file.write(json.dumps(about | {"rows": len(queries)}) + "\n")
        self.searches += about["do"] == "search" and len(queries) < 400  # not those that measure
        if self.searches == 5 and MODE == "aborts":
            os.abort()
        if self.searches == 5 and MODE == "raises":
            raise RuntimeError("an illegal memory access was encountered")
        if self.searches == 5 and MODE == "hangs":
            time.sleep(60)
        if about["do"] == "search":
            time.sleep(0.02)  # so that others queue up
        return super().answer(about, queries)


if __name__ == "__main__":
    CARDS, FREE, MODE, LOG = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    owner.free_memory = lambda device: FREE
    owner.Owner = Watched  # type: ignore[misc]
    faiss.IndexIVFPQ.reserveMemory = lambda self, count: None
    plain = SimpleNamespace
    for name, value in {
        "get_num_gpus": lambda: CARDS,
        "get_compile_options": lambda: "GPU NVIDIA_CUVS",
        "StandardGpuResources": Resources,
        "GpuIndexFlatConfig": plain,
        "GpuIndexFlatIP": flat,
        "GpuIndexIVFPQConfig": lambda: plain(flatConfig=plain()),
        "GpuIndexIVFPQ": ivf,
        "GpuIndexCagraConfig": plain,
        "GpuIndexCagra": Cagra,
        "SearchParametersCagra": plain,
        "graph_build_algo_NN_DESCENT": 1,
    }.items():
        setattr(faiss, name, value)
    owner.serve(*map(int, sys.argv[5:]))
