"""The one reader of settings: flags over environment (``EMBEDSVC_…``) over ``embedsvc.toml`` over defaults."""

from __future__ import annotations

import difflib
import logging
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from embedsvc.errors import StorageFailure, UsageError
from embedsvc.records import ChunkContext, Language

log = logging.getLogger(__name__)

CONFIG_FILE = "embedsvc.toml"
PREFIX = "EMBEDSVC_"
_OTHERS = ("API_KEY", "URL", "KEY", "BEIR_DIR")
"""What else programs of ours read behind ``PREFIX``: clients, examples, benchmarks."""
_told: set[str] = set()
"""Variables that were warned of."""

RuntimeName = Literal["onnx", "openvino", "torch"]
Dtype = Literal["fp32", "int8", "int8-g64", "fp16", "bf16"]
"""Arithmetic of an encoder. ``int8`` is onnxruntime's, ``int8-g64`` (a scale for every 64 activations) OpenVINO's: they
differ as int8 from fp32, so a collection says which it has."""

OnDuplicate = Literal["report", "drop", "ignore"]
OnOverflow = Literal["error", "split", "truncate"]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedsvc"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set, with its default. Field names are the keys of ``embedsvc.toml``; upper-cased
    behind ``EMBEDSVC_`` they are the environment variables."""

    data_dir: Path = Path("indexes")
    """Where collections live."""
    cache_dir: Path | None = None
    """Where exported models live; None: ``$XDG_CACHE_HOME/embedsvc`` or ``~/.cache/embedsvc``."""
    model: str = "all-MiniLM-L6-v2"
    """A model id, or a folder with a sentence-transformers or transformers model (safetensors only)."""
    runtime: Literal["auto", RuntimeName] = "auto"
    """What executes the encoder; ``auto``: torch where a CUDA device is present, else what ``models add`` chose, else
    onnx."""
    dtype: Literal["auto", Dtype] = "auto"
    """Arithmetic of the encoder; ``auto``: int8 on onnx, int8-g64 on openvino, fp16 on CUDA, else fp32."""
    threads: int = 0
    """Encoder threads; 0: one per core this process may use."""
    batch_tokens: int = 0
    """Token budget of one encoder batch, padding counted; 0: 256 on a CPU, on a GPU as many as fit. A text of more than
    half of it is encoded alone: on a CPU that is as fast, nothing is padded, and in int8 its vector does not depend on
    other texts."""
    commit_tokens: int = 100_000
    """Tokens of text per commit of a running ingest: what a kill costs is the work of about three commits."""
    chunk_tokens: int = 512
    """Passage window in tokens for new collections, special tokens and prompt counted."""
    overlap: int = 64
    """Tokens that neighbouring passages share, at most, for new collections."""
    finer_tokens: int = 0
    """Tokens of the sub-windows that a longer passage is also represented by in new collections, counted as
    ``chunk_tokens`` are: it scores as the best of its vectors. 0: none, each passage has one vector."""
    chunk_context: ChunkContext = "title"
    """What is put in front of each passage's text when it is encoded, in new collections: ``title`` of the document,
    ``headings`` over the passage, both or nothing. It counts among ``chunk_tokens``, and is not part of the passage."""
    language: Language = "english"
    """Of the text in new collections: how words are reduced to stems, and which say nothing, on the lexical side.
    ``other``: neither; words as ICU's dictionaries part them, for languages without spaces too."""
    duplicates: OnDuplicate = "report"
    """New and changed documents that say what another one of the collection says, or nearly: tell which it is, leave
    them out (``drop``), or do not look (``ignore``)."""
    max_file_mb: int = 100
    """Larger input files, and larger files in archives, are quarantined (reason ``too_large``)."""
    url_timeout_s: int = 30
    """Seconds that fetching one page may take, redirects included; then it is quarantined (reason ``timeout``)."""
    allow_private_urls: bool = False
    """Also fetch pages at addresses of private networks and of this machine."""
    sitemap_other_hosts: bool = False
    """Also fetch pages that a sitemap lists on other hosts than its own."""
    reader_memory_mb: int = 2000
    """Megabytes of memory that the process which reads files may ask for, and which the text of one file may have; an
    input that takes more is quarantined (reason ``out_of_memory``). 0: no limit."""
    reader_timeout_s: int = 120
    """Seconds that reading one file may take; then it is quarantined (reason ``timeout``). 0: no limit."""
    ocr: Literal["auto", "off"] = "auto"
    """``auto``: scanned pages and pictures are read by tesseract; without it, they are quarantined (reason
    ``needs_ocr``). ``off``: pages that have no text stay without, pictures are refused."""
    ocr_languages: str = "eng"
    """Languages of the text in them, in tesseract's codes: ``deu``, ``deu+eng``."""
    ocr_timeout_s: int = 1800
    """Seconds that the scanned pages of one file may take, beside ``reader_timeout_s``; a page takes one to three
    seconds of a core. 0: no limit."""
    on_overflow: OnOverflow = "error"
    """A query or API text longer than the model's window: refuse it, take the mean of several windows, or cut it and
    say so."""
    durability: Literal["fsync", "os"] = "fsync"
    """``fsync``: a commit is acknowledged only once it is on the disk. ``os``: leave that to the kernel."""
    target_recall: float = 0.95
    """Share of the ten truly nearest passages that an approximate vector index must find, with 95 % confidence."""
    exact_passages: int = 8192
    """Up to so many passages of a collection are searched exactly; of more, the vector index is approximate. With
    ``finer_tokens`` it is vectors that are counted."""
    index_memory_mb: int = 0
    """Megabytes of memory that a collection's vector index may take, and in the service those of all that are open:
    above it, the collection unused for longest is closed. 0: half of what there is."""
    recall_sample: float = 0.05
    """Share of live queries that are searched for again, exactly, in the background (at most 2 % of a core): so the
    recall that people get is known. Their vectors are kept beside the collection, to choose efforts by. 0: none."""
    lock_timeout: float = 10.0
    """Seconds a writer waits for another process that writes to the same collection."""
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    api_keys: str = ""
    """Keys, separated by commas, of which every request to the service has to bring one (``Authorization: Bearer KEY``)
    but for probes, the page itself and the documentation of the API. Empty: whoever reaches the service may ask."""
    models: str = ""
    """More models that the service embeds with when a request names them: ids or folders, separated by commas. Each is
    loaded on first use."""
    rerankers: str = ""
    """Cross-encoders that the service reranks with: folders, separated by commas; the first is the default."""
    tokenizers: str = ""
    """Tokenizers by which a request may have its context counted: ``tokenizer.json`` files, or folders that hold one,
    separated by commas. A request names the folder."""
    model_memory_mb: int = 2000
    """Megabytes of weights that the service keeps loaded: above it, the model unused for longest is unloaded. The one
    named by ``model`` always stays."""
    queue_tokens: int = 200_000
    """Tokens of requests that may be waiting for the encoder; then the service answers 429."""
    max_body_mb: int = 100
    """Larger request bodies are refused with 413."""
    uploads_mb: int = 10_000
    """Megabytes that the files uploaded to ``/v1/files`` may take together; one more is refused."""
    public_url: str = ""
    """Address under which others reach the service, as citations for agents (MCP) name it. Empty: as the request does.
    """
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def recognised_languages(self) -> str | None:
        """``ocr_languages``; None where ``ocr`` is off."""
        return self.ocr_languages if self.ocr == "auto" else None

    @property
    def cache(self) -> Path:
        return self.cache_dir or _user_cache()

    @property
    def encoder_threads(self) -> int:
        return self.threads or usable_cores()

    @property
    def index_memory(self) -> int:
        """Bytes."""
        return self.index_memory_mb * 1_000_000 or memory_bytes() // 2


