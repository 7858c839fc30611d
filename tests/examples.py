"""The Python examples of a Markdown file, as one program: ``python -m tests.examples docs/python.md`` prints it."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def examples(file: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", file.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))


if __name__ == "__main__":
    print(examples(Path(sys.argv[1])))
