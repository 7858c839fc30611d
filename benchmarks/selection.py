"""What it costs to select hits: hybrid queries of SciFact with each stage of a selection, over those without.

    python benchmarks/selection.py [--data FOLDER] [--collections FOLDER] [--json FILE]

Every query is asked plainly (``duplicates: keep``) and with each option in turn, with one word more for each, so that
no vector is known from before. Told: the median, and the median of the differences from plain.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments, open_or_make, queries
from figures import Figure, interleaved, report

from embedsvc.config import load_settings
from embedsvc.encoding import load_encoder
from embedsvc.search import Preference, Query, Selection, search

PLAIN = "keep"
SELECTIONS = {
    PLAIN: Selection(duplicates="keep"),
    "exact duplicates (default)": Selection(),
    "near duplicates": Selection(duplicates="near"),
    "diversity .3": Selection(duplicates="keep", diversity=0.3),
    "group by document": Selection(duplicates="keep", group_by="document"),
    "boost by filter": Selection(duplicates="keep", boosts=(Preference("length(title) < 80", 1.5),)),
}


def main() -> None:
    given = arguments(__doc__, collections=True)
    encoder = load_encoder(load_settings({"runtime": "onnx"}))
    with tempfile.TemporaryDirectory() as scratch:
        snapshot = open_or_make(given.collections or Path(scratch), given.data, 10_000).snapshot()
        times: dict[str, list[float]] = {name: [] for name in SELECTIONS}
        for text in queries(given.data):
            contestants: dict[str, Callable[[], object]] = {
                name: functools.partial(search, snapshot, encoder, Query(f"{text} {name}", selection=wanted))
                for name, wanted in SELECTIONS.items()
            }
            for name, seconds in interleaved(contestants, 1).items():
                times[name] += seconds
    figures = []
    for name, seconds in times.items():
        figures.append(Figure(f"a query, {name}: p50", 1000 * statistics.median(seconds), "ms"))
        if name != PLAIN:
            more = [one - plain for one, plain in zip(seconds, times[PLAIN], strict=True)]
            figures.append(Figure(f"a query, {name}: more than plain", 1000 * statistics.median(more), "ms"))
    report(figures, given.json)


if __name__ == "__main__":
    main()
