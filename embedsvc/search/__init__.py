"""The way out: query → encoder → candidates → fuse → merge → cite → hits."""

from embedsvc.search.pipeline import search
from embedsvc.search.run import MAX_K, Answer, Hit, Mode, Place, Query, Scores, Step, check_fusion, check_query

__all__ = [
    "MAX_K",
    "Answer",
    "Hit",
    "Mode",
    "Place",
    "Query",
    "Scores",
    "Step",
    "check_fusion",
    "check_query",
    "search",
]
