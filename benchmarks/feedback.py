"""Whether pseudo-relevance feedback on words (RM3) pays: hybrid search with it and without, on halves of three sets.

    python benchmarks/feedback.py [--data FOLDER] [--xquad FOLDER] [--chunking FOLDER] [--collections FOLDER]

The sets are those of ``answers.py``: nDCG@10 of SciFact and XQuAD-en, recall@5 of answer characters of the chunking
set. A query is of the first or the second half by its id. Feedback: the words of the query are joined, with a share of
the weight, by those that the best passages of the fused order say most, each passage counting by its score
(Abdul-Jaleel et al., "UMass at TREC 2004"). BM25 is computed here, over the words of the text index. The settings that
are best on the first halves are told with what they give on the second.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import lance
import numpy as np
import numpy.typing as npt
from answers import CHUNKING, XQUAD, corpora, questions
from common import WINDOW, arguments, documents
from scipy.sparse import csr_array

from embedsvc.collection import Collection, collection_names
from embedsvc.config import Settings, load_settings
from embedsvc.encoding import Encoder, load_encoder
from embedsvc.evaluate.beir import read_folder
from embedsvc.evaluate.questions import overlap
from embedsvc.evaluate.significance import randomisation_test
from embedsvc.ingest import chunking_for, ingest_items
from embedsvc.readers import FieldChoice
from embedsvc.records import Chunking
from embedsvc.search import Query
from embedsvc.search.citing import cite
from embedsvc.search.fusion import fused
from embedsvc.search.merging import merge
from embedsvc.search.run import Run
from embedsvc.storage.words import text_index
from embedsvc.upkeep import Snapshot

Floats = npt.NDArray[np.float32]
K1, B = 1.2, 0.75
DEPTH = 100


@dataclass(frozen=True, slots=True)
class Feedback:
    """``share``: of the weight, that the ``words`` taken from the first ``passages`` get."""

    passages: int
    words: int
    share: float


GRID = [Feedback(*each) for each in itertools.product((3, 5, 10), (5, 10, 20), (0.1, 0.2, 0.3, 0.5))]


class Searched:
    """A collection's passages as matrices, and every hybrid order over them."""

    def __init__(self, snapshot: Snapshot, encoder: Encoder, texts: Sequence[str]) -> None:
        self.snapshot, self.encoder = snapshot, encoder
        store = snapshot.store
        row_ids, vectors = zip(*store.vector_batches(finer=False), strict=True)
        self.row_ids = np.concatenate(row_ids)
        self._analysis = {k: v for k, v in text_index(store.chunking.language).items() if k != "with_position"}
        bags = [self._words(passage.text) for passage in store.take(self.row_ids.tolist())]
        self._names = {word: at for at, word in enumerate(sorted(set(itertools.chain(*bags))))}
        self.counts = csr_array(
            (
                np.array([count for bag in bags for count in bag.values()], np.float32),
                np.array([self._names[word] for bag in bags for word in bag], np.int32),
                np.cumsum([0, *map(len, bags)]),
            ),
            (len(bags), len(self._names)),
        )
        self._lengths = self.counts.sum(axis=1)
        self.bm25 = self._bm25().tocsc()
        asked = encoder.encode_texts(texts, kind="query", on_overflow="truncate").vectors
        self.cosines = asked @ np.concatenate(vectors).T
        self.asked = [self._query(text) for text in texts]

    def _words(self, text: str) -> Counter[str]:
        return Counter(token.text for token in lance.tokenize(text, **self._analysis))

    def _query(self, text: str) -> Floats:
        vector = np.zeros(len(self._names), np.float32)
        for word in self._words(text):
            if word in self._names:
                vector[self._names[word]] = 1
        return vector

    def _bm25(self) -> csr_array:
        weights = self.counts.copy()
        held = np.bincount(weights.indices, minlength=weights.shape[1])
        idf = np.log(1 + (weights.shape[0] - held + 0.5) / (held + 0.5)).astype(np.float32)
        norms = np.repeat(K1 * (1 - B + B * self._lengths / self._lengths.mean()), np.diff(weights.indptr))
        weights.data = idf[weights.indices] * weights.data * (K1 + 1) / (weights.data + norms)
        return weights

    def order(self, at: int, query: Floats) -> tuple[npt.NDArray[np.intp], Floats]:
        """The candidates of the question ``at``, best first, by their cosines and the words of ``query``."""
        used = np.flatnonzero(query)
        lexical = self.bm25[:, used] @ query[used]
        cosines = self.cosines[at]
        best = (np.argpartition(-side, min(DEPTH, len(side) - 1))[:DEPTH] for side in (cosines, lexical))
        ids = np.unique(np.concatenate(list(best)))
        scores = fused(cosines[ids], lexical[ids], self.snapshot.store.fusion)
        order = np.argsort(-scores, kind="stable")
        return ids[order], scores[order]

    def orders(self, at: int) -> list[tuple[npt.NDArray[np.intp], Floats]]:
        """Without feedback, then with each of the grid."""
        query = self.asked[at]
        plain = self.order(at, query)
        own = query / max(1, query.sum())
        found = [plain]
        for setting in GRID:
            ids, scores = (each[: setting.passages] for each in plain)
            said = (self.counts[ids] / self._lengths[ids, None]).T @ (scores / max(1e-9, scores.sum()))
            kept = np.argsort(-said, kind="stable")[: setting.words]
            model = np.zeros_like(own)
            model[kept] = said[kept] / max(1e-9, said[kept].sum())
            found.append(self.order(at, (1 - setting.share) * own + setting.share * model))
        return found


