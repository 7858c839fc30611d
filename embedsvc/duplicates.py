"""Texts that are the same, or nearly: MinHash over runs of characters, so that any script will do.

A group is led by its first text in the order given, and holds what is like that one: no chain of small changes joins
two texts that are not alike. Nothing is random: the same texts in the same order give the same groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint32]
_Wide = npt.NDArray[np.uint64]
_Id = TypeVar("_Id", bound=Hashable)

SHINGLE = 9  # characters that make one feature: about two words, or a clause of Chinese
HASHES = 128  # of a signature; an estimate of similarity strays by 0.04 then
_AT_ONCE = 4_096  # features that are hashed together: 2 MB
_CERTAIN = 0.99  # probability with which two texts just alike enough come to be compared


def exact_duplicates(texts: Iterable[tuple[_Id, str]]) -> list[tuple[_Id, ...]]:
    """Groups of two or more ids whose texts are the same to the letter; texts of white space alone are in none."""
    groups: dict[bytes, list[_Id]] = {}
    for id, text in texts:
        if text and not text.isspace():
            groups.setdefault(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), []).append(id)
    return [tuple(ids) for ids in groups.values() if len(ids) > 1]


def near_duplicates(texts: Iterable[tuple[_Id, str]], threshold: float = 0.8) -> list[tuple[_Id, ...]]:
    """Groups of two or more ids whose texts share, with the first of the group, at least about ``threshold`` of all
    that either says (the Jaccard index of their runs of characters). Case and white space make no difference.

    Raises:
        ValueError: ``threshold`` is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must be above 0 and at most 1")
    rows = _rows_per_band(threshold)
    groups: list[list[_Id]] = []
    leaders: list[Hashes] = []
    buckets: dict[bytes, list[int]] = {}
    for id, text in texts:
        signature = _signature(text)
        if signature is None:
            continue
        keys = list(_keys(signature, rows))
        candidates = sorted({leader for key in keys for leader in buckets.get(key, ())})
        if candidates:
            alike = np.count_nonzero(np.stack([leaders[at] for at in candidates]) == signature, axis=1)
            best = int(np.argmax(alike))
            if alike[best] >= threshold * HASHES:
                groups[candidates[best]].append(id)
                continue
        for key in keys:
            buckets.setdefault(key, []).append(len(groups))
        groups.append([id])
        leaders.append(signature)
    return [tuple(group) for group in groups if len(group) > 1]


def _rows_per_band(threshold: float) -> int:
    """The most hashes that must agree in one band for two texts to be compared: the more, the fewer are in vain."""
    fits = [rows for rows in (1, 2, 4, 8, 16, 32) if 1 - (1 - threshold**rows) ** (HASHES // rows) >= _CERTAIN]
    return max(fits, default=1)


def _keys(signature: Hashes, rows: int) -> Iterator[bytes]:
    for band, part in enumerate(signature.reshape(-1, rows)):
        yield bytes([band]) + part.tobytes()


def _signature(text: str) -> Hashes | None:
    """``HASHES`` minima (shape ``(HASHES,)``) over the features of ``text``; None for white space alone."""
    text = " ".join(text.casefold().split())
    if not text:
        return None
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    width = min(SHINGLE, len(codes))
    features = np.zeros(len(codes) - width + 1, np.uint64)
    for at in range(width):
        features = features * np.uint64(0x100000001B3) + codes[at : at + len(features)]
    features_32 = _short(_mixed(np.unique(features)))
    signature = np.full(HASHES, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(features_32), _AT_ONCE):
        hashed = features_32[start : start + _AT_ONCE, None] * _MULTIPLIERS
        np.minimum(signature, hashed.min(axis=0), out=signature)
    return signature


def _mixed(values: _Wide) -> _Wide:
    """``values`` spread over all 64 bits (splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _short(values: _Wide) -> Hashes:
    return (values >> np.uint64(32)).astype(np.uint32)


_MULTIPLIERS = _short(_mixed(np.arange(1, HASHES + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))) | np.uint32(1)
