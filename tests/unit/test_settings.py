"""Settings: defaults, validation messages, and documentation that matches the code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import Unusable
from entrypoints.settings import DEFAULT_PROMPT, Settings, load_settings, unknown_keys

ROOT = Path(__file__).parents[2]

DOCUMENTED = {
    "OPENAI_MODEL": "gpt-3.5-turbo",
    "OPENAI_TEMPERATURE": 0.7,
    "OPENAI_MAX_TOKENS": 1000,
    "APP_NAME": "Smart Chatbot",
    "DEBUG": False,
    "SYSTEM_PROMPT": DEFAULT_PROMPT,
}
"""Defaults that the documented API promises."""

FURTHER = {
    "OPENAI_API_KEY": None,
    "OPENAI_BASE_URL": None,
    "MEMORY_BACKEND": "sql",
    "MEMORY_RECALL_TIMEOUT": 1,
    "MEM0_API_KEY": None,
    "MEM0_HOST": None,
    "MEM0_INFER": True,
    "MEM0_EMBEDDER": "openai",
    "MEM0_EMBEDDING_MODEL": "text-embedding-3-small",
    "MEM0_VECTOR_STORE": None,
    "MEM0_CONFIG_FILE": None,
    "HOST": "127.0.0.1",
    "PORT": 8000,
    "HISTORY_BACKEND": "sql",
    "DATABASE_URL": None,
    "CONTEXT_TOKENS": 14_000,
    "ON_DISCONNECT": "cancel",
    "CORS_ORIGINS": (),
    "MAX_MESSAGE_CHARS": 32_000,
    "MAX_BODY_BYTES": 256_000,
    "UPSTREAM_CONNECT_TIMEOUT": 5,
    "UPSTREAM_FIRST_BYTE_TIMEOUT": 30,
    "UPSTREAM_IDLE_TIMEOUT": 60,
    "UPSTREAM_MAX_CONNECTIONS": 1200,
    "TURN_TIMEOUT": 300,
    "HEADER_HOLD": 10,
    "COMMENT_INTERVAL": 15,
    "SHUTDOWN_GRACE": 3,
    "EVENT_LOOP": "auto",
}

INVALID = [
    ("OPENAI_MODEL", "", "at least 1 character"),
    ("OPENAI_BASE_URL", "canary", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "ftp://canary/v1", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "http://", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "http://user:canary@", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "http://user:canary@[::1/v1", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "http://[canary]/v1", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "http://user:canary\u2100@host/v1", "must be an http or https URL"),
    ("OPENAI_TEMPERATURE", "-0.1", "greater than or equal to 0"),
    ("OPENAI_TEMPERATURE", "2.1", "less than or equal to 2"),
    ("OPENAI_TEMPERATURE", "warm", "valid number"),
    ("OPENAI_TEMPERATURE", "nan", "finite number"),
    ("OPENAI_TEMPERATURE", "", "valid number"),
    ("OPENAI_MAX_TOKENS", "0", "greater than or equal to 1"),
    ("OPENAI_MAX_TOKENS", "1000001", "less than or equal to 1000000"),
    ("OPENAI_MAX_TOKENS", "1.5", "valid integer"),
    ("OPENAI_MAX_TOKENS", "9" * 5000, "integer"),
    ("APP_NAME", "", "at least 1 character"),
    ("APP_NAME", "x" * 101, "at most 100 characters"),
    ("DEBUG", "perhaps", "valid boolean"),
    ("SYSTEM_PROMPT", "", "at least 1 character"),
    ("MEMORY_BACKEND", "mem1", "must be one of sql, mem0, mem0_platform, in_memory, none"),
    ("MEMORY_RECALL_TIMEOUT", "0", "greater than 0"),
    ("MEM0_HOST", "canary", "must be an http or https URL"),
    ("MEM0_INFER", "perhaps", "valid boolean"),
    ("MEM0_EMBEDDER", "canary", "must be one of openai, local"),
    ("MEM0_EMBEDDING_MODEL", "", "at least 1 character"),
    ("MEM0_VECTOR_STORE", "canary", "must be a postgresql, http or https URL"),
    ("MEM0_VECTOR_STORE", "mysql://user:canary@host/x", "must be a postgresql, http or https URL"),
    ("HOST", "", "at least 1 character"),
    ("PORT", "-1", "greater than or equal to 0"),
    ("PORT", "65536", "less than or equal to 65535"),
    ("PORT", "http", "valid integer"),
    ("HISTORY_BACKEND", "redis", "must be one of sql, in_memory"),
    ("HISTORY_BACKEND", "SQL", "must be one of sql, in_memory"),
    ("HISTORY_BACKEND", "", "must be one of sql, in_memory"),
    ("DATABASE_URL", "postgresql://user:canary@host/db", "must be sqlite:///"),
    ("DATABASE_URL", "sqlite://", "must be sqlite:///"),
    ("DATABASE_URL", "sqlite:///", "must be sqlite:///"),
    ("DATABASE_URL", "canary.db", "must be sqlite:///"),
    ("CONTEXT_TOKENS", "99", "greater than or equal to 100"),
    ("ON_DISCONNECT", "stop", "must be one of cancel, continue"),
    ("CORS_ORIGINS", "example.com", "must be origins such as https://example.com"),
    ("CORS_ORIGINS", "https://example.com/", "must be origins such as https://example.com"),
    ("CORS_ORIGINS", "https://example.com,ftp://example.com", "must be origins such as https://example.com"),
    ("CORS_ORIGINS", "https://[canary]", "must be origins such as https://example.com"),
    ("MAX_MESSAGE_CHARS", "0", "greater than or equal to 1"),
    ("MAX_BODY_BYTES", "999", "greater than or equal to 1000"),
    ("MAX_BODY_BYTES", "256kB", "valid integer"),
    ("UPSTREAM_CONNECT_TIMEOUT", "0", "greater than 0"),
    ("UPSTREAM_FIRST_BYTE_TIMEOUT", "inf", "finite number"),
    ("UPSTREAM_IDLE_TIMEOUT", "nan", "finite number"),
    ("UPSTREAM_MAX_CONNECTIONS", "0", "greater than or equal to 1"),
    ("UPSTREAM_MAX_CONNECTIONS", "100001", "less than or equal to 100000"),
    ("TURN_TIMEOUT", "3601", "less than or equal to 3600"),
    ("HEADER_HOLD", "-1", "greater than 0"),
    ("COMMENT_INTERVAL", "soon", "valid number"),
    ("SHUTDOWN_GRACE", "601", "less than or equal to 600"),
    ("EVENT_LOOP", "curio", "must be one of auto, uvloop, asyncio"),
]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Isolate the tests from the environment and the `.env` of the machine."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def defaults() -> Settings:
    return load_settings()


def described() -> Iterator[tuple[str, str, str]]:
    """Yield name, description and default of each setting, as written in the documentation."""
    for name, field in Settings.model_fields.items():
        yield name.upper(), field.description or "", written(field.default)


def written(value: Any) -> str:
    """Format a value as in `.env`."""
    if value is None or value == ():
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(("name", "value"), (DOCUMENTED | FURTHER).items())
def test_defaults_match_the_documentation(name: str, value: object, defaults: Settings) -> None:
    assert getattr(defaults, name.lower()) == value


@pytest.mark.parametrize(("name", "value", "reason"), INVALID, ids=lambda value: value[:20])
def test_an_invalid_value_is_rejected_in_one_line_that_names_the_variable_but_not_the_value(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(Unusable) as rejected:
        load_settings()

    sentence = str(rejected.value)
    assert sentence.startswith(f"{name}: ")
    assert reason in sentence
    assert "canary" not in sentence
    assert "\n" not in sentence


def test_all_invalid_values_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "http")
    monkeypatch.setenv("DEBUG", "perhaps")

    with pytest.raises(Unusable, match=r"^DEBUG: .*; PORT: .*$"):
        load_settings()


def test_validation_errors_do_not_leak_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    monkeypatch.setenv("PORT", "http")

    with pytest.raises(Unusable) as rejected:
        load_settings()

    assert "canary" not in str(rejected.value)
    assert rejected.value.__suppress_context__


def test_an_env_file_that_is_not_utf_8_is_rejected_in_one_line() -> None:
    Path(".env").write_bytes("APP_NAME=Büro".encode("latin-1"))

    with pytest.raises(Unusable, match=r"^\.env: [^\n]*UTF-8"):
        load_settings()


def test_an_env_file_with_a_byte_order_mark_is_read() -> None:
    Path(".env").write_text("APP_NAME=Mine\n", encoding="utf-8-sig")

    assert load_settings().app_name == "Mine"
    assert unknown_keys() == []


@pytest.mark.parametrize("value", ["your_openai_api_key_here", " your_openai_api_key_here ", "", "   "])
def test_blank_and_sample_keys_count_as_no_key(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", value)

    assert load_settings().openai_api_key is None


def test_a_model_requires_a_key_or_a_base_url(defaults: Settings) -> None:
    with pytest.raises(Unusable, match=r"set OPENAI_API_KEY .* smart-chatbot serve --local$"):
        defaults.require_model()


@pytest.mark.parametrize(
    ("name", "value"), [("OPENAI_API_KEY", "sk-canary"), ("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")]
)
def test_a_key_or_a_base_url_configures_a_model(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)

    load_settings().require_model()


def test_the_mem0_platform_requires_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_BACKEND", "mem0_platform")
    monkeypatch.setenv("MEM0_API_KEY", "your_mem0_api_key")

    with pytest.raises(Unusable, match=r"^MEM0_API_KEY: is required when MEMORY_BACKEND is mem0_platform$"):
        load_settings()

    monkeypatch.setenv("MEM0_API_KEY", "m0-canary")
    assert load_settings().memory_backend == "mem0_platform"


@pytest.mark.parametrize(
    ("history", "memory", "backend"),
    [
        ("sql", "sql", "sql"),
        ("sql", "none", "sql"),
        ("in_memory", "sql", "sql"),
        ("in_memory", "none", "none"),
    ],
)
def test_a_database_is_used_if_history_or_memory_is_stored_in_it(history: Any, memory: Any, backend: str) -> None:
    assert Settings(_env_file=None, history_backend=history, memory_backend=memory).database_backend == backend


def test_printed_and_serialized_settings_do_not_contain_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    monkeypatch.setenv("MEM0_API_KEY", "m0-canary")
    monkeypatch.setenv("MEM0_VECTOR_STORE", "postgresql://user:canary@host/vectors")
    loaded = load_settings()

    assert "canary" not in f"{loaded!r} {loaded} {loaded.model_dump()} {loaded.model_dump_json()}"


def test_the_environment_takes_precedence_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("APP_NAME=file\nPORT=1\n")
    monkeypatch.setenv("APP_NAME", "environment")
    loaded = load_settings()

    assert (loaded.app_name, loaded.port) == ("environment", 1)


def test_origins_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", " https://a.example , http://localhost:3000,")

    assert load_settings().cors_origins == ("https://a.example", "http://localhost:3000")


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.2", False), ("example.com", False), ("localhost.example.com", False)],
)  # fmt: skip
def test_loopback_addresses_are_recognized(host: str, is_loopback: bool) -> None:
    assert Settings(_env_file=None, host=host).is_loopback == is_loopback


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("OPENAI_MODLE", ".env: OPENAI_MODLE is not a setting; did you mean OPENAI_MODEL?"),
        ("openai_apikey", ".env: openai_apikey is not a setting; did you mean OPENAI_API_KEY?"),
        ("HISTORY_BACKENDS", ".env: HISTORY_BACKENDS is not a setting; did you mean HISTORY_BACKEND?"),
        ("ZZZ", ".env: ZZZ is not a setting."),
    ],
)
def test_an_unknown_key_in_the_env_file_is_reported_with_the_closest_setting(key: str, sentence: str) -> None:
    Path(".env").write_text(f"{key}=canary\nPORT=1\n")

    assert unknown_keys() == [sentence]


def test_an_unknown_key_in_the_env_file_is_not_an_error() -> None:
    Path(".env").write_text("OPENAI_MODLE=canary\nPORT=1\n")

    assert load_settings().port == 1


def test_no_unknown_keys_without_an_env_file() -> None:
    assert unknown_keys() == []


def test_every_setting_has_a_description() -> None:
    assert [name for name, description, _ in described() if not description] == []


def test_env_example_lists_every_setting_with_its_description_and_default() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    blocks = re.findall(r"^# (.+)\n([A-Z0-9_]+)=(.*)$", text, re.MULTILINE)
    sample = {name: (description, value) for description, name, value in blocks}
    expected = {name: (description, default) for name, description, default in described()}

    assert sample == expected | {
        "OPENAI_API_KEY": (expected["OPENAI_API_KEY"][0], "your_openai_api_key_here"),
        "MEM0_API_KEY": (expected["MEM0_API_KEY"][0], "your_mem0_api_key"),
    }
    assert list(dotenv_values(ROOT / ".env.example")) == [name for name, _, _ in described()]


def test_an_unmodified_copy_of_env_example_changes_no_setting(defaults: Settings) -> None:
    Path(".env").write_bytes((ROOT / ".env.example").read_bytes())

    assert load_settings() == defaults
    assert unknown_keys() == []


def test_the_readme_table_lists_every_setting_with_its_description_and_default() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- settings -->\n(.*?)<!-- /settings -->", text, re.DOTALL)
    assert found, "README.md has no settings table between <!-- settings --> and <!-- /settings -->"
    _, _, *rows = [line.strip("| ").split(" | ") for line in found[1].strip().splitlines()]

    shown = {"SYSTEM_PROMPT": "a helpful assistant's"}
    assert rows == [
        [f"`{name}`", description, shown.get(name) or (f"`{default}`" if default else "none")]
        for name, description, default in described()
    ]


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "openai_temperature": st.floats(0, 2),
            "openai_max_tokens": st.integers(1, 1_000_000),
            "app_name": words,
            "debug": st.booleans(),
            "system_prompt": words,
            "host": words,
            "port": st.integers(0, 65535),
            "history_backend": st.sampled_from(["sql", "in_memory"]),
            "on_disconnect": st.sampled_from(["cancel", "continue"]),
            "cors_origins": st.lists(st.sampled_from(["*", "https://a.example", "http://localhost:1"])).map(tuple),
            "turn_timeout": st.floats(0.001, 3600),
        }
    )
)
def test_values_survive_the_round_trip_through_the_environment(values: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            text = ",".join(value) if isinstance(value, tuple) else written(value)
            patch.setenv(name.upper(), text)

        loaded = load_settings()

    assert {name: getattr(loaded, name) for name in values} == values
