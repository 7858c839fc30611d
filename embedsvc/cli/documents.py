"""``embedsvc documents delete``."""

from __future__ import annotations

from typing import Annotated

import typer

from embedsvc.cli.options import DataDir, Json, Which, settings_of

app = typer.Typer(help="Delete single documents of a collection.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """So that ``delete`` is a command of its own, though it is the only one."""


@app.command()
def delete(
    name: Which,
    documents: Annotated[
        list[str], typer.Argument(metavar="URI|ID...", help="As in hits and reports; of a file: all that is in it.")
    ],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Delete documents at once. A file that is still there comes back when its folder is indexed again."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.maintenance import delete_documents

    gone = delete_documents(Collection.open(name, settings_of(data_dir=data_dir)), documents)
    lines = [*(f"Deleted {output.shown_uri(uri)}" for uri in gone)]
    output.message("\n".join(lines), {"name": name, "deleted": gone}, json)
