"""The commands: arguments in, one call into the layers below, result out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from embedsvc.cli import configuration, documents, maintenance, models
from embedsvc.cli.options import (
    DataDir,
    Dtype,
    Json,
    Mode,
    Name,
    Names,
    Runtime,
    Which,
    flags_named,
    parsed_boosts,
    refuse_where,
    settings_of,
)
from embedsvc.config import Settings
from embedsvc.errors import UsageError


class _Root(TyperGroup):
    """``index plan`` is a command of its own; ``index plan -c NAME`` indexes what is called plan."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[:2] == ["index", "plan"] and not any(each.startswith(("-c", "--collection")) for each in args):
            args = [_PLAN, *args[2:]]
        return super().resolve_command(ctx, args)


_PLAN = "index plan"

app = typer.Typer(
    cls=_Root,
    help="Semantic search over your own documents, with exact citations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
collections = typer.Typer(
    help="List, show, delete, export, import, check, mend and migrate collections.", no_args_is_help=True
)
maintenance.add_to(collections)
app.add_typer(collections, name="collections")
app.add_typer(documents.app, name="documents")
app.add_typer(models.app, name="models")
app.add_typer(configuration.app, name="config")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from embedsvc import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def index(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, URLs of pages or sitemaps; - is standard input.")],
    name: Name,
    data_dir: DataDir = None,
    model: Annotated[str | None, typer.Option(help="Model id or folder (for a new collection).")] = None,
    runtime: Runtime = None,
    dtype: Dtype = None,
    chunk_tokens: Annotated[int | None, typer.Option(help="Tokens per passage (for a new collection).")] = None,
    overlap: Annotated[int | None, typer.Option(help="Tokens that neighbouring passages share, at most.")] = None,
    finer_tokens: Annotated[
        int | None, typer.Option(help="Tokens per sub-window that longer passages are also matched by; 0: none.")
    ] = None,
    chunk_context: Annotated[
        str | None,
        typer.Option(help="Encoded in front of each passage: title (default), headings, title+headings or none."),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Of the text, for stems and stop words: english (default), german … or other.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Also remove what vanished from PATHS.")] = False,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Leave out, as in .gitignore; may be repeated.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Take these only, as in .gitignore; may be repeated.")
    ] = None,
    duplicates: Annotated[
        str | None, typer.Option(help="New documents like another one: report (default), drop or ignore.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep in step with PATHS, as with --exact, until Ctrl-C.")
    ] = False,
    text_field: Annotated[list[str] | None, typer.Option(help="JSONL/CSV: field with text; may be repeated.")] = None,
    title_field: Annotated[str | None, typer.Option(help="JSONL/CSV: field with the title.")] = None,
    id_field: Annotated[str | None, typer.Option(help="JSONL/CSV: field with the id.")] = None,
    metadata_field: Annotated[list[str] | None, typer.Option(help="JSONL/CSV: field to keep; may be repeated.")] = None,
    max_file_mb: Annotated[int | None, typer.Option(help="Larger files are left out and reported.")] = None,
    allow_private_urls: Annotated[
        bool | None, typer.Option("--allow-private-urls", help="Also fetch from private networks and this machine.")
    ] = None,
    other_hosts: Annotated[
        bool | None, typer.Option("--other-hosts", help="Also fetch what a sitemap lists on other hosts.")
    ] = None,
    wait: Annotated[
        float | None, typer.Option(help="Seconds to wait where another process writes to the collection; 0: none.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="File for a line of JSON per input: status, reason, passages, tokens, seconds.")
    ] = None,
    stdin_name: Annotated[
        str, typer.Option("--name", help="Of standard input; its suffix tells the format, else the content does.")
    ] = "stdin",
    json: Json = False,
) -> None:
    """Bring a collection in step with files and folders. Unchanged files cost nothing.

    index plan --passages 10M tells which vector index so many passages would get.
    """
    from embedsvc.allocator import give_back_memory

    give_back_memory()  # before Arrow is loaded
    from embedsvc.cli import indexing
    from embedsvc.ingest import FIXED
    from embedsvc.readers import FieldChoice, PathPatterns, check_patterns, path_or_url

    settings = settings_of(
        data_dir=data_dir,
        model=model,
        runtime=runtime,
        dtype=dtype,
        chunk_tokens=chunk_tokens,
        overlap=overlap,
        finer_tokens=finer_tokens,
        chunk_context=chunk_context,
        language=language,
        max_file_mb=max_file_mb,
        allow_private_urls=allow_private_urls,
        sitemap_other_hosts=other_hosts,
        lock_timeout=wait,
        duplicates=duplicates,
    )
    fields = FieldChoice(
        tuple(text_field or ()), title_field, id_field, None if metadata_field is None else tuple(metadata_field)
    )
    asked = {key for key, value in locals().items() if key in FIXED and value is not None}
    selection = PathPatterns(tuple(exclude or ()), tuple(include or ()))
    check_patterns((*selection.exclude, *selection.include))
    order = indexing.Order(
        name, [path_or_url(path) for path in paths], settings, fields, asked, selection, report, json
    )
    if watch:
        from embedsvc.cli import watching

        failed = watching.run(order)
    else:
        failed = indexing.run(order, exact=exact, stdin_name=stdin_name)
    raise typer.Exit(1 if failed else 0)


@app.command(_PLAN)
def index_plan(
    passages: Annotated[str, typer.Option(help="How many: 180000, 250k, 10M, 1B.")],
    dimension: Annotated[int, typer.Option(help="Of the vectors; all-MiniLM-L6-v2 has 384.", min=1)] = 384,
    memory_mb: Annotated[
        int | None, typer.Option(help="That it may take; 0: half of the machine's, the default.")
    ] = None,
    json: Json = False,
) -> None:
    """Tell which vector index a collection would get, and its memory, disk and build time. Nothing is built."""
    from embedsvc.cli import output
    from embedsvc.collection import index_goal
    from embedsvc.config import usable_cores
    from embedsvc.vectors import plan

    goal = index_goal(settings_of(index_memory_mb=memory_mb))
    count = output.parsed_count(passages)
    output.plan(count, dimension, goal, plan(count, dimension, goal), usable_cores(), json)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What you want to know.")],
    name: Name,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 10,
    mode: Mode = "hybrid",
    filter: Annotated[str | None, typer.Option(help="SQL, such as: metadata.year >= 2020 AND uri LIKE '%.md'")] = None,
    min_score: Annotated[
        float | None,
        typer.Option(help="Leave out hits below it; in hybrid 1 is the best."),
    ] = None,
    rerank: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Put the best in order by a cross-encoder: a folder.")
    ] = None,
    rerank_depth: Annotated[int | None, typer.Option(help="How many it reads. Default: as tuned, else 50")] = None,
    time_budget: Annotated[
        float | None, typer.Option(metavar="MS", help="Milliseconds after which reranking is not waited for.")
    ] = None,
    min_confidence: Annotated[
        float | None, typer.Option(help="Leave out hits that are less likely (0 to 1) to answer.")
    ] = None,
    expand: Annotated[
        str | None, typer.Option(help="Also print the hits with their neighbours, section or document, to be cited.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Also print what a language model is to read, at most so much.")
    ] = None,
    order: Annotated[str | None, typer.Option(help="Of that: best-first (default) or document.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Count it by this tokenizer.json. Default: the collection's.")
    ] = None,
    highlight: Annotated[bool, typer.Option("--highlight", help="Point at the best sentence and the words.")] = False,
    on_overflow: Annotated[
        str | None, typer.Option(help="A query longer than the window: error, split or truncate.")
    ] = None,
    merge: Annotated[bool, typer.Option(help="Overlapping passages of one document are one hit.")] = True,
    narrow: Annotated[
        bool, typer.Option("--narrow", help="Hits are the best parts of passages, whole sentences.")
    ] = False,
    narrow_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="The same, of at most N tokens. Default: 3/5 of a passage's window.")
    ] = None,
    fusion: Annotated[str | None, typer.Option(help="Mode hybrid: convex or rrf. Default: the collection's.")] = None,
    weight: Annotated[float | None, typer.Option(help="Mode hybrid: of meaning, 0 to 1; words have the rest.")] = None,
    normalisation: Annotated[str | None, typer.Option(help="Of convex: max, minmax or zscore.")] = None,
    depth: Annotated[int | None, typer.Option(help="Mode hybrid: candidates that each side brings, at least.")] = None,
    duplicates: Annotated[
        str, typer.Option(help="Passages that say the same (exact), or nearly (near), are one hit; or keep.")
    ] = "exact",
    diversity: Annotated[float, typer.Option(help="How much a hit is to differ from those before it, 0 to 1.")] = 0.0,
    group_by: Annotated[str | None, typer.Option(help="document or metadata.KEY: of each few hits.")] = None,
    per_group: Annotated[int | None, typer.Option(help="How few. Default: 1")] = None,
    boost: Annotated[
        list[str] | None,
        typer.Option(metavar="JSON", help='What else counts: {"filter": "metadata.kind = \'manual\'", "factor": 1.3}'),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Tell what each stage of the search did.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Ask a collection; the passages that answer, each with its citation."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.encoding import encoder_for
    from embedsvc.encoding.tokens import load_counter
    from embedsvc.errors import QueryTooLong, UsageError
    from embedsvc.records import Fusion
    from embedsvc.search import Evidence, Query, Rerank, Selection, check_query, fusion_of, search

    settings = settings_of(data_dir=data_dir, on_overflow=on_overflow)
    if rerank is None and (rerank_depth is not None or time_budget is not None):
        raise UsageError("--rerank-depth and --time-budget are about reranking: give --rerank too.")
    # The search would refuse these too, by the names that they have over REST.
    no_context = expand is None and context is None
    refuse_where(
        (no_context, {"--order": order, "--tokenizer": tokenizer}, "is a context's: give --expand or --context too."),
        (group_by is None, {"--per-group": per_group}, "is about groups: give --group-by too."),
        (
            not merge,
            {"--narrow": narrow or None, "--narrow-tokens": narrow_tokens},
            "lets no two hits share text, --no-merge lets them: ask for one of the two.",
        ),
        (
            narrow or narrow_tokens is not None,
            {"--diversity": diversity or None, "--group-by": group_by},
            "is not together with --narrow, which may take several parts of a passage.",
        ),
    )
    reranker = None
    if rerank is not None:
        from embedsvc.encoding.cross_encoder import load_cross_encoder

        cross_encoder = load_cross_encoder(replace(settings, model=rerank, dtype="fp32"))
        reranker = Rerank(cross_encoder, rerank_depth, time_budget)
    count = None if tokenizer is None else load_counter(tokenizer)
    wanted = Evidence(expand, context, order, count, highlight, min_confidence)  # type: ignore[arg-type]
    changed: dict[str, Any] = {"method": fusion, "weight": weight, "normalisation": normalisation, "depth": depth}
    changed = {key: value for key, value in changed.items() if value is not None}
    with flags_named():
        asked = Query(
            query,
            None,
            k,
            mode,  # type: ignore[arg-type]
            filter,
            min_score,
            settings.on_overflow,
            merge,
            explain,
            fusion_of(Fusion(), changed) if changed else None,
            evidence=wanted,
            rerank=reranker,
            selection=Selection(duplicates, diversity, group_by, per_group, parsed_boosts(boost or ())),  # type: ignore[arg-type]
            narrow=narrow if narrow_tokens is None else narrow_tokens,
        )
        check_query(asked)
        collection = Collection.open(name, settings)
        if changed:
            asked = replace(asked, fusion=fusion_of(collection.store().fusion, changed))
        try:
            answer = search(collection.snapshot(), encoder_for(collection.contract, settings), asked)
        except QueryTooLong as error:
            raise UsageError(error.with_remedy("give --on-overflow split or truncate")) from None
    output.answer(answer, json)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8080")] = None,
    workers: Annotated[int | None, typer.Option(help="Server processes. Default: 1")] = None,
    data_dir: DataDir = None,
) -> None:
    """Answer over HTTP until Ctrl-C; the API's documentation is at /docs."""
    from embedsvc.service import serve

    serve(settings_of(host=host, port=port, workers=workers, data_dir=data_dir))


