"""Which files are meant by the paths that were named. Reads no file until asked to, and one at a time."""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

from embedsvc.errors import FileTooLarge, NotFound, ReadError, UnsupportedFormat, UsageError
from embedsvc.readers.ignoring import ALL, IGNORE_FILE, PathPatterns, Rules, rules_of, rules_of_file
from embedsvc.readers.items import Rejected
from embedsvc.records import Source

_SKIPPED_DIRECTORIES = frozenset({"CVS", "_darcs", "__pycache__"})
_COLLECTION_MARK = "passages.lance"
"""A folder that holds this is a collection: ``embedsvc index .`` must not index what it writes."""
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
_REMEDIES = {
    errno.EACCES: "Give this user permission to read it",
    errno.EPERM: "Give this user permission to read it",
    errno.ELOOP: "It is a symbolic link to itself: remove the link",
    errno.ENOENT: "It vanished, or it is a symbolic link to nothing: restore its target or remove it",
}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_MEGABYTE = 1_000_000
_IGNORE_FILE_BYTES = 1 << 20


def is_url(text: str) -> bool:
    """Whether it names a page to fetch, and no file."""
    return text.lower().startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file, not read yet; ``bytes`` is its size when it was found."""

    path: Path
    uri: str
    bytes: int
    max_file_bytes: int

    def load(self) -> Source:
        """Its bytes now.

        Raises:
            FileTooLarge: it has grown beyond the limit since it was found.
            ReadError: it cannot be read (permission, vanished, no longer a regular file, disk error).
        """
        try:
            data = _start_of(self.path, self.uri, self.max_file_bytes + 1)
        except OSError as error:
            raise _unreadable(self.uri, error) from error
        if len(data) > self.max_file_bytes:
            raise _too_large(self.uri, len(data), self.max_file_bytes)
        return Source(uri=self.uri, name=self.path.name, data=data)


def _start_of(path: Path, uri: str, count: int) -> bytes:
    # O_NONBLOCK: should a FIFO have taken the file's place meanwhile, opening it must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 (a descriptor, not a path)
        status = os.fstat(descriptor)
        _check_regular(uri, status.st_mode)
        # By its size: read(count) would allocate as much, for each small file. It may grow meanwhile.
        start = file.read(min(count, status.st_size + 1))
        return start if len(start) <= status.st_size else start + file.read(count - len(start))


@dataclass(frozen=True, slots=True)
class _Scope:
    """What is left out in a folder: the caller's selection, and the ignore files from its top down to it."""

    top: Path
    exclude: Rules
    include: Rules
    ignored: tuple[tuple[Path, Rules], ...] = ()
    """Innermost first, with the folder that each lies in."""
    never: frozenset[tuple[int, int]] = frozenset()

    def entered(self, folder: Path) -> _Scope:
        """Raises OSError, ReadError: the folder's ignore file cannot be read, so nobody knows what it leaves out."""
        file = folder / IGNORE_FILE
        try:
            data = _start_of(file, file.as_uri(), _IGNORE_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return self
        if len(data) > _IGNORE_FILE_BYTES:
            raise _too_large(file.as_uri(), len(data), _IGNORE_FILE_BYTES)
        return replace(self, ignored=((folder, rules_of_file(data)), *self.ignored))

    def excludes(self, path: Path, *, is_folder: bool) -> bool:
        """Of a path whose folder is not excluded."""
        for base, rules in ((self.top, self.exclude), *self.ignored):
            if rules.rules:
                verdict = rules.verdict(path.relative_to(base).parts, is_folder=is_folder)
                if verdict is not None:
                    return verdict
        return False

    def takes(self, path: Path) -> bool:
        """Whether a file that is not excluded is among those that the run is restricted to: itself, or by a folder
        that it lies in."""
        if not self.include.rules:
            return True
        parts = path.relative_to(self.top).parts
        return any(self.include.verdict(parts[:end], is_folder=end < len(parts)) for end in range(1, len(parts) + 1))


def discover(
    paths: Sequence[str | Path], *, max_file_bytes: int, selection: PathPatterns = ALL
) -> Iterator[FoundFile | Rejected]:
    """The files under ``paths`` in a fixed order: the paths as given, folders by name, depth first; symbolic links, and
    what is found through them, come last.

    Inside folders, hidden entries, version-control folders, editors' backup files and collections are left out; a
    file that is named itself is always taken. A folder is walked once however many links lead to it, under its own path
    where that lies below one of ``paths``, and a file is met under its own path before any link to it. ``selection``
    and the files :data:`IGNORE_FILE` in folders leave out more, as ``.gitignore`` does; nothing that they leave out is
    opened. Of files that are named themselves only ``selection`` does, by their name.
    What cannot be a document (unreadable, too large, a FIFO, a link that loops) is an item of its own, and so is one of
    several ``paths`` that does not exist.

    Raises:
        NotFound: none of ``paths`` exists.
    """
    tops = [absolute(path) for path in paths]
    missing = {path: why for path in tops if (why := _why_missing(path))}
    if tops and len(missing) == len(set(tops)):
        raise NotFound(" ".join(missing.values()))
    rejected = (Rejected(path.as_uri(), ReadError(why)) for path, why in missing.items())
    starts = [(path, _scope_of(path, selection)) for path in tops if path not in missing]
    return itertools.chain(rejected, _walk(starts, max_file_bytes))


def discover_again(
    paths: Sequence[Path], tops: Sequence[Path], *, max_file_bytes: int, selection: PathPatterns = ALL
) -> Iterator[FoundFile | Rejected]:
    """What :func:`discover` of ``tops`` would find at or below ``paths``, without walking the rest. What is not there,
    or would not be reached, gives nothing."""
    starts: list[tuple[Path, _Scope]] = []
    rejected: list[Rejected] = []
    for path in paths:
        try:
            scope = reach(path, tops, selection)
        except (OSError, ReadError) as error:
            rejected.append(Rejected(path.as_uri(), _as_read_error(path, error)))
            continue
        if scope is not None and os.path.lexists(path):
            starts.append((path, scope))
    return itertools.chain(rejected, _walk(starts, max_file_bytes))


def reach(path: Path, tops: Sequence[Path], selection: PathPatterns) -> _Scope | None:
    """The scope in which a walk of ``tops`` comes to ``path``; None where it does not. What vanished counts as a file.

    Raises OSError, ReadError: an ignore file on the way cannot be read.
    """
    for top in tops:
        if path == top:
            return _scope_of(top, selection)
        if top not in path.parents:
            continue
        scope = _scope_of(top, selection)
        folder = top
        for name in path.relative_to(top).parts:
            here = folder / name
            is_folder = here.is_dir()
            scope = scope.entered(folder)
            if (
                _is_skipped(name)
                or (name in _SKIPPED_DIRECTORIES and (is_folder or here != path))
                or (folder / _COLLECTION_MARK).exists()
                or scope.excludes(here, is_folder=is_folder or here != path)
            ):
                break
            folder = here
        else:
            if path.is_dir() or (scope.takes(path) and not _is_never(path, selection)):
                return scope
    return None


def _is_never(path: Path, selection: PathPatterns) -> bool:
    if not selection.never or not path.exists():
        return False
    status = path.stat()
    return (status.st_dev, status.st_ino) in selection.never


def _scope_of(top: Path, selection: PathPatterns) -> _Scope:
    # Of a file that is named itself the patterns look at the name.
    base = top if os.path.isdir(top) else top.parent  # noqa: PTH112 (Path.is_dir raises where it may not be looked at)
    return _Scope(base, rules_of(selection.exclude), rules_of(selection.include), never=selection.never)


def path_or_url(text: str) -> str:
    """What ``text`` names: of a ``file://`` URL, its fragment left out, the path; paths and URLs of pages as they are.

    Raises:
        UsageError: a URL of another scheme, or of a file on another host, or with a user's name or password: it would
            stay in the collection and in reports.
    """
    found = _SCHEME.match(text)
    if found is None:
        return text
    if is_url(text):
        place = re.split(r"[/?#\\]", text[found.end() :])[0]
        if "@" in place:
            raise UsageError(
                f"{found[1]}://…@{place.rpartition('@')[2]}: user names and passwords in URLs are not taken. Leave "
                "them out, or download it and index the file."
            )
        return text
    if found[1].lower() != "file":
        raise UsageError(
            f"{text}: {found[1]}:// is not fetched, only http:// and https:// are. Download it and index the file "
            f"(a path that looks like this: ./{text})."
        )
    host, slash, path = text[found.end() :].partition("#")[0].partition("/")
    path = os.fsdecode(unquote_to_bytes(slash + path))
    if host.lower() not in ("", "localhost") or not path or "\0" in path:
        raise UsageError(f"{text}: it names no file of this machine. Write it as file:///path, or as a path.")
    return path


def absolute(path: str | Path) -> Path:
    """``path`` from the root, without ``.`` and ``..``: one file has one uri, however its path was written.

    Symbolic links stay in it: what users named is what they get cited.
    """
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.absolute leaves '..' in, Path.resolve follows links)


