"""An encoder whose arithmetic can be seen: a text's vector counts its words, one axis per word, at unit length."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from embedsvc.encoding import EncodedTexts
from embedsvc.errors import QueryTooLong
from embedsvc.records import Contract

WORDS = ("red", "green", "blue", "white")


class FakeEncoder:
    """``red red green`` is (2, 1, 0, 0) / √5. Other words have tokens, but no axis."""

    def __init__(self, words: Sequence[str] = WORDS, max_length: int = 512) -> None:
        vocabulary = {word: at for at, word in enumerate(words)}
        self.tokenizer = Tokenizer(models.WordLevel({**vocabulary, "[UNK]": len(words)}, unk_token="[UNK]"))
        self.tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        self.dimension = len(words)
        self.max_length = max_length
        self.model = SimpleNamespace(name="fake", languages=())
        self.encoded = 0
        canary = (1.0,) + (0.0,) * (len(words) - 1)
        self.contract = Contract("fake", "w", "t", "mean", True, "", "", self.dimension, "fp32", max_length, (canary,))

    def reserved(self, kind: str) -> int:
        return 2

    def encode(self, token_ids: Sequence[Any], *, kind: str) -> Any:
        self.encoded += len(token_ids)
        counts = [np.bincount(ids, minlength=self.dimension + 1)[: self.dimension] for ids in token_ids]
        vectors = np.array(counts, np.float32).reshape(len(token_ids), self.dimension)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def submit(self, token_ids: Sequence[Any], *, kind: str) -> Any:
        future: Future[Any] = Future()
        future.set_result(self.encode(token_ids, kind=kind))
        return SimpleNamespace(future=future)

    def encode_texts(self, texts: Sequence[str], *, kind: str, on_overflow: str = "error") -> EncodedTexts:
        ids = [np.array(self.tokenizer.encode(text).ids, np.int32) for text in texts]
        room = self.max_length - 2
        cut = tuple(max(0, len(own) - room) for own in ids)
        if any(cut) and on_overflow == "error":
            raise QueryTooLong(f"more than {room} tokens")
        kept = [own[:room] for own in ids]
        return EncodedTexts(self.encode(kept, kind=kind), tuple(len(own) + 2 for own in kept), cut)
