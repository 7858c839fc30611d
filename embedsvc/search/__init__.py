"""The way out: query → candidates → fused → merged → hits."""

from embedsvc.search.pipeline import Answer, Hit, Query, Scores, search

__all__ = ["Answer", "Hit", "Query", "Scores", "search"]