def _why_missing(path: Path) -> str | None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        why = "is a symbolic link to nothing" if path.is_symlink() else "does not exist"
        near = next(parent for parent in path.parents if parent.is_dir())
        return f"{_shown(path)} {why}. Check the spelling; {_shown(near)} is there."
    except OSError:
        return None  # it is there, but not readable: the walk says so
    return None


def _walk(starts: Sequence[tuple[Path, _Scope]], max_file_bytes: int) -> Iterator[FoundFile | Rejected]:
    seen_files: set[Path] = set()
    walked: set[tuple[int, int]] = set()
    named = {path for path, _ in starts}
    # Links wait until all else is found: what is there under its own path, too, is met there first.
    waiting = deque(sorted(starts, key=lambda start: os.path.islink(start[0])))  # noqa: PTH114 (nor where it may not look)
    while waiting:
        stack = [waiting.popleft()]
        while stack:
            path, scope = stack.pop()
            try:
                status = path.stat()
                if not stat.S_ISDIR(status.st_mode):
                    # A file that is named itself was not looked at by its folder.
                    if path in named and scope.excludes(path, is_folder=False):
                        continue
                    if (status.st_dev, status.st_ino) in scope.never:
                        continue
                    if path not in seen_files and scope.takes(path):
                        seen_files.add(path)
                        yield _file(path, status, max_file_bytes)
                    continue
                identity = (status.st_dev, status.st_ino)
                if identity in walked:
                    if _is_loop(path, identity):
                        yield Rejected(path.as_uri(), _loop(path))
                    continue
                walked.add(identity)
                scope = scope.entered(path)
                children = _children(path, scope)
            except (OSError, ReadError) as error:
                yield Rejected(path.as_uri(), _as_read_error(path, error))
                continue
            links = {child for child in children if child.is_symlink()}
            waiting += [(child, scope) for child in children if child in links]
            stack += [(child, scope) for child in reversed(children) if child not in links]


