"""What came of the inputs of a run so far: the counts that the command line, jobs and watching tell."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from embedsvc.outcomes import Outcome


@dataclass
class Tally:
    """``counts``: outcomes by status. ``alike``: those that are like another document. The rest: sums over all that
    were not unchanged."""

    counts: Counter[str] = field(default_factory=Counter)
    alike: int = 0
    passages: int = 0
    tokens: int = 0
    encoded_tokens: int = 0
    started: float = field(default_factory=time.monotonic)

    def take_in(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        self.alike += outcome.like is not None
        if outcome.status != "unchanged":
            self.passages += outcome.passages
        self.tokens += outcome.tokens
        self.encoded_tokens += outcome.encoded_tokens

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started


def settled(left: dict[str, float], outcome: Outcome) -> float:
    """What the input of ``outcome`` counts for by ``left`` (its uri → its bytes), from which it is taken out: 0 where
    it has had an outcome before."""
    return left.pop(outcome.uri if outcome.uri in left else outcome.source, 0.0)
