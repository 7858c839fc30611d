"""Duplicates: what is the same or nearly is found, what is not is left alone, and the order of finding is fixed."""

from __future__ import annotations

import random
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc import duplicates
from embedsvc.duplicates import SHINGLE, Like, Signature, Signatures, near_duplicates, sign
from embedsvc.errors import StorageFailure
from tests.test_storage import small_disk

__all__ = ["small_disk"]

WORDS = [f"w{n:x}ord" for n in range(5_000)]


def prose(seed: int, words: int = 200) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def jaccard(one: str, other: str) -> float:
    a, b = ({text[at : at + SHINGLE] for at in range(len(text) - SHINGLE + 1)} for text in (one, other))
    return len(a & b) / len(a | b)


def signed(text: str) -> Signature:
    signature = sign(text)
    assert signature is not None
    return signature


def test_near_duplicates_are_grouped_under_the_first() -> None:
    base = prose(1)
    changed = [*base[:100], "another", *base[101:]]
    texts = [
        (0, " ".join(prose(2))), (1, " ".join(base)), (2, " ".join(changed)), (3, "\n".join(base).upper()),
        (4, " ".join(base[:60])), (5, ""), (6, " \n"), (7, "短い文。"), (8, "短い文。"), (9, "短い話。"),
    ]  # fmt: skip
    assert near_duplicates(texts) == [(1, 2, 3), (7, 8)]
    assert near_duplicates(iter(texts)) == near_duplicates(texts)


def test_a_chain_of_small_changes_joins_no_strangers() -> None:
    words = prose(3)
    texts = []
    for step in range(11):
        texts.append((step, " ".join(words)))
        words = [*words[: step * 18], *prose(100 + step, 18), *words[(step + 1) * 18 :]]
    assert jaccard(texts[0][1], texts[10][1]) < 0.2
    assert not any({0, 10} <= set(group) for group in near_duplicates(texts, 0.7))


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_the_threshold_is_that_of_the_jaccard_index(threshold: float) -> None:
    for seed in range(60):
        base = prose(seed)
        changed = [
            word if random.Random(f"{seed} {at}").random() > seed / 150 else "else" for at, word in enumerate(base)
        ]
        one, other = " ".join(base), " ".join(changed)
        found = bool(near_duplicates([(1, one), (2, other)], threshold))
        similarity = jaccard(one, other)
        assert not (found and similarity < threshold - 0.15)
        assert found or similarity < min(1.0, threshold + 0.15)


