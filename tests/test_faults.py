"""A disk that fails at each step of a commit, folders that may not be written, indexes that may not be read, clocks
that jump: a clear error, the previous version as it was, and a next run that completes. ``EVERY_STEP=1 pytest
tests/test_faults.py`` leaves no step out."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

from embedsvc.collection import Collection, collection_names
from embedsvc.config import Settings, load_settings
from embedsvc.errors import StorageFailure
from embedsvc.ingest import Outcome, ingest_items
from embedsvc.readers import FieldChoice, discover
from embedsvc.readers.items import Rejected
from embedsvc.records import Chunking, make_document
from embedsvc.storage import store
from tests.conftest import normal_user, skip_unless_root, write_tree
from tests.fakes import FakeEncoder
from tests.test_storage import contents, small_disk

__all__ = ["small_disk"]

BEFORE = {f"{at}.txt": "red green" for at in range(6)}
AFTER = {f"{at}.txt": "blue white red" for at in range(3)} | {"new.txt": "green green"}


def ingest(collection: Collection, fake: FakeEncoder, files: Path) -> Iterator[Outcome]:
    """Of the files' texts, without the process that would read them."""
    items = [make_document(file.as_uri(), file.read_text()) for file in sorted(files.iterdir())]
    return ingest_items(collection, fake, items, FieldChoice())  # type: ignore[arg-type]


class Failing:
    """Fails at its ``at``-th call with ``number``, and from then on where ``for_ever``, as a full disk does."""

    def __init__(self, real: Callable[..., Any], at: int, number: int, for_ever: bool) -> None:
        self.real, self.at, self.number, self.for_ever = real, at, number, for_ever
        self.calls, self.failed = 0, False

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == self.at or (self.for_ever and self.calls > self.at):
            self.failed = True
            raise OSError(self.number, os.strerror(self.number))
        return self.real(*arguments, **options)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("step", ["fsync", "rename", "write", "commit"])
