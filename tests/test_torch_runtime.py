"""The torch runtime: what a GPU needs of it, as far as a CPU can show it; and on a GPU where there is one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedsvc.config import Settings
from embedsvc.encoding import load_encoder, parity
from embedsvc.encoding.models import read_model
from embedsvc.encoding.torch_runtime import TorchRuntime, tokens_within
from embedsvc.errors import ModelError
from tests.tiny_models import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("torch") / "m", "bert")


def runtime(folder: Path, dtype: str = "fp32") -> TorchRuntime:
    return TorchRuntime(read_model(folder, folder.parent / "hashes"), dtype, "cpu")


def batch(*lengths: int) -> tuple[np.ndarray, np.ndarray]:
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return np.random.default_rng(0).integers(4, 50, mask.shape) * mask, mask


class Card:
    """Stands in for a model on a card whose memory holds so many padded tokens."""

    def __init__(self, of: TorchRuntime, holds: int) -> None:
        self.model, self.holds, self.sizes = of._model, holds, []  # type: ignore[var-annotated]

    def __call__(self, features: dict[str, Any]) -> Any:
        size = features["input_ids"].numel()
        self.sizes.append(size)
        if size > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.model(features)


def test_out_of_memory_halves_the_batch_and_is_remembered(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = runtime(folder)
    ids, mask = batch(*range(1, 13))
    expected = found.run(ids, mask)
    card = Card(found, holds=50)  # 12 × 12 is too much, 6 × 12 too, 3 × 12 is not
    found._model = card  # type: ignore[assignment]
    assert np.abs(found.run(ids, mask) - expected).max() < 1e-6
    assert card.sizes == [144, 72, 36, 36, 36, 36]
    card.sizes.clear()
    assert np.abs(found.run(ids, mask) - expected).max() < 1e-6
    assert card.sizes == [36, 36, 36, 36]  # the second time nothing is tried in vain
    assert caplog.text.count("out of GPU memory") == 2


def test_a_text_that_does_not_fit_alone_is_an_error(folder: Path) -> None:
    found = runtime(folder)
    found._model = Card(found, holds=5)  # type: ignore[assignment]
    with pytest.raises(ModelError, match="a text of 9 tokens does not fit into the memory of the GPU"):
        found.run(*batch(9, 3))


def test_what_torch_cannot_do_is_a_model_error(folder: Path) -> None:
    ids = np.array([[10**6]])
    for work in (runtime(folder).run, runtime(folder).run_tokens):
        with pytest.raises(ModelError, match=r"torch failed on a batch of shape \(1, 1\): index out of range"):
            work(ids, np.ones_like(ids))


def test_batches_that_change_the_model_run_one_at_a_time(tmp_path: Path) -> None:
    found = runtime(make_model(tmp_path / "m", "big_bird"))
    short, long = batch(9), batch(800)
    expected = [found.run(*short), found.run(*long)]
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda each: found.run(*each), [short, long] * 4))
    assert all(np.abs(row - expected[at % 2]).max() < 1e-5 for at, row in enumerate(rows))


def test_sixteen_bits_stay_near(folder: Path) -> None:
    expected = runtime(folder).run(*batch(12, 3, 7))
    vectors = runtime(folder, "bf16").run(*batch(12, 3, 7))
    assert vectors.dtype == np.float32
    cosines = (vectors * expected).sum(axis=1)
    assert 0.99 < cosines.mean() < 1 - 1e-7


def test_a_batch_grows_with_the_memory() -> None:
    assert tokens_within(0, 384, 1536) == 1_024
    assert tokens_within(2 * 10_000 * (12 * 384 + 2 * 1536), 384, 1536) == 10_000
    assert tokens_within(10**12, 1024, 4096) == 65_536


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_parity_on_a_gpu(dtype: str) -> None:
    encoder = load_encoder(Settings(runtime="torch", dtype=dtype))  # type: ignore[arg-type]
    assert parity(encoder).ok
    assert encoder.batch_tokens > 256
