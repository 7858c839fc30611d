"""The way out: query → candidates → fused → merged → hits."""

from embedsvc.search.pipeline import Answer, Hit, Query, Scores, check_query, search

__all__ = ["Answer", "Hit", "Query", "Scores", "check_query", "search"]
