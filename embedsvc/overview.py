"""What is in a collection, by its passages' vectors: which are alike, what they are about, which label fits each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsvc.encoding import Encoder
from embedsvc.errors import UsageError
from embedsvc.search.terms import content_words
from embedsvc.storage import StoredPassage
from embedsvc.upkeep import Snapshot

Floats = npt.NDArray[np.float32]

_NEIGHBOURS = 32
"""Passages that one is compared with, at most: of more than so many that are alike, several groups are made."""
_AT_ONCE = 1_000
"""Passages whose neighbours are searched for together."""
_SAMPLE = 50_000
"""Passages that clusters are made of, at most; the others are counted to the nearest."""
_MOST_PASSAGES = 200_000
"""Of a collection that is looked over: all vectors are in memory for that."""
_ROUNDS = 25
_TYPICAL = 20
"""Passages of a cluster, the nearest to its centre, whose words label it."""
_SHOWN = 3
_LABEL_WORDS = 5
_MOST_CLUSTERS = 100
_MOST_LABELS = 100


@dataclass(frozen=True, slots=True)
class Cluster:
    """``row_ids``: of its passages, the nearest to its centre first, ``label``: words that set its typical passages
    apart, ``typical``: its first passages, ``tightness``: the mean cosine with the centre."""

    label: tuple[str, ...]
    row_ids: tuple[int, ...]
    tightness: float
    typical: tuple[StoredPassage, ...]

    @property
    def passages(self) -> int:
        """How many there are."""
        return len(self.row_ids)


@dataclass(frozen=True, slots=True)
class Labelled:
    """``cosine`` of the passage with the label's description, ``margin`` over the next best one's."""

    passage: StoredPassage
    label: str
    cosine: float
    margin: float


@dataclass(frozen=True, slots=True)
class Classified:
    """``counts``: by label, of all passages. ``passages``: those that were asked for."""

    counts: Mapping[str, int]
    passages: tuple[Labelled, ...]


def near_passages(snapshot: Snapshot, threshold: float = 0.95) -> list[tuple[StoredPassage, ...]]:
    """Groups of passages whose cosine with the first of the group, in the order of the store, is ``threshold`` or more.

    Raises:
        UsageError: ``threshold`` is no cosine above 0.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"The threshold is {threshold:g}; it is a cosine, above 0 and up to 1.")
    grouped: set[int] = set()
    groups: list[list[int]] = []
    for row_ids, vectors in snapshot.store.vector_batches(_AT_ONCE, finer=False):
        found, cosines = snapshot.index.search_many(vectors, _NEIGHBOURS, None)
        # Rounded, a vector has a cosine of a little less than 1 with itself.
        alike = (found >= 0) & (cosines >= threshold - 1e-6)
        for row_id, near, is_alike in zip(row_ids.tolist(), found, alike, strict=True):
            if row_id in grouped:
                continue
            group = [row_id, *(id for id in near[is_alike].tolist() if id != row_id and id not in grouped)]
            if len(group) > 1:
                grouped.update(group)
                groups.append(group)
    return [tuple(snapshot.store.take(group)) for group in groups]


def clusters(snapshot: Snapshot, count: int | None = None) -> list[Cluster]:
    """``count`` clusters of the passages, the largest first, or as many as there are passages; None: as many as half
    the passages have root, 20 at most.

    By k-means of unit vectors, begun with k-means++ (Arthur and Vassilvitskii, SODA 2007). The same for the same store.

    Raises:
        UsageError: fewer than 1 or more than 100 clusters; more than 200,000 passages.
    """
    if count is not None and not 1 <= count <= _MOST_CLUSTERS:
        raise UsageError(f"{count} clusters are asked for; ask for 1 to {_MOST_CLUSTERS}.")
    row_ids, vectors = own_vectors(snapshot)
    if not len(row_ids):
        return []
    count = max(1, min(20, round((len(row_ids) / 2) ** 0.5))) if count is None else min(count, len(row_ids))
    random = np.random.default_rng(0)
    some = vectors if len(vectors) <= _SAMPLE else vectors[random.choice(len(vectors), _SAMPLE, replace=False)]
    centres = _centres(some, count, random)
    cosines = vectors @ centres.T
    nearest = cosines.argmax(axis=1)
    unordered = [np.flatnonzero(nearest == at) for at in range(count)]
    members = [own[np.argsort(-cosines[own, at], kind="stable")] for at, own in enumerate(unordered)]
    passages = [snapshot.store.take(row_ids[own[:_TYPICAL]].tolist()) if len(own) else [] for own in members]
    words = [Counter(word for passage in own for word in set(content_words(passage.text))) for own in passages]
    everywhere = sum(words, Counter[str]())
    made = [
        Cluster(
            _label(words[at], everywhere),
            tuple(row_ids[own].tolist()),
            round(float(cosines[own, at].mean()), 4),
            tuple(passages[at][:_SHOWN]),
        )
        for at, own in enumerate(members)
        if len(own)
    ]
    return sorted(made, key=lambda cluster: -cluster.passages)