@app.command()
def mcp(
    name: Names = None,
    url: Annotated[str | None, typer.Option(help="Of a service, to ask that. Default: the data directory.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="EMBEDSVC_API_KEY", help="With --url: the service's key.")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(help="What the addresses in citations begin with. Default: --url, else none.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Give agents tools to search and read documents: MCP on standard input and output."""
    from embedsvc.cli.mcp import serve

    settings = settings_of(data_dir=data_dir, public_url=public_url)
    serve(settings, name or [], url, api_key)


@app.command("eval")
def evaluate(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="BEIR folder (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv), or with -c a CSV file of question and "
            "document or quote. None, with -c: sentences taken out of the collection's own passages."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--collection", "-c", help="Measure this collection, as it is. Default: a new one.")
    ] = None,
    mode: Annotated[list[str] | None, typer.Option(help="hybrid (default), dense or lexical; may be repeated.")] = None,
    k: Annotated[list[int] | None, typer.Option("-k", help="Recall at these (10 and 100); may be repeated.")] = None,
    split: Annotated[str | None, typer.Option(help="Which qrels of a BEIR folder. Default: test")] = None,
    narrow: Annotated[
        bool, typer.Option("--narrow", help="With -c: hits are the best parts of passages, as by search --narrow.")
    ] = False,
    sentences: Annotated[
        int | None, typer.Option(help="Without SOURCE: how many sentences to ask for. Default: 200", min=1)
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="With -c: fit the collection's confidence to the questions and keep it.")
    ] = False,
    save_run: Annotated[Path | None, typer.Option(help="Keep the run in this file, to be compared with.")] = None,
    against: Annotated[Path | None, typer.Option(help="Compare with a run that was kept, query by query.")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(help="Exit code 1 unless: ndcg@10>=0.7, or no-worse (than --against); may be repeated."),
    ] = None,
    passages: Annotated[
        bool, typer.Option("--passages", help="Cut documents into passages; best passage counts.")
    ] = False,
    chunk_tokens: Annotated[int | None, typer.Option(help="With --passages: tokens per passage.")] = None,
    overlap: Annotated[int | None, typer.Option(help="With --passages: tokens that neighbours share.")] = None,
    finer_tokens: Annotated[int | None, typer.Option(help="With --passages: tokens per sub-window; 0: none.")] = None,
    chunk_context: Annotated[
        str | None, typer.Option(help="With --passages: encoded in front of each, as by index.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Of the text, for stems and stop words.")] = None,
    tune: Annotated[
        str | None, typer.Option(metavar="NAME", help="Tune the fusion of this collection, which holds the documents.")
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="With --tune: also how many a cross-encoder is to read: a folder."),
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="With --tune: keep what is proved to be better.")] = False,
    data_dir: DataDir = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Whole documents: tokens that the vector sees. Default: 256")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model id or folder.")] = None,
    runtime: Runtime = None,
    dtype: Dtype = None,
    json: Json = False,
) -> None:
    """Measure ranking quality: nDCG@10, recall, MRR@10, on a data set or a collection of your own."""
    from embedsvc.cli import evaluating

    settings = settings_of(
        data_dir=data_dir,
        model=model,
        runtime=runtime,
        dtype=dtype,
        chunk_tokens=chunk_tokens,
        overlap=overlap,
        finer_tokens=finer_tokens,
        chunk_context=chunk_context,
        language=language,
    )
    cutting = {
        "--chunk-tokens": chunk_tokens,
        "--overlap": overlap,
        "--finer-tokens": finer_tokens,
        "--chunk-context": chunk_context,
    }
    narrowing = {"--narrow": narrow or None}
    making = {"--model": model, "--language": language, "--max-tokens": max_tokens, "--passages": passages or None}
    measuring = {
        "--collection": name,
        "--mode": mode,
        "-k": k,
        "--calibrate": calibrate or None,
        "--save-run": save_run,
        "--against": against,
        "--gate": gate,
        **narrowing,
    }
    refuse_where(
        (tune is not None, measuring, "is about measuring, --tune NAME about choosing: do one after the other."),
        (tune is not None, making | cutting, "is about a new collection, --tune NAME about one that is there."),
        (name is not None, making | cutting, "is about a new collection; that of --collection is measured as it is."),
        (not passages, cutting, "is about documents that are cut into passages: give --passages too."),
        (passages, {"--max-tokens": max_tokens}, "is about whole documents: leave out --passages."),
        (
            name is None or source is not None,
            {"--sentences": sentences},
            "takes sentences out of a collection: give --collection, and no SOURCE.",
        ),
        (source is None or source.is_file(), {"--split": split}, "is of a BEIR folder's qrels: leave it out."),
        (name is None, narrowing, "is about the passages of a collection: name it by --collection."),
        (calibrate, narrowing, "looks at parts of passages, --calibrate at whole ones: do one after the other."),
        (source is None, {"--calibrate": calibrate or None}, "is fitted to questions with their answers: name a CSV."),
        (tune is None, {"--save": save or None}, "keeps what --tune NAME finds; a run is kept by --save-run FILE."),
        (tune is None, {"--rerank": rerank}, "is tuned: give --tune NAME too."),
    )
    if tune is not None:
        if source is None:
            raise UsageError("--tune chooses by a BEIR folder: name one.")
        _tune(tune, source, split or "test", settings, rerank, save, json)
        return
    asked = evaluating.Asked(
        source, name, mode or ["hybrid"], k or (10, 100), split or "test", narrow, sentences or 200, calibrate
    )
    report = evaluating.Report(save_run, against, gate or (), json)
    whole = 256 if max_tokens is None else max_tokens
    raise typer.Exit(evaluating.run(asked, report, settings, passages=passages, max_tokens=whole))


