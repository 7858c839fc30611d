"""The model's tokenizer, and what surrounds a text's own tokens: special tokens and the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from embedsvc.encoding.models import Model
from embedsvc.errors import ModelError, NotFound, UsageError
from embedsvc.records import without_surrogates

Kind = Literal["query", "passage"]

_GROUP = 1_000_000
"""Characters that are tokenised at once: an Encoding takes a hundred times the memory of its ids."""
_SMALL = 2_000
"""Characters of a text that is tokenised at once, holding the GIL: a longer one lets other threads go on."""

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Tokens:
    """The tokenizer (truncation and padding off) with the ids that the model expects around a text.

    ``leading`` are the special tokens before a text, ``before[kind]`` these and that kind's prompt, ``after`` the
    special tokens behind it.
    """

    tokenizer: Tokenizer
    leading: Ids
    before: dict[Kind, Ids]
    after: Ids
    pad_id: int

    def reserved(self, kind: Kind) -> int:
        """Tokens of the window that are not the text's own: special tokens and the prompt."""
        return len(self.before[kind]) + len(self.after)

    def without_special(self, ids: Ids) -> Ids:
        """``ids`` without the special tokens around a text, where they are there whole."""
        before, after = len(self.leading), len(self.after)
        inner = ids[before : len(ids) - after]
        whole = len(ids) >= before + after and np.array_equal(ids, np.concatenate([self.leading, inner, self.after]))
        return inner if whole else ids

    def of_texts(self, texts: Sequence[str]) -> list[Ids]:
        """Each text's own token ids, whole, without special tokens and prompt.

        Raises:
            UsageError: something in ``texts`` is not a string.
        """
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise UsageError(f"Text {position} is of type {type(text).__name__}; pass strings.")
        valid = [without_surrogates(text) for text in texts]
        if len(valid) == 1 and len(valid[0]) <= _SMALL:  # without the hand-over to the tokenizer's thread pool
            return [np.array(self.tokenizer.encode(valid[0], add_special_tokens=False).ids, dtype=np.int32)]
        token_ids: list[Ids] = []
        for start, stop in _groups(valid):
            if len(valid[start]) > _GROUP:
                token_ids.append(np.concatenate([self._batch([piece])[0] for piece in _pieces(valid[start])]))
            else:
                token_ids += self._batch(valid[start:stop])
        return token_ids

    def _batch(self, texts: Sequence[str]) -> list[Ids]:
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]


def _groups(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Slices of ``texts``, each of at most ``_GROUP`` characters or of one text."""
    start = characters = 0
    for at, text in enumerate(texts):
        if characters and characters + len(text) > _GROUP:
            yield start, at
            start, characters = at, 0
        characters += len(text)
    if start < len(texts):
        yield start, len(texts)


def _pieces(text: str) -> Iterator[str]:
    """``text`` in parts of at most ``_GROUP`` characters, cut before a space where there is one."""
    start = 0
    while len(text) - start > _GROUP:
        cut = text.rfind(" ", start + 1, start + _GROUP)
        stop = cut if cut > start else start + _GROUP
        yield text[start:stop]
        start = stop
    yield text[start:]


def load_tokenizer(model: Model) -> tuple[Tokenizer, int]:
    """The model's tokenizer, truncation and padding off, and the id to pad with.

    Raises:
        ModelError: ``tokenizer.json`` cannot be used, or belongs to another model.
    """
    file = model.transformer / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{file}: not a usable tokenizer ({error}). Fetch the model again.") from error
    if model.vocabulary is not None and (size := tokenizer.get_vocab_size()) > model.vocabulary:
        raise ModelError(
            f"{file}: has {size} tokens, but the model's weights have embeddings for {model.vocabulary}: it is the "
            "tokenizer of another model. Fetch the model again."
        )
    # all-MiniLM-L6-v2's file asks for cutting at 128 tokens and padding to 128; both are ours to do.
    pad_id = model.pad_id if model.pad_id is not None else (tokenizer.padding or {}).get("pad_id", 0)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, int(pad_id)


def load_counter(place: Path) -> Callable[[str], int]:
    """How many tokens a text has, special ones not counted, by the ``tokenizer.json`` that ``place`` is or holds.

    Raises:
        NotFound: there is none. UsageError: it cannot be used.
    """
    file = place / "tokenizer.json" if place.is_dir() else place
    if not file.is_file():
        raise NotFound(f"There is no {file}. Name a tokenizer.json, or a folder that holds one.")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise UsageError(f"{file}: not a usable tokenizer ({error}).") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def load_tokens(model: Model) -> Tokens:
    """Raises ModelError as :func:`load_tokenizer`, and where special tokens and prompts leave no room."""
    tokenizer, pad_id = load_tokenizer(model)
    leading, trailing = _template(tokenizer, model)
    before: dict[Kind, Ids] = {
        "query": np.array([*leading, *_prompt_ids(tokenizer, model.query_prompt)], dtype=np.int32),
        "passage": np.array([*leading, *_prompt_ids(tokenizer, model.passage_prompt)], dtype=np.int32),
    }
    tokens = Tokens(
        tokenizer, np.array(leading, dtype=np.int32), before, np.array(trailing, dtype=np.int32), int(pad_id)
    )
    for kind in before:
        if tokens.reserved(kind) >= model.max_length:
            raise ModelError(
                f"{model.name}: special tokens and {kind} prompt take {tokens.reserved(kind)} of the window's "
                f"{model.max_length} tokens. Shorten the prompt in config_sentence_transformers.json."
            )
    return tokens


def _template(tokenizer: Tokenizer, model: Model) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer's post-processor puts before and after a single text."""
    inner: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
    whole: list[int] = tokenizer.encode("a").ids
    starts = [at for at in range(len(whole) - len(inner) + 1) if whole[at : at + len(inner)] == inner]
    if not inner or not starts:
        raise ModelError(f"{model.transformer / 'tokenizer.json'}: gives no tokens for the text 'a'. Check the file.")
    return whole[: starts[0]], whole[starts[0] + len(inner) :]


def _prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids to put before a text's own, so that the result is what tokenising ``prompt + text`` at once would give.

    A prompt's last space may belong to the next word's token (SentencePiece), so the form that joins cleanly is taken.
    """

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    joined = ids(f"{prompt}a")
    for form in (prompt, prompt.rstrip()):
        if ids(form) + ids("a") == joined:
            return ids(form)
    return ids(prompt)
