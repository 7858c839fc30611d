"""The owner of the machine's GPUs: a process of its own, which holds segments' vectors on the cards and searches there.

A process of its own, because FAISS ends the process (``FAISS_ASSERT`` in faiss/gpu/utils/DeviceUtils.h) when CUDA
reports an error: a card that disappears must not take the server with it. It reads vectors from the segment's file and
gets queries through a :class:`Channel`; :mod:`.gpu` is the other end. One owner serves all threads of a process, one at
a time. Requests: ``place`` a segment on the cards, ``search`` it, ``drop`` it, ``build`` links for the CPU's graph.
What fails is answered with ``error``.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import math
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsvc.vectors.faiss_module import faiss_module
from embedsvc.vectors.kinds import LINKS, Effort, Positions, lists, sample
from embedsvc.vectors.recall import Floats

_RESERVED = 1 << 30
"""Bytes of each card that FAISS takes at the start, for what a search needs in passing."""
_USABLE = 0.9
"""Share of a card's free memory that is taken: CUDA's own needs and fragments are not in the sums."""
_TRAINING_PER_LIST = 64
_WIDTH = 2
"""Vectors whose neighbours CAGRA looks at together: of 1, 2, 4 and 8 the quickest with itopk 64."""
_MOST, _MOST_CAGRA = 2048, 512
"""Candidates that FAISS's and cuVS's kernels for the GPU select; also lists that are looked into, by the former."""
_CODE_LENGTHS = (96, 64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8, 4, 3, 2, 1)
"""Bytes that FAISS's product codes may have on a card, 96 with 16-bit tables only (GpuIndexIVFPQ)."""


class Channel:
    """One of two ends that speak in turn. A message is a JSON object; the array that its ``shape`` and ``dtype``
    describe lies in memory that both ends map, until the next message overwrites it: a socket takes .5 ms for the 1,024
    queries that the card answers in about as long."""

    def __init__(self, socket: int, memory: int) -> None:
        """Of two open files' numbers."""
        self._connection, self._memory = Connection(socket), memory
        self._mapped: mmap.mmap | None = None

    def close(self) -> None:
        self._connection.close()
        os.close(self._memory)

    def send(self, about: dict[str, Any], arrays: Sequence[npt.NDArray[Any]] = ()) -> None:
        """Sends a message with ``arrays`` (each n, any), of one kind, one below the other."""
        if arrays:
            shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
            about = about | {"shape": shape, "dtype": arrays[0].dtype.str}
            np.concatenate(arrays, out=self._array(about))
        self._connection.send_bytes(json.dumps(about).encode())

    def receive(self, seconds: float | None = None) -> tuple[dict[str, Any], npt.NDArray[Any]]:
        """The next message; an empty array where it has none. Raises EOFError when the other end is gone, TimeoutError
        after ``seconds``."""
        if not self._connection.poll(seconds):
            raise TimeoutError(f"no answer in {seconds} s")
        about = json.loads(self._connection.recv_bytes())
        return about, self._array(about) if "shape" in about else np.empty(0)

    def _array(self, about: dict[str, Any]) -> npt.NDArray[Any]:
        size = max(1, math.prod(about["shape"]) * np.dtype(about["dtype"]).itemsize)
        if self._mapped is None or len(self._mapped) < size:
            if os.fstat(self._memory).st_size < size:
                os.ftruncate(self._memory, size)
            self._mapped = mmap.mmap(self._memory, size)
        return np.ndarray(about["shape"], about["dtype"], self._mapped)


@dataclass(frozen=True, slots=True)
class CardKind:
    """A kind of index on a card.

    ``bytes_per_vector(count, dimension)``: of a card's memory, at the most, while it is made too. ``make(resources,
    device, vectors)`` makes something with FAISS's ``search``, ``set_depth`` says how hard that tries. ``efforts``:
    cheapest first. ``most``: candidates that it can give. ``joins``: whether FAISS can join several of them.
    ``asked(queries)``: what it takes for queries (m, dimension).
    """

    name: str
    bytes_per_vector: Callable[[int, int], float]
    make: Callable[[Any, int, Floats], Any]
    set_depth: Callable[[Any, int], None]
    efforts: tuple[Effort, ...]
    most: int
    joins: bool = True
    asked: Callable[[Floats], npt.NDArray[Any]] = lambda queries: queries


def _config(made: Any, device: int) -> Any:
    """FAISS's own kernels: they are the same in the builds with and without cuVS."""
    made.device, made.use_cuvs = device, False
    return made


