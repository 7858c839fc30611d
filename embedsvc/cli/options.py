"""Options that several commands share, and the settings that they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from embedsvc.search.selection import Boost

DataDir = Annotated[
    Path | None, typer.Option(help="Where collections live. Default: EMBEDSVC_DATA_DIR, else ./indexes")
]


def _names(ctx: typer.Context, incomplete: str) -> list[str]:
    """For the shell: the collections that there are."""
    from embedsvc.collection import collection_names
    from embedsvc.config import load_settings

    names = collection_names(load_settings({"data_dir": ctx.params.get("data_dir")}).data_dir)
    return [name for name in names if name.startswith(incomplete)]


Name = Annotated[str, typer.Option("--collection", "-c", help="Name of the collection.", autocompletion=_names)]
Names = Annotated[
    list[str] | None,
    typer.Option("--collection", "-c", help="Only this one; may be repeated. Default: all.", autocompletion=_names),
]
Which = Annotated[str, typer.Argument(metavar="NAME", help="The collection.", autocompletion=_names)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Runtime = Annotated[str | None, typer.Option(help="auto, onnx, openvino or torch.")]
Dtype = Annotated[str | None, typer.Option(help="auto, int8, int8-g64, fp32, fp16 or bf16.")]
Mode = Annotated[str, typer.Option(help="hybrid, dense or lexical.")]


_FLAGS = {
    "k": "-k",
    "narrow": "--narrow-tokens",
    "method": "--fusion",
    "max_context_tokens": "--context",
}
"""Of a search's options those that have another name here than over REST and in Python."""


@contextmanager
def flags_named() -> Iterator[None]:
    """Options that are refused in it are told by the names of their flags."""
    from embedsvc.errors import UsageError

    try:
        yield
    except UsageError as error:
        if error.option is None:
            raise
        flag = _FLAGS.get(error.option, f"--{error.option.replace('_', '-')}")
        raise UsageError(f"{flag} {error.fault}") from None


def refuse_where(*rules: tuple[bool, Mapping[str, Any], str]) -> None:
    """Refuses, of each rule that holds, the first of its options that was given: whose value is not None, nor empty.

    Raises:
        UsageError: its name, and what the rule says of it.
    """
    from embedsvc.errors import UsageError

    for holds, options, why in rules:
        if holds and (given := [option for option, value in options.items() if value not in (None, [])]):
            raise UsageError(f"{given[0]} {why}")


def parsed_boosts(given: Sequence[str]) -> tuple[Boost, ...]:
    """What ``--boost`` asks for, each a JSON object as over REST.

    Raises:
        UsageError: one is not.
    """
    import json

    from embedsvc.errors import UsageError
    from embedsvc.search import boost_of

    boosts = []
    for each in given:
        try:
            value = json.loads(each)
        except ValueError as error:
            raise UsageError(f"--boost {each!r} is not JSON ({error}).") from None
        if not isinstance(value, dict):
            raise UsageError(f"--boost {each!r} is not a JSON object.")
        boosts.append(boost_of(value))
    return tuple(boosts)


def settings_of(**flags: Any) -> Any:
    from embedsvc.config import load_settings
    from embedsvc.logs import set_up_logging

    settings = load_settings(flags)
    set_up_logging(settings.log_level)
    return settings
