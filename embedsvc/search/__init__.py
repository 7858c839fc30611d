"""The way out: query → encoder → candidates → fuse → wording → rerank → boost → cut → fold → diversify → group → merge
or narrow → cite → confide → highlight → gather → answer.

The names below are loaded when first used: who only reads an answer needs no store and no index for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedsvc.search.hits import Answer, Citation, Context, Hit, Mode, Place, Scores, Step
    from embedsvc.search.pipeline import search
    from embedsvc.search.run import MAX_K, RERANK_DEPTH, Evidence, Query, Rerank, check_fusion, check_query, fusion_of
    from embedsvc.search.selection import Preference, Recency, Selection, boost_of

__all__ = [
    "MAX_K",
    "RERANK_DEPTH",
    "Answer",
    "Citation",
    "Context",
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
    "fusion_of",
    "search",
]

_MODULES = {
    "MAX_K": "run",
    "RERANK_DEPTH": "run",
    "Answer": "hits",
    "Citation": "hits",
    "Context": "hits",
    "Evidence": "run",
    "Hit": "hits",
    "Mode": "hits",
    "Place": "hits",
    "Preference": "selection",
    "Query": "run",
    "Recency": "selection",
    "Rerank": "run",
    "Scores": "hits",
    "Selection": "selection",
    "Step": "hits",
    "boost_of": "selection",
    "check_fusion": "run",
    "check_query": "run",
    "fusion_of": "run",
    "search": "pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