def _make_flat(resources: Any, device: int, vectors: Floats) -> Any:
    faiss = faiss_module()
    config = _config(faiss.GpuIndexFlatConfig(), device)
    config.useFloat16 = True
    index = faiss.GpuIndexFlatIP(resources, vectors.shape[1], config)
    index.add(vectors)  # all at once: it reserves what it needs and reads the file page by page
    return index


def _make_ivf(resources: Any, device: int, vectors: Floats) -> Any:
    """Source: Johnson, Douze and Jégou, "Billion-scale similarity search with GPUs", IEEE Big Data 2019."""
    faiss = faiss_module()
    config = _config(faiss.GpuIndexIVFPQConfig(), device)
    config.flatConfig.use_cuvs, config.useFloat16LookupTables = False, True
    (count, dimension), metric = vectors.shape, faiss.METRIC_INNER_PRODUCT
    index = faiss.GpuIndexIVFPQ(resources, dimension, lists(count), code_length(dimension), 8, metric, config)
    index.train(sample(vectors, max(_TRAINING_PER_LIST * lists(count), 10_000)))
    index.reserveMemory(count)
    index.add(vectors)
    return index


def code_length(dimension: int) -> int:
    """Bytes of a product code: as many as there can be, of four dimensions or more each."""
    return next(length for length in _CODE_LENGTHS if dimension % length == 0 and 4 * length <= max(dimension, 4))


def _make_cagra(resources: Any, device: int, vectors: Floats) -> Any:
    return _Cagra(_linked(resources, device, vectors))


def _halves(vectors: Floats) -> npt.NDArray[np.float16]:
    """In 16 bits, by all cores: .15 ms for 1,024 queries on sixteen. numpy's conversion takes one core."""
    quantizer = faiss_module().ScalarQuantizer
    codes: npt.NDArray[np.uint8] = quantizer(vectors.shape[1], quantizer.QT_fp16).compute_codes(vectors)
    return codes.view(np.float16)


def _linked(resources: Any, device: int, vectors: Floats) -> Any:
    """Source: Ootomo et al., "CAGRA: Highly Parallel Graph Construction and Approximate Nearest Neighbor Search for
    GPUs", ICDE 2024; cuVS's implementation, which keeps a copy of the vectors on the card.

    NN-descent makes the neighbours that it starts from: of four million vectors in 27 s where IVF-PQ had not in 45.
    Links that keep all in one piece are forced: else texts that lie in many near variants are closed to the outside.
    """
    faiss = faiss_module()
    if "CUVS" not in faiss.get_compile_options():
        raise RuntimeError("this FAISS is built without cuVS")
    config = faiss.GpuIndexCagraConfig()
    config.device, config.graph_degree, config.intermediate_graph_degree = device, 2 * LINKS, 4 * LINKS
    config.build_algo, config.guarantee_connectivity = faiss.graph_build_algo_NN_DESCENT, True
    index = faiss.GpuIndexCagra(resources, vectors.shape[1], faiss.METRIC_INNER_PRODUCT, config)
    index.train(_halves(vectors), numeric_type=faiss.Float16)
    return index


class _Cagra:
    """CAGRA takes queries in 16 bits, and its depth with each search."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.depth = 0

    def search(self, queries: npt.NDArray[np.float16], count: int) -> tuple[Floats, Positions]:
        faiss = faiss_module()
        parameters = faiss.SearchParametersCagra(itopk_size=max(self.depth, count), search_width=_WIDTH)
        found: tuple[Floats, Positions] = self._index.search(
            queries, count, params=parameters, numeric_type=faiss.Float16
        )
        return found


def _set_nprobe(part: Any, depth: int) -> None:
    part.nprobe = min(depth, part.nlist, _MOST)


def _set_itopk(part: Any, depth: int) -> None:
    part.depth = min(depth, _MOST_CAGRA)


def _cagra_bytes(count: int, dimension: int) -> float:
    """Vectors in 16 bits, twice while it is made; then also the first and the final links, and a count for each."""
    return 4 * dimension + 4 * (4 + 2) * LINKS + 4 * LINKS


FLAT16 = CardKind("flat16", lambda _, dimension: 2 * dimension, _make_flat, lambda *_: None, (Effort(0, 2),), _MOST)
IVFPQ8 = CardKind(
    "ivfpq8",
    lambda _, dimension: 2 * (code_length(dimension) + 8),  # lists grow by doubling
    _make_ivf,
    _set_nprobe,
    (*(Effort(depth, 10) for depth in (8, 16, 32, 64, 128, 256, 512)), Effort(1024, 40)),
    _MOST,
)
CAGRA16 = CardKind(
    "cagra16",
    _cagra_bytes,
    _make_cagra,
    _set_itopk,
    tuple(Effort(depth, 1) for depth in (32, 64, 96, 128, 192, 256, 384, 512)),
    _MOST_CAGRA,
    joins=False,  # FAISS's shards and replicas pass neither 16 bits nor parameters on
    asked=_halves,
)
CARD_KINDS = {kind.name: kind for kind in (FLAT16, IVFPQ8, CAGRA16)}


def free_memory(device: int) -> int:
    """Bytes of a card that nobody has taken. FAISS has loaded CUDA's library, and does not hand this call on."""
    cuda, free, total = ctypes.CDLL(None), ctypes.c_size_t(), ctypes.c_size_t()
    if cuda.cudaSetDevice(device) or cuda.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)):
        raise RuntimeError(f"card {device} does not tell how much memory is free")
    return free.value


