"""SciFact: nDCG@10 of whole documents at 256 tokens, in fp32 and int8, dense, lexical and hybrid.

    python benchmarks/quality.py [--data FOLDER] [--json FILE]

Goes through ``embedsvc.evaluate``, as ``embedsvc eval FOLDER --mode dense`` does. Published for dense: .64508.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import Figure, arguments, at_least, report

from embedsvc.config import load_settings
from embedsvc.evaluate import Evaluation, evaluate
from embedsvc.search.pipeline import Mode

RUNS: dict[str, list[Mode]] = {"fp32": ["dense", "hybrid"], "int8": ["dense", "hybrid", "lexical"]}


def main() -> None:
    given = arguments(__doc__)
    figures: list[Figure] = []
    runs: list[Evaluation] = []
    for dtype, modes in RUNS.items():
        for found in evaluate(given.data, load_settings({"runtime": "onnx", "dtype": dtype}), modes=modes):
            figures.append(figure(dtype, found))
            runs.append(found)
    report(figures, given.json, evaluations=[found.to_dict() for found in runs])


def figure(dtype: str, found: Evaluation) -> Figure:
    value = found.measures["ndcg@10"]
    name = f"{found.dataset} nDCG@10, {found.mode}" + ("" if found.mode == "lexical" else f", {dtype}")
    if (found.mode, dtype) == ("dense", "fp32"):
        return Figure(name, value, "", ".643 to .647", 0.643 <= value <= 0.647)
    if dtype == "int8" and found.mode != "lexical":
        return at_least(name, value, 0.640 if found.mode == "dense" else 0.730)
    return Figure(name, value, "")


if __name__ == "__main__":
    main()
