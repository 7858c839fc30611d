"""Kill -9 against a real ``embedsvc index``.

``python -m tests.test_crash --kills 20`` does it as often as you like to a made-up tree that changes in between, with
``--folder FOLDER`` to the files there, again and again until they are all indexed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedsvc.cli
from embedsvc.collection import Collection, collection_names
from embedsvc.config import Settings
from embedsvc.storage import Store
from tests.forked import kill_at, start, was_killed

NAME = "killed"
WORDS = (
    "river",
    "stone",
    "budget",
    "engine",
    "vitamin",
    "protein",
    "harbor",
    "window",
    "the",
    "of",
    "and",
    "in",
    "was",
)


def text_of(number: int, edition: int) -> str:
    """File ``number`` in its ``edition``: twenty to six hundred words in sentences, now and then several passages."""
    chance = random.Random(number * 1000 + edition)
    words = [f"edition {edition} of file {number}."]
    words += (
        " ".join(chance.choices(WORDS, k=chance.randint(5, 15))).capitalize() + "."
        for _ in range(chance.choice((2, 4, 6, 10, 60)))
    )
    return " ".join(words) + "\n"


@dataclass
class Kills:
    """What a series of kills came to: ``faults`` is empty if every promise held."""

    seed: int
    kills: int = 0
    rounds: int = 0
    """Of a folder that was indexed as it is: from nothing to the whole."""
    during_work: int = 0
    """Kills that hit a run with some of its documents acknowledged and some not."""
    acknowledged: int = 0
    faults: list[str] = field(default_factory=list)

    def told(self) -> str:
        return (
            f"{self.kills} kills, {self.during_work} of them amid work, {self.rounds} rounds, "
            f"{self.acknowledged} documents acknowledged, {len(self.faults)} faults"
        )


def run_kills(work: Path, *, kills: int, seed: int, files: int = 80) -> Kills:
    """Index a tree of ``files`` files, killed ``kills`` times and each time run again, and compare with a quiet run.

    Before each run but the first a fifth of the files change and one vanishes, so that replacing is hit as well.
    """
    chance = random.Random(seed)
    result = Kills(seed)
    tree, data = work / "files", work / "killed-data"
    tree.mkdir(parents=True)
    editions = dict.fromkeys(range(files), 0)
    for number in editions:
        _path(tree, number).write_text(text_of(number, 0))
    for turn in range(kills):
        if turn:
            for number in chance.sample(sorted(editions), len(editions) // 5):
                editions[number] += 1
                _path(tree, number).write_text(text_of(number, editions[number]))
            vanished = chance.choice(sorted(editions))
            del editions[vanished]
            _path(tree, vanished).unlink()
        lines_wanted = chance.choice((0, 1, chance.randint(2, 40)))
        run = _run_of(tree, data, seconds=chance.uniform(0, 0.3), after=lines_wanted)
        result.kills += 1
        result.acknowledged += len(run.told)
        result.during_work += bool(run.told) and not run.ended
        result.faults += _check_after_kill(tree, data, editions, run.told)
    for target in (data, work / "quiet-data"):
        run = _run_of(tree, target)
        if run.code:
            result.faults.append(f"the last run left with {run.code}")
    result.faults += differences(data, work / "quiet-data")
    stored = _texts(_open(data).snapshot().store)
    wanted = {_path(tree, number).as_uri(): text_of(number, edition) for number, edition in editions.items()}
    result.faults += [f"{uri} is not what its file says" for uri in wanted if stored.get(uri) != wanted[uri].rstrip()]
    result.faults += [f"{uri} is left over" for uri in stored.keys() - wanted.keys()]
    return result


def _path(tree: Path, number: int) -> Path:
    return tree / f"{number:03}.txt"


def _open(data: Path) -> Collection:
    return Collection.open(NAME, Settings(data_dir=data))


@dataclass(frozen=True)
class _Run:
    code: int
    told: dict[str, str]
    """By uri, the status of each document that was told and had not been there unchanged."""
    unchanged: set[str]
    ended: bool
    """Whether it came to its summary."""


def _run_of(
    files: Path, data: Path, *, model: str = "", commit_tokens: int = 2000, seconds: float | None = None, after: int = 0
) -> _Run:
    """``embedsvc index``, killed ``seconds`` after it has told of ``after`` documents that are not unchanged."""
    data.mkdir(parents=True, exist_ok=True)
    log = data / "log"
    log.unlink(missing_ok=True)
    arguments = ["index", str(files), "-c", NAME, "--exact", "--json", "--data-dir", str(data), "--dtype", "fp32"]
    process = start(_index, [*arguments, *(("--model", model) if model else ())], commit_tokens, log=log)
    while process.is_alive() and len(_read(log).told) < after:
        time.sleep(0.01)
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        print(log.read_text()[-3000:], file=sys.stderr)
    return replace(_read(log), code=process.exitcode or 0)


def _read(log: Path) -> _Run:
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    parsed = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
    statuses = {line["uri"]: line["status"] for line in parsed if "uri" in line}
    told = {uri: status for uri, status in statuses.items() if status != "unchanged"}
    return _Run(0, told, statuses.keys() - told.keys(), any("summary" in line for line in parsed))


def _index(arguments: list[str], commit_tokens: int) -> None:
    _main(*arguments, EMBEDSVC_COMMIT_TOKENS=str(commit_tokens), EMBEDSVC_RUNTIME="onnx")


def _main(*arguments: str, **environment: str) -> None:
    os.environ |= environment
    sys.argv = ["embedsvc", *arguments]
    embedsvc.cli.main()


def _texts(store: Store) -> dict[str, str]:
    return {document.uri: store.document_passages(document.id)[0] for document in store.documents()}


def _wanted(uri: str, editions: dict[int, int]) -> str:
    number = int(Path(uri).stem)
    return text_of(number, editions[number]).rstrip()


def _check_after_kill(tree: Path, data: Path, editions: dict[int, int], acknowledged: dict[str, str]) -> list[str]:
    """Nothing acknowledged is missing, and every document is one edition of its file from end to end."""
    if NAME not in collection_names(data):
        return [f"{uri} was acknowledged, there is no collection" for uri in acknowledged]
    snapshot = _open(data).snapshot()
    stored = _texts(snapshot.store)
    faults = [
        f"{uri} was acknowledged as {status}, but is not so"
        for uri, status in acknowledged.items()
        if stored.get(uri) != (None if status == "removed" else _wanted(uri, editions))
    ]
    for uri, text in stored.items():
        number = int(Path(uri).stem)
        latest = editions.get(number, 100)
        if text not in {text_of(number, edition).rstrip() for edition in range(latest + 1)}:
            faults.append(f"{uri} is torn: {text[:60]!r} …")
    return faults + _check_index(data)


def _check_index(data: Path) -> list[str]:
    """The vector index holds the store's rows, all of them, with the store's own vectors, and nothing else."""
    snapshot = _open(data).snapshot()
    row_ids, vectors = snapshot.store.vectors()
    faults = []
    if len(snapshot.index) != len(row_ids):
        faults.append(f"the index has {len(snapshot.index)} rows, the store {len(row_ids)}")
    for row_id, vector in zip(row_ids.tolist(), vectors, strict=True):
        if not abs(snapshot.index.scores(vector, np.array([row_id]))[0] - 1) < 1e-3:
            faults.append(f"row {row_id} has another vector in the index than in the store")
    return faults


def differences(one: Path, other: Path) -> list[str]:
    """How two collections differ in documents, hashes, passages and vectors."""
    collections = [_open(one), _open(other)]
    stores = [collection.snapshot().store for collection in collections]
    faults = []
    if stores[0].known_documents() != stores[1].known_documents():
        faults.append("documents or hashes differ")
    passages = [_passages(store) for store in stores]
    if passages[0].keys() != passages[1].keys():
        faults.append(f"passages differ: {sorted(passages[0].keys() ^ passages[1].keys())[:5]}")
    for id in passages[0].keys() & passages[1].keys():
        (mine, my_vector), (theirs, their_vector) = passages[0][id], passages[1][id]
        if mine != theirs:
            faults.append(f"{id}: {mine} is not {theirs}")
        # In fp32; in int8 a vector depends a little on what else is in its batch.
        if not float(my_vector @ their_vector) >= 0.9999:
            faults.append(f"{id}: vectors differ, cosine {float(my_vector @ their_vector):.4f}")
    return faults + _check_index(one)


def _passages(store: Store) -> dict[str, tuple[tuple[object, ...], np.ndarray]]:
    row_ids, vectors = store.vectors()
    found = {}
    for passage, vector in zip(store.take(row_ids.tolist()), vectors, strict=True):
        found[passage.id] = (
            (passage.uri, passage.start, passage.end, passage.text, passage.heading, passage.title),
            vector,
        )
    assert len(found) == len(row_ids), "a passage id occurs twice"
    return found


def test_five_kills_lose_nothing_and_end_as_an_undisturbed_run(tmp_path: Path) -> None:
    seed = 20240817
    result = run_kills(tmp_path, kills=5, seed=seed)
    assert result.faults == [], f"seed {seed}"
    assert result.during_work >= 1, f"no kill hit a run at work (seed {seed}): the tree is too small for this machine"


_INDEXED = {"EMBEDSVC_EXACT_PASSAGES": "3"}
"""So small a collection has a vector index on the disk only if told to; one new passage alone makes none."""

_STEPS: dict[str, tuple[int, tuple[Any, str]]] = {
    "row ids": (0, (np, "save")),
    "segment": (0, (Path, "rename")),
    "manifest": (1, (Path, "rename")),
    "tidying": (0, (shutil, "rmtree")),  # right after the rename
}
"""The exact steps of saving the vector index at which a process kills itself: before which call of what."""


def _killed_while_saving(step: str, *arguments: str) -> None:
    kill_at(*_STEPS[step])
    _main(*arguments, **_INDEXED)


@pytest.mark.parametrize("step", ["row ids", "segment", "manifest", "tidying"])
def test_a_kill_while_the_vector_index_is_saved_leaves_a_usable_collection(
    step: str, library: Path, tmp_path: Path
) -> None:
    (tmp_path / "new.txt").write_text("Penguins cannot fly, but they swim well.\n")
    arguments = ["index", str(tmp_path / "new.txt"), "-c", "library", "--data-dir", str(library), "--json"]
    log = tmp_path / "log"
    assert was_killed(_killed_while_saving, step, *arguments, log=log), log.read_text()
    assert _first_line(log)["status"] == "indexed"
    asked = ["search", "which bird swims?", "-c", "library", "--data-dir", str(library), "--json"]
    assert _told(log, *asked)["hits"][0]["uri"] == (tmp_path / "new.txt").as_uri()
    assert _told(log, *arguments, **_INDEXED)["status"] == "unchanged"
    snapshot = Collection.open("library", Settings(data_dir=library, exact_passages=3)).snapshot()
    assert len(snapshot.index) == snapshot.store.count() > 5
    assert not len(snapshot.index.fresh)
    assert [entry.name for entry in (library / "library" / "faiss").iterdir() if entry.name == str(snapshot.version)]


def _told(log: Path, *arguments: str, **environment: str) -> Any:
    """The first line that a command prints, in a process of its own."""
    process = start(partial(_main, **environment), *arguments, log=log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    return _first_line(log)


def _first_line(log: Path) -> Any:
    return json.loads(next(line for line in log.read_text().splitlines() if line.startswith("{")))


# -- files as they are -------------------------------------------------------------------------------------------------

_MOST_SECONDS = 4.0
"""That a run lives, at most, or that it works once it has told of a first new document, which three in four are waited
for: so many kills hit each stretch of a large folder, the end included."""
_COMMIT_TOKENS = 20_000
_SAME = 1e-5


@dataclass(frozen=True)
class _Folder:
    """Files that are indexed as they are, and what an undisturbed run makes of them."""

    folder: Path
    model: str
    rows: dict[str, list[tuple[object, ...]]]

    def check(self, data: Path, acknowledged: set[str]) -> list[str]:
        """Nothing acknowledged is missing; what is there is whole."""
        if NAME not in collection_names(data):
            return [f"{uri} was acknowledged, there is no collection" for uri in acknowledged]
        stored = _rows(_open(data).store())
        return [f"{uri} was acknowledged, but is not there" for uri in sorted(acknowledged - stored.keys())] + [
            f"{uri} is torn" for uri, rows in stored.items() if rows != self.rows.get(uri)
        ]


def run_folder_kills(work: Path, folder: Path, *, kills: int, seed: int, seconds: float = 0) -> Kills:
    """Index ``folder``, killed at a random moment and run again until it is whole, compare with a quiet run, and
    start anew: until ``kills`` kills hit a run amid work, or ``seconds`` are over. The model has the default's
    tokenizer and dimension, but no layers: what is killed is reading, cutting and storing, not arithmetic.
    """
    chance = random.Random(seed)
    result = Kills(seed)
    model = str(_shallow(work / "model"))
    started = time.monotonic()
    quietly = _run_of(folder, work / "quiet", model=model, commit_tokens=_COMMIT_TOKENS)
    if quietly.code or not quietly.ended:
        raise RuntimeError(f"the quiet run left with {quietly.code}")
    print(f"quiet run: {time.monotonic() - started:.1f} s", flush=True)
    quiet = _Folder(folder, model, _rows(_open(work / "quiet").store()))
    data, acknowledged = work / "killed", set[str]()
    while result.during_work < kills and not (seconds and time.monotonic() - started > seconds):
        pause, after = chance.uniform(0, _MOST_SECONDS), int(chance.random() < 0.75)
        run = _run_of(folder, data, model=model, commit_tokens=_COMMIT_TOKENS, seconds=pause, after=after)
        uris = run.unchanged | {uri for uri, status in run.told.items() if status in ("indexed", "replaced")}
        new = uris - acknowledged
        acknowledged |= uris
        result.acknowledged += len(new)
        if run.code == -signal.SIGKILL:
            result.kills += 1
            result.during_work += bool(new) and not run.ended
            result.faults += quiet.check(data, acknowledged)
        elif run.code:
            result.faults.append(f"a run left with {run.code}")
        if run.ended:
            _finish(folder, data, model, result, work / "quiet")
            acknowledged.clear()
        if result.kills % 10 == 0:
            print(f"{result.told()}, after {time.monotonic() - started:.0f} s", flush=True)
    if data.exists():
        _finish(folder, data, model, result, work / "quiet")
    return result


def _finish(folder: Path, data: Path, model: str, result: Kills, quiet: Path) -> None:
    """One run to the end, then the comparison."""
    run = _run_of(folder, data, model=model, commit_tokens=_COMMIT_TOKENS)
    if run.code or not run.ended:
        result.faults.append(f"the last run of a round left with {run.code}")
    result.faults += row_differences(data, quiet)
    result.rounds += 1
    shutil.rmtree(data)


def row_differences(one: Path, other: Path) -> list[str]:
    """How two collections differ, row by row; vectors by more than 1e-5 in any number."""
    stores = [_open(data).store() for data in (one, other)]
    rows = [_rows(store) for store in stores]
    faults = [f"{uri}: other rows" for uri in rows[0].keys() | rows[1].keys() if rows[0].get(uri) != rows[1].get(uri)]
    vectors = []
    for store in stores:
        table = store.dataset.to_table(columns=["id", "vector"]).sort_by("id")
        vectors.append(np.stack(table["vector"].to_numpy(zero_copy_only=False)))
    if vectors[0].shape != vectors[1].shape:
        return [*faults, f"{len(vectors[0])} vectors, not {len(vectors[1])}"]
    worst = float(np.abs(vectors[0] - vectors[1]).max(initial=0))
    faults += [f"vectors differ by {worst:g}"] * (worst > _SAME)
    snapshot = _open(one).snapshot()
    faults += ["the index lacks rows"] * (len(snapshot.index) != snapshot.store.count())
    return faults


def _rows(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """By uri, the document's rows in order without their vectors."""
    names = ["uri", "ordinal", "id", "document_id", "document_hash", "start", "end", "page", "heading", "title", "text"]
    table = store.dataset.to_table(columns=names).sort_by([("uri", "ascending"), ("ordinal", "ascending")])
    found: dict[str, list[tuple[object, ...]]] = {}
    for row in zip(*(table[name].to_pylist() for name in names), strict=True):
        found.setdefault(str(row[0]), []).append(row)
    return found


def _shallow(folder: Path) -> Path:
    from tests.tiny_models import make_shallow

    return make_shallow(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="with --folder: that hit a run amid work")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--files", type=int, default=80)
    parser.add_argument("--folder", type=Path, help="index these files instead, as they are")
    parser.add_argument("--seconds", type=float, default=0, help="with --folder: no new kill after so long")
    options = parser.parse_args()
    options.seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as folder:
        if options.folder and not options.folder.is_dir():
            print(f"skipped: there is no {options.folder}")
            sys.exit(0)
        if options.folder:
            outcome = run_folder_kills(
                Path(folder), options.folder, kills=options.kills, seed=options.seed, seconds=options.seconds
            )
        else:
            outcome = run_kills(Path(folder), kills=options.kills, seed=options.seed, files=options.files)
    print(f"seed {outcome.seed}: {outcome.told()}")
    print("\n".join(outcome.faults), end="")
    sys.exit(1 if outcome.faults else 0)
