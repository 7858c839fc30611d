"""The way out: query → encoder → candidates → fuse → wording → rerank → boost → cut → fold → diversify → group → merge
or narrow → cite → confide → highlight → gather → answer."""

from embedsvc.search.hits import Citation, Hit, Place, Scores
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
from embedsvc.search.selection import Preference, Recency, Selection, boost_of

__all__ = [
    "MAX_K",
    "RERANK_DEPTH",
    "Answer",
    "Citation",
    "Evidence",
    "Hit",
    "Mode",
    "Place",
    "Preference",
    "Query",
    "Recency",
    "Rerank",
    "Scores",
    "Selection",
    "Step",
    "boost_of",
    "check_fusion",
    "check_query",
    "search",
]
