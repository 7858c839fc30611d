"""Tiny models with random weights, saved to a folder as sentence-transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

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
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789:?.,()")
    pieces = dict.fromkeys([*WORDS, *letters, *(f"##{letter}" for letter in letters)])
    vocabulary = {piece: index for index, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
    )
    torch.manual_seed(seed)
    BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    write(
        folder / "modules.json",
        [
            {"idx": at, "name": str(at), "path": paths[at], "type": f"sentence_transformers.models.{kind}"}
            for at, kind in enumerate(modules)
        ],
    )
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, f"pooling_mode_{name(pooling)}": True})
    write(folder / "config_sentence_transformers.json", {"prompts": prompts or {}})
    return folder


def name(pooling: str) -> str:
    return {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}[pooling]


def write(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")
