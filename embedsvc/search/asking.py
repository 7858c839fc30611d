"""A search as it is asked for over REST and in Python: field by field, and the queries that come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embedsvc.errors import UsageError
from embedsvc.records import Fusion
from embedsvc.search.hits import Answer, Mode

if TYPE_CHECKING:
    from embedsvc.config import OnOverflow
    from embedsvc.encoding import Encoder
    from embedsvc.encoding.cross_encoder import CrossEncoder
    from embedsvc.search.expanding import Expand
    from embedsvc.search.packing import CountTokens, Order
    from embedsvc.search.run import Query
    from embedsvc.search.selection import Duplicates
    from embedsvc.upkeep import Snapshot

_MAX_QUERIES = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """Exactly one of ``query``, ``queries`` and ``vector``; what is None follows the collection or the settings.
    ``rerank`` and ``tokenizer`` are names. What each field means is said in :mod:`embedsvc.api.options`."""

    query: str | None = None
    queries: Sequence[str] | None = None
    vector: Sequence[float] | None = None
    k: int = 10
    mode: Mode | None = None
    filter: str | None = None
    min_score: float | None = None
    rerank: str | None = None
    rerank_depth: int | None = None
    time_budget_ms: float | None = None
    min_confidence: float | None = None
    expand: Expand | None = None
    max_context_tokens: int | None = None
    order: Order | None = None
    tokenizer: str | None = None
    highlight: bool = False
    on_overflow: OnOverflow | None = None
    merge: bool = True
    narrow: bool | int = False
    fusion: Mapping[str, Any] | None = None
    duplicates: Duplicates = "exact"
    diversity: float = 0.0
    group_by: str | None = None
    per_group: int | None = None
    boosts: Sequence[Mapping[str, Any]] = ()
    explain: bool = False


def queries_of(
    asked: Asked, on_overflow: OnOverflow, count_tokens: CountTokens | None, reranker: CrossEncoder | None
) -> list[Query]:
    """The queries that are ``asked``. ``on_overflow``: where that is left open; the other two: what ``tokenizer`` and
    ``rerank`` name.

    Raises:
        UsageError: something in it is wrong, whatever collection it is for.
    """
    from embedsvc.search.run import Evidence, Query, Rerank, check_query, fusion_of
    from embedsvc.search.selection import Selection, boost_of

    given = [field for field in ("query", "queries", "vector") if getattr(asked, field) is not None]
    if len(given) != 1:
        sent = f"{' and '.join(given)} were sent" if given else "none was sent"
        raise UsageError(f"Send exactly one of query, queries and vector; {sent}.")
    if asked.queries is not None and not 1 <= len(asked.queries) <= _MAX_QUERIES:
        raise UsageError(f"queries has {len(asked.queries)} entries; send 1 to {_MAX_QUERIES}.")
    if asked.rerank is None and (asked.rerank_depth is not None or asked.time_budget_ms is not None):
        raise UsageError("rerank_depth and time_budget_ms are about reranking: send rerank too.")
    mode = asked.mode or ("hybrid" if asked.vector is None else "dense")
    texts = [asked.query] if asked.query is not None else asked.queries if asked.queries is not None else [""]
    boosts = tuple(boost_of(each) for each in asked.boosts)
    fusion = None if asked.fusion is None else fusion_of(Fusion(), asked.fusion)
    queries = [
        Query(
            text=text,
            vector=None if asked.vector is None else tuple(asked.vector),
            k=asked.k,
            mode=mode,
            filter=asked.filter,
            min_score=asked.min_score,
            on_overflow=asked.on_overflow or on_overflow,
            merge=asked.merge,
            narrow=asked.narrow,
            explain=asked.explain,
            fusion=fusion,
            evidence=Evidence(
                asked.expand,
                asked.max_context_tokens,
                asked.order,
                count_tokens,
                asked.highlight,
                asked.min_confidence,
            ),
            rerank=None if reranker is None else Rerank(reranker, asked.rerank_depth, asked.time_budget_ms),
            selection=Selection(asked.duplicates, asked.diversity, asked.group_by, asked.per_group, boosts),
        )
        for text in texts
    ]
    for query in queries:
        check_query(query)
    return queries


def answers_to(asked: Asked, queries: Sequence[Query], snapshot: Snapshot, encoder: Encoder) -> list[Answer]:
    """The answers to ``queries``, which are what is ``asked``, all over one ``snapshot``; raises as :func:`search`."""
    from embedsvc.search.pipeline import search_all
    from embedsvc.search.run import fusion_of

    fusion = None if asked.fusion is None else fusion_of(snapshot.store.fusion, asked.fusion)
    return search_all(snapshot, encoder, [replace(query, fusion=fusion) for query in queries])
