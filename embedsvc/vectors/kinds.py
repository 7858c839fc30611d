"""The kinds of approximate index that a segment may have, each a few functions around one FAISS index.

Both give candidates from compressed codes; the segment scores those again with the vectors themselves, which lie on
the disk. What a kind costs and how its effort is stepped up is said here once, for the planner and the builder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsvc.vectors.faiss_module import faiss_module
from embedsvc.vectors.mapping import BLOCK, let_go, rows_of
from embedsvc.vectors.recall import Floats

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a search tries. ``depth``: HNSW's efSearch, or IVF's nprobe; 0: every code is looked at. ``widen``:
    candidates per hit wanted that are scored again with their own vectors."""

    depth: int
    widen: int


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of index.

    ``build(vectors, go_on)`` makes the FAISS index of (n, dimension) vectors of unit length; ``go_on`` is called now
    and then, to raise where the work is not wanted any more. ``search(codes, queries, count, depth, allowed)`` gives
    positions (queries, count), -1 where there are no more; ``allowed`` is a bitmap of positions. ``scan`` does so by
    looking at every code that is allowed. ``efforts(codes)``: cheapest first.
    ``step_seconds`` is about what one unit of depth costs a search of n codes.
    """

    name: str
    build: Callable[[Floats, Callable[[], None]], Any]
    search: Callable[[Any, Floats, int, int, Bitmap | None], Positions]
    scan: Callable[[Any, Floats, int, Bitmap | None], Positions]
    efforts: Callable[[Any], tuple[Effort, ...]]
    bytes_per_vector: Callable[[int, int], float]
    step_seconds: Callable[[int], float]


Bitmap = npt.NDArray[np.uint8]


def carry_on() -> None:
    """To be called now and then by work that is wanted to its end."""


def blocks(vectors: Floats, go_on: Callable[[], None] = carry_on) -> Iterator[Floats]:
    for start in range(0, len(vectors), BLOCK):
        go_on()
        yield np.ascontiguousarray(vectors[start : start + BLOCK], np.float32)
        let_go(vectors)


def sample(vectors: Floats, count: int) -> Floats:
    if len(vectors) <= count:
        return np.ascontiguousarray(vectors, np.float32)
    return rows_of(vectors, _drawn(len(vectors), count))


def _drawn(there: int, count: int) -> Positions:
    """Sorted positions of ``count`` that are ``there``, or of all."""
    return np.sort(np.random.default_rng(0).choice(there, min(there, count), replace=False))


def _selector(allowed: Bitmap | None) -> dict[str, Any]:
    return {} if allowed is None else {"sel": faiss_module().IDSelectorBitmap(allowed)}


# -- hnsw8: a graph over codes of 8 bits -----------------------------------------------------------------------------

LINKS = 24
_BUILD_DEPTH = 170
_ADDED = 10_000
"""Vectors that are linked at a time, in an order that FAISS shuffles: with 2,500, a graph of 80,000 finds .947 at a
depth of 32, not .957."""
_RANGED = 10_000
"""Vectors of a sample that the codes' range is taken from."""
_CLIPPED = 1e-4
"""Share of their components that it may leave out."""


def build_hnsw(vectors: Floats, go_on: Callable[[], None], links: npt.NDArray[np.int32] | None = None) -> Any:
    """Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
    Navigable Small World graphs", TPAMI 2020; FAISS's implementation.

    Codes are whole numbers from -128 to 127 on one scale for all dimensions: products are those of whole numbers, and
    cost a third of those of codes on a scale per dimension (docs/indexes.md). ``links`` (n, 2 * LINKS): the lowest
    layer, where it is known already; only the few vectors of the layers above are linked here then.
    """
    faiss = faiss_module()
    codes = faiss.IndexHNSWSQ(
        vectors.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, LINKS, faiss.METRIC_INNER_PRODUCT
    )
    codes.hnsw.efConstruction = _BUILD_DEPTH
    codes.init_level0 = links is None
    largest = _range_of(rows_of(vectors, _drawn(len(vectors), _RANGED)))
    _reserve(codes, len(vectors))
    for start in range(0, len(vectors), _ADDED):
        some = vectors[start : start + _ADDED]
        added = np.empty(some.shape, np.float32)
        for at, block in enumerate(blocks(some, go_on)):
            whole(block, largest, out=added[at * BLOCK : (at + 1) * BLOCK])
        codes.add(added)
    if links is not None:
        neighbours = faiss.rev_swig_ptr(codes.hnsw.neighbors.data(), codes.hnsw.neighbors.size())
        starts = faiss.vector_to_array(codes.hnsw.offsets)[:-1].astype(np.int64)
        for start in range(0, len(links), _ADDED):
            part = slice(start, start + _ADDED)
            neighbours[starts[part, None] + np.arange(2 * LINKS)] = links[part]
        codes.init_level0 = True
    return codes


