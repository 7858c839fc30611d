"""The encoder alone, text to vector, against sentence-transformers fp32 in the same run; a query; the machine's limit.

    python benchmarks/encode.py [--data FOLDER] [--documents 1000] [--rounds 3] [--json FILE]

Three workloads: documents cut at 256 tokens, full windows of 512, and a mix of 8 to 512; each contestant encodes the
same texts. What the machine can do is measured in the same rounds: fp32 products of the model's own shapes, one thread
per core.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from common import arguments, documents, queries
from figures import Figure, at_least, at_most, interleaved, ratio, report

from embedsvc.config import load_settings, usable_cores
from embedsvc.encoding import Encoder, load_encoder, resolve_model
from embedsvc.encoding.tokens import Ids

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

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
    products, flops = product_run()
    for name, texts in workloads(given.data, given.documents, encoders["int8"]).items():
        contestants: dict[str, Callable[[], object]] = {
            "sentence-transformers": lambda texts=texts: reference.encode(texts, show_progress_bar=False)
        }
        for dtype, encoder in encoders.items():
            contestants[dtype] = lambda texts=texts, encoder=encoder: encoder.encode_texts(texts, kind="passage")
        contestants["products"] = products
        seconds = interleaved(contestants, given.rounds)
        tokens = sum(len(ids) + 2 for ids in encoders["int8"].tokens.of_texts(texts))
        rates = [flops / each for each in seconds.pop("products")]
        for contestant, times in seconds.items():
            what = f"{name} tokens, {contestant}"
            speed = tokens / statistics.median(times)
            figures.append(Figure(f"{what}: {len(texts)} texts", speed, "tokens/s"))
            if contestant == "sentence-transformers":
                continue
            over = ratio(seconds["sentence-transformers"], times)
            least = LEAST.get((name, contestant))
            what = f"{what} over sentence-transformers"
            figures.append(Figure(what, over, "x") if least is None else at_least(what, over, least, "x"))
        if name == "256":
            figures.append(Figure("fp32 products alone, the model's shapes", statistics.median(rates) / 1e9, "GFLOP/s"))
            # Per token: the layers' weights, and each token's products with those of its text, scores and values.
            lengths = [len(ids) + 2 for ids in encoders["int8"].tokens.of_texts(texts)]
            work = sum(LAYERS * n * (2 * 12 * WIDTH * WIDTH + 2 * 2 * n * WIDTH) for n in lengths)
            for dtype, least in (("fp32", 0.9), ("int8", None)):
                share = ratio([work / each for each in seconds[dtype]], rates)
                what = f"{dtype} encoder over that rate, 256 tokens"
                figures.append(Figure(what, share, "x") if least is None else at_least(what, share, least, "x"))
    figures += one_query(encoders["int8"], reference, queries(given.data))
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


def product_run() -> tuple[Callable[[], object], int]:
    """Something that does fp32 products on all cores for about 3 s, and how many floating-point operations that is: 256
    tokens by the weights of a layer."""
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
    cores, times = usable_cores(), 300
    pool = ThreadPoolExecutor(cores)

    def work(_: int) -> None:
        for _ in range(times):
            session.run(None, given)

    return lambda: list(pool.map(work, range(cores))), cores * times * sum(2 * 256 * a * b for a, b in shapes)


def one_query(encoder: Encoder, reference: SentenceTransformer, texts: list[str]) -> list[Figure]:
    """Text to vector, one after the other, of queries cut at 16 tokens; the contestants take turns in blocks of 50."""
    short = [str(encoder.tokenizer.decode(ids[:14].tolist())) for ids in encoder.tokens.of_texts(texts)]
    contestants: dict[str, Callable[[str], object]] = {
        "sentence-transformers": lambda text: reference.encode([text], show_progress_bar=False),
        "int8": lambda text: encoder.encode_texts([text], kind="passage"),  # a query's vector would be kept
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for start in range(0, len(short), 50):
        for name, encode in contestants.items():
            for text in [*short[:5], *short[start : start + 50]]:
                started = time.perf_counter()
                encode(text)
                times[name].append((time.perf_counter() - started) * 1000)
    p50 = {name: statistics.median(each) for name, each in times.items()}
    what = "one query of 16 tokens, text to vector: p50"
    return [
        Figure(f"{what}, sentence-transformers", p50["sentence-transformers"], "ms"),
        at_most(what, p50["int8"], 2.5, "ms"),
    ]


if __name__ == "__main__":
    main()