def main() -> None:
    given = arguments(__doc__, collections=True, texts=("xquad", "chunking"))
    settings = load_settings({"runtime": "onnx"})
    encoder = load_encoder(settings)
    gains = []
    with tempfile.TemporaryDirectory() as scratch:
        settings = replace(settings, data_dir=given.collections or Path(scratch))
        for name, folder in (("scifact", given.data), ("xquad", Path(given.xquad or XQUAD))):
            if (folder / "corpus.jsonl").is_file():
                chunking = Chunking(WINDOW, whole=True)
                snapshot = collection_of(
                    name, encoder, settings, chunking, functools.partial(documents, folder)
                ).snapshot()
                gains.append(report(name, *judged(snapshot, encoder, folder)))
        folder = Path(given.chunking or CHUNKING)
        if (folder / "questions_df.csv").is_file():
            chunking = chunking_for(encoder, settings, frozenset())
            snapshot = collection_of(
                "chunking", encoder, settings, chunking, functools.partial(corpora, folder)
            ).snapshot()
            gains.append(report("chunking", *covered(snapshot, encoder, folder)))
    together = np.minimum.reduce(gains)
    at = int(together.argmax())
    print(f"the least gain of a half of any set is at best {together[at]:+.4f}, with {GRID[at]}")


def collection_of(
    name: str, encoder: Encoder, settings: Settings, chunking: Chunking, documents: Callable[[], object]
) -> Collection:
    if name in collection_names(settings.data_dir):
        return Collection.open(name, settings)
    made = Collection.create(name, encoder.contract, chunking, settings)
    for _ in ingest_items(made, encoder, documents(), FieldChoice(), duplicates="ignore"):  # type: ignore[arg-type]
        pass
    return made


def judged(snapshot: Snapshot, encoder: Encoder, folder: Path) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Ids of the queries (n,), and of each the nDCG@10 of every order (n, 1 + settings)."""
    beir = read_folder(folder, "test")
    searched = Searched(snapshot, encoder, list(beir.queries.values()))
    names = [passage.document_id for passage in snapshot.store.take(searched.row_ids.tolist())]
    values = []
    for at, id in enumerate(beir.queries):
        gains = beir.qrels[id]
        ideal = discounted(sorted(gains.values(), reverse=True)[:10])
        found = ([gains.get(names[row], 0) for row in ids[:10]] for ids, _ in searched.orders(at))
        values.append([discounted(each) / ideal for each in found])
    return list(beir.queries), np.array(values)


def covered(snapshot: Snapshot, encoder: Encoder, folder: Path) -> tuple[list[str], npt.NDArray[np.float64]]:
    """As :func:`judged`, of the questions' texts: recall@5 of answer characters."""
    asked = questions(folder)
    searched = Searched(snapshot, encoder, [each.text for each in asked])
    values = []
    for at, each in enumerate(asked):
        query = Query(each.text, k=5)
        runs = (
            Run(snapshot, encoder, query, DEPTH, row_ids=searched.row_ids[ids], scores=scores)
            for ids, scores in searched.orders(at)
        )
        values.append([overlap(each.expected, cite(merge(run)).hits)[0] for run in runs])
    return [each.text for each in asked], np.array(values)


def discounted(gains: Sequence[float]) -> float:
    return sum(gain / float(np.log2(rank + 2)) for rank, gain in enumerate(gains))


def report(name: str, ids: Sequence[str], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Prints what was found; returns for each setting the gain of the half that gains less."""
    first = np.array([hashlib.blake2b(id.encode()).digest()[0] % 2 == 0 for id in ids])
    halves = np.array([values[half].mean(axis=0) for half in (first, ~first)])
    best = 1 + int(halves[0, 1:].argmax())
    for what, at in (("without", 0), ("with the best for the first half", best)):
        print(f"{name:<10}{what:<34}{halves[0, at]:.4f} / {halves[1, at]:.4f}", flush=True)
    chance = randomisation_test(values[~first, best] - values[~first, 0])
    print(f"{name:<10}gain on the second half: {halves[1, best] - halves[1, 0]:+.4f}, p = {chance:.2f}", flush=True)
    gains = (halves[:, 1:] - halves[:, :1]).min(axis=0)
    print(f"{name:<10}{GRID[best - 1]}; better on both halves: {(gains > 0).sum()} of {len(GRID)} settings", flush=True)
    return gains


if __name__ == "__main__":
    main()