def _reserve(codes: Any, count: int) -> None:
    """Has the arrays of an empty graph room for ``count`` vectors."""
    upper = LINKS / (LINKS - 1) * 1.05  # links above the lowest layer, of a vector on average; and what chance adds
    _make_room(faiss_module().downcast_index(codes.storage).codes, count * codes.d)
    _make_room(codes.hnsw.neighbors, int(count * (2 * LINKS + upper)))


def _make_room(array: Any, size: int) -> None:
    """For so many elements in an empty array of FAISS: by itself it doubles as it grows, and has three times its size
    for a moment then."""
    array.resize(size)
    array.resize(0)


def _range_of(some: Floats) -> float:
    """The component that becomes 127 in a code: of those of ``some`` vectors (n, dimension), only ``_CLIPPED`` are
    larger. Overwrites ``some``, which may be the largest thing in memory."""
    return float(np.quantile(np.abs(some, out=some), 1 - _CLIPPED, overwrite_input=True))


def whole(vectors: Floats, largest: npt.ArrayLike, out: Floats | None = None) -> Floats:
    """``vectors`` in whole numbers of 8 bits, ``largest`` becoming 127; ``out``: where to. FAISS cuts off what is
    behind the point, and does so to queries too."""
    scale = np.float32(127) / np.maximum(largest, np.float32(1e-9))
    scaled: Floats = np.multiply(vectors, scale, out=out)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -128, 127, out=scaled)


def _search_hnsw(codes: Any, queries: Floats, count: int, depth: int, allowed: Bitmap | None) -> Positions:
    parameters = faiss_module().SearchParametersHNSW(efSearch=max(depth, count), **_selector(allowed))
    found: Positions = codes.search(as_codes(queries), count, params=parameters)[1]
    return found


def as_codes(queries: Floats) -> Floats:
    return whole(queries, np.abs(queries).max(axis=1, keepdims=True))


def _scan_hnsw(codes: Any, queries: Floats, count: int, allowed: Bitmap | None) -> Positions:
    return scan_codes(faiss_module().downcast_index(codes.storage), queries, count, allowed)


def bare_codes(vectors: Floats, positions: Positions) -> Any:
    """The codes of :func:`build_hnsw` without its graph, for :func:`scan_codes`: of the ``vectors`` (n, dimension) at
    sorted ``positions`` (m,), of which only some are in memory at a time."""
    faiss = faiss_module()
    quantizer = faiss.ScalarQuantizer.QT_8bit_direct_signed
    codes = faiss.IndexScalarQuantizer(vectors.shape[1], quantizer, faiss.METRIC_INNER_PRODUCT)
    _make_room(codes.codes, len(positions) * codes.d)
    largest = _range_of(rows_of(vectors, positions[_drawn(len(positions), _RANGED)]))
    for start in range(0, len(positions), BLOCK):
        codes.add(whole(vectors[positions[start : start + BLOCK]], largest))
        let_go(vectors)
    return codes


def scan_codes(codes: Any, queries: Floats, count: int, allowed: Bitmap | None) -> Positions:
    """Positions (queries, count) of the nearest by their codes, all of which are looked at."""
    parameters = faiss_module().SearchParameters(**_selector(allowed))
    found: Positions = codes.search(as_codes(queries), count, params=parameters)[1]
    return found


