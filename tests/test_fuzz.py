"""A short form of ``make fuzz``, without atheris: the same targets on seeds with a few bytes changed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fuzz.targets import TARGETS, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_does_more_than_be_refused(target: str) -> None:
    chance = random.Random(target)
    for seed in seeds(target, Path("there is none")):
        for _ in range(40):
            data = bytearray(seed)
            for _ in range(chance.randint(0, 4)):
                at = chance.randrange(len(data) + 1)
                data[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
            TARGETS[target](bytes(data))
