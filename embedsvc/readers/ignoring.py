"""Patterns as in ``.gitignore``: which paths below a folder are left out.

Our own, small: the libraries that are permissively licensed match by one regular expression per pattern, which a file
somebody else wrote can make run for ever. Here a pattern is matched part by part, in time that is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from embedsvc.errors import UsageError

IGNORE_FILE = ".embedsvcignore"
_CLASSES = {
    "alnum": "A-Za-z0-9",
    "alpha": "A-Za-z",
    "blank": " \\t",
    "digit": "0-9",
    "lower": "a-z",
    "punct": re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    "space": "\\s",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
_STARS = re.compile(r"\A\*{3,}\Z")
_NEVER = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class _Rule:
    parts: tuple[re.Pattern[str] | None, ...]
    """One for each part of a path; None is ``**``: any number of parts."""
    negated: bool
    folders_only: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """Patterns of one place; the last one that matches a path decides."""

    rules: tuple[_Rule, ...] = ()

    def verdict(self, parts: Sequence[str], *, is_folder: bool) -> bool | None:
        """Whether the path ``parts`` (below the place) is meant; None: no pattern says anything about it."""
        for rule in reversed(self.rules):
            if (is_folder or not rule.folders_only) and _matches(rule.parts, parts):
                return not rule.negated
        return None


@dataclass(frozen=True, slots=True)
class PathPatterns:
    """What the caller leaves out (``exclude``) and restricts a run to (``include``), relative to each top path.

    ``never``: files by device and inode, whatever they are called: those that the caller writes himself meanwhile.
    """

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    never: frozenset[tuple[int, int]] = frozenset()


ALL = PathPatterns()


def rules_of(patterns: Iterable[str]) -> Rules:
    return Rules(tuple(rule for pattern in patterns if (rule := _rule(pattern))))


def check_patterns(patterns: Iterable[str]) -> None:
    """Raises UsageError: one of them can match nothing. In a file that somebody else wrote that does no harm; who gives
    it as an argument means something."""
    for pattern in patterns:
        rule = _rule(pattern)
        if rule is None or _NEVER in rule.parts:
            raise UsageError(
                f"The pattern {pattern!r} can match nothing: it is empty or a comment, or a bracket is not closed, or "
                "it ends with a backslash. A literal [, # or \\ is written with a backslash before it."
            )


def rules_of_file(data: bytes) -> Rules:
    """Of an ignore file's bytes: names are bytes to the system, so whatever they are they are kept."""
    return rules_of(data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").splitlines())


def _rule(line: str) -> _Rule | None:
    pattern = _without_trailing_spaces(line.rstrip("\r\n"))
    if not pattern or pattern.startswith("#"):
        return None
    negated = pattern.startswith("!")
    pattern = pattern[negated:]
    folders_only = pattern.endswith("/")
    pattern = pattern.removesuffix("/")
    anchored = "/" in pattern
    names = [_STARS.sub("**", name) for name in pattern.removeprefix("/").split("/")]
    if names == [""]:
        return None
    if not anchored:
        names = ["**", *names]
    parts: list[re.Pattern[str] | None] = []
    for name in names:
        if name != "**" or len(names) == 1:
            parts.append(_part(name))
        elif not parts or parts[-1] is not None:
            parts.append(None)
    if names[-1] == "**" and len(names) > 1:
        parts[-1:] = [None, _part("*")]  # all that is in it, not the folder itself
    return _Rule(tuple(parts), negated, folders_only)


def _without_trailing_spaces(line: str) -> str:
    stripped = line.rstrip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if backslashes % 2 and stripped != line else stripped


def _matches(rule: Sequence[re.Pattern[str] | None], parts: Sequence[str]) -> bool:
    # ends[at]: the rule so far can end after `at` parts of the path.
    ends = [True] + [False] * len(parts)
    for pattern in rule:
        if pattern is None:
            if True not in ends:
                return False
            first = ends.index(True)
            ends = [at >= first for at in range(len(ends))]
        else:
            ends = [False, *(ends[at] and pattern.fullmatch(part) is not None for at, part in enumerate(parts))]
    return ends[-1]


@lru_cache(maxsize=4096)
def _part(name: str) -> re.Pattern[str]:
    pieces = [""]
    """Between stars, as regular expressions."""
    at = 0
    while at < len(name):
        character = name[at]
        at += 1
        if character == "*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append("")
        elif character == "?":
            pieces[-1] += "."
        elif character == "[":
            found = _bracket(name, at)
            if found is None:
                return _NEVER
            expression, at = found
            pieces[-1] += expression
        elif character == "\\":
            if at == len(name):
                return _NEVER
            pieces[-1] += re.escape(name[at])
            at += 1
        else:
            pieces[-1] += re.escape(character)
    first, *others = pieces
    if not others:
        return re.compile(first, re.DOTALL)
    # As in fnmatch: of what stands between two stars the first place is as good as any, so no other is tried.
    middle = "".join(f"(?>.*?{piece})" for piece in others[:-1])
    return re.compile(f"{first}{middle}.*{others[-1]}", re.DOTALL)


def _bracket(name: str, at: int) -> tuple[str, int] | None:
    """The class that begins behind ``[`` and where it ends; None where it does not end."""
    inverted = name[at : at + 1] in ("!", "^")
    at += inverted
    start, inside = at, ""
    while at < len(name) and (name[at] != "]" or at == start):
        if name.startswith("[:", at) and (end := name.find(":]", at)) > 0:
            known = _CLASSES.get(name[at + 2 : end])
            if known is None:
                return None
            inside += known
            at = end + 2
            continue
        low, at = _member(name, at)
        high = low
        if name[at : at + 1] == "-" and name[at + 1 : at + 2] not in ("]", ""):
            high, at = _member(name, at + 1)
        inside += re.escape(low)
        if low < high:
            inside += f"-{re.escape(high)}"
    if at >= len(name):
        return None
    if not inside:
        return ("." if inverted else "(?!)"), at + 1
    return f"[{'^' * inverted}{inside}]", at + 1


def _member(name: str, at: int) -> tuple[str, int]:
    if name[at] == "\\" and at + 1 < len(name):
        at += 1
    return name[at], at + 1