def _hnsw_bytes(count: int, dimension: int) -> float:
    """Code, links of the lowest layer and the few above, a level and an offset."""
    return dimension + 4 * (2 * LINKS + LINKS / (LINKS - 1)) + 4 + 8


# -- ivfpq4: inverted lists of product-quantised codes, 4 bits for some three dimensions -----------------------------

_LIST_FACTOR = 2.5
_MOST_LISTS = 8192
_TRAINING_PER_LIST = 64


def lists(count: int) -> int:
    return max(1, min(int(_LIST_FACTOR * math.sqrt(count)), count // 39, _MOST_LISTS))


def _parts(dimension: int) -> int:
    """Into how many equal parts a vector is cut: as many as go, of three dimensions at least."""
    return next(parts for parts in range(max(1, dimension // 3), 0, -1) if dimension % parts == 0)


def _build_ivf(vectors: Floats, go_on: Callable[[], None]) -> Any:
    """Source: André, Kermarrec and Le Scouarnec, "Cache locality is not enough: High-Performance Nearest Neighbor
    Search with Product Quantization Fast Scan", VLDB 2015; FAISS's implementation.

    RaBitQ codes of one bit per dimension find as much with half as many lists, but FAISS reads them a fifth as fast on
    AVX2 (docs/indexes.md).
    """
    faiss = faiss_module()
    dimension, count = vectors.shape[1], lists(len(vectors))
    codes = faiss.index_factory(dimension, f"IVF{count},PQ{_parts(dimension)}x4fs", faiss.METRIC_INNER_PRODUCT)
    codes.train(sample(vectors, max(_TRAINING_PER_LIST * count, 1000)))
    for block in blocks(vectors, go_on):
        codes.add(block)
    return codes


def _search_ivf(codes: Any, queries: Floats, count: int, depth: int, allowed: Bitmap | None) -> Positions:
    parameters = faiss_module().SearchParametersIVF(nprobe=min(depth, codes.nlist), **_selector(allowed))
    found: Positions = codes.search(queries, count, params=parameters)[1]
    return found


def _scan_ivf(codes: Any, queries: Floats, count: int, allowed: Bitmap | None) -> Positions:
    return _search_ivf(codes, queries, count, codes.nlist, allowed)


def _ivf_bytes(count: int, dimension: int) -> float:
    """Code, id, and the vector's share of the centroids."""
    return _parts(dimension) / 2 + 8 + 4 * dimension * lists(max(count, 1)) / max(count, 1)


_DEPTHS = (16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)


def _hnsw_efforts(_: Any) -> tuple[Effort, ...]:
    """What a deep search finds is lost again where codes alone choose twenty of it: of 180,000 vectors, depth 96 found
    .983 with two candidates per hit, .985 with three and with four, in the same time."""
    return tuple(Effort(depth, 2 if depth < 48 else 3) for depth in _DEPTHS)


def _ivf_efforts(codes: Any) -> tuple[Effort, ...]:
    """The more lists, the more of their best is lost to coarse codes: of ten million vectors, 64 lists found .934 with
    10 candidates per hit, .955 with 20 and .962 with 40, at 2.1, 2.2 and 2.4 ms."""
    most = codes.nlist
    depths = [*(depth for depth in _DEPTHS if depth < most), min(most, _DEPTHS[-1]), min(most, 2 * _DEPTHS[-1])]
    return tuple(Effort(depth, 10 if depth < 24 else 20 if depth < 64 else 40) for depth in depths)


HNSW8 = Kind(
    "hnsw8",
    build_hnsw,
    _search_hnsw,
    _scan_hnsw,
    _hnsw_efforts,
    _hnsw_bytes,
    lambda _: 4e-6,
)
IVFPQ4 = Kind(
    "ivfpq4",
    _build_ivf,
    _search_ivf,
    _scan_ivf,
    _ivf_efforts,
    _ivf_bytes,
    lambda count: 8e-9 * count / lists(count),
)
KINDS = {kind.name: kind for kind in (HNSW8, IVFPQ4)}
