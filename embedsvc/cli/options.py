"""Options that several commands share, and the settings that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DataDir = Annotated[
    Path | None, typer.Option(help="Where collections live. Default: EMBEDSVC_DATA_DIR, else ./indexes")
]
Name = Annotated[str, typer.Option("--collection", "-c", help="Name of the collection.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Runtime = Annotated[str | None, typer.Option(help="auto, onnx, openvino or torch.")]
Dtype = Annotated[str | None, typer.Option(help="auto, int8, int8-g64, fp32, fp16 or bf16.")]
Mode = Annotated[str, typer.Option(help="hybrid, dense or lexical.")]


def settings_of(**flags: Any) -> Any:
    from embedsvc.config import load_settings
    from embedsvc.logs import set_up_logging

    settings = load_settings(flags)
    set_up_logging(settings.log_level)
    return settings