def test_a_disk_that_fails_at_any_step_leaves_whole_versions_and_a_next_run_that_completes(
    here: Settings, fake: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    """``fsync`` counts on through data, manifests and folders of all commits, those of maintenance and of the index
    too; ``rename`` is the vector index coming into its place."""
    settings = Settings(data_dir=here.data_dir, lock_timeout=0.0, commit_tokens=4, exact_passages=2)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    files = write_tree(tmp_path / "t", BEFORE)
    list(ingest(collection, fake, files))
    write_tree(files, AFTER)
    shutil.copytree(here.data_dir, tmp_path / "kept")
    at, steps = 1 + (number == errno.EIO and step == "fsync"), 0
    places = {
        "fsync": (os, "fsync"),
        "rename": (Path, "rename"),
        "write": (store, "write_fragments"),
        "commit": (lance.LanceDataset, "commit"),
    }
    place, name = places[step]
    while True:
        shutil.rmtree(here.data_dir)
        shutil.copytree(tmp_path / "kept", here.data_dir)
        collection = Collection.open("c", settings)
        before = contents(collection.store())
        failing = Failing(getattr(place, name), at, number, for_ever=number == errno.ENOSPC)
        told: list[Outcome] = []
        error: Exception | None = None
        with monkeypatch.context() as broken:
            # As a function, so that it is bound where it is a method.
            broken.setattr(place, name, lambda *arguments, **options: failing(*arguments, **options))  # noqa: B023
            try:
                told.extend(ingest(collection, fake, files))
            except StorageFailure as refused:
                error = refused
        if not failing.failed:
            break
        steps += 1
        reopened = Collection.open("c", settings)
        after = contents(reopened.store())
        if error is None:  # what failed was only the index, which is derived
            assert len(told) == len(BEFORE) + 1
        else:
            assert str(here.data_dir) in str(error)
            assert ("is full" if number == errno.ENOSPC else os.strerror(number)) in str(error)
        assert_whole(before, after, told)
        snapshot = reopened.snapshot()
        assert len(snapshot.index) == snapshot.store.count()
        list(ingest(reopened, fake, files))
        assert {uri.rpartition("/")[2]: text for uri, text in texts(reopened).items()} == BEFORE | AFTER
        # There are a hundred, and they repeat from commit to commit.
        at = at + 1 if "EVERY_STEP" in os.environ else 3 * at + 1
    assert steps >= 1


def assert_whole(before: dict[str, Any], after: dict[str, Any], told: list[Outcome]) -> None:
    """Each document is as it was or as it shall be; as it shall be, where that was told."""
    done = {outcome.uri for outcome in told if outcome.status in ("indexed", "replaced")}
    for id, (_, text, passages) in after.items():
        name = passages[0][1].rpartition("/")[2]
        new = AFTER.get(name)
        assert text in {BEFORE.get(name), new}
        if passages[0][1] in done:
            assert text == new
        if text != new:
            assert after[id] == before[id]
    assert before.keys() <= after.keys()
    assert len(done - {passages[0][1] for _, _, passages in after.values()}) == 0


def texts(collection: Collection) -> dict[str, str]:
    store = collection.store()
    return {document.uri: store.document_passages(document.id)[0] for document in store.documents()}


@pytest.mark.parametrize("free", [0, 4, 12, 40, 120])
def test_a_disk_that_is_really_full(small_disk: Path, fake: FakeEncoder, tmp_path: Path, free: int) -> None:
    """``free`` kB of it are left: a commit comes more or less far."""
    settings = Settings(data_dir=small_disk, lock_timeout=0.0, commit_tokens=4)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    files = write_tree(tmp_path / "t", BEFORE)
    list(ingest(collection, fake, files))
    write_tree(files, AFTER)
    before = contents(collection.store())
    filler = small_disk / "filler"
    room = os.statvfs(small_disk)
    filler.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - free * 1024)))
    told: list[Outcome] = []
    try:
        told.extend(ingest(collection, fake, files))
    except StorageFailure as error:
        assert "is full" in str(error)  # noqa: PT017
    assert_whole(before, contents(Collection.open("c", settings).store()), told)
    filler.unlink()
    reopened = Collection.open("c", settings)
    list(ingest(reopened, fake, files))
    assert {uri.rpartition("/")[2]: text for uri, text in texts(reopened).items()} == BEFORE | AFTER


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that a normal user comes to, too."""
    skip_unless_root()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_data_folder_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    skip_unless_root()
    settings = Settings(data_dir=tmp_path)
    for look in (
        lambda: load_settings({"data_dir": tmp_path}),
        lambda: collection_names(tmp_path),
        lambda: Collection.open("c", settings),
    ):
        with normal_user(), pytest.raises(StorageFailure, match="cannot be read \\(Permission denied\\)"):
            look()


def test_a_named_file_that_may_not_be_looked_at_is_put_aside(tmp_path: Path) -> None:
    skip_unless_root()
    with normal_user():
        (found,) = discover([tmp_path / "x.md"], max_file_bytes=1)
    assert isinstance(found, Rejected)
    assert "cannot be read: Permission denied" in str(found.error)


def test_a_folder_that_may_only_be_read_is_read_and_not_written(
    public: Path, fake: FakeEncoder, tmp_path: Path
) -> None:
    settings = Settings(data_dir=public / "data", lock_timeout=0.0, commit_tokens=4)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    files = write_tree(public / "t", BEFORE)
    list(ingest(collection, fake, files))
    before = contents(collection.store())
    write_tree(files, AFTER)
    with normal_user():
        read_only = Collection.open("c", settings)
        assert len(read_only.snapshot().index) == 6
        with pytest.raises(StorageFailure, match=r"cannot be written.*permissions"):
            list(ingest(read_only, fake, files))
        with pytest.raises(StorageFailure):
            Collection.create("other", fake.contract, Chunking(64, 8), settings)
    assert contents(Collection.open("c", settings).store()) == before
    list(ingest(collection, fake, files))
    assert collection.store().count_documents() == 7


def test_a_vector_index_that_may_not_be_read_is_done_without(public: Path, fake: FakeEncoder) -> None:
    settings = Settings(data_dir=public / "data", lock_timeout=0.0, commit_tokens=4, exact_passages=2)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    files = write_tree(public / "t", BEFORE)
    list(ingest(collection, fake, files))
    index = public / "data" / "c" / "faiss"
    assert any(index.iterdir())
    for file in index.rglob("*"):
        if file.is_file():
            file.chmod(0)
    red = np.array([1, 0, 0, 0], np.float32)
    with normal_user():
        snapshot = Collection.open("c", settings).snapshot()
        assert len(snapshot.index) == 6
        assert len(snapshot.nearest(red, 3)[0]) == 3
    for file in index.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    write_tree(files, AFTER)
    list(ingest(Collection.open("c", settings), fake, files))
    assert len(Collection.open("c", settings).snapshot().index) == 7


_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, now);
    if (id == CLOCK_REALTIME && getenv("CLOCK_SHIFT")) now->tv_sec += atol(getenv("CLOCK_SHIFT"));
    return code;
}
"""
_AT_THAT_TIME = """
import json, sys, time
from pathlib import Path
from embedsvc.collection import Collection
from embedsvc.config import Settings
from tests.fakes import FakeEncoder
from tests.test_faults import ingest
data, files = map(Path, sys.argv[1:])
collection = Collection.open("c", Settings(data_dir=data, lock_timeout=0, commit_tokens=4))
found = [(each.uri.rpartition("/")[2], each.status) for each in ingest(collection, FakeEncoder(), files)]
print(json.dumps([time.time(), found]))
"""


@pytest.mark.skipif(not shutil.which("cc") or sys.platform != "linux", reason="a clock needs a C compiler and Linux")
def test_a_clock_that_jumps_back_or_ahead_loses_nothing(here: Settings, fake: FakeEncoder, tmp_path: Path) -> None:
    """As all of the process sees it, Lance too, which goes by the clock to clean up."""
    (tmp_path / "clock.c").write_text(_CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    settings = Settings(data_dir=here.data_dir, lock_timeout=0.0, commit_tokens=4)
    collection = Collection.create("c", fake.contract, Chunking(64, 8), settings)
    files = write_tree(tmp_path / "t", BEFORE)
    list(ingest(collection, fake, files))
    now = files.stat().st_ctime
    wanted = dict(BEFORE)
    reader = collection.snapshot()
    for turn, shift in enumerate((-86_400, 86_400, -3_600)):
        changes = {f"{turn}.txt": f"blue {'red ' * (turn + 1)}".strip(), f"new{turn}.txt": "white"}
        write_tree(files, changes)
        wanted |= changes
        done = subprocess.run(
            [sys.executable, "-c", _AT_THAT_TIME, str(here.data_dir), str(files)],
            env={**os.environ, "LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift), "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.returncode, done.stderr
        then, found = json.loads(done.stdout)
        assert (then < now - 3_000) if shift < 0 else (then > now + 3_000), "the clock was not shifted"
        assert {name for name, status in found if status != "unchanged"} == changes.keys()
        stored = texts(Collection.open("c", settings))
        assert {uri.rpartition("/")[2]: text for uri, text in stored.items()} == wanted
        assert len(collection.snapshot().index) == len(wanted)
    assert len(reader.index) == len(BEFORE)
