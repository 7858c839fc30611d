"""What came of the inputs of a run so far: the counts that the command line, jobs and watching tell."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
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


class Extent:
    """How much of the inputs of a run is ``done``, of ``all``, by their ``sizes`` (uri → whatever they are measured
    in). Of inputs that are not known nothing counts."""

    def __init__(self, sizes: Mapping[str, float]) -> None:
        self._sizes = sizes
        self._shares: dict[str, float] = {}
        self.all = sum(sizes.values())
        self.done = 0.0

    def take_in(self, shares: Mapping[str, float]) -> None:
        """What :data:`~embedsvc.ingest.Progress` tells."""
        for uri, share in shares.items():
            if (more := share - self._shares.get(uri, 0.0)) > 0:
                self._shares[uri] = share
                self.done += more * self._sizes.get(uri, 0.0)
