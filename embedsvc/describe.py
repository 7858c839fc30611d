"""What is told about a collection and an answer, as the JSON that the design fixes: one shape for every face."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedsvc.collection import Collection
from embedsvc.ingest import Outcome
from embedsvc.overview import Cluster, Labelled
from embedsvc.search import Answer, Hit
from embedsvc.storage import StoredPassage
from embedsvc.vectors import Recall, has_card


def outcome_dict(outcome: Outcome) -> dict[str, Any]:
    """A line of a report."""
    like = outcome.like
    return {
        "uri": outcome.uri,
        "status": outcome.status,
        "passages": outcome.passages,
        "tokens": outcome.tokens,
        "encoded_tokens": outcome.encoded_tokens,
        "seconds": round(outcome.seconds, 4),
        "reason": outcome.reason,
        "notes": list(outcome.notes),
        "like": None if like is None else {"uri": like.uri, "similarity": like.similarity},
    }


def describe(collection: Collection) -> dict[str, Any]:
    """Counts, contract (without its canary vectors), chunking, vector index and bytes on disk of a collection; its
    vectors only where they are more than the passages.

    The index is the one that is loaded, or else what its files say of it: nothing is built to tell about it.
    """
    store = collection.store()
    contract = store.contract.to_dict()
    del contract["canary_vectors"]
    passages, vectors = store.count(), store.count_vectors()
    return {
        "name": collection.name,
        "documents": store.count_documents(),
        "passages": passages,
        **({"vectors": vectors} if vectors != passages else {}),
        "version": store.version,
        "contract": contract,
        "chunking": asdict(store.chunking),
        "index": _index(collection),
        "bytes": bytes_below(store.path.parent),
    }


def _index(collection: Collection) -> dict[str, Any]:
    index = collection.upkeep.known()
    if index is None:
        return {"kind": "not built yet"}
    value: dict[str, Any] = {
        "kind": index.kind,
        "bytes_per_vector": index.bytes_per_vector,
        **_recall(index.recall),
        "segments": len(index.parts),
        "build_seconds": round(index.build_seconds, 3),
        "gpu": has_card(),
    }
    for name, filtered in (("live", False), ("live_filtered", True)):
        recall = collection.upkeep.live.recall(filtered=filtered)
        if recall is not None:
            value[name] = _recall(recall)
    return value


def _recall(recall: Recall) -> dict[str, Any]:
    return {
        "recall@10": recall.mean,
        "recall_interval": [recall.low, recall.high],
        "recall_sample": recall.sample,
    }


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


def place_dict(passage: StoredPassage) -> dict[str, Any]:
    """Where a passage stands, without its text."""
    return {
        "id": passage.id,
        "document_id": passage.document_id,
        "uri": passage.uri,
        "title": passage.title,
        "start": passage.start,
        "end": passage.end,
    }


def cluster_dict(cluster: Cluster) -> dict[str, Any]:
    return {
        "label": list(cluster.label),
        "passages": cluster.passages,
        "tightness": cluster.tightness,
        "typical": [place_dict(passage) for passage in cluster.typical],
    }


def labelled_dict(labelled: Labelled) -> dict[str, Any]:
    return {
        **place_dict(labelled.passage),
        "label": labelled.label,
        "cosine": labelled.cosine,
        "margin": labelled.margin,
    }


def bytes_below(folder: Path) -> int:
    """Bytes of all files below ``folder``; one that a writer clears away meanwhile does not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size  # noqa: PTH116, PTH118 - many small files
            except FileNotFoundError:
                continue
    return total
