"""Token-budget batches: texts of like length share a batch, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt


def plan(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Positions grouped into batches, longest first, each of at most ``budget`` padded tokens or of one text.

    Longest first: the last batches to finish are small, so the threads end at about the same time.
    """
    return list(_groups(sorted(range(len(lengths)), key=lambda position: -lengths[position]), lengths, budget))


def _groups(order: Sequence[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for position in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def pad(sequences: Sequence[npt.NDArray[np.int32]], pad_id: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ids and attention mask, both int64 of shape ``(len(sequences), longest)``, padded on the right."""
    lengths = np.array([len(sequence) for sequence in sequences])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate(sequences)
    return ids, mask.astype(np.int64)
