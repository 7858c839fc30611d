"""The encoder alone, text to vector, against sentence-transformers fp32 in the same run; a query; the machine's limit.

    python benchmarks/encode.py [--data FOLDER] [--documents 1000] [--rounds 3] [--json FILE]

Three workloads: documents cut at 256 tokens, full windows of 512, and a mix of 8 to 512; each contestant encodes the
same texts. What the machine can do is measured too: fp32 products of the model's own shapes, one thread per core.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from common import Figure, arguments, at_least, at_most, documents, interleaved, queries, ratio, report

from embedsvc.config import load_settings, usable_cores
from embedsvc.encoding import Encoder, load_encoder, resolve_model
from embedsvc.encoding.tokens import Ids

LEAST = {
    ("256", "int8"): 2.1,
    ("512", "int8"): 1.9,
    ("mix", "int8"): 2.2,
    ("256", "fp32"): 1.35,
}
WIDTH, LAYERS = 384, 6
"""Of all-MiniLM-L6-v2."""


def main() -> None:
    given = arguments(__doc__, documents=1000, rounds=3)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    from sentence_transformers import SentenceTransformer

    settings = load_settings({"runtime": "onnx"})
    model = resolve_model(settings.model, settings.cache)
    reference = SentenceTransformer(str(model.folder), device="cpu", local_files_only=True)
    reference.max_seq_length = 512
    encoders = {dtype: load_encoder(load_settings({"runtime": "onnx", "dtype": dtype})) for dtype in ("int8", "fp32")}
    figures: list[Figure] = []
    speeds: dict[str, float] = {}
    for name, texts in workloads(given.data, given.documents, encoders["int8"]).items():
        contestants: dict[str, Callable[[], object]] = {
            "sentence-transformers": lambda texts=texts: reference.encode(texts, show_progress_bar=False)
        }
        for dtype, encoder in encoders.items():
            contestants[dtype] = lambda texts=texts, encoder=encoder: encoder.encode_texts(texts, kind="passage")
        seconds = interleaved(contestants, given.rounds)
        tokens = sum(len(ids) + 2 for ids in encoders["int8"].tokens.of_texts(texts))
        for contestant, times in seconds.items():
            what = f"{name} tokens, {contestant}"
            speed = tokens / statistics.median(times)
            figures.append(Figure(f"{what}: {len(texts)} texts", speed, "tokens/s"))
            if contestant == "sentence-transformers":
                continue
            if name == "256":
                speeds[contestant] = speed
            over = ratio(seconds["sentence-transformers"], times)
            least = LEAST.get((name, contestant))
            what = f"{what} over sentence-transformers"
            figures.append(Figure(what, over, "x") if least is None else at_least(what, over, least, "x"))
    rate = product_rate()
    figures.append(Figure("fp32 products alone, the model's shapes", rate / 1e9, "GFLOP/s"))
    # Per token: the layers' weights, and each token's products with the 256 of its text, scores and values.
    per_token = LAYERS * (2 * 12 * WIDTH * WIDTH + 2 * 2 * 256 * WIDTH)
    for dtype, least in (("fp32", 0.9), ("int8", None)):
        share = speeds[dtype] * per_token / rate
        what = f"{dtype} encoder over that rate, 256 tokens"
        figures.append(Figure(what, share, "x") if least is None else at_least(what, share, least, "x"))
    figures += one_query(encoders["int8"], queries(given.data))
    report(figures, given.json, documents=given.documents, rounds=given.rounds)


def workloads(data: Path, count: int, encoder: Encoder) -> dict[str, list[str]]:
    """Texts of at most 256 tokens, of 512 exactly or nearly, and of 8 to 512; special tokens counted."""
    found = [document.text for document in documents(data, count)]
    token_ids = encoder.tokens.of_texts(found)
    every: Ids = np.concatenate(token_ids)
    chance = np.random.default_rng(0)

    def text(ids: Ids) -> str:
        return str(encoder.tokenizer.decode(ids.tolist()))

    starts = chance.integers(0, len(every) - 512, count // 2)
    return {
        "256": [text(ids[:254]) for ids in token_ids],
        "512": fitted([text(every[start : start + 510]) for start in starts[: count // 4]], encoder),
        "mix": fitted([text(every[start : start + chance.integers(6, 511)]) for start in starts], encoder),
    }


def fitted(texts: list[str], encoder: Encoder) -> list[str]:
    """Without what is longer than the window: a text that was decoded may have more tokens than it was made of."""
    return [text for text, ids in zip(texts, encoder.tokens.of_texts(texts), strict=True) if len(ids) <= 510]


def product_rate() -> float:
    """Floating-point operations per second of fp32 products on all cores: 256 tokens by the weights of a layer."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(0)
    shapes = [(WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]
    weights = [
        numpy_helper.from_array(chance.standard_normal(s, np.float32) / 30, f"w{at}") for at, s in enumerate(shapes)
    ]
    nodes = [helper.make_node("MatMul", [f"x{at}", f"w{at}"], [f"x{at + 1}"]) for at in range(len(shapes))]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [256, WIDTH]) for name in ("x0", f"x{len(shapes)}")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {"x0": chance.standard_normal((256, WIDTH), np.float32)}
    cores, times = usable_cores(), 100

    def work(_: int) -> None:
        for _ in range(times):
            session.run(None, given)

    best = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(4):
            started = time.perf_counter()
            list(pool.map(work, range(cores)))
            flops = cores * times * sum(2 * 256 * a * b for a, b in shapes)
            best = max(best, flops / (time.perf_counter() - started))
    return best


def one_query(encoder: Encoder, texts: list[str]) -> list[Figure]:
    """Text to vector, one after the other, of queries cut at 16 tokens."""
    short = [str(encoder.tokenizer.decode(ids[:14].tolist())) for ids in encoder.tokens.of_texts(texts)]
    times = []
    for text in [*short[:20], *short]:
        started = time.perf_counter()
        encoder.encode_texts([text], kind="passage")  # a query's vector would be kept
        times.append((time.perf_counter() - started) * 1000)
    return [at_most("one query of 16 tokens, text to vector: p50", statistics.median(times[20:]), 2.5, "ms")]


if __name__ == "__main__":
    main()