def _tune(name: str, folder: Path, split: str, settings: Settings, rerank: str | None, save: bool, json: bool) -> None:
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.encoding import encoder_for
    from embedsvc.evaluate.tuning import tune

    collection = Collection.open(name, settings)
    cross_encoder = None
    if rerank is not None:
        from embedsvc.encoding.cross_encoder import load_cross_encoder

        cross_encoder = load_cross_encoder(replace(settings, model=rerank, dtype="fp32"))
    encoder = encoder_for(collection.contract, settings)
    found = tune(collection.snapshot(), encoder, folder, split, cross_encoder)
    kept = found.proved if save else {}
    if kept:
        with collection.writer() as writer:
            writer.tune(replace(writer.store.tuned, **kept))
    output.tuning(found, kept, json)


@app.command()
def doctor(
    name: Annotated[str | None, typer.Argument(help="Also check this collection.")] = None,
    data_dir: DataDir = None,
    model: Annotated[str | None, typer.Option(help="Model id or folder.")] = None,
    runtime: Runtime = None,
    dtype: Dtype = None,
    json: Json = False,
) -> None:
    """Check the environment, the encoder against sentence-transformers, and a collection's store and index."""
    from embedsvc.checks import check_collection, check_environment
    from embedsvc.cli import output
    from embedsvc.collection import collection_directory

    settings = settings_of(data_dir=data_dir, model=model, runtime=runtime, dtype=dtype)
    if name is not None:
        collection_directory(name, settings)  # a name that is not there is no damage
    checks = list(check_environment(settings))
    environment_ok = all(check.ok for check in checks)
    if name is not None:
        checks += check_collection(name, settings)
    output.checks(checks, json)
    if not environment_ok:
        raise typer.Exit(2)
    raise typer.Exit(0 if all(check.ok for check in checks) else 3)


