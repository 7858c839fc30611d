"""The torch runtime on a GPU: tokens per second, share of the card's measured product rate, and sentence-transformers.

    python benchmarks/gpu.py [--tokens 2000000] [--rounds 3] [--json FILE]

Windows of 256 random tokens; sentence-transformers in fp16 with the best of several batch sizes. Prints a line and ends
where there is no CUDA device.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from figures import Figure, at_least, interleaved, ratio, report

from embedsvc.config import load_settings
from embedsvc.encoding import load_encoder

WINDOW = 256


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: there is no CUDA device")
        return
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder(load_settings({"runtime": "torch", "dtype": "fp16"}))
    reference = SentenceTransformer(str(encoder.model.folder), device="cuda", local_files_only=True).half()
    reference.max_seq_length = WINDOW
    chance = np.random.default_rng(0)
    shape = (given.tokens // WINDOW, WINDOW - encoder.reserved("passage"))
    token_ids: list[Any] = list(chance.integers(2000, 30000, shape, dtype=np.int32))
    texts = encoder.tokenizer.decode_batch([ids.tolist() for ids in token_ids])
    best = min((128, 512, 2048), key=lambda size: timed(lambda: reference.encode(texts[:4096], batch_size=size)))
    seconds = interleaved(
        {
            "sentence-transformers": lambda: reference.encode(texts, batch_size=best),
            "embedsvc": lambda: encoder.encode_texts(texts, kind="passage", on_overflow="truncate"),
            "embedsvc, of tokens": lambda: encoder.encode(token_ids, kind="passage"),
        },
        given.rounds,
    )
    figures = [
        Figure(f"{name}, fp16", given.tokens / statistics.median(times), "tokens/s") for name, times in seconds.items()
    ]
    over = ratio(seconds["sentence-transformers"], seconds["embedsvc"])
    figures.append(at_least(f"over sentence-transformers, fp16, batches of {best}", over, 1.0, "x"))
    config: Any = reference[0].auto_model.config
    width, layers = config.hidden_size, config.num_hidden_layers
    per_token = layers * (2 * (4 * width * width + 2 * width * config.intermediate_size) + 4 * WINDOW * width)
    rate = product_rate()
    speed = given.tokens / statistics.median(seconds["embedsvc, of tokens"])
    figures.append(Figure("fp16 products of 8,192 × 8,192 alone", rate / 1e12, "TFLOP/s"))
    figures.append(Figure("share of it", 100 * speed * per_token / rate, "%"))
    report(figures, given.json, device=torch.cuda.get_device_name(), batch_tokens=encoder.batch_tokens)


def timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def product_rate() -> float:
    """Operations per second of fp16 products that are large enough to be bound by nothing else."""
    import torch

    size, times = 8192, 50
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in range(2))
    best = 0.0
    for _ in range(3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(times):
            left @ right
        torch.cuda.synchronize()
        best = max(best, times * 2 * size**3 / (time.perf_counter() - started))
    return best


if __name__ == "__main__":
    main()
