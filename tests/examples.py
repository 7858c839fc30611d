"""The Python examples of a Markdown file, as one program: ``python -m tests.examples docs/python.md`` prints it. With
``--apart``, those of each section are a function of their own, ``section_0`` and so on."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path


def examples(file: Path) -> str:
    return _examples(file.read_text(encoding="utf-8"))


def examples_apart(file: Path) -> str:
    sections = re.split(r"^## ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    programs = [program for section in sections if (program := _examples(section))]
    return "\n".join(
        f"def section_{at}() -> None:\n{textwrap.indent(program, '    ')}" for at, program in enumerate(programs)
    )


def _examples(text: str) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


if __name__ == "__main__":
    *options, named = sys.argv[1:]
    print((examples_apart if options == ["--apart"] else examples)(Path(named)))
