"""The documentation that every Python carries with it: the docstrings of the standard library, for the demo."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pydoc
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from embedsvc.records import Document, Heading, make_document

_LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "idlelib", "site-packages", "__pycache__", "turtledemo", "lib2to3"}
)


def stdlib_documents() -> Iterator[Document]:
    """One document per standard library module that has docstrings, by name: its own, its classes' and functions'."""
    for name, source in sorted(_sources().items()):
        sections = _of_source(source) if isinstance(source, Path) else _of_module(name)
        if document := _document(name, list(sections)):
            yield document


def _sources() -> dict[str, Path | None]:
    """Module name → its source file; None for modules that are compiled in and can only be asked at run time."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, Path | None] = dict.fromkeys(name for name in sys.builtin_module_names if name != "__main__")
    for name in sorted(sys.stdlib_module_names):
        try:
            spec = importlib.util.find_spec(name) if name not in found and name not in _LEFT_OUT else None
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.origin and spec.origin.endswith((".so", ".pyd")):
            found[name] = None
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        if parts[0] in sys.stdlib_module_names and not _LEFT_OUT.intersection(parts):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_Section = tuple[int, str, str]
"""Level, what it documents, the docstring."""


def _of_source(file: Path) -> Iterator[_Section]:
    """Read, not imported: importing half the library would open windows and start threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old sources
        tree = ast.parse(file.read_bytes())
    yield 1, "", ast.get_docstring(tree) or ""
    yield from _of_body(tree, 2)


def _of_body(tree: ast.Module | ast.ClassDef, level: int) -> Iterator[_Section]:
    for node in tree.body:
        if isinstance(node, _DEFINITIONS) and node.name.startswith("_") and node.name != "__init__":
            continue
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(map(ast.unparse, node.bases))
            yield level, f"class {node.name}({bases})" if bases else f"class {node.name}", ast.get_docstring(node) or ""
            yield from _of_body(node, level + 1)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield level, f"{node.name}({ast.unparse(node.args)})", ast.get_docstring(node) or ""


def _of_module(name: str) -> Iterator[_Section]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except ImportError:  # compiled for another platform
        return
    yield 1, "", inspect.getdoc(module) or ""
    yield from _of_members(module, 2)


def _of_members(owner: ModuleType | type, level: int) -> Iterator[_Section]:
    for name, member in sorted(vars(owner).items()):
        if name.startswith("_") or not (inspect.isroutine(member) or inspect.isclass(member)):
            continue
        if inspect.isclass(member):
            if member.__module__ == getattr(owner, "__name__", None):
                yield level, f"class {name}", inspect.getdoc(member) or ""
                yield from _of_members(member, level + 1)
        else:
            yield level, name, pydoc.getdoc(member)


def _document(name: str, sections: list[_Section]) -> Document | None:
    """The sections that say something, under each other; a heading only where its docstring follows."""
    text = f"{name}\n"
    headings = [Heading(0, 1, name)]
    for level, title, docstring in sections:
        if docstring:
            if title:
                headings.append(Heading(len(text) + 1, level, title))
                text += f"\n{title}\n"
            text += f"\n{docstring}\n"
    if not any(docstring for _, _, docstring in sections):
        return None
    return make_document(f"pydoc:{name}", text, id=name, title=name, headings=tuple(headings))
