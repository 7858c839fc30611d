"""``embedsvc documents delete``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from embedsvc.cli.options import DataDir, Json, Which, settings_of

if TYPE_CHECKING:
    from embedsvc.storage import Store

_NEAR = 3

app = typer.Typer(help="Delete single documents of a collection.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """So that ``delete`` is a command of its own, though it is the only one."""


@app.command()
def delete(
    name: Which,
    documents: Annotated[
        list[str],
        typer.Argument(metavar="PATH|URI|ID...", help="As in hits and reports; of a file: all that is in it."),
    ],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Delete documents at once. A file that is still there comes back when its folder is indexed again."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.editing import delete_documents
    from embedsvc.errors import NotFound

    collection = Collection.open(name, settings_of(data_dir=data_dir))
    store = collection.store()
    try:
        gone = delete_documents(collection, [_stored_as(store, each) for each in documents])
    except NotFound as error:
        near = [output.shown_uri(uri) for uri in _ending_in(store, documents)]
        raise NotFound(f"{error} Did you mean {' or '.join(near)}?" if near else str(error)) from None
    lines = [*(f"Deleted {output.shown_uri(uri)}" for uri in gone)]
    output.message("\n".join(lines), {"name": name, "deleted": gone}, json)


def _stored_as(store: Store, given: str) -> str:
    """``given`` where it is an id or uri, else the uri of the file whose path it is, as ``output.shown_uri`` prints."""
    from embedsvc.readers import absolute

    if store.known_as([given]):
        return given
    path, sign, fragment = given.rpartition("#")
    uris = [absolute(given).as_uri()]
    if sign:
        uris += [f"{absolute(path).as_uri()}#{written}" for written in (quote(fragment, safe=""), fragment)]
    return next((uri for uri in uris if store.known_as([uri])), given)


def _ending_in(store: Store, documents: list[str]) -> list[str]:
    """Uris of a few files and uploads that end like these paths, of those that name no document."""
    unknown = [each for each in documents if not store.known_as([_stored_as(store, each)])]
    named = [each.removeprefix("./") for each in unknown]
    ends = tuple(f"/{each}" for each in (*named, *map(quote, named)))  # as uploads are cited, and files
    sources = {known.source for known in store.known_documents().values()}
    return sorted(source for source in sources if source is not None and source.endswith(ends))[:_NEAR]
