"""What is told about a collection and an answer, as the JSON that the design fixes: one shape for every face."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedsvc.collection import Snapshot
from embedsvc.search import Answer, Hit


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """Counts, contract (without its canary vectors), chunking, vector index and bytes on disk of a collection;
    its vectors only where they are more than the passages."""
    store, index = snapshot.store, snapshot.index
    contract = store.contract.to_dict()
    del contract["canary_vectors"]
    passages = store.count()
    return {
        "name": snapshot.name,
        "documents": store.count_documents(),
        "passages": passages,
        **({"vectors": len(index)} if len(index) != passages else {}),
        "version": snapshot.version,
        "contract": contract,
        "chunking": asdict(store.chunking),
        "index": {
            "kind": index.kind,
            "bytes_per_vector": index.bytes_per_vector,
            "recall@10": index.recall.mean,
            "recall_interval": [index.recall.low, index.recall.high],
            "recall_sample": index.recall.sample,
            "segments": len(index.parts),
            "build_seconds": round(index.build_seconds, 3),
        },
        "bytes": _bytes_below(store.path.parent),
    }


def answer_dict(answer: Answer) -> dict[str, Any]:
    """The answer as JSON; ``tokens_cut`` only where the query lost some."""
    value: dict[str, Any] = {
        "query": answer.query,
        "collection": answer.collection,
        "version": answer.version,
        "mode": answer.mode,
        "took_ms": answer.took_ms,
        "hits": [_hit_dict(hit) for hit in answer.hits],
    }
    if answer.tokens_cut:
        value["tokens_cut"] = answer.tokens_cut
    return value


def _hit_dict(hit: Hit) -> dict[str, Any]:
    # By hand: dataclasses.asdict copies every value in depth, which a search has no time for.
    return {
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
        "metadata": hit.metadata,
    }


def _bytes_below(folder: Path) -> int:
    """Bytes of all files below ``folder``; one that a writer clears away meanwhile does not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size  # noqa: PTH116, PTH118 - many small files
            except FileNotFoundError:
                continue
    return total
