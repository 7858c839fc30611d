"""Texts that are the same, or nearly: signatures of runs of characters, so that any script will do, and where they are
looked up.

A signature is made by one pass over the text's features, not by one for each of its hashes (Dahlgaard, Knudsen and
Thorup, "Fast Similarity Sketching", FOCS 2017); the share of places at which two agree estimates, as with MinHash, the
Jaccard index of the features. Nothing is random: the same texts in the same order give the same answers.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from embedsvc.derived import open_derived
from embedsvc.errors import StorageFailure
from embedsvc.outcomes import Like

_Bytes = npt.NDArray[np.uint8]
_Wide = npt.NDArray[np.uint64]
_Flags = npt.NDArray[np.bool_]
_Id = TypeVar("_Id", bound=Hashable)

ALIKE = 0.8
"""Share of what either of two documents says that both say, from which on they count as nearly the same."""
SHINGLE = 9
"""Characters that make one feature: about two words, or a clause of Chinese."""
PLACES = 128
"""Of a signature, a byte each; an estimate of similarity strays by 0.04 then."""
_CERTAIN = 0.99
"""Probability with which two texts just alike enough come to be compared."""
_NEARLY = 0.99
"""The most that is said of two texts which are not the same to the letter."""
_COMPARED = 64
"""Texts with one band in common that are compared at most: what very many have in common tells none apart."""
_CACHE_KB = 64_000
_KEPT_EVERY = 1_000
"""Signatures added, after which they are kept: so many are made again where a process is killed, in half a second."""
_BLOCK = 1 << 18
"""Characters of a text that are looked at together."""
_NONE = np.uint64(2**64 - 1)

_TABLES = f"""
CREATE TABLE IF NOT EXISTS documents (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, uri TEXT, hash TEXT, digest BLOB, places BLOB
);
CREATE INDEX IF NOT EXISTS digests ON documents (digest);
CREATE TABLE IF NOT EXISTS in_step (store TEXT, version INTEGER);
CREATE TABLE IF NOT EXISTS bands (key INTEGER, number INTEGER, PRIMARY KEY (key, number)) WITHOUT ROWID;
PRAGMA cache_size = -{_CACHE_KB};
"""
_VERSION = 1
"""Of the file."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Of a text: ``digest`` tells whether another is the same to the letter (but for white space at the ends),
    ``places`` (PLACES,) how like they are."""

    digest: bytes
    places: _Bytes


def sign(text: str) -> Signature | None:
    """The signature of ``text``, for which case and white space make no difference; None: it is white space alone.
    Takes 20 MB of memory beside the text, however long that is."""
    text = text.strip()
    if not text:
        return None
    found = np.full(PLACES, _NONE)
    # Each round throws every feature into one of the places, where the least stays. Most texts fill them in the first.
    for features in _features(text):
        _throw(found, features, _SEEDS[0])
    if (found == _NONE).any():
        _fill(found, _distinct(text))
    # White space at the ends does not count: of what is stored, that at the very end is not known any more.
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(text), _BLOCK):
        digest.update(text[start : start + _BLOCK].encode("utf-8", "surrogatepass"))
    return Signature(digest.digest(), (found % 256).astype(np.uint8))


def _throw(into: _Wide, features: _Wide, seed: np.uint64) -> None:
    hashes = _mixed(features ^ seed)
    np.minimum.at(into, (hashes % PLACES).astype(np.intp), hashes // PLACES)


def _fill(found: _Wide, features: _Wide) -> None:
    """The places that the first round left empty."""
    for seed in _SEEDS[1:PLACES]:
        least = np.full(PLACES, _NONE)
        _throw(least, features, seed)
        empty = found == _NONE
        found[empty] = least[empty]
        if not (found == _NONE).any():
            return
    for place in np.flatnonzero(found == _NONE):
        found[place] = _mixed(features ^ _SEEDS[PLACES + place]).min() // PLACES


def _distinct(text: str) -> _Wide:
    """Each feature once: few, where they do not fill the places, however long the text is."""
    distinct = np.empty(0, np.uint64)
    for features in _features(text):
        distinct = np.union1d(distinct, features)
    return distinct


def _features(text: str) -> Iterator[_Wide]:
    """Of each run of SHINGLE characters of ``text`` (of all of it, where it has fewer) a number, some at a time."""
    before = codes = np.empty(0, np.uint32)
    for plain in _plain(text):
        codes = np.concatenate([before, np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), np.uint32)])
        if len(codes) >= SHINGLE:
            yield _rolled(codes, SHINGLE)
        before = codes[-(SHINGLE - 1) :]
    if len(codes) < SHINGLE:
        yield _rolled(codes, len(codes))


def _rolled(codes: npt.NDArray[np.uint32], width: int) -> _Wide:
    features = np.zeros(len(codes) - width + 1, np.uint64)
    for at in range(width):
        features = features * np.uint64(0x100000001B3) + codes[at : at + len(features)]
    return features


def _plain(text: str) -> Iterator[str]:
    """``text`` in small letters, its words parted by one space each, in pieces."""
    begun = parted = False
    for start in range(0, len(text), _BLOCK):
        piece = text[start : start + _BLOCK].casefold()
        words = piece.split()
        if words:
            yield " " * (begun and (parted or piece[0].isspace())) + " ".join(words)
            begun, parted = True, piece[-1].isspace()
        else:
            parted = True


def alike(texts: Sequence[str], threshold: float = ALIKE) -> _Flags:
    """Whether each two of the n ``texts`` (n, n) share about ``threshold`` of all that either says, by their
    signatures: each text is read once. Case and white space make no difference; white space alone is like nothing."""
    signatures = ((at, sign(text)) for at, text in enumerate(texts))
    places = {at: signature.places for at, signature in signatures if signature is not None}
    known, table = list(places), np.array(list(places.values()), np.uint8).reshape(-1, PLACES)
    found = np.zeros((len(texts), len(texts)), np.bool_)
    for at, own in places.items():
        found[at, known] = agreement(own, table) >= threshold
    return found


def agreement(places: _Bytes, table: _Bytes) -> npt.NDArray[np.float64]:
    """How like a signature's ``places`` (PLACES,) are to those of n others (n, PLACES): shares (n,)."""
    shares: npt.NDArray[np.float64] = np.count_nonzero(table == places, axis=1) / PLACES
    return shares


