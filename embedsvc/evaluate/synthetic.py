"""Questions where nobody has asked any: sentences taken out of passages, which must be found without them.

A sentence is no question, and its neighbours share its words; but who ranks better by these mostly ranks better by
questions too, and a collection that fails at them is broken.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from embedsvc.chunking import chunk, encoded_windows
from embedsvc.collection import Collection
from embedsvc.encoding import Encoder
from embedsvc.errors import UsageError
from embedsvc.evaluate.questions import Expected, Question
from embedsvc.records import Heading, Passage, make_document
from embedsvc.search.terms import query_terms, sentence_spans
from embedsvc.storage import StoredPassage

_POOL = 5_000
"""Passages that are searched, at most: with the others it would take longer, and differ in nothing that matters."""
_TERMS = range(4, 31)
"""Telling words of a sentence that can be asked for."""
_AT_ONCE = 500


@contextmanager
def held_out(collection: Collection, encoder: Encoder, count: int) -> Iterator[tuple[Collection, list[Question]]]:
    """A collection of passages of ``collection``, made for this and removed afterwards, and up to ``count`` questions:
    each a sentence that one of the passages has there lost. The same for the same collection.

    Only what lost a sentence is encoded. A passage is a document there, with the id of the passage.

    Raises:
        UsageError: no passage has three sentences and more, one of which could be asked for.
    """
    store = collection.store()
    chance = random.Random(store.version)
    row_ids = store.row_ids().tolist()
    pool = chance.sample(row_ids, min(_POOL, len(row_ids)))
    questions: list[Question] = []
    with TemporaryDirectory(prefix="embedsvc-eval-") as scratch:
        settings = replace(collection.settings, data_dir=Path(scratch), durability="os")
        chunking = replace(collection.chunking, finer=0, whole=True)
        made = Collection.create(collection.name, collection.contract, chunking, settings)
        with made.writer() as writer:
            for start in range(0, len(pool), _AT_ONCE):
                some = pool[start : start + _AT_ONCE]
                documents = []
                for passage, vector in zip(store.take(some), store.own_vectors(some), strict=True):
                    text = passage.text
                    taken = _taken(passage, chance) if len(questions) < count else None
                    if taken is not None:
                        sentence, text = taken
                        questions.append(Question(passage.id, sentence, (Expected(passage.id, told=passage.id),)))
                    headings = (Heading(0, 1, passage.heading or ""),)
                    document = make_document(passage.uri, text, id=passage.id, title=passage.title, headings=headings)
                    whole, vectors = Passage(0, 0, len(text), np.empty(0, np.int32)), vector[None]
                    if taken is not None:
                        cut = chunk(document, encoder.tokenizer, chunking, reserved=encoder.reserved("passage"))
                        (whole,) = cut.passages
                        vectors = encoder.encode(encoded_windows(whole), kind="passage")
                    documents.append((document, [whole], vectors))
                writer.replace(documents)
        if not questions:
            raise UsageError(f"No passage of {collection.name!r} has sentences enough to take one out. Ask questions.")
        yield made, questions


def _taken(passage: StoredPassage, chance: random.Random) -> tuple[str, str] | None:
    """A sentence, and the passage's text without it; None: it has none that could be taken."""
    spans = sentence_spans(passage.text)
    fit = [span for span in spans if len(query_terms(passage.text[slice(*span)])) in _TERMS]
    if len(spans) < 3 or not fit:
        return None
    start, end = chance.choice(fit)
    return passage.text[start:end], f"{passage.text[:start].rstrip()} {passage.text[end:].lstrip()}".strip()