def checked(need: float, devices: Sequence[int]) -> int:
    """Into how many parts something of ``need`` bytes must be cut: 1 where every card can hold it, else one for each.

    Raises:
        MemoryError: all cards together cannot hold it.
    """
    free = [_USABLE * free_memory(device) for device in devices]
    parts = 1 if need <= min(free) else len(free)
    if need / parts > min(free):
        raise MemoryError(f"{need / 1e6:,.0f} MB are needed, and {min(free) / 1e6:,.0f} MB of each card can be taken")
    return parts


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    kind: CardKind
    parts: list[Any]
    joined: Any


class Owner:
    """Holds all cards. ``answer`` runs one request."""

    def __init__(self) -> None:
        faiss = faiss_module()
        self._placed: dict[str, _Placed] = {}
        self._resources = [faiss.StandardGpuResources() for _ in range(faiss.get_num_gpus())]
        for device, resources in enumerate(self._resources):
            resources.setTempMemory(_RESERVED)
            # Memory is reserved with a card's first index.
            faiss.GpuIndexFlatIP(resources, 1, _config(faiss.GpuIndexFlatConfig(), device))

    def answer(self, about: dict[str, Any], queries: npt.NDArray[Any]) -> Positions | None:
        match about["do"]:
            case "place":
                vectors = np.load(about["vectors"], mmap_mode="r", allow_pickle=False)
                self._placed[about["segment"]] = self._place(CARD_KINDS[about["kind"]], vectors)
            case "search":
                placed = self._placed[about["segment"]]
                for part in placed.parts:
                    placed.kind.set_depth(part, about["depth"])
                found: Positions = placed.joined.search(queries, about["count"])[1]
                return found
            case "drop":
                self._placed.pop(about["segment"], None)
            case "build":
                vectors = np.load(about["vectors"], mmap_mode="r", allow_pickle=False)
                np.save(about["links"], self._links(vectors), allow_pickle=False)
        return None

    def _place(self, kind: CardKind, vectors: Floats) -> _Placed:
        """On every card where it fits one, else a part on each.

        Raises:
            MemoryError, RuntimeError: it does not fit, or FAISS cannot make it.
        """
        faiss, (count, dimension) = faiss_module(), vectors.shape
        cards = list(enumerate(self._resources))[: None if kind.joins else 1]
        cuts = checked(count * kind.bytes_per_vector(count, dimension), [device for device, _ in cards])
        edges = [count * cut // cuts for cut in range(cuts + 1)]
        slices = [vectors[start:end] for start, end in itertools.pairwise(edges)]
        if cuts == 1:
            slices *= len(cards)
        parts = [kind.make(resources, device, some) for (device, resources), some in zip(cards, slices, strict=True)]
        if len(parts) == 1:
            return _Placed(kind, parts, parts[0])
        joined = faiss.IndexReplicas(dimension, True) if cuts == 1 else faiss.IndexShards(dimension, True, True)
        for part in parts:
            joined.addIndex(part)
        return _Placed(kind, parts, joined)

    def _links(self, vectors: Floats) -> npt.NDArray[np.int32]:
        """The 2 × LINKS neighbours (n, links) of every vector in CAGRA's graph."""
        faiss, count = faiss_module(), len(vectors)
        checked(count * _cagra_bytes(*vectors.shape), [0])
        links = _linked(self._resources[0], 0, vectors).get_knngraph()
        array: npt.NDArray[np.int64] = faiss.rev_swig_ptr(links.data(), links.size())
        return array.reshape(count, 2 * LINKS).astype(np.int32)


def serve(socket: int, memory: int) -> None:
    """Answers what comes through the inherited files ``socket`` and ``memory`` until the other end is closed."""
    channel, owner = Channel(socket, memory), Owner()
    while True:
        try:
            about, queries = channel.receive()
        except (EOFError, OSError):
            return
        try:
            found = owner.answer(about, queries)
        except Exception as error:  # the other end decides what to do without
            channel.send({"error": str(error) or type(error).__name__})
        else:
            channel.send({}, () if found is None else (found,))
