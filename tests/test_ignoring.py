"""Patterns as in ``.gitignore``, held against git's own answers; and what the walk makes of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from embedsvc.errors import ReadError
from embedsvc.readers import FoundFile, PathPatterns, Rejected, discover, discover_again
from embedsvc.readers.ignoring import rules_of, rules_of_file
from tests.conftest import write_tree

PATTERNS = (
    "a", "*.txt", "/a", "a/", "a/b", "/a/b", "a/**", "**/b", "a/**/c", "**/a/**", "**", "*", "a*", "*a*b", "?", "a?c",
    "[ab]", "[!a]", "[^a]", "[a-c]x", "[]a]", "[!]a]", "[a", "[[:digit:]]", "[[:alpha:]x]1", "[[:nope:]]", "[c-a]",
    "[a-]", r"\a", r"\*", "a\\", r"\#x", "#x", r"\!x", "!x", "a ", r"a\ ", "", "   ", "/", "//", "a//b", "a**", "**a",
    "a/*", "*/b", "*/", "**/", "/**", "/*", "a/b/", "x.*", "*.t?t", "b/**/", "a/**/**/c", "**/**/c", "***", "a/***/c",
)  # fmt: skip
PATHS = (
    "a", "b", "c", "x", "ab", "abc", "axb", "ac", "a.txt", "x.txt", "a/b", "a/c", "a/b/c", "b/a", "b/a/c", "x/a/b/c",
    "x/b", "x/b/c", "cx", "]", "-", "1", "x1", "5", "*", "#x", "!x", "a ", "A", "a/x.txt", "x/y/z.tat", "c/b/a", "[a",
    "a\\", "aab", "baab", "a/**/c", "[ab]",
)  # fmt: skip
LISTS = (
    ("*.txt", "!a.txt"), ("!a.txt", "*.txt"), ("a", "!a/b"), ("a/*", "!a/b"), ("*", "!*/", "!*.txt"),
    ("/*", "!/a", "/a/*", "!/a/b"), ("b/", "!b"),
)  # fmt: skip


def excluded(patterns: tuple[str, ...], path: str) -> bool:
    """As the walk sees it: what lies in an excluded folder is excluded too."""
    parts, rules = path.split("/"), rules_of(patterns)
    return any(rules.verdict(parts[:end], is_folder=end < len(parts)) for end in range(1, len(parts) + 1))


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge")
def test_patterns_mean_what_they_mean_to_git(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "init", "-q", tmp_path], check=True, env=environment)
    different = []
    for patterns in (*((pattern,) for pattern in PATTERNS), *LISTS):
        (tmp_path / ".gitignore").write_text("\n".join(patterns) + "\n")
        done = subprocess.run(
            ["git", "check-ignore", "--no-index", "-z", "--stdin"],
            cwd=tmp_path, env=environment, capture_output=True, check=False, input="\0".join(PATHS).encode(),
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        by_git = set(done.stdout.decode().split("\0")) - {""}
        different += [(patterns, path) for path in PATHS if excluded(patterns, path) != (path in by_git)]
    assert not different, "\n".join(map(str, different))


def test_a_character_is_one_whatever_its_bytes() -> None:
    assert excluded(("?",), "é")  # to git it is two


def test_an_ignore_file_may_have_a_byte_order_mark_and_any_line_ends() -> None:
    rules = rules_of_file(b"\xef\xbb\xbf*.log\r\n# no\r\n!keep.log\r\n\xff.txt")
    assert rules.verdict(["a.log"], is_folder=False) is True
    assert rules.verdict(["keep.log"], is_folder=False) is False
    assert rules.verdict([os.fsdecode(b"\xff.txt")], is_folder=False) is True
    assert rules.verdict(["# no"], is_folder=False) is None


def test_no_pattern_takes_long() -> None:
    started = time.monotonic()
    assert rules_of(["*a" * 40 + "b"]).verdict(["a" * 250], is_folder=False) is None
    assert rules_of(["**/a/" * 60 + "b"]).verdict(["a"] * 500, is_folder=False) is None
    assert time.monotonic() - started < 5


def names(top: Path, *tops: Path, again: tuple[Path, ...] = (), **selection: tuple[str, ...]) -> list[str]:
    chosen = PathPatterns(**selection)
    found = (
        discover_again(again, (top, *tops), max_file_bytes=9999, selection=chosen)
        if again
        else discover((top, *tops), max_file_bytes=9999, selection=chosen)
    )
    return [each.path.relative_to(top).as_posix() for each in found if isinstance(each, FoundFile)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = ("a.txt", "a.log", "sub/b.txt", "sub/b.log", "sub/deep/c.txt", "build/d.txt", "x/build/e.md")
    return write_tree(tmp_path / "tree", dict.fromkeys(files, "text"))


def test_excluded_and_included(tree: Path) -> None:
    assert names(tree, exclude=("*.log", "build/")) == ["a.txt", "sub/b.txt", "sub/deep/c.txt"]
    assert names(tree, exclude=("/build",)) == [
        "a.log", "a.txt", "sub/b.log", "sub/b.txt", "sub/deep/c.txt", "x/build/e.md",
    ]  # fmt: skip
    assert names(tree, include=("*.log", "x/")) == ["a.log", "sub/b.log", "x/build/e.md"]
    assert names(tree, include=("*.log",), exclude=("sub",)) == ["a.log"]


def test_ignore_files_hold_in_their_folder_and_the_inner_one_wins(tree: Path) -> None:
    write_tree(tree, {".embedsvcignore": "*.log\nbuild/\n", "sub/.embedsvcignore": "!b.log\n/deep\n"})
    assert names(tree) == ["a.txt", "sub/b.log", "sub/b.txt"]
    assert names(tree, exclude=("!a.log",)) == ["a.log", "a.txt", "sub/b.log", "sub/b.txt"]  # the caller has the say
    for file in tree.rglob("*"):
        if file.is_file():
            expected = [name for name in names(tree) if tree / name == file]
            assert names(tree, again=(file,)) == expected  # one by one as all together
    assert names(tree, again=(tree / "sub",)) == ["sub/b.log", "sub/b.txt"]
    assert names(tree, again=(tree / "build", tree / "gone", tree.parent)) == []


def test_files_that_the_caller_writes_himself_are_never_taken(tree: Path) -> None:
    status = (tree / "a.log").stat()
    never = frozenset({(status.st_dev, status.st_ino)})
    found = [*discover([tree], max_file_bytes=9, selection=PathPatterns(never=never))]
    assert len(found) == 6
    again = discover_again([tree / "a.log"], [tree], max_file_bytes=9, selection=PathPatterns(never=never))
    assert list(again) == []


def test_of_a_file_that_is_named_itself_the_patterns_see_the_name(tree: Path) -> None:
    write_tree(tree, {".embedsvcignore": "*"})
    assert names(tree, tree / "sub/b.log", tree / "a.txt", exclude=("*.log",)) == ["a.txt"]


def test_what_is_excluded_is_not_opened(tree: Path) -> None:
    os.mkfifo(tree / "build" / "fifo")
    assert all(
        isinstance(each, FoundFile) for each in discover([tree], max_file_bytes=99, selection=PathPatterns(("build",)))
    )
    assert any(isinstance(each, Rejected) for each in discover([tree], max_file_bytes=99))


def test_a_folder_whose_ignore_file_cannot_be_read_is_told_and_left(tree: Path) -> None:
    os.mkfifo(tree / "sub" / ".embedsvcignore")
    (rejected,) = (each for each in discover([tree], max_file_bytes=99) if isinstance(each, Rejected))
    assert rejected.uri == (tree / "sub").as_uri()
    assert isinstance(rejected.error, ReadError)
    assert not any(name.startswith("sub/") for name in names(tree))