@app.command()
def demo(
    data_dir: DataDir = None,
    port: Annotated[int | None, typer.Option(help="Default: 8080, or a free port where that is taken.")] = None,
    stay: Annotated[
        bool | None, typer.Option("--stay/--no-stay", help="Keep serving after the answer. Default: in a terminal.")
    ] = None,
) -> None:
    """Index the Python standard library's documentation, start the server, ask it one question."""
    from embedsvc.cli.demo import run

    run(settings_of(data_dir=data_dir, port=port), port_is_asked=port is not None, stay=stay)


@collections.command("list")
def list_collections(data_dir: DataDir = None, json: Json = False) -> None:
    """Names and sizes of the collections."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection, collection_names
    from embedsvc.describe import describe
    from embedsvc.errors import DamagedCollection

    settings = settings_of(data_dir=data_dir)
    found: list[dict[str, Any]] = []
    for name in collection_names(settings.data_dir):
        try:
            found.append(describe(Collection.open(name, settings)))
        except DamagedCollection as error:
            found.append({"name": name, "error": str(error)})
    output.collections(found, settings.data_dir, json)
    if any("error" in value for value in found):
        raise typer.Exit(3)


@collections.command()
def show(name: Which, data_dir: DataDir = None, json: Json = False) -> None:
    """Counts, contract, chunking and vector index of one collection."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection
    from embedsvc.describe import describe

    output.collection(describe(Collection.open(name, settings_of(data_dir=data_dir))), json)


