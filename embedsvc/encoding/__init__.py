"""Encoding: a model resolved, exported and run; the contract its vectors are made under.

The names below are loaded when first used: numpy, tokenizers and onnxruntime cost more than `embedsvc --help` may take.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedsvc.encoding.contract import Parity, check_contract, check_model, encoder_for, parity
    from embedsvc.encoding.encoder import EncodedTexts, Encoder
    from embedsvc.encoding.loading import load_encoder
    from embedsvc.encoding.models import Model, resolve_model

# onnxruntime sends telemetry otherwise, and warns on the terminal where it cannot keep an id for it. It reads this when
# it is imported, which only modules of this package do; its own function for it comes too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "EncodedTexts",
    "Encoder",
    "Model",
    "Parity",
    "check_contract",
    "check_model",
    "encoder_for",
    "load_encoder",
    "parity",
    "resolve_model",
]

_MODULES = {
    "EncodedTexts": "encoder",
    "Encoder": "encoder",
    "Model": "models",
    "Parity": "contract",
    "check_contract": "contract",
    "check_model": "contract",
    "encoder_for": "contract",
    "load_encoder": "loading",
    "parity": "contract",
    "resolve_model": "models",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
