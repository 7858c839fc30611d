"""The last stages, over the hits that are found: how sure it is that they answer, where to look in them, and what a
language model is to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from embedsvc.encoding import Encoder
from embedsvc.errors import UsageError
from embedsvc.search.confidence import calibration_of, confidences
from embedsvc.search.expanding import expand, stretches_of
from embedsvc.search.highlighting import Floats, highlight
from embedsvc.search.packing import CountTokens, pack
from embedsvc.search.run import Run
from embedsvc.storage import Turn
from embedsvc.storage.words import says_something

_MOST_TOKENS = 100_000
"""Of the collection's, that expanded hits have together where no max_context_tokens is given: a document may have
millions."""
_MOST_ENCODED = 4_000
"""Characters whose sentences are encoded to find the best: about a thousand tokens, 60 ms of two cores."""
_HEADER_TOKENS = 24
"""That a source's line with marker, title and heading may take, about."""
_SHARE = 0.97
"""Of max_context_tokens that hits are expanded to: how many tokens a part of a passage has is an estimate."""


def confide(run: Run) -> Run:
    """Gives hits their confidence, and leaves out those that have less than was asked for.

    Raises:
        UsageError: there is no calibration to do that by, and hits of little confidence are not wanted.
    """
    store, query, least = run.snapshot.store, run.query, run.query.evidence.min_confidence
    calibration = calibration_of(store)
    if calibration is None:
        if least is not None:
            raise UsageError(
                f"{run.snapshot.name!r} has no calibration, and none is shipped for {store.contract.model}. Make one: "
                "embedsvc eval QUESTIONS.csv -c NAME --calibrate; or ask for a least score."
            )
        return run
    # What all texts have says of none that it answers.
    telling = says_something(query.text, store.chunking.language)
    found = confidences(query.text, run.hits, calibration) if telling else [None] * len(run.hits)
    kept = [at for at, confidence in enumerate(found) if least is None or (confidence or 0.0) >= least]
    best = max((found[at] or 0.0 for at in kept), default=None)
    return replace(
        run,
        hits=tuple(replace(run.hits[at], confidence=found[at]) for at in kept),
        spans=run.spans if len(kept) == len(found) else tuple(run.spans[at] for at in kept),
        answerable=best is not None and (best >= calibration.answers_from if telling else None),
    )


def point_out(run: Run) -> Run:
    """Gives hits their highlights."""

    def encode(sentences: Sequence[str]) -> Floats:
        return run.encoder.encode_texts(sentences, kind="passage", on_overflow="truncate").vectors

    found = highlight(run.hits, _turns(run), run.query.text, run.vector, encode, _MOST_ENCODED)
    return replace(run, hits=tuple(replace(hit, highlight=each) for hit, each in zip(run.hits, found, strict=True)))


def _turns(run: Run) -> list[list[Turn]]:
    """For each hit, where page and heading change in its passages, as far as that is stored, in order."""
    rows = [row for span in run.spans for row in span.rows]
    known = dict(zip(rows, run.snapshot.store.turns(rows), strict=True)) if rows else {}
    return [
        sorted({turn for row in span.rows for turn in known[row] or ()}, key=lambda turn: turn.start)
        for span in run.spans
    ]


def gather(run: Run) -> Run:
    """Expands the hits, and packs them into a context."""
    wanted, stretches, own = run.query.evidence, stretches_of(run.hits), _counting(run.encoder)
    if run.hits and (wanted.expand is not None or not run.query.merge):  # else hits share no text
        most = float(_MOST_TOKENS)
        if wanted.max_context_tokens is not None:
            most = _SHARE * wanted.max_context_tokens - _HEADER_TOKENS * len(run.hits)
            if wanted.count_tokens is not None:  # the store knows its own tokens
                text = "\n".join(hit.text for hit in run.hits)
                most *= own(text) / max(1, wanted.count_tokens(text))
        stretches = expand(run.snapshot.store, run.hits, wanted.expand, most)
    count = wanted.count_tokens or own
    return replace(run, context=pack(stretches, wanted.max_context_tokens, count, wanted.order or "best-first"))


def _counting(encoder: Encoder) -> CountTokens:
    return lambda text: len(encoder.tokenizer.encode(text, add_special_tokens=False).ids)
