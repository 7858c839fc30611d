"""The fixed texts by which two encoders are compared. Changing one makes every stored contract unreadable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from embedsvc.encoding.tokens import Ids, Tokens

CANARY_TEXTS = (
    "Why?",
    "How do I restart the service after a power failure?",
    "Vitamin D deficiency was associated with lower bone density in 412 adults (p < 0.05).",
    "for i in range(10): print(f'{i:>4}')  # naïve café",
    "Быстрая лиса перепрыгивает через ленивую собаку.",
    "東京は日本の首都です。",
    "مرحبا بالعالم 🙂",
)
"""A handful of scripts and lengths, short so that encoding all takes about 10 ms."""


def canary_ids(tokens: Tokens, max_length: int) -> list[Ids]:
    """Their tokens, with special ones and the passage prompt, cut to the window."""
    before, after = tokens.before["passage"], tokens.after
    room = max_length - len(before) - len(after)
    return [np.concatenate([before, ids[:room], after]) for ids in tokens.of_texts(CANARY_TEXTS)]


def agrees(dtype: str, min_cosine: float, mean_cosine: float) -> bool:
    """Whether these cosines with sentence-transformers fp32 on the canary texts are parity for ``dtype``."""
    return min_cosine >= 0.9999 if dtype == "fp32" else mean_cosine >= 0.99
