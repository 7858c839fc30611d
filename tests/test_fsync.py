"""What was synced before a document was acknowledged, as strace saw it. ``python -m tests.test_fsync``: of more."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from embedsvc.collection import Collection
from embedsvc.config import Settings
from tests.conftest import write_tree
from tests.test_crash import text_of

NAME = "traced"
_CALLS = "trace=fsync,fdatasync,write,pwrite64,writev,rename,renameat,renameat2,link,linkat"
_CALL = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<rest>.*)")
_RESUMED = re.compile(r"(?P<pid>\d+) +<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_DESCRIPTOR = re.compile(r"(\d+)<([^>]*)>")
_TOLD = re.compile(r'\{\\"uri\\": \\"(.*?)\\", \\"status\\": \\"(indexed|replaced)\\"')


@dataclass
class Trace:
    """By line of the trace: when each path was last written, when each fsync of it began that succeeded, and when each
    uri was told."""

    written: dict[str, list[int]] = field(default_factory=dict)
    synced: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)

    def missing(self, file: Path, root: Path, before: int) -> list[Path]:
        """Of the file and the folders up to ``root``, those of which no fsync began after the file's last write up to
        ``before``, and ended before that."""
        last = max((at for at in self.written.get(str(file), ()) if at < before), default=-1)
        return [
            path
            for path in (file, *file.parents)
            if path.is_relative_to(root)
            and not any(last < began and ended < before for began, ended in self.synced.get(str(path), ()))
        ]


def parse(lines: list[str]) -> Trace:
    trace = Trace()
    begun: dict[str, tuple[int, str]] = {}
    for at, line in enumerate(lines):
        if found := _RESUMED.match(line):
            began, start = begun.pop(found["pid"])
            rest = start + found["rest"]
        elif not (found := _CALL.match(line)):
            continue
        elif found["rest"].endswith("<unfinished ...>"):
            begun[found["pid"]] = at, found["rest"].removesuffix("<unfinished ...>")
            if found["name"] in ("write", "writev") and (told := _TOLD.search(found["rest"])):
                trace.told.setdefault(told[1], at)
            continue
        else:
            began, rest = at, found["rest"]
        name = found["name"]
        if name in ("fsync", "fdatasync"):
            if (path := _DESCRIPTOR.match(rest)) and rest.rstrip().endswith("= 0"):
                trace.synced.setdefault(path[2], []).append((began, at))
        elif name in ("write", "pwrite64", "writev"):
            if told := _TOLD.search(rest):
                trace.told.setdefault(told[1], began)
            elif path := _DESCRIPTOR.match(rest):
                trace.written.setdefault(path[2], []).append(at)
        else:  # a rename or link: its target is as if written just now
            target = re.findall(r'"([^"]*)"', rest)[-1]
            trace.written.setdefault(target, []).append(at)
    return trace


@dataclass
class Seen:
    documents: int
    files: int
    faults: list[str]


def trace_index(work: Path, files: int, editions: int = 2, durability: str = "fsync") -> Seen:
    """Indexes ``files`` files under strace, half of them once more in another edition, and looks at each document that
    was acknowledged: see :func:`look`."""
    tree, data = work / "files", work / "data"
    tree.mkdir()
    seen = Seen(0, 0, [])
    before = set[str]()
    for edition in range(editions):
        for number in range(files if edition == 0 else files // 2):
            (tree / f"{number}.txt").write_text(text_of(number, edition))
        trace = parse(_traced_run(tree, data, work / f"trace-{edition}", durability))
        found = look(trace, data, before)
        seen = Seen(seen.documents + found.documents, max(seen.files, found.files), [*seen.faults, *found.faults])
        before |= {path for path in trace.synced if path.endswith((".lance", ".arrow", ".manifest", ".bin"))}
    return seen


def _traced_run(tree: Path, data: Path, log: Path, durability: str) -> list[str]:
    arguments = ["index", str(tree), "-c", NAME, "--json", "--data-dir", str(data)]
    strace = ["strace", "-f", "-y", "-s", "300", "-e", _CALLS, "-o", str(log)]
    settings = {"COMMIT_TOKENS": "1500", "RUNTIME": "onnx", "DURABILITY": durability}
    done = subprocess.run(
        [*strace, sys.executable, "-m", "embedsvc", *arguments],
        env={**os.environ, **{f"EMBEDSVC_{name}": value for name, value in settings.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return log.read_text(errors="replace").splitlines()


def look(trace: Trace, data: Path, before: AbstractSet[str] = frozenset()) -> Seen:
    """Of each document that was told: whether the manifest of the version it came with, the data that this names, and
    the folders of all of them were synced by then. ``before``: files that another run synced."""
    seen = Seen(len(trace.told), 0, [])
    root = data.resolve() / NAME / "passages.lance"
    dataset = Collection.open(NAME, Settings(data_dir=data)).store().dataset
    versions: dict[str, int] = {}
    for row in dataset.to_table(columns=["uri", "_row_last_updated_at_version"]).to_pylist():
        versions[row["uri"]] = row["_row_last_updated_at_version"]
    if not trace.told:
        seen.faults.append("the trace tells of no document")
    for uri, at in trace.told.items():
        version = dataset.checkout_version(versions[uri])
        needed = {root / "_versions" / f"{2**64 - 1 - versions[uri]:020}.manifest"}
        for fragment in version.get_fragments():
            needed |= {root / "data" / each.path for each in fragment.data_files()}
            if deletions := fragment.deletion_file():
                needed.add(root / deletions)
        needed = {file for file in needed if str(file) not in before}
        for file in needed:
            seen.faults += [f"{uri} was told before {path} was synced" for path in trace.missing(file, root, at)]
        seen.files = max(seen.files, len(needed))
    return seen


@dataclass(frozen=True)
class Traced:
    data: Path
    trace: Trace


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    if not shutil.which("strace"):
        pytest.skip("there is no strace")
    work = tmp_path_factory.mktemp("traced")
    files = write_tree(work / "files", {f"{number}.txt": text_of(number, 0) for number in range(8)})
    return Traced(work / "data", parse(_traced_run(files, work / "data", work / "trace", "fsync")))


def test_no_document_is_told_before_its_files_are_synced_as_the_kernel_saw_it(traced: Traced) -> None:
    seen = look(traced.trace, traced.data)
    assert seen.faults == []
    assert seen.documents == 8


@pytest.mark.parametrize("lost", [".lance", ".manifest", "/data", "/_versions", "/passages.lance"])
def test_it_would_be_seen_if_some_paths_were_not_synced(traced: Traced, lost: str) -> None:
    """Data, manifests, or the folders of each: the test above can fail."""
    kept = {path: times for path, times in traced.trace.synced.items() if not path.endswith(lost)}
    assert len(kept) < len(traced.trace.synced)
    faults = look(replace(traced.trace, synced=kept), traced.data).faults
    assert sum(fault.endswith(f"{lost} was synced") for fault in faults) >= 8


def test_it_would_be_seen_if_documents_were_told_too_early(traced: Traced) -> None:
    told = dict.fromkeys(traced.trace.told, min(at for times in traced.trace.synced.values() for at, _ in times))
    assert len(look(replace(traced.trace, told=told), traced.data).faults) >= 8


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        outcome = trace_index(Path(folder), files=80)
    with tempfile.TemporaryDirectory() as folder:
        unsynced = trace_index(Path(folder), files=8, editions=1, durability="os")
    print(
        f"{outcome.documents} documents acknowledged, each after its files (up to {outcome.files}) and "
        f"their folders were synced; "
        f"{len(outcome.faults)} faults; with durability=os, as it should be, {len(unsynced.faults)}"
    )
    print("\n".join(outcome.faults), end="")
    sys.exit(1 if outcome.faults or not unsynced.faults else 0)
