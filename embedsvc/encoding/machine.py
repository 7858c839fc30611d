"""What speeds and verdicts depend on: this processor, and the versions of what computes."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from embedsvc.config import usable_cores


def machine() -> str:
    """The processor, the cores that may be used, and the libraries' versions."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text(encoding="utf-8").splitlines() if names.exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return ", ".join([name, f"{usable_cores()} cores", *_versions()])


def _versions() -> Iterator[str]:
    for package in ("onnxruntime", "openvino", "torch", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"