def classify(
    snapshot: Snapshot, encoder: Encoder, labels: Mapping[str, str], start: int = 0, count: int | None = None
) -> Classified:
    """Each passage with the label whose description, by ``labels``, is nearest to it; an empty description is the label
    itself. All in the order of the store, or ``count`` of them from the place ``start`` on.

    Raises:
        UsageError: fewer than 2 labels, more than 100, or an empty one; more than 200,000 passages.
        QueryTooLong: a description exceeds the model's window.
    """
    if not 2 <= len(labels) <= _MOST_LABELS:
        raise UsageError(f"{len(labels)} labels are given; give 2 to {_MOST_LABELS}, each with what it stands for.")
    if not all(label.strip() for label in labels):
        raise UsageError("A label is empty. Give each a name.")
    names = list(labels)
    described = encoder.encode_texts([labels[name].strip() or name for name in names], kind="query").vectors
    row_ids, vectors = own_vectors(snapshot)
    cosines = vectors @ described.T
    best = cosines.argmax(axis=1)
    second = np.sort(cosines, axis=1)[:, -2]
    page = slice(start, None if count is None else start + count)
    passages = snapshot.store.take(row_ids[page].tolist()) if len(row_ids[page]) else []
    return Classified(
        {name: int((best == at).sum()) for at, name in enumerate(names)},
        tuple(
            Labelled(passage, names[at], round(float(cosine[at]), 4), round(float(cosine[at] - next_best), 4))
            for passage, at, cosine, next_best in zip(
                passages, best[page].tolist(), cosines[page], second[page], strict=True
            )
        ),
    )


def own_vectors(snapshot: Snapshot) -> tuple[npt.NDArray[np.int64], Floats]:
    """Row ids (n,) and the passages' own vectors (n, dimension), of length 1, in the order of the store.

    Raises:
        UsageError: more than 200,000 passages.
    """
    if (count := snapshot.store.count()) > _MOST_PASSAGES:
        raise UsageError(
            f"{snapshot.name!r} has {count:,} passages; up to {_MOST_PASSAGES:,} can be looked over at once."
        )
    dimension = snapshot.store.contract.dimension
    batches = list(snapshot.store.vector_batches(finer=False))
    ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in batches)])
    return ids, np.concatenate([np.empty((0, dimension), np.float32), *(vectors for _, vectors in batches)])


def _centres(vectors: Floats, count: int, random: np.random.Generator) -> Floats:
    """Unit vectors (count, dimension)."""
    chosen = [int(random.integers(len(vectors)))]
    farness = np.full(len(vectors), np.inf, np.float32)
    while len(chosen) < count:
        farness = np.minimum(farness, np.maximum(0, 1 - vectors @ vectors[chosen[-1]]))
        total = float(farness.sum())
        likely = farness / total if total > 0 else None
        chosen.append(int(random.choice(len(vectors), p=None if likely is None else likely / likely.sum())))
    centres: Floats = vectors[chosen].copy()
    nearest = None
    for _ in range(_ROUNDS):
        before, nearest = nearest, (vectors @ centres.T).argmax(axis=1)
        if before is not None and np.array_equal(before, nearest):
            break
        for at in range(count):
            mean = vectors[nearest == at].sum(axis=0)
            if (norm := float(np.linalg.norm(mean))) > 0:
                centres[at] = mean / norm
    return centres


def _label(words: Counter[str], everywhere: Counter[str]) -> tuple[str, ...]:
    """Words of many of the cluster's typical passages, and of few of the others'."""
    weight = {word: count * count / everywhere[word] for word, count in words.items()}
    return tuple(sorted(weight, key=lambda word: (-weight[word], word))[:_LABEL_WORDS])
