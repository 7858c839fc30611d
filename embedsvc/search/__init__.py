"""The way out: query → encoder → candidates → fuse → rerank → merge → cite → confide → highlight → gather → answer."""

from embedsvc.search.hits import Hit, Place, Scores
from embedsvc.search.pipeline import search
from embedsvc.search.run import (
    MAX_K,
    RERANK_DEPTH,
    Answer,
    Evidence,
    Mode,
    Query,
    Rerank,
    Step,
    check_fusion,
    check_query,
)

__all__ = [
    "MAX_K",
    "RERANK_DEPTH",
    "Answer",
    "Evidence",
    "Hit",
    "Mode",
    "Place",
    "Query",
    "Rerank",
    "Scores",
    "Step",
    "check_fusion",
    "check_query",
    "search",
]
