"""Documents and tokens per second: sentence-transformers against our encoder in int8 and fp32, interleaved in one run.

python benchmarks/encode.py [--data FOLDER] [--documents 1000] [--rounds 3] [--batch-tokens 1024] [--json]

Every contestant encodes the same texts, from text to vector, cut at 256 tokens;
sentence-transformers with its defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from embedsvc.config import load_settings
from embedsvc.encoding import Encoder, load_encoder, resolve_model

WINDOW = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/scifact"), help="a BEIR folder")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, help="the encoder's token budget (default: the setting's)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    corpus = arguments.data / "corpus.jsonl"
    if not corpus.is_file():
        print(f"skipped: no {corpus}; name a BEIR folder with --data")
        return
    texts = read_texts(corpus, arguments.documents)

    from sentence_transformers import SentenceTransformer

    settings = load_settings({"batch_tokens": arguments.batch_tokens, "runtime": "onnx"})
    model = resolve_model(settings.model, settings.cache)
    reference = SentenceTransformer(str(model.folder), device="cpu", local_files_only=True)
    reference.max_seq_length = WINDOW
    encoders = {
        dtype: load_encoder(load_settings({"batch_tokens": arguments.batch_tokens, "runtime": "onnx", "dtype": dtype}))
        for dtype in ("int8", "fp32")
    }
    contestants: dict[str, Callable[[list[str]], object]] = {
        "sentence-transformers": lambda texts: reference.encode(texts, show_progress_bar=False),
        **{f"embedsvc {dtype}": encode_with(encoder) for dtype, encoder in encoders.items()},
    }
    for encode in contestants.values():
        encode(texts[:32])
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, encode in contestants.items():
            start = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - start)
    tokens = sum(len(cut(ids, encoders["int8"])) + 2 for ids in encoders["int8"].tokens.of_texts(texts))
    report(arguments.json, len(texts), tokens, seconds)


def read_texts(corpus: Path, count: int) -> list[str]:
    with corpus.open(encoding="utf-8") as lines:
        documents = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    return [f"{document['title']} {document['text']}" for document in documents]


def cut(ids: npt.NDArray[np.int32], encoder: Encoder) -> npt.NDArray[np.int32]:
    return ids[: WINDOW - encoder.reserved("passage")]


def encode_with(encoder: Encoder) -> Callable[[list[str]], object]:
    return lambda texts: encoder.encode([cut(ids, encoder) for ids in encoder.tokens.of_texts(texts)], kind="passage")


def report(as_json: bool, documents: int, tokens: int, seconds: dict[str, list[float]]) -> None:
    base = seconds["sentence-transformers"]
    rows = [
        {
            "encoder": name,
            "documents_per_s": round(documents / statistics.median(times), 1),
            "tokens_per_s": round(tokens / statistics.median(times)),
            "ratio": round(statistics.median(b / t for b, t in zip(base, times, strict=True)), 2),
        }
        for name, times in seconds.items()
    ]
    if as_json:
        print(json.dumps({"documents": documents, "tokens": tokens, "rounds": len(base), "results": rows}))
        return
    print(
        f"{documents} documents, {tokens} tokens, {len(base)} rounds; ratio to sentence-transformers: median of rounds"
    )
    for row in rows:
        print("{encoder:<24}{documents_per_s:>8} documents/s {tokens_per_s:>8} tokens/s   x{ratio}".format(**row))


if __name__ == "__main__":
    main()
