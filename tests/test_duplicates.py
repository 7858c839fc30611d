"""Duplicates: what is the same or nearly is found, what is not is left alone, and the order of finding is fixed."""

from __future__ import annotations

import random
import time

import pytest

from embedsvc.duplicates import SHINGLE, _signature, exact_duplicates, near_duplicates

WORDS = [f"w{n:x}ord" for n in range(5_000)]


def prose(seed: int, words: int = 200) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def jaccard(one: str, other: str) -> float:
    a, b = ({text[at : at + SHINGLE] for at in range(len(text) - SHINGLE + 1)} for text in (one, other))
    return len(a & b) / len(a | b)


def test_exact_duplicates_are_the_same_to_the_letter() -> None:
    texts = [("a", "x"), ("b", "y"), ("c", "x"), ("d", "x "), ("e", " "), ("f", " "), ("g", "y"), ("h", "\ud800")]
    assert exact_duplicates(texts) == [("a", "c"), ("b", "g")]


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


def test_ten_thousand_documents_take_seconds() -> None:
    texts = [(n, " ".join(prose(n // 2))) for n in range(10_000)]
    started = time.process_time()
    groups = near_duplicates(texts)
    assert time.process_time() - started < 30
    assert groups == [(n, n + 1) for n in range(0, 10_000, 2)]


def test_signatures_do_not_change_from_version_to_version() -> None:
    signature = _signature("The same text gives the same numbers, on any machine.")
    assert signature is not None
    assert signature[:2].tolist() == PINNED


PINNED = [104008074, 19124564]


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1])
def test_a_threshold_that_makes_no_sense_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates([], threshold)
