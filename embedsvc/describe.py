"""What is told about a collection and an answer, as the JSON that the design fixes: one shape for every face."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedsvc.collection import Collection
from embedsvc.overview import Cluster, Labelled
from embedsvc.records import PassageSpan, WholeText
from embedsvc.storage import Store, StoredPassage
from embedsvc.vectors import Recall, has_card


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


def read_document(store: Store, id: str) -> WholeText:
    """The document of this id. Raises NotFound: there is none."""
    return _whole(*store.document_passages(id))


def read_documents(store: Store, ids: Sequence[str]) -> list[WholeText]:
    """The documents of these ids, of those that there are, in their order."""
    found = (_whole(document.text, document.passages) for document in store.whole_documents(ids))
    by_id = {document.id: document for document in found}
    return [by_id[id] for id in dict.fromkeys(ids) if id in by_id]


def _whole(text: str, passages: Sequence[StoredPassage]) -> WholeText:
    first = passages[0]
    spans = (PassageSpan(span.id, span.start, span.end, span.page, span.heading) for span in passages)
    return WholeText(first.document_id, first.uri, first.title, first.metadata, text, tuple(spans))


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
