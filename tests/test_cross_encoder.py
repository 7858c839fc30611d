"""Cross-encoders on both runtimes, against sentence-transformers; on tiny models with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedsvc.config import Settings
from embedsvc.encoding import load_encoder
from embedsvc.encoding.cross_encoder import CrossEncoder, load_cross_encoder, probabilities
from embedsvc.encoding.models import resolve_model
from embedsvc.errors import ModelError, QueryTooLong, UsageError
from tests.tiny_models import make_bert, make_cross_encoder

pytestmark = pytest.mark.usefixtures("exports_in_process")

PAIRS = [
    ("why", "restart the service"),
    ("how do i restart the service?", "vitamin d"),
    ("", "power failure: a"),
    ("restart", "the service failure, (42) restart a power service"),
]
LONG = "restart the power service. " * 10


def load(folder: Path, **settings: Any) -> CrossEncoder:
    return load_cross_encoder(Settings(model=str(folder), cache_dir=folder.parent / "cache", threads=2, **settings))


def reference(folder: Path, **options: Any) -> np.ndarray:
    from sentence_transformers import CrossEncoder as Reference
    from torch.nn import Identity

    model = Reference(str(folder), device="cpu", local_files_only=True, max_length=40, **options)
    return np.asarray(model.predict(PAIRS, activation_fn=Identity(), show_progress_bar=False)).reshape(len(PAIRS), -1)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "deberta-v2", "modernbert", "mpnet"])
@pytest.mark.parametrize("labels", [1, 3])
def test_logits_equal_sentence_transformers(tmp_path: Path, family: str, labels: int) -> None:
    folder = make_cross_encoder(tmp_path / "m", family, labels=labels)
    expected = reference(folder)
    assert np.ptp(expected) > 0.01
    for runtime in ("onnx", "torch"):
        encoder = load(folder, runtime=runtime)
        assert encoder.runtime_name == runtime
        assert len(encoder.labels) == labels
        assert np.abs(encoder.logits(PAIRS) - expected).max() < 1e-4


def test_the_two_texts_are_told_apart(tmp_path: Path) -> None:
    encoder = load(make_cross_encoder(tmp_path / "m", "bert"))
    a, b = encoder.logits([("why restart", "power"), ("why", "restart power")])
    assert abs(a - b) > 1e-3


def test_overflow(tmp_path: Path) -> None:
    encoder = load(make_cross_encoder(tmp_path / "m", "bert"))
    with pytest.raises(
        QueryTooLong, match=r"Pair 1 has 54 tokens, 50 of them the last text's; .* takes 40.* on_overflow=truncate"
    ):
        encoder.logits([PAIRS[0], ("why", LONG)])
    cut = encoder.prepare([PAIRS[0], ("why", LONG)], on_overflow="truncate")
    assert (cut.token_counts, cut.cut_tokens) == ((7, 40), (0, 14))
    shorter = "restart the power service. " * 7 + "restart"
    assert np.allclose(
        encoder.logits([("why", LONG)], on_overflow="truncate"), encoder.logits([("why", shorter)]), atol=1e-5
    )
    with pytest.raises(QueryTooLong, match=r"Shorten it\.$"):
        encoder.logits([(LONG, "why")], on_overflow="truncate")
    with pytest.raises(UsageError, match="cannot be split"):
        encoder.logits([("why", LONG)], on_overflow="split")
    with pytest.raises(UsageError, match="Pair 0 is not made of strings"):
        encoder.logits([("a", 3)])  # type: ignore[list-item]


def test_a_model_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a cross-encoder: it scores pairs"):
        load_encoder(Settings(model=str(make_cross_encoder(tmp_path / "c", "bert")), cache_dir=tmp_path / "cache"))
    with pytest.raises(ModelError, match="name a cross-encoder"):
        load(make_bert(tmp_path / "b"))


def test_as_sentence_transformers_saves_it(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder as Reference

    folder = make_cross_encoder(tmp_path / "m", "bert")
    Reference(str(folder), device="cpu", local_files_only=True).save_pretrained(str(tmp_path / "saved"))
    saved = load(tmp_path / "saved", runtime="torch").logits(PAIRS)
    assert np.abs(saved - load(folder, runtime="torch").logits(PAIRS)).max() < 1e-5


def test_labels_without_names(tmp_path: Path) -> None:
    folder = make_cross_encoder(tmp_path / "m", "bert", labels=3)
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_labels": 3, "id2label": None}
    (folder / "config.json").write_text(json.dumps(config))
    assert resolve_model(str(folder), tmp_path / "cache").labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_probabilities() -> None:
    assert probabilities(np.array([[0.0], [2.0]], np.float32)).ravel() == pytest.approx([0.5, 1 / (1 + np.exp(-2))])
    assert probabilities(np.array([[0.0, np.log(3)]], np.float32)).ravel() == pytest.approx([0.25, 0.75])
