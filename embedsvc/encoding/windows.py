"""Texts longer than the model's window: cut, with the loss counted, or encoded in several windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Windows:
    """What is encoded in the place of texts: ``token_ids`` of all windows, text by text, ``counts`` windows of each.

    Per text, ``token_counts`` are encoded (special tokens and prompt counted, in every window) and ``cut_tokens`` left
    out.
    """

    token_ids: list[Ids]
    counts: tuple[int, ...]
    token_counts: tuple[int, ...]
    cut_tokens: tuple[int, ...]

    def combine(self, vectors: Vectors) -> Vectors:
        """The texts' unit vectors ``(texts, dimension)`` of those of the windows: their mean, weighted by length.

        Source: OpenAI Cookbook, "Embedding texts that are longer than the model's maximum context length".
        """
        if len(self.counts) == len(self.token_ids):
            return vectors
        weights = np.array([len(ids) for ids in self.token_ids], dtype=np.float32)[:, None]
        starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        sums = np.add.reduceat(vectors * weights, starts, axis=0)
        single = np.array(self.counts) == 1
        lengths = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        means: Vectors = np.where(single[:, None], vectors[starts], sums / lengths).astype(np.float32)
        return means


def fit(token_ids: Sequence[Ids], room: int, reserved: int, *, split: bool, keep_end: bool = False) -> Windows:
    """Texts, as their own tokens, in windows of at most ``room`` tokens, to each of which ``reserved`` are added.

    ``split``: a longer text becomes as few windows as it needs, of like length, so none is a scrap; else it is cut,
    at its end or, with ``keep_end``, at its beginning.
    """
    windows: list[Ids] = []
    counts, token_counts, cut_tokens = [], [], []
    for ids in token_ids:
        if split and len(ids) > room:
            parts = np.array_split(ids, -(-len(ids) // room))
        else:
            parts = [ids[max(0, len(ids) - room) :] if keep_end else ids[:room]]
        kept = sum(map(len, parts))
        windows += parts
        counts.append(len(parts))
        token_counts.append(kept + len(parts) * reserved)
        cut_tokens.append(len(ids) - kept)
    return Windows(windows, tuple(counts), tuple(token_counts), tuple(cut_tokens))