def test_of_many_documents_each_finds_its_own() -> None:
    texts = [(n, " ".join(prose(n // 2))) for n in range(2_000)]
    assert near_duplicates(texts) == [(n, n + 1) for n in range(0, 2_000, 2)]


def test_signatures_do_not_change_from_version_to_version() -> None:
    """Those that are kept would be compared with others: a change needs another version of the file."""
    assert signed("The same text gives the same numbers, on any machine.").places[:4].tolist() == PINNED
    assert signed("短い").places[:4].tolist() == PINNED_SHORT


PINNED = [45, 99, 176, 163]
PINNED_SHORT = [119, 85, 47, 93]


def test_kept_signatures_tell_the_first_of_those_that_are_most_like(tmp_path: Path) -> None:
    base = prose(5)
    file = tmp_path / "signatures"
    kept = Signatures(file)
    kept.add("far", "u:far", "h1", signed(" ".join(prose(6))))
    kept.add("near", "u:near", "h1", signed(" ".join([*base[:100], "another", *base[101:]])))
    kept.add("same", "u:same", "h1", signed(" ".join(base)))
    kept.add("too", "u:too", "h1", signed(" ".join(base)))
    kept.close()
    kept = Signatures(file)
    assert kept.like(signed(" ".join(base) + " \n")) == Like("same", "u:same", 1.0)
    shouted = kept.like(signed(" ".join(base).upper()))
    assert shouted is not None
    assert (shouted.id, shouted.similarity) == ("same", 0.99), "not to the letter"
    kept.forget(["same", "too", "never there"])
    found = kept.like(signed(" ".join(base)))
    assert found is not None
    assert found.id == "near"
    assert 0.85 < found.similarity < 1
    assert kept.keep_only({"near": "h2", "far": "h1", "new": "h1"}) == ["near", "new"]
    assert kept.like(signed(" ".join(base))) is None
    kept.close()


def test_of_many_that_are_alike_the_first_stand_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    agreement = duplicates.agreement
    monkeypatch.setattr(
        duplicates, "agreement", lambda own, table: compared.append(len(table)) or agreement(own, table)
    )
    base = " ".join(prose(7, 40))
    texts = {f"d{at}": f"{base} number {at}" for at in range(1_000)}
    kept, found = Signatures(None), {}
    for id, text in texts.items():
        found[id] = kept.like(signed(text))
        kept.add(id, f"u:{id}", "h", signed(text))
    assert found.pop("d0") is None
    assert all(like is not None and jaccard(texts[id], texts[like.id]) > 0.7 for id, like in found.items())
    assert sum(compared) < 10 * len(texts), "not one with the hundreds before it"
    kept.forget(list(found))
    last = kept.like(signed(texts["d999"]))
    assert last is not None
    assert last.id == "d0"
    kept.add("d1", "u:d1", "h", signed(texts["d1"]))
    kept.forget(["d0"])
    after = kept.like(signed(texts["d2"]))
    assert after is not None
    assert after.id == "d1", "where the first goes, the next stands for the others"
    kept.close()


def test_what_is_like_a_later_one_only_is_found() -> None:
    """The first with a band in common may be too far away."""
    words = prose(8)
    kept, found = Signatures(None), []
    for step in range(10):
        text = " ".join(words)
        found.append(kept.like(signed(text)))
        kept.add(f"d{step}", "u", "h", signed(text))
        words = [*words[: step * 14], *prose(200 + step, 14), *words[(step + 1) * 14 :]]
    assert found[0] is None
    assert all(found[1:]), "each is like the one before it"
    assert "d0" not in {like.id for like in found[5:] if like}
    kept.close()


def test_a_damaged_file_of_signatures_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "signatures"
    file.write_bytes(b"no database at all" * 100)
    kept = Signatures(file)
    assert "made again" in caplog.text
    assert kept.keep_only({"a": "h"}) == ["a"]
    kept.close()
    with sqlite3.connect(file) as data:
        data.execute("PRAGMA user_version = 99")
    data.close()
    kept = Signatures(file)
    assert "version 99" in caplog.text
    kept.close()


def test_signatures_are_kept_while_more_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedsvc.duplicates._KEPT_EVERY", 3)
    kept = Signatures(tmp_path / "signatures")
    for at in range(4):
        kept.add(f"d{at}", "u", "h", signed(f"text {at}"))
    with sqlite3.connect(tmp_path / "signatures") as data:  # what is there should the process be killed now
        assert data.execute("SELECT id FROM documents").fetchall() == [("d0",), ("d1",), ("d2",)]
    data.close()
    kept.close()


def test_the_journal_of_a_damaged_file_goes_with_it(tmp_path: Path) -> None:
    file, journal = tmp_path / "signatures", tmp_path / "signatures-journal"
    file.write_bytes(b"no database at all" * 100)
    journal.write_bytes(b"of what was there before")
    Signatures(file).close()
    assert not journal.exists()


def test_signatures_that_cannot_be_kept_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match="may be removed"):
        Signatures(tmp_path / "no such folder" / "signatures")


def test_a_full_disk_is_told_as_that(small_disk: Path) -> None:
    with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"x" * 4096)
    with pytest.raises(StorageFailure, match=f"disk that holds {small_disk}/signatures is full"):
        Signatures(small_disk / "signatures")


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1])
def test_a_threshold_that_makes_no_sense_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates([], threshold)


@given(st.text(st.sampled_from("ab \n\tßİ日\ud800 C"), max_size=60), st.integers(1, 20))
def test_a_long_text_is_signed_in_pieces_as_if_it_were_one(text: str, size: int) -> None:
    whole = sign(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK", size)
        in_pieces = sign(text)
    assert (whole is None) == (in_pieces is None) == (not text.strip())
    if whole is not None and in_pieces is not None:
        assert whole.digest == in_pieces.digest
        assert whole.places.tolist() == in_pieces.places.tolist()


def test_what_a_text_repeats_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills no more places, however often it comes: 256 rounds over 5 MB of a log were some seconds."""
    thrown = []
    monkeypatch.setattr(duplicates, "_throw", lambda into, features, seed: thrown.append(len(features)))
    assert sign("0,0,0\n" * 100_000) is not None
    assert sum(thrown) < 2 * 600_000