def _children(folder: Path, scope: _Scope) -> list[Path]:
    names = sorted(name for name in os.listdir(folder) if not _is_skipped(name))  # noqa: PTH208 (names only, no Path each)
    if _COLLECTION_MARK in names:
        return []
    children = [folder / name for name in names if not (name in _SKIPPED_DIRECTORIES and (folder / name).is_dir())]
    if not scope.exclude.rules and not scope.ignored:
        return children
    return [child for child in children if not scope.excludes(child, is_folder=child.is_dir())]


def _is_skipped(name: str) -> bool:
    """Hidden entries (``.git`` among them), and the backup and lock files of editors and office programs."""
    return name.startswith((".", "~$")) or name.endswith("~") or (name.startswith("#") and name.endswith("#"))


def is_left_out(path: str) -> bool:
    """Whether a walk leaves out a file at ``path`` below the folder it starts from; ``path`` is of an archive."""
    *folders, name = path.split("/")
    return _is_skipped(name) or any(
        _is_skipped(folder) or folder in _SKIPPED_DIRECTORIES or folder == "__MACOSX" for folder in folders
    )


def _is_loop(path: Path, identity: tuple[int, int]) -> bool:
    return any((status.st_dev, status.st_ino) == identity for status in (parent.stat() for parent in path.parents))


def _file(path: Path, status: os.stat_result, max_file_bytes: int) -> FoundFile | Rejected:
    uri = path.as_uri()
    try:
        _check_regular(uri, status.st_mode)
    except ReadError as error:
        return Rejected(uri, error)
    if status.st_size > max_file_bytes:
        return Rejected(uri, _too_large(uri, status.st_size, max_file_bytes))
    return FoundFile(path, uri, status.st_size, max_file_bytes)


def _check_regular(uri: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "not a regular file")
        raise UnsupportedFormat(f"{uri}: it is {kind}, not a file. Write what it gives to a file and index that.")


def _too_large(uri: str, size: int, limit: int) -> FileTooLarge:
    return FileTooLarge(
        f"{uri}: it has {size / _MEGABYTE:,.1f} MB, more than the limit of {limit / _MEGABYTE:,.1f} MB. "
        "Raise --max-file-mb (setting max_file_mb), or split the file."
    )


def _unreadable(uri: str, error: OSError) -> ReadError:
    remedy = _REMEDIES.get(error.errno or 0, "Check the file and its disk")
    return ReadError(f"{uri}: it cannot be read: {error.strerror or error}. {remedy}, then index it again.")


def _as_read_error(path: Path, error: OSError | ReadError) -> ReadError:
    return _unreadable(path.as_uri(), error) if isinstance(error, OSError) else error


def _loop(path: Path) -> ReadError:
    return ReadError(
        f"{path.as_uri()}: this symbolic link leads back to a folder that contains it. "
        "The files there are indexed once, under their own path; remove the link to be rid of this line."
    )


def _shown(path: Path) -> str:
    """``path`` fit to be printed: a name that is not UTF-8 carries lone surrogates."""
    return os.fsencode(path).decode("utf-8", "replace")
