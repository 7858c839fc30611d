"""What speeds and verdicts depend on: this processor, and the versions of what computes."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from embedsvc.config import usable_cores

_TELLING = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""Instructions for products, most of all of int8. Virtual machines of quite different processors bear one name."""


def processor() -> str:
    """Its name as Linux tells it, with those of the instructions that decide how fast it multiplies."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    name = next((line.partition(": ")[2] for line in text.splitlines() if line.startswith("model name")), "")
    words = set(text.split())
    return f"{name or platform.processor()} ({', '.join(flag for flag in _TELLING if flag in words)})"


def machine() -> str:
    """The processor, the cores that may be used, and the libraries' versions."""
    return ", ".join([processor(), f"{usable_cores()} cores", *_versions()])


def _versions() -> Iterator[str]:
    for package in ("onnxruntime", "openvino", "torch", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"
