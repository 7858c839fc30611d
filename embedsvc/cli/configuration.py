"""``embedsvc config show``."""

from __future__ import annotations

from typing import Any

import typer

from embedsvc.cli.options import DataDir, Json

app = typer.Typer(help="Tell what is set, and where.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """So that ``show`` is a command of its own, though it is the only one."""


@app.command()
def show(data_dir: DataDir = None, json: Json = False) -> None:
    """Every setting with its value, and where that comes from: flag, environment, embedsvc.toml or default."""
    from dataclasses import fields

    from embedsvc.cli import output
    from embedsvc.config import Settings, listed, load_settings, settings_given

    flags = {"data_dir": data_dir}
    settings, given = load_settings(flags), settings_given(flags)
    rows: list[dict[str, Any]] = []
    for name in (field.name for field in fields(Settings)):
        value = getattr(settings, name)
        if name == "api_keys":  # what is shown on a terminal ends up in tickets
            value = f"({len(listed(value))} hidden)" if value else ""
        row = {"name": name, "value": value, "from": given[name][1] if name in given else "default"}
        if name == "index_memory_mb" and not value:
            row["means"] = f"half of the memory: {settings.index_memory // 1_000_000:,} MB"
        rows.append(row)
    output.settings(rows, json)
