"""An answer as the JSON that the design fixes, one shape for every face, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from embedsvc.search.hits import (
    Answer,
    Citation,
    Context,
    Explanation,
    Highlight,
    Hit,
    Place,
    Scores,
    Source,
    Step,
)


def answer_dict(answer: Answer) -> dict[str, Any]:
    """The answer as JSON; ``tokens_cut`` only where the query lost some, ``rerank_late`` only where that is so,
    ``context`` and ``explain`` only where they were asked for."""
    value: dict[str, Any] = {
        "query": answer.query,
        "collection": answer.collection,
        "version": answer.version,
        "mode": answer.mode,
        "took_ms": answer.took_ms,
        "answerable": answer.answerable,
        "warnings": list(answer.warnings),
        "hits": [_hit_dict(hit) for hit in answer.hits],
    }
    if answer.tokens_cut:
        value["tokens_cut"] = answer.tokens_cut
    if (explanation := answer.explanation) is not None:
        value["explain"] = {
            "rounds": explanation.rounds,
            "stages": [
                {
                    "stage": step.stage,
                    "ms": step.ms,
                    "passages": step.passages,
                    "rankings": {
                        name: [{"id": id, "score": score} for id, score in ranking]
                        for name, ranking in step.rankings.items()
                    },
                }
                for step in explanation.steps
            ],
        }
        for hit, said in zip(answer.hits, value["hits"], strict=True):
            said["explain"] = {name: asdict(place) for name, place in hit.places.items()}
    if answer.rerank_late:
        value["rerank_late"] = True
    if answer.context is not None:
        value["context"] = asdict(answer.context)
    return value


def _hit_dict(hit: Hit) -> dict[str, Any]:
    # By hand: dataclasses.asdict copies every value in depth, which a search has no time for.
    value = {
        "id": hit.id,
        "document_id": hit.document_id,
        "uri": hit.uri,
        "title": hit.title,
        "text": hit.text,
        "start": hit.start,
        "end": hit.end,
        "page": hit.page,
        "heading": hit.heading,
        "score": hit.score,
        "scores": {"dense": hit.scores.dense, "lexical": hit.scores.lexical, "rerank": hit.scores.rerank},
        "confidence": hit.confidence,
        "metadata": hit.metadata,
    }
    if hit.highlight is not None:
        value["highlight"] = asdict(hit.highlight)
    if hit.duplicates:
        value["duplicates"] = [asdict(each) for each in hit.duplicates]
    return value


def answer_of(value: Mapping[str, Any]) -> Answer:
    """The answer that :func:`answer_dict` told of. Fields that are not known here are passed over."""
    explain, context = value.get("explain"), value.get("context")
    return Answer(
        query=value["query"],
        collection=value["collection"],
        version=value["version"],
        mode=value["mode"],
        took_ms=value["took_ms"],
        hits=tuple(map(_hit_of, value["hits"])),
        tokens_cut=value.get("tokens_cut", 0),
        answerable=value["answerable"],
        context=None if context is None else _context_of(context),
        rerank_late=value.get("rerank_late", False),
        warnings=tuple(value["warnings"]),
        explanation=None if explain is None else _explanation_of(explain),
    )


def _hit_of(value: Mapping[str, Any]) -> Hit:
    highlight, scores = value.get("highlight"), value["scores"]
    return Hit(
        **{name: value[name] for name in _PLAIN},
        scores=Scores(scores["dense"], scores["lexical"], scores["rerank"]),
        highlight=None if highlight is None else _highlight_of(highlight),
        places={name: Place(place["rank"], place["score"]) for name, place in value.get("explain", {}).items()},
        duplicates=tuple(Citation(**each) for each in value.get("duplicates", ())),
    )


_PLAIN = tuple(name for name in Hit.__slots__ if name not in ("scores", "highlight", "places", "duplicates"))
"""Fields of a hit that are in JSON what they are here."""


def _highlight_of(value: Mapping[str, Any]) -> Highlight:
    start, end = value["sentence"]
    terms = tuple((start, end) for start, end in value["terms"])
    return Highlight((start, end), terms, value["by"], value.get("page"), value.get("heading"))


def _context_of(value: Mapping[str, Any]) -> Context:
    sources = tuple(Source(**{**source, "hits": tuple(source["hits"])}) for source in value["sources"])
    return Context(value["text"], value["tokens"], sources, tuple(value["left_out"]))


def _explanation_of(value: Mapping[str, Any]) -> Explanation:
    return Explanation(value["rounds"], tuple(map(_step_of, value["stages"])))


def _step_of(value: Mapping[str, Any]) -> Step:
    rankings = {
        name: tuple((place["id"], place["score"]) for place in ranking) for name, ranking in value["rankings"].items()
    }
    return Step(value["stage"], value["ms"], value["passages"], rankings)
