"""Whatever happens to a collection, and in whatever order, its index answers as exact search over the store does."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embedsvc import upkeep
from embedsvc.collection import Collection, Writer
from embedsvc.config import Settings
from embedsvc.editing import delete_many, put_over, set_metadata
from embedsvc.records import Chunking, Passage, make_document
from embedsvc.upkeep import Snapshot
from embedsvc.vectors import building, carry_on
from tests.fakes import FakeEncoder

D = 8
EXACT = 30
CONTRACT = replace(FakeEncoder().contract, dimension=D)
NAMES = st.integers(0, 400)
SEEDS = st.integers(0, 2**32 - 1)


class Crash(BaseException):
    """The process ends here."""


def document(name: int, seed: int) -> Any:
    """One to three passages, some with the same vector as others; in its metadata its ``name`` and ``n``, 0 to 9."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 4))
    made = make_document(f"t:{name}", "x" * count, id=str(name), metadata={"n": name % 10, "name": name})
    vectors = rng.standard_normal((count, D)).astype(np.float32)
    if rng.random() < 0.1:
        vectors[:] = np.eye(1, D, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return made, [Passage(at, at, at + 1, np.zeros(1, np.int32)) for at in range(count)], vectors


def has(document: Any, n: int, below: int) -> bool:
    metadata = document[0].metadata
    return bool(metadata["n"] == n and metadata["name"] < below)


class Machine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.data = Path(tempfile.mkdtemp())
        self.settings = Settings(data_dir=self.data, exact_passages=EXACT, durability="os", recall_sample=0.0)
        self.model: dict[str, Any] = {}
        self.collection = Collection.create("c", CONTRACT, Chunking(64, 8), self.settings)
        self.reader = Collection.open("c", self.settings)
        self.found = self.wanted = 0

    # -- what happens ---------------------------------------------------------------------------------------------

    def write(self, writer: Writer, names: set[int], gone: set[int], seed: int) -> None:
        made = [document(name, seed + name) for name in sorted(names)]
        writer.replace(made, [str(name) for name in sorted(gone - names)])
        for name in gone:
            self.model.pop(str(name), None)
        self.model.update({each[0].id: each for each in made})

    @rule(start=NAMES, count=st.integers(1, 120), gone=st.sets(NAMES, max_size=5), seed=SEEDS, fold=st.booleans())
    def put(self, start: int, count: int, gone: set[int], seed: int, fold: bool) -> None:
        with self.collection.writer(fold=fold) as writer:
            self.write(writer, set(range(start, start + count)), gone, seed)
            self.check(self.collection.snapshot(), 1, seed)

    @rule(starts=st.lists(NAMES, min_size=2, max_size=4), seed=SEEDS)
    def put_several(self, starts: list[int], seed: int) -> None:
        """Commits one after the other, with folds beside them."""
        with self.collection.writer() as writer:
            for at, start in enumerate(starts):
                self.write(writer, set(range(start, start + 25)), {start + 30}, seed + at)
                self.check(self.collection.snapshot(), 1, seed)

    @rule(
        names=st.lists(st.sets(NAMES, min_size=1, max_size=3), min_size=3, max_size=6), gone=st.sets(NAMES), seed=SEEDS
    )
    def trickle(self, names: list[set[int]], gone: set[int], seed: int) -> None:
        """Small commits, too small for a fold, with searches in between."""
        with self.collection.writer(fold=False) as writer:
            self.check(self.collection.snapshot(), 1, seed)
            for at, some in enumerate(names):
                self.write(writer, some, {name for name in gone if name % len(names) == at}, seed + at)
                self.check(self.collection.snapshot(), 1, seed)

    @rule(start=NAMES, count=st.integers(1, 400), fold=st.booleans())
    def delete(self, start: int, count: int, fold: bool) -> None:
        with self.collection.writer(fold=fold) as writer:
            self.write(writer, set(), set(range(start, start + count)), 0)

    @rule(n=st.integers(0, 9), below=NAMES)
    def delete_by_a_condition(self, n: int, below: int) -> None:
        condition = f"metadata.n = {n} AND metadata.name < {below}"
        doomed = [id for id, each in self.model.items() if has(each, n, below)]
        assert delete_many(self.collection, condition=condition) == len(doomed)
        for id in doomed:
            del self.model[id]

    @rule(n=st.integers(0, 9), below=NAMES, to=st.integers(0, 9))
    def set_metadata_by_a_condition(self, n: int, below: int, to: int) -> None:
        condition = f"metadata.n = {n} AND metadata.name < {below}"
        meant = [id for id, each in self.model.items() if has(each, n, below)]
        changed = set_metadata(self.collection, put_over({"n": to}), condition=condition)
        assert changed == (len(meant) if n != to else 0)
        for id in meant:
            made, *rest = self.model[id]
            self.model[id] = (replace(made, metadata={**made.metadata, "n": to}), *rest)

    @rule()
    def reopen(self) -> None:
        self.collection = Collection.open("c", self.settings)

    @rule(raised=st.sampled_from([0.5, 0.95, 0.99]))
    def ask_for_another_recall(self, raised: float) -> None:
        """Which has what is there built anew by the next writer."""
        self.collection = Collection.open("c", replace(self.settings, target_recall=raised))

    @rule(start=NAMES, seed=SEEDS, where=st.sampled_from(["build_segment", "save_index", "rename"]))
    def crash_while_folding(self, start: int, seed: int, where: str) -> None:
        """What was committed is there when somebody opens the collection again; the fold is not."""

        def crash(*_: Any, **__: Any) -> None:
            raise Crash

        upkeep._background.submit(lambda: None).result(60)  # what an earlier step left to the background holds the lock
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.collection.upkeep, "tend", lambda: None)
            if where == "rename":
                patch.setattr(building, "load_segment", crash)
            else:
                patch.setattr(upkeep, "fold" if where == "build_segment" else where, crash)
            try:
                with self.collection.writer(fold=False) as writer:
                    self.write(writer, set(range(start, start + 60)), set(), seed)
                    self.collection.upkeep._fold(0, carry_on)
            except Crash:
                pass
        self.collection = Collection.open("c", self.settings)

    @rule(which=st.integers(0, 1000), half=st.booleans())
    def damage(self, which: int, half: bool) -> None:
        """A file of the index is cut in half, or gone."""
        files = sorted(path for path in (self.data / "c" / "faiss").rglob("*") if path.is_file())
        if files:
            file = files[which % len(files)]
            content = file.read_bytes()
            file.unlink()  # whoever has it open keeps it
            if half:
                file.write_bytes(content[: len(content) // 2])
            self.collection = Collection.open("c", self.settings)

    # -- what must hold -------------------------------------------------------------------------------------------

    @rule(seed=SEEDS)
    def search(self, seed: int) -> None:
        self.check(self.collection.snapshot(), 5, seed)

    @rule(seed=SEEDS)
    def search_elsewhere(self, seed: int) -> None:
        self.check(self.reader.snapshot(), 5, seed)

    def check(self, snapshot: Snapshot, queries: int, seed: int) -> None:
        row_ids, vectors = snapshot.store.vectors()
        assert len(snapshot.index) == len(row_ids) == sum(len(each[2]) for each in self.model.values())
        rng = np.random.default_rng(seed)
        for condition, ns in ((None, range(10)), ("metadata.n < 3", range(3)), ("metadata.n = 11", range(0))):
            passes = row_ids >= 0 if condition is None else np.isin(row_ids, snapshot.store.matching(condition))
            assert passes.sum() == sum(len(each[2]) for each in self.model.values() if each[0].metadata["n"] in ns)
            for query in rng.standard_normal((queries, D)).astype(np.float32):
                query /= np.linalg.norm(query)
                cosines = dict(zip(row_ids[passes].tolist(), (vectors[passes] @ query).tolist(), strict=True))
                ids, scores = snapshot.nearest(query, 10, condition)
                truth = sorted(cosines.values(), reverse=True)[:10]
                assert len(set(ids.tolist())) == len(ids) == len(truth)
                assert scores.tolist() == pytest.approx([cosines[row] for row in ids.tolist()], abs=1e-5)
                hits = sum(score >= truth[-1] - 1e-5 for score in scores.tolist()) if truth else 0
                if condition is not None or snapshot.index.is_exact:  # few rows pass a filter: all are scored
                    assert hits == len(truth)
                elif snapshot.index.recall.low >= 0.95:  # else it was made for a lower target
                    self.found, self.wanted = self.found + hits, self.wanted + len(truth)

    @invariant()
    def recall_is_kept(self) -> None:
        if getattr(self, "wanted", 0) > 200:  # of an index at .95, chance leaves .93 in one run of a hundred
            assert self.found > 0.93 * self.wanted

    def teardown(self) -> None:
        if hasattr(self, "data"):
            upkeep._background.submit(lambda: None).result(60)
            shutil.rmtree(self.data, ignore_errors=True)


TestCollection = Machine.TestCase
TestCollection.settings = settings(
    max_examples=8, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
