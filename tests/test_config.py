from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedsvc.config import Settings, load_settings
from embedsvc.errors import UsageError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("EMBEDSVC_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def toml(text: str, folder: Path | None = None) -> None:
    ((folder or Path.cwd()) / "embedsvc.toml").write_text(text, encoding="utf-8")


def test_defaults() -> None:
    assert load_settings() == Settings()
    assert load_settings({"port": None, "model": None}) == Settings()
    assert (Settings().data_dir, Settings().model, Settings().durability) == (
        Path("indexes"),
        "all-MiniLM-L6-v2",
        "fsync",
    )


def test_a_misspelt_variable_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("embedsvc.config._told", set())
    for name in ("CHUNK_TOKENZ", "NOBODY_KNOWS_THIS", "API_KEY", "URL", "CHUNK_TOKENS"):
        monkeypatch.setenv(f"EMBEDSVC_{name}", "256")
    assert load_settings().chunk_tokens == load_settings().chunk_tokens == 256
    misspelt, foreign = (record.getMessage() for record in caplog.records)
    assert misspelt == "EMBEDSVC_CHUNK_TOKENZ is no setting and is ignored; did you mean EMBEDSVC_CHUNK_TOKENS?"
    assert "EMBEDSVC_NOBODY_KNOWS_THIS" in foreign
    assert "config show" in foreign


def test_flags_over_environment_over_file_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().port == 8080
    toml("port = 1\noverlap = 11\nthreads = 5")
    assert load_settings().port == 1
    monkeypatch.setenv("EMBEDSVC_PORT", "2")
    monkeypatch.setenv("EMBEDSVC_OVERLAP", "12")
    assert load_settings().port == 2
    settings = load_settings({"port": 3, "overlap": None})
    assert (settings.port, settings.overlap, settings.threads, settings.chunk_tokens) == (3, 12, 5, 512)
    assert load_settings({"port": 0}).port == 0, "a flag of 0 is a flag"


def test_every_setting_can_be_set_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {
        "data_dir": "d", "cache_dir": "c", "model": "m", "runtime": "torch", "dtype": "fp32", "threads": 3,
        "batch_tokens": 4, "commit_tokens": 5, "chunk_tokens": 6, "overlap": 7, "max_file_mb": 8,
        "on_overflow": "truncate", "durability": "os", "lock_timeout": 1.5, "host": "::1", "port": 9, "workers": 2,
        "max_body_mb": 10, "log_level": "debug", "models": "a,b", "rerankers": "r", "model_memory_mb": 11,
        "queue_tokens": 12, "target_recall": 0.9, "recall_sample": 0.5, "exact_passages": 13, "index_memory_mb": 14,
        "finer_tokens": 15, "reader_memory_mb": 16, "reader_timeout_s": 17, "duplicates": "drop", "language": "german",
        "chunk_context": "headings",
        "ocr": "off", "ocr_languages": "deu", "ocr_timeout_s": 19,
        "api_keys": "k", "public_url": "http://h", "uploads_mb": 20,
        "tokenizers": "t", "url_timeout_s": 18, "allow_private_urls": True, "sitemap_other_hosts": True,
    }  # fmt: skip
    assert other.keys() == {name for name in Settings.__dataclass_fields__}  # noqa: C416
    wanted = load_settings(other)
    assert all(getattr(wanted, name) != getattr(Settings(), name) for name in other)
    toml(
        "\n".join(
            f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}".lower()
            for name, value in other.items()
        )
    )
    assert load_settings() == wanted
    toml("")
    for name, value in other.items():
        monkeypatch.setenv(f"EMBEDSVC_{name.upper()}", str(value))
    assert load_settings() == wanted


def test_values_get_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSVC_LOCK_TIMEOUT", "2")
    monkeypatch.setenv("EMBEDSVC_DATA_DIR", "~/x")
    settings = load_settings({"cache_dir": "~/y"})
    assert isinstance(settings.lock_timeout, float)
    assert settings.data_dir == Path.home() / "x"
    assert settings.cache == Path.home() / "y"


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Settings().cache == tmp_path / "embedsvc"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Settings().cache == Path.home() / ".cache" / "embedsvc"
    assert Settings(cache_dir=tmp_path / "own").cache == tmp_path / "own"


def test_threads_are_the_cores_this_process_may_use() -> None:
    assert Settings(threads=3).encoder_threads == 3
    code = "import os; from embedsvc.config import Settings; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(Settings().encoder_threads)"  # fmt: skip  # noqa: E501
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "1"


def test_the_file_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    toml("port = 7", tmp_path / "sub")
    assert load_settings(directory=tmp_path / "sub").port == 7
    assert load_settings().port == 8080


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("port", "many", "'many', which is not a valid int"),
        ("port", "", "not a valid int"),
        ("port", "1.5", "not a valid int"),
        ("port", "-1", "must not be negative"),
        ("lock_timeout", "-0.5", "must not be negative"),
        ("lock_timeout", "soon", "not a valid float"),
        ("runtime", "jax", "choose one of auto, onnx, openvino, torch"),
        ("dtype", "int4", "choose one of auto, fp32, int8, int8-g64, fp16"),
    ],
)
def test_bad_values_name_their_origin(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"^flag: {name} is .*{says}"):
        load_settings({name: value})
    variable = f"EMBEDSVC_{name.upper()}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"^{variable}: {name} is .*{says}"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port = ", "not valid TOML"),
        ("prot = 3", "unknown setting 'prot'; did you mean 'port'"),
        ("port = true", "not a valid int"),
        ("port = 1.5", "not a valid int"),
        ("port = [1]", "not a valid int"),
        ('runtime = "jax"', "choose one of"),
        ("[section]\nport = 3", "unknown setting 'section'"),
    ],
)
def test_a_bad_file_is_named(text: str, says: str, tmp_path: Path) -> None:
    toml(text)
    with pytest.raises(UsageError, match=f"embedsvc.toml: .*{says}") as raised:
        load_settings()
    assert str(tmp_path) in str(raised.value)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "embedsvc.toml").write_bytes(b"model = '\xff'")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_settings()