def key_to_send() -> str | None:
    """``EMBEDSVC_API_KEY``, which clients send where they were given no key; None where it is not set, or empty."""
    return os.environ.get(f"{PREFIX}API_KEY") or None


def listed(names: str) -> list[str]:
    """The parts of a setting that holds several, separated by commas."""
    return [name for name in map(str.strip, names.split(",")) if name]


def usable_cores() -> int:
    """Cores that this process may use; where the system cannot tell (macOS), those that there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or less where its control group (a container) says so."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text(encoding="ascii").strip() if limit.is_file() else ""
    return min(total, int(allowed)) if allowed.isdigit() else total


_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_HINTS: dict[str, Any] = {}


def _hints() -> dict[str, Any]:
    if not _HINTS:
        _HINTS.update(get_type_hints(Settings))
    return _HINTS


def _convert(name: str, value: object, origin: str) -> Any:
    """``value`` as the type of setting ``name``; UsageError names ``origin`` (the flag, variable or file)."""
    hint = _hints()[name]
    if get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(option for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise UsageError(f"{origin}: {name} is {value!r}; choose one of {', '.join(get_args(hint))}.")
    if hint is bool:
        if isinstance(value, str):
            value = _WORDS.get(value.lower(), value)
        if isinstance(value, bool):
            return value
        raise UsageError(f"{origin}: {name} is {value!r}; choose true or false.")
    try:
        if isinstance(value, bool) or (hint is int and isinstance(value, float)):
            raise ValueError
        converted = hint(value)
    except (TypeError, ValueError):
        raise UsageError(f"{origin}: {name} is {value!r}, which is not a valid {hint.__name__}.") from None
    if isinstance(converted, int | float) and converted < 0:
        raise UsageError(f"{origin}: {name} is {value!r}; it must not be negative.")
    return converted.expanduser() if isinstance(converted, Path) else converted


def settings_given(
    flags: Mapping[str, object] | None = None, *, directory: Path | None = None
) -> dict[str, tuple[Any, str]]:
    """The settings that are not left at their defaults, by name: the value, and the flag, variable or file that gave
    it. ``flags``: None values mean "not given"; of the files, the one in ``directory`` (default: the working one).

    Raises:
        UsageError: an unknown key in the file, or a value that does not fit its setting.
    """
    names = [field.name for field in fields(Settings)]
    given: dict[str, tuple[Any, str]] = {}
    file = (directory or Path.cwd()) / CONFIG_FILE
    if file.is_file():
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: not valid TOML: {error}.") from None
        if unknown := sorted(table.keys() - set(names)):
            near = difflib.get_close_matches(unknown[0], names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(names))}."
            raise UsageError(f"{file}: unknown setting {unknown[0]!r}; {hint}")
        given |= {name: (_convert(name, value, str(file)), str(file)) for name, value in table.items()}
    for name in names:
        if (variable := f"{PREFIX}{name.upper()}") in os.environ:
            given[name] = (_convert(name, os.environ[variable], variable), variable)
    for name, value in (flags or {}).items():
        if value is not None:
            given[name] = (_convert(name, value, "flag"), "flag")
    return given


def _warn_of_unknown(environment: Mapping[str, str]) -> None:
    """Warns, once each, of variables that look like settings and are none: never an error, for others may use the
    prefix too, as the settings of another version do."""
    known = [f"{PREFIX}{name}" for name in (*(field.name.upper() for field in fields(Settings)), *_OTHERS)]
    for variable in sorted(name for name in environment if name.startswith(PREFIX)):
        if variable in known or variable in _told:
            continue
        _told.add(variable)
        near = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
        hint = f"did you mean {near[0]}?" if near else "embedsvc config show tells those that there are."
        log.warning("%s is no setting and is ignored; %s", variable, hint)


def load_settings(flags: Mapping[str, object] | None = None, *, directory: Path | None = None) -> Settings:
    """Settings from ``flags``, the environment and ``directory/embedsvc.toml``; see :func:`settings_given`.

    Raises:
        UsageError: as there; or the data directory is a file. StorageFailure: it cannot be looked at.
    """
    given = settings_given(flags, directory=directory)
    _warn_of_unknown(os.environ)
    settings = Settings(**{name: value for name, (value, _) in given.items()})
    try:
        is_file = settings.data_dir.exists() and not settings.data_dir.is_dir()
    except OSError as error:
        raise StorageFailure.of_reading(settings.data_dir, error) from error
    if is_file:
        raise UsageError(f"The data directory {settings.data_dir} is a file, not a folder. Choose another place.")
    return settings
