"""The layer rule of docs/architecture.md, read off the source; and what a quick command may import."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import embedsvc

PACKAGE = Path(embedsvc.__file__).parent
LAYERS = (
    {
        "records",
        "conditions",
        "context",
        "errors",
        "statuses",
        "outcomes",
        "names",
        "config",
        "logs",
        "allocator",
        "derived",
        "syncing",
    },
    {"readers", "chunking", "duplicates", "encoding", "vectors", "storage"},
    {"disk_index", "likeness", "unread", "aside", "encoders"},
    {"upkeep"},
    {"collection"},
    {"filling", "search", "checks"},
    {"intake"},
    {"ingest"},
    {"tally", "overview"},
    {"describe", "watch"},  # what the flows give, in the shapes that all faces share; runs without end
    {"maintenance", "editing"},
    {"migrate", "opened"},
    {"api"},
    {"agents"},
    {"service", "evaluate", "integrations", "train", "cluster"},
    {"cli"},  # which also starts the other faces
    {"__main__"},
)
LAYER = {part: level for level, parts in enumerate(LAYERS) for part in parts}
HOMES = {
    "fastapi": {"service"},
    "starlette": {"service", "agents"},
    "pydantic": {"service"},
    "mcp": {"agents"},
    "mcp_types": {"agents"},
    "uvicorn": {"service"},
    "prometheus_client": {"service"},
    "faiss": {"vectors"},
    "lance": {"storage"},
    "httpx": {"api"},
    "ray": {"cluster"},
    "langchain_core": {"integrations"},
    "haystack": {"integrations"},
    "llama_index": {"integrations"},
    "torch": {"encoding", "train"},
    "transformers": {"encoding", "train"},
    "sentence_transformers": {"encoding", "train"},
    "onnx": {"encoding", "train"},
    "onnxruntime": {"encoding", "train"},
}


def imports(source: str, package: str) -> Iterator[str]:
    """Full names of all that ``source``, a module directly in ``package``, imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (part.value for part in node.args if isinstance(part, ast.Constant))


def faults(part: str, imported: str) -> Iterator[str]:
    """What is wrong with a module of ``part`` (a top-level module or package of embedsvc) importing ``imported``."""
    top, *rest = imported.split(".")
    if top == "embedsvc":
        target = rest[0] if rest else ""
        sideways = 0 if LAYER[part] == 0 else 1  # the ground: plain data, its modules may know each other
        if target in LAYER and target != part and LAYER[target] > LAYER[part] - sideways:
            yield f"{part} (L{LAYER[part]}) imports {imported} (L{LAYER[target]})"
    elif part not in HOMES.get(top, {part}):
        yield f"{part} imports {imported}, which belongs in {' or '.join(sorted(HOMES[top]))}"


def modules() -> Iterator[tuple[Path, str]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part != "__init__":
            yield file, part


def test_every_module_has_a_layer() -> None:
    parts = {part for _, part in modules()}
    assert parts - LAYER.keys() == set()
    assert {"records", "readers", "collection", "ingest", "search", "cli"} <= parts


def test_modules_import_only_from_below_and_heavy_packages_stay_at_home() -> None:
    found = []
    for file, part in modules():
        package = ".".join(("embedsvc", *file.relative_to(PACKAGE).parts[:-1]))
        for imported in imports(file.read_text(encoding="utf-8"), package):
            found += [f"{file.relative_to(PACKAGE)}: {fault}" for fault in faults(part, imported)]
    assert found == []


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("chunking", "from embedsvc.encoding import Encoder"),
        ("chunking", "def late():\n    from embedsvc.storage.store import Store"),
        ("records", "import embedsvc.storage"),
        ("collection", "from embedsvc.ingest import ingest_paths"),
        ("search", "from embedsvc import ingest"),
        ("ingest", "from embedsvc.cli.output import shown_uri"),
        ("storage", "from ..vectors import build_index"),
        ("collection", "import faiss"),
        ("service", "from lance.query import MatchQuery"),
        ("cli", "if True:\n    import torch"),
        ("search", "from pydantic import BaseModel"),
        ("readers", "import importlib\nimportlib.import_module('onnxruntime')"),
    ],
)
def test_the_rule_sees_what_breaks_it(part: str, source: str) -> None:
    package = f"embedsvc.{part}" if (PACKAGE / part).is_dir() else "embedsvc"
    assert [fault for imported in imports(source, package) for fault in faults(part, imported)]


def loaded(code: str) -> set[str]:
    """Top-level modules that a process has loaded after ``code``."""
    asking = f"{code}\nimport sys, json\nprint(json.dumps([name for name in sys.modules if '.' not in name]))"
    done = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def loaded_by(*arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Runs ``embedsvc`` with ``arguments`` in a process of its own; also says which top-level modules it loaded."""
    code = (
        "import json, runpy, sys\n"
        "sys.argv = ['embedsvc', *sys.argv[1:]]\n"
        "try:\n"
        "    runpy.run_module('embedsvc', run_name='__main__')\n"
        "finally:\n"
        "    print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    return done, set(json.loads(done.stderr.splitlines()[-1]))


REFERENCE = {"torch", "transformers", "sentence_transformers", "onnx"}


def test_help_imports_nothing_heavy() -> None:
    done, loaded = loaded_by("--help")
    assert done.returncode == 0
    assert "search" in done.stdout
    assert "typer" in loaded
    assert loaded & {*HOMES, "numpy", "pyarrow", "tokenizers", "sqlglot"} == set()


def test_a_search_never_imports_torch(library: Path) -> None:
    done, loaded = loaded_by("search", "restart after power failure", "-c", "library", "--data-dir", str(library))
    assert done.returncode == 0, done.stderr
    assert "power.md" in done.stdout
    assert "onnxruntime" in loaded
    assert loaded & {*REFERENCE, "fastapi"} == set()  # pydantic comes with lance
