"""SciFact: nDCG@10 of whole documents at 256 tokens, in fp32 and int8, dense, lexical and hybrid. STS-b: Spearman.

    python benchmarks/quality.py [--data FOLDER] [--sts FILE] [--json FILE]

``--sts``: a CSV file of two sentences and how alike they are (default ../shared/data/sts/stsb-en-test.csv). SciFact
goes through ``embedsvc.evaluate``, as ``embedsvc eval FOLDER --mode dense`` does. Published for dense: .64508.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import arguments
from figures import Figure, at_least, report

from embedsvc.config import load_settings
from embedsvc.encoding import load_encoder
from embedsvc.evaluate import Evaluation, evaluate
from embedsvc.search import Mode

STS = "../shared/data/sts/stsb-en-test.csv"
RUNS: dict[str, list[Mode]] = {"fp32": ["dense", "hybrid"], "int8": ["dense", "hybrid", "lexical"]}


def main() -> None:
    given = arguments(__doc__, texts=("sts",))
    figures: list[Figure] = []
    runs: list[Evaluation] = []
    for dtype, modes in RUNS.items():
        for found in evaluate(given.data, load_settings({"runtime": "onnx", "dtype": dtype}), modes=modes):
            figures.append(figure(dtype, found))
            runs.append(found)
    dense = {name: next(f.value for f in figures if f.name.endswith(f"dense, {name}")) for name in RUNS}
    figures.append(at_least("nDCG@10, dense: int8 over fp32", dense["int8"] / dense["fp32"], 0.99))
    sentences = Path(given.sts or STS)
    if sentences.is_file():
        figures += [at_least(f"STS-b Spearman, {dtype}", spearman(sentences, dtype), 0.815) for dtype in RUNS]
    report(figures, given.json, evaluations=[found.to_dict() for found in runs])


def spearman(file: Path, dtype: str) -> float:
    """The rank correlation of cosines with what people said."""
    from scipy.stats import spearmanr

    with file.open(encoding="utf-8", newline="") as lines:
        first, second, scores = zip(*csv.reader(lines), strict=True)
    encoder = load_encoder(load_settings({"runtime": "onnx", "dtype": dtype}))
    left, right = (encoder.encode_texts(texts, kind="passage").vectors for texts in (first, second))
    return float(spearmanr((left * right).sum(axis=1), [float(score) for score in scores]).statistic)


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
