"""What README.md and docs/*.md show to be typed, pasted or run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAMS = ("embedsvc", "pip", "python", "make", "curl", "docker", "claude", "flock", "fuser", "grep")
_COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:{'|'.join(PROGRAMS)}) ")
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Snippet:
    page: str
    """Its path below the checkout."""
    section: str
    """The heading that it stands below."""
    line: int
    kind: str
    """``shell`` (a command of an indented block), ``files`` (an indented block without any), ``table`` (a command in a
    table), ``prose`` (one in running text), else the language of a fenced block."""
    text: str
    """Of a command: on one line, without the remark behind it."""

    @property
    def program(self) -> str:
        """What a command runs; empty for blocks that are none."""
        words = self.text.split()
        return next(word for word in words if "=" not in word) if self.kind in ("shell", "table", "prose") else ""


def snippets(page: str = "", kind: str = "", section: str = "") -> list[Snippet]:
    """Those of one page, kind and section; of any where not named."""
    pages = [ROOT / page] if page else [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [each for file in pages for each in _of(file) if kind in ("", each.kind) and section in ("", each.section)]


def commands(page: str, section: str = "", kind: str = "shell") -> list[str]:
    return [each.text for each in snippets(page, kind, section)]


def _of(file: Path) -> Iterator[Snippet]:
    page = str(file.relative_to(ROOT))
    lines = file.read_text(encoding="utf-8").splitlines()
    section, at = "", 0
    while at < len(lines):
        line, first = lines[at], at + 1
        if fence := re.match(r"```(\w*)$", line):
            end = lines.index("```", first)
            yield Snippet(page, section, first, fence[1] or "text", "\n".join(lines[first:end]))
            at = end
        elif line.startswith("    ") and not lines[at - 1].strip():
            while at + 1 < len(lines) and (lines[at + 1].startswith("    ") or _goes_on(lines, at + 1)):
                at += 1
            text = "\n".join(each[4:] for each in lines[first - 1 : at + 1])
            if any(map(_COMMAND.match, text.splitlines())):
                for command in text.replace("\\\n", " ").splitlines():
                    yield Snippet(page, section, first, "shell", re.sub(r"\s+# .*$", "", command))
            else:
                yield Snippet(page, section, first, "files", text)
        else:
            if heading := re.match(r"#+ (.*)", line):
                section = heading[1]
            for inline in _INLINE.findall(line):
                command = inline.replace(r"\|", "|")
                if _COMMAND.match(command):
                    yield Snippet(page, section, first, "table" if line.startswith("|") else "prose", command)
        at += 1


def _goes_on(lines: list[str], at: int) -> bool:
    """Whether an indented block goes on behind an empty line."""
    return not lines[at].strip() and at + 1 < len(lines) and lines[at + 1].startswith("    ")