def _mixed(values: _Wide) -> _Wide:
    """``values`` spread over all 64 bits (splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_SEEDS = _mixed(np.arange(1, 2 * PLACES + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


class Signatures:
    """The signatures of a collection's documents, in a file of their own: derived, so made anew where it is damaged or
    missing, and what was not kept of it when a process was killed is made again. It takes 64 MB of memory, however many
    there are. For one thread."""

    def __init__(self, file: Path | None, threshold: float = ALIKE) -> None:
        """``file`` None: for this process alone, past its memory on the disk.

        Raises:
            ValueError: ``threshold`` is not above 0 and at most 1. StorageFailure: the file cannot be read or written.
        """
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it must be above 0 and at most 1")
        self._threshold = threshold
        self._rows = _rows_per_band(threshold)
        self._file = file
        self._added = 0
        with self._working():
            self._data = open_derived(file, _TABLES, _VERSION)

    @contextmanager
    def _working(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise StorageFailure(
                    f"The disk that holds {self._file or 'temporary files'} is full. What was there before stands; "
                    "free some space and run again."
                ) from error
            raise StorageFailure(
                f"{self._file or 'A temporary file'} cannot be used: {error}. It may be removed: it is made again."
            ) from error

    def in_step_with(self, store: str | None) -> int | None:
        """The version of the store of that identity whose documents' signatures are all here, and no others; None: that
        is not known. What is done here from now on takes it back, until :meth:`come_in_step`."""
        with self._working():
            row = self._data.execute("SELECT version FROM in_step WHERE store = ?", (store,)).fetchone()
            self._data.execute("DELETE FROM in_step")
        return None if row is None else int(row[0])

    def come_in_step(self, store: str | None, version: int) -> None:
        with self._working():
            self._data.execute("DELETE FROM in_step")
            self._data.execute("INSERT INTO in_step VALUES (?, ?)", (store, version))

    def count(self) -> int:
        with self._working():
            return int(self._data.execute("SELECT count(*) FROM documents").fetchone()[0])

    def missing(self, known: Mapping[str, str]) -> list[str]:
        """Of the documents ``known``, hash by id, those whose signatures are not there; those of other editions are
        forgotten."""
        with self._working():
            found = {
                id: row[0]
                for id in known
                if (row := self._data.execute("SELECT hash FROM documents WHERE id = ?", (id,)).fetchone())
            }
            self.forget([id for id, hash in found.items() if known[id] != hash])
        return [id for id, hash in known.items() if found.get(id) != hash]

    def keep_only(self, known: Mapping[str, str]) -> list[str]:
        """Forgets all but the documents ``known``, hash by id; the ids of those whose signatures are not there."""
        with self._working():
            there = dict(self._data.execute("SELECT id, hash FROM documents"))
            self.forget([id for id, hash in there.items() if known.get(id) != hash])
        return [id for id, hash in known.items() if there.get(id) != hash]

    def like(self, signature: Signature) -> Like | None:
        """A document that says the same or nearly, None where there is none. Of those to the letter the first. Else,
        of the first with each band in common, the most like, the earlier one of two: they stand for the many that may
        have come after them. Only where none of them is like it enough, the others are compared, too."""
        with self._working():
            same = self._data.execute(
                "SELECT id, uri FROM documents WHERE digest = ? ORDER BY number LIMIT 1", (signature.digest,)
            ).fetchone()
            if same is not None:
                return Like(same[0], same[1], 1.0)
            keys = self._keys(signature)
            firsts = self._numbers(keys, 1)
            if (like := self._most_like(signature, firsts)) is not None or not firsts:
                return like
            return self._most_like(signature, self._numbers(keys, _COMPARED) - firsts)

    def _numbers(self, keys: Sequence[int], most: int) -> set[int]:
        """The documents with one of the bands ``keys``, of each the ``most`` that came first."""
        numbers: set[int] = set()
        for key in keys:
            rows = self._data.execute(f"SELECT number FROM bands WHERE key = ? LIMIT {most}", (key,))
            numbers.update(number for (number,) in rows)
        return numbers

    def _most_like(self, signature: Signature, numbers: set[int]) -> Like | None:
        if not numbers:
            return None
        among = ", ".join(map(str, sorted(numbers)))
        found = self._data.execute(
            f"SELECT id, uri, places FROM documents WHERE number IN ({among}) ORDER BY number"
        ).fetchall()
        table = np.frombuffer(b"".join(row[2] for row in found), np.uint8).reshape(-1, PLACES)
        shares = agreement(signature.places, table)
        best = int(np.argmax(shares))
        if shares[best] < self._threshold:
            return None
        id, uri, _ = found[best]
        return Like(id, uri, min(_NEARLY, round(float(shares[best]), 2)))

    def add(self, id: str, uri: str, hash: str, signature: Signature) -> None:
        """``hash``: the document's, by which :meth:`keep_only` tells whether it has changed."""
        with self._working():
            self.forget([id])
            row = id, uri, hash, signature.digest, signature.places.tobytes()
            number = self._data.execute(
                "INSERT INTO documents (id, uri, hash, digest, places) VALUES (?, ?, ?, ?, ?)", row
            ).lastrowid
            bands = [(key, number) for key in self._keys(signature)]
            self._data.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", bands)
            self._added += 1
            if self._added % _KEPT_EVERY == 0:
                self._data.commit()

    def forget(self, ids: Sequence[str]) -> None:
        with self._working():
            for id in ids:
                row = self._data.execute("SELECT number, digest, places FROM documents WHERE id = ?", (id,)).fetchone()
                if row is not None:
                    number, digest, places = row
                    keys = self._keys(Signature(digest, np.frombuffer(places, np.uint8)))
                    self._data.executemany(
                        "DELETE FROM bands WHERE key = ? AND number = ?", [(k, number) for k in keys]
                    )
                    self._data.execute("DELETE FROM documents WHERE number = ?", (number,))

    def compact(self) -> None:
        """Leaves nothing in the file of what was forgotten."""
        with self._working():
            self._data.commit()
            self._data.execute("VACUUM")

    def close(self) -> None:
        """Keeps what was added and forgotten."""
        with self._working():
            try:
                self._data.commit()
            finally:
                self._data.close()

    def _keys(self, signature: Signature) -> list[int]:
        """One for each band: what texts that are alike have in common, most likely."""
        bands = PLACES // self._rows
        parts = signature.places[: bands * self._rows].reshape(bands, self._rows)
        digests = (hashlib.blake2b(bytes([band]) + part.tobytes(), digest_size=8) for band, part in enumerate(parts))
        return [int.from_bytes(digest.digest(), "little", signed=True) for digest in digests]


def _rows_per_band(threshold: float) -> int:
    """The most places that must agree in one band for two texts to be compared: the more, the fewer are in vain."""
    fits = [rows for rows in range(1, 33) if 1 - (1 - threshold**rows) ** (PLACES // rows) >= _CERTAIN]
    return max(fits, default=1)


def near_duplicates(texts: Iterable[tuple[_Id, str]], threshold: float = ALIKE) -> list[tuple[_Id, ...]]:
    """Groups of two or more ids whose texts share, with the first of the group, at least about ``threshold`` of all
    that either says (the Jaccard index of their runs of characters). Case and white space make no difference.

    A group is led by its first text in the order given, and holds what is like that one: no chain of small changes
    joins two texts that are not alike.

    Raises:
        ValueError: ``threshold`` is not above 0 and at most 1.
    """
    leaders = Signatures(None, threshold)
    groups: list[list[_Id]] = []
    for id, text in texts:
        signature = sign(text)
        if signature is None:
            continue
        like = leaders.like(signature)
        if like is None:
            leaders.add(str(len(groups)), "", "", signature)
            groups.append([id])
        else:
            groups[int(like.id)].append(id)
    leaders.close()
    return [tuple(group) for group in groups if len(group) > 1]