@collections.command()
def delete(
    name: Which,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Remove a collection and its files."""
    from embedsvc.cli import output
    from embedsvc.collection import collection_directory, delete_collection

    settings = settings_of(data_dir=data_dir)
    directory = collection_directory(name, settings)
    if not yes:
        typer.confirm(f"Delete {directory} for good?", abort=True, err=True)
    delete_collection(name, settings)
    output.message(f"Deleted {directory}.", {"deleted": name}, json)


@collections.command("export")
def export_collection(name: Which, file: Path, data_dir: DataDir = None, json: Json = False) -> None:
    """Write a collection to one Parquet FILE."""
    from embedsvc.cli import output
    from embedsvc.collection import Collection

    rows = Collection.open(name, settings_of(data_dir=data_dir)).export(file)
    output.message(f"Wrote {rows} passages to {file}.", {"file": str(file), "passages": rows}, json)


@collections.command("import")
def import_file(
    file: Path,
    name: Annotated[str | None, typer.Option("--collection", "-c", help="Default: the file's name.")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make a collection of a FILE that `export` wrote."""
    from embedsvc.cli import output
    from embedsvc.collection import import_collection

    collection = import_collection(name or file.stem, file, settings_of(data_dir=data_dir))
    rows = collection.store().count()
    output.message(f"Imported {rows} passages as {collection.name}.", {"name": collection.name, "passages": rows}, json)
