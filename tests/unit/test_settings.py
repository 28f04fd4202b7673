"""Settings: defaults, validation messages, and documentation that matches the code."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from domain.errors import Unusable
from domain.memory import MAX_FACT_CHARS
from entrypoints.configuration.turns import DEFAULT_PROMPT
from entrypoints.configuration.types import trimmed
from entrypoints.settings import InvalidOption, Settings, load_settings
from entrypoints.startup_warnings import startup_warnings
from tests.harness.isolated_settings import isolate_settings

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
    "OPENAI_TOP_P": None,
    "OPENAI_STOP": None,
    "OPENAI_SEED": None,
    "OPENAI_REASONING_EFFORT": None,
    "LOG_LEVEL": "info",
    "LOG_FORMAT": "auto",
    "ROOT_PATH": "",
    "SECRETS_DIR": None,
    "STRICT_FIELDS": False,
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
    "AUTH_MODE": "auto",
    "AUTH_JWT_SECRET": None,
    "AUTH_JWKS_URL": None,
    "AUTH_ISSUER": (),
    "AUTH_AUDIENCE": None,
    "TRUSTED_PROXIES": (),
    "CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED": False,
    "HISTORY_BACKEND": "sql",
    "DATABASE_URL": None,
    "LOG_PSEUDONYM_KEY": None,
    "CONTEXT_TOKENS": 14_000,
    "ON_DISCONNECT": "cancel",
    "CORS_ORIGINS": (),
    "MAX_MESSAGE_CHARS": 32_000,
    "MAX_BODY_BYTES": None,
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
    ("OPENAI_BASE_URL", "canary", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "ftp://canary/v1", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "http://", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "http://user:canary@", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "http://user:canary@[::1/v1", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "http://[canary]/v1", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "http://user:canary\u2100@host/v1", "must be an http or https URL"),
    ("OPENAI_BASE_URL", "http://canary/v 1", "must be an http or https URL"),
    ("OPENAI_BASE_URL", '"http://canary/v1"', "must not be in quotation marks"),
    ("OPENAI_API_KEY", '"sk-canary"', "must not be in quotation marks"),
    ("OPENAI_API_KEY", "'sk-canary'", "must not be in quotation marks"),
    ("OPENAI_API_KEY", "“sk-canary”", "must not be in quotation marks"),
    ("OPENAI_API_KEY", '“sk-canary"', "must not be in quotation marks"),
    ("OPENAI_API_KEY", "sk-canary”", "without spaces and quotation marks"),
    ("OPENAI_API_KEY", "sk-canary'", "without spaces and quotation marks"),
    ("OPENAI_MODEL", "'", "must not be in quotation marks"),
    ("OPENAI_API_KEY", 'sk-"canary', "without spaces and quotation marks"),
    ("OPENAI_API_KEY", "Bearer sk-canary", "without spaces and quotation marks"),
    ("MEM0_API_KEY", "„m0-canary“", "must not be in quotation marks"),
    ("OPENAI_MODEL", '"canary"', "must not be in quotation marks"),
    ("OPENAI_MODEL", "sk-proj-canary0123456789abcdef", "must not be a key"),
    ("OPENAI_MODEL", "hf_canary0123456789abcdefghij", "must not be a key"),
    ("MEM0_EMBEDDING_MODEL", "AIzaSycanary0123456789abcdef0123456789", "must not be a key"),
    ("APP_NAME", "Chat m0-canary0123456789abcdef", "must not be a key"),
    ("APP_NAME", "ck_canary0123456789_0123456789abcdef", "must not be a key"),
    ("DATA_DIR", "$NO_SUCH_VARIABLE/canary", "must not contain a variable that is not set"),
    ("DATA_DIR", "~no-such-user/canary", "must not contain a variable that is not set"),
    ("DATABASE_URL", "sqlite:///$NO_SUCH_VARIABLE/canary", "must not contain a variable that is not set"),
    ("MEM0_CONFIG_FILE", "${NO_SUCH_VARIABLE}/canary", "must not contain a variable that is not set"),
    ("SYSTEM_PROMPT", "canary " * 10_000, "leaves no room for messages within CONTEXT_TOKENS"),
    ("OPENAI_TEMPERATURE", "-0.1", "greater than or equal to 0"),
    ("OPENAI_TEMPERATURE", "2.1", "less than or equal to 2"),
    ("OPENAI_TEMPERATURE", "warm", "valid number"),
    ("OPENAI_TEMPERATURE", "nan", "finite number"),
    ("OPENAI_MAX_TOKENS", "0", "greater than or equal to 1"),
    ("OPENAI_MAX_TOKENS", "1000001", "less than or equal to 1000000"),
    ("OPENAI_MAX_TOKENS", "1.5", "valid integer"),
    ("OPENAI_MAX_TOKENS", "9" * 5000, "integer"),
    ("OPENAI_BASE_URL", "https://<canary>.openai.azure.com/openai/v1", "must not contain a placeholder"),
    ("OPENAI_BASE_URL", "https://{canary}.example/v1", "must not contain a placeholder"),
    ("OPENAI_BASE_URL", "http://…", "must not contain a placeholder"),
    ("DATABASE_URL", "postgresql://…canary", "must not contain a placeholder"),
    ("MEM0_VECTOR_STORE", "postgresql://<canary>/x", "must not contain a placeholder"),
    ("OPENAI_TOP_P", "1.1", "less than or equal to 1"),
    ("OPENAI_TOP_P", "-0.1", "greater than or equal to 0"),
    ("OPENAI_TOP_P", "nan", "finite number"),
    ("OPENAI_STOP", "canary", "must be a JSON list of 1 to 16 texts"),
    ("OPENAI_STOP", '"canary"', "quotation marks"),
    ("OPENAI_STOP", '{"canary": 1}', "must be a JSON list"),
    ("OPENAI_STOP", "[]", "must be a JSON list"),
    ("OPENAI_STOP", '["canary", ""]', "must be a JSON list"),
    ("OPENAI_STOP", '["canary", 1]', "must be a JSON list"),
    ("OPENAI_STOP", '["canary"' + ', "x"' * 16 + "]", "must be a JSON list"),
    ("OPENAI_STOP", '["' + "x" * 257 + '"]', "at most 256 characters"),
    ("OPENAI_STOP", "[" * 100_000, "must be a JSON list"),
    ("OPENAI_SEED", "1.5", "valid integer"),
    ("OPENAI_SEED", str(2**63), "less than or equal to"),
    ("OPENAI_REASONING_EFFORT", "canary", "must be one of none, minimal, low, medium, high, xhigh"),
    ("LOG_LEVEL", "canary", "must be one of debug, info, warning, error"),
    ("LOG_FORMAT", "canary", "must be one of auto, json, console"),
    ("ROOT_PATH", "canary", "must be a path such as /bot"),
    ("ROOT_PATH", "/canary?x", "must be a path such as /bot"),
    ("ROOT_PATH", "//canary", "must be a path such as /bot"),
    ("ROOT_PATH", "https://canary.example/bot", "must be a path such as /bot"),
    ("SECRETS_DIR", "/no/canary", "is not a directory"),
    ("STRICT_FIELDS", "perhaps", "valid boolean"),
    ("APP_NAME", "x" * 101, "at most 100 characters"),
    ("DEBUG", "perhaps", "valid boolean"),
    ("MEMORY_BACKEND", "mem1", "must be one of sql, mem0, mem0_platform, in_memory, none"),
    ("MEMORY_RECALL_TIMEOUT", "0", "greater than 0"),
    ("MEM0_HOST", "canary", "must be an http or https URL"),
    ("MEM0_INFER", "perhaps", "valid boolean"),
    ("MEM0_EMBEDDER", "canary", "must be one of openai, local"),
    ("MEM0_VECTOR_STORE", "canary", "must be a postgresql, http or https URL"),
    ("MEM0_VECTOR_STORE", "mysql://user:canary@host/x", "must be a postgresql, http or https URL"),
    ("MEM0_VECTOR_STORE", "postgresql://user:pass@canary@host/x", "must have %40 in the place of an @"),
    ("HOST", "http://canary", "must be an IP address or a host name"),
    ("HOST", "canary:8000", "must be an IP address or a host name"),
    ("HOST", "[canary", "must be an IP address or a host name"),
    ("HOST", "*", "must be an IP address or a host name"),
    ("PORT", "-1", "greater than or equal to 0"),
    ("PORT", "65536", "less than or equal to 65535"),
    ("PORT", "http", "valid integer"),
    ("AUTH_MODE", "canary", "must be one of auto, none, api_key, jwt, api_key+jwt"),
    ("AUTH_JWT_SECRET", "canary" * 5, "must have at least 32 characters"),
    ("AUTH_JWT_SECRET", "canary" * 7, "a repeated word"),
    ("AUTH_JWT_SECRET", "changeme" * 5, "a repeated word"),
    ("AUTH_JWT_SECRET", "canary " * 8, "without spaces and quotation marks"),
    ("AUTH_JWT_SECRET", "a-string-secret-at-least-256-bits-long", "a sample that everybody knows"),
    ("AUTH_JWT_SECRET", "Super-Secret-JWT-token-with-at-least-32-characters-long", "a sample that everybody knows"),
    ("AUTH_JWKS_URL", "canary", "must be an http or https URL"),
    ("AUTH_JWKS_URL", "file:///canary", "must be an http or https URL"),
    ("AUTH_JWKS_URL", "http://canary.example/keys", "must be an https URL"),
    ("AUTH_JWKS_URL", "http://127.0.0.1.canary.example/keys", "must be an https URL"),
    ("AUTH_JWKS_URL", "http://10.0.0.1/canary", "must be an https URL"),
    ("AUTH_JWKS_URL", "https://user:canary@id.example/keys", "without user, password and fragment"),
    ("AUTH_JWKS_URL", "https://id.example/keys#canary", "without user, password and fragment"),
    ("TRUSTED_PROXIES", "canary", "must be IP addresses or networks"),
    ("TRUSTED_PROXIES", "10.0.0.0/24,10.0.0.1/24", "must be IP addresses or networks"),
    ("TRUSTED_PROXIES", "*", "must be IP addresses or networks"),
    ("CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED", "1", "must be true or false"),
    ("CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED", "yes", "must be true or false"),
    ("HISTORY_BACKEND", "redis", "must be one of sql, in_memory"),
    ("HISTORY_BACKEND", "SQL", "must be one of sql, in_memory"),
    ("DATABASE_URL", "mysql://user:canary@host/db", "must be sqlite:/// followed by a file path, or postgresql://"),
    ("DATABASE_URL", "postgresql://user:canary@host", "must be postgresql://user:password@host/database"),
    ("DATABASE_URL", "postgresql://user:can#ary@host/db", "percent-encoded, e.g. %23 for #"),
    ("DATABASE_URL", "postgresql://user:[canary@host/db", "percent-encoded, e.g. %23 for #"),
    ("DATABASE_URL", "postgresql://user:pass@canary@host/db", "percent-encoded, e.g. %23 for #"),
    ("DATABASE_URL", "postgresql://user:pass@canary/word@host/db", "percent-encoded, e.g. %23 for #"),
    ("DATABASE_URL", "sqlite:///canary?mode=ro", "must not contain ?, # or %"),
    ("DATABASE_URL", "sqlite://", "must be sqlite:///"),
    ("DATABASE_URL", "sqlite:///", "must be sqlite:///"),
    ("DATABASE_URL", "sqlite:///:memory:", "must be sqlite:/// followed by a file path"),
    ("DATABASE_URL", "canary.db", "must be sqlite:///"),
    ("LOG_PSEUDONYM_KEY", "canary" * 5, "must have at least 32 characters"),
    ("LOG_PSEUDONYM_KEY", "canary " * 8, "without spaces and quotation marks"),
    ("CONTEXT_TOKENS", "99", "greater than or equal to 100"),
    ("ON_DISCONNECT", "stop", "must be one of cancel, continue"),
    ("CORS_ORIGINS", "example.com", "must be origins such as https://example.com"),
    ("CORS_ORIGINS", "https://example.com/", "must be origins such as https://example.com"),
    ("CORS_ORIGINS", "https://example.com,ftp://example.com", "must be origins such as https://example.com"),
    ("CORS_ORIGINS", "https://[canary]", "must be origins such as https://example.com"),
    ("CORS_ORIGINS", "https://*.canary.example", "only * by itself is one"),
    ("CORS_ORIGINS", "http://*", "only * by itself is one"),
    ("CORS_ORIGINS", "http://localhost:80", "without the scheme's default port"),
    ("CORS_ORIGINS", "https://canary.example:443", "without the scheme's default port"),
    ("CORS_ORIGINS", "https://canary.example/page", "without a path"),
    ("CORS_ORIGINS", "https://canary.example?page", "without a path"),
    ("CORS_ORIGINS", "https://canary@example.com", "without a user"),
    ("CORS_ORIGINS", "https://example.com:", "must be origins such as https://example.com"),
    ("CORS_ORIGINS", "https://canäry.example", "must be origins such as https://example.com"),
    ("CORS_ORIGINS", "file:///canary", "must be origins such as https://example.com"),
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
    isolate_settings(monkeypatch, tmp_path)


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

    with pytest.raises(Unusable, match=r"^PORT: .*; DEBUG: .*$"):
        load_settings()


def test_validation_errors_do_not_leak_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    monkeypatch.setenv("PORT", "http")

    with pytest.raises(Unusable) as rejected:
        load_settings()

    assert "canary" not in str(rejected.value)
    assert rejected.value.__suppress_context__


@pytest.mark.parametrize("value", ["your_openai_api_key_here", " your_openai_api_key_here ", "", "   "])
def test_blank_and_sample_keys_count_as_no_key(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", value)

    assert load_settings().openai_api_key is None


def test_a_model_requires_a_key_or_a_base_url(defaults: Settings) -> None:
    with pytest.raises(Unusable, match=r"set OPENAI_API_KEY .*smart-chatbot serve --local$"):
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


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("postgresql://user:canary@db.example:5433/chat?sslmode=require", "db.example:5433"),
        ("postgresql:///chat?host=/run/postgresql", "localhost"),
        ("sqlite:///chat.db", None),
    ],
)
def test_the_host_of_the_database_is_told_without_credentials(url: str, host: str | None) -> None:
    assert Settings(_env_file=None, database_url=SecretStr(url)).database_host == host


def test_printed_and_serialized_settings_do_not_contain_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    monkeypatch.setenv("MEM0_API_KEY", "m0-canary")
    monkeypatch.setenv("MEM0_VECTOR_STORE", "postgresql://user:canary@host/vectors")
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:canary@host/chat")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://user:canary@host/v1")
    monkeypatch.setenv("MEM0_HOST", "https://user:canary@host")
    monkeypatch.setenv("AUTH_JWKS_URL", "https://host/keys?key=canary")
    monkeypatch.setenv("AUTH_ISSUER", "https://host/")
    monkeypatch.setenv("AUTH_AUDIENCE", "chat")
    monkeypatch.setenv("LOG_PSEUDONYM_KEY", "canary0123456789abcdef0123456789")
    loaded = load_settings()

    assert "canary" not in f"{loaded!r} {loaded} {loaded.model_dump()} {loaded.model_dump_json()}"


def test_an_invalid_setting_of_a_program_is_not_quoted() -> None:
    with pytest.raises(ValidationError) as rejected:
        Settings(_env_file=None, openai_api_key="canary with a space")

    assert "canary" not in str(rejected.value)


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o-mini-2024-07-18",
        "ft:gpt-3.5-turbo-0125:my-org:custom-suffix:7p4lURel",
        "accounts/fireworks/models/llama-v3p1-405b-instruct",
        "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M",
        "anthropic.claude-3-5-sonnet-20241022-v2:0",
        "xai-grok-2-vision-1212-with-a-long-name",
    ],
)
def test_names_of_models_are_not_taken_for_keys(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_MODEL", model)

    assert load_settings().openai_model == model


def test_the_environment_takes_precedence_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("APP_NAME=file\nPORT=1\n")
    monkeypatch.setenv("APP_NAME", "environment")
    loaded = load_settings()

    assert (loaded.app_name, loaded.port) == ("environment", 1)


@pytest.mark.parametrize("value", ["", "  ", "your_openai_api_key_here"])
def test_an_empty_or_sample_key_in_the_environment_does_not_hide_the_one_of_the_env_file(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".env").write_text("OPENAI_API_KEY=sk-file\n")
    monkeypatch.setenv("OPENAI_API_KEY", value)

    assert load_settings().openai_api_key == SecretStr("sk-file")


def test_a_sample_key_in_the_env_file_does_not_hide_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openai_api_key").write_text("sk-secret\n")
    Path(".env").write_text("OPENAI_API_KEY=your_openai_api_key_here\n")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))

    assert load_settings().openai_api_key == SecretStr("sk-secret")


def test_options_come_before_the_environment_the_env_file_and_the_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"app_name": "secret", "port": "1", "openai_model": "secret", "host": "secret"}
    for name, value in values.items():
        (tmp_path / name).write_text(value)
    (tmp_path / "other.env").write_text("APP_NAME=file\nPORT=2\nOPENAI_MODEL=file\n")
    monkeypatch.setenv("APP_NAME", "environment")
    monkeypatch.setenv("PORT", "3")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))

    loaded = load_settings({"app_name": "option"}, tmp_path / "other.env")

    assert (loaded.app_name, loaded.port, loaded.openai_model, loaded.host) == ("option", 3, "file", "secret")


def test_an_invalid_option_is_named_as_such_without_its_value() -> None:
    with pytest.raises(InvalidOption, match=r"^--port: input should be a valid integer") as rejected:
        load_settings({"port": "canary"})

    assert "canary" not in str(rejected.value)


@pytest.mark.parametrize("place", ["option", "environment", "file"])
def test_the_directory_of_secrets_is_named_anywhere(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "OPENAI_API_KEY").write_text("sk-secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    if place == "environment":
        monkeypatch.setenv("SECRETS_DIR", str(secrets))
    elif place == "file":
        Path(".env").write_text(f"SECRETS_DIR={secrets}\n")

    loaded = load_settings({"secrets_dir": str(secrets)} if place == "option" else {})

    assert loaded.openai_api_key == SecretStr("sk-secret")


def test_a_misspelt_secret_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openai_api_kee").write_text("sk-canary\n")
    (tmp_path / "tls.crt").write_text("canary\n")
    loaded = load_settings({"secrets_dir": str(tmp_path)})

    assert startup_warnings(loaded) == [
        "SECRETS_DIR: OPENAI_API_KEE is not a setting; did you mean OPENAI_API_KEY?",
    ]


@pytest.mark.parametrize(
    ("variables", "level"),
    [({}, "info"), ({"LOG_LEVEL": "error"}, "error"), ({"LOG_LEVEL": "error", "DEBUG": "true"}, "debug")],
)
def test_debug_means_the_debug_level(variables: Mapping[str, str], level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured(monkeypatch, variables).log_threshold == level


def test_origins_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", " https://a.example , http://localhost:3000,")

    assert load_settings().cors_origins == ("https://a.example", "http://localhost:3000")


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("OPENAI_BASE_URL", " http://host/v1 ", "http://host/v1"),
        ("OPENAI_BASE_URL", "http://host/v1\u200b", "http://host/v1"),
        ("OPENAI_MODEL", "\tgpt-4o\n", "gpt-4o"),
        ("MEM0_EMBEDDING_MODEL", " small\u00a0", "small"),
        ("HOST", "127.0.0.1 ", "127.0.0.1"),
        ("HOST", " [::1]", "::1"),
        ("MEM0_HOST", " https://mem0.example ", "https://mem0.example"),
        ("DATABASE_URL", " sqlite:///~/chat.db ", "sqlite:////ann/chat.db"),
        ("DATABASE_URL", "sqlite:///$HOME/chat.db", "sqlite:////ann/chat.db"),
        ("DATA_DIR", "~/x", Path("/ann/x")),
        ("DATA_DIR", "$HOME/x", Path("/ann/x")),
        ("DATA_DIR", "/cost$/$5/a$ b$", Path("/cost$/$5/a$ b$")),
        ("DATA_DIR", "$WITH_DOLLAR/x", Path("/a$b/x")),
        ("DATA_DIR", "/the boss'", Path("/the boss'")),
        ("OPENAI_MODEL", "boss'", "boss'"),
        ("SYSTEM_PROMPT", "Say 'hi'", "Say 'hi'"),
        ("DATA_DIR", "${HOME}/x ", Path("/ann/x")),
        ("MEM0_CONFIG_FILE", "~/mem0.json", Path("/ann/mem0.json")),
        ("EVENT_LOOP", "asyncio ", "asyncio"),
        ("LOG_LEVEL", " WARNING", "warning"),
        ("ROOT_PATH", "/bot/", "/bot"),
        ("ROOT_PATH", "/", ""),
        ("OPENAI_STOP", ' ["END", "User:"] ', ("END", "User:")),
        ("OPENAI_SEED", "-7", -7),
        ("SYSTEM_PROMPT", " Be brief.\n", " Be brief.\n"),
    ],
)  # fmt: skip
def test_a_value_is_trimmed_and_its_home_directory_and_variables_are_expanded(
    name: str, value: str, kept: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/ann")
    monkeypatch.setenv("WITH_DOLLAR", "/a$b")
    monkeypatch.setenv(name, value)

    loaded = getattr(load_settings(), name.lower())
    assert (loaded.get_secret_value() if isinstance(loaded, SecretStr) else loaded) == kept


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "MEM0_API_KEY"])
def test_white_space_around_a_key_is_removed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, " sk-canary\u200b\n")

    assert getattr(load_settings(), name.lower()).get_secret_value() == "sk-canary"


@pytest.mark.parametrize("value", ["", "  "])
@pytest.mark.parametrize("name", sorted((DOCUMENTED | FURTHER).keys() - {"SYSTEM_PROMPT"}))
def test_an_empty_value_means_the_default(
    name: str, value: str, defaults: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    assert load_settings() == defaults


def test_an_empty_value_in_the_environment_overrides_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("OPENAI_BASE_URL=http://host/v1\nPORT=1\n")
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    monkeypatch.setenv("PORT", "")
    loaded = load_settings()

    assert (loaded.openai_base_url, loaded.port) == (None, 8000)


@pytest.mark.parametrize("value", ["", " \n"])
def test_an_empty_system_prompt_is_kept(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEM_PROMPT", value)

    assert load_settings().system_prompt == ""


def test_a_system_prompt_may_fill_the_budget_except_for_a_short_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEXT_TOKENS", "100")
    assert load_settings().context_tokens == 100

    monkeypatch.setenv("SYSTEM_PROMPT", "Be very brief. " * 50)
    with pytest.raises(Unusable, match=r"^SYSTEM_PROMPT: leaves no room for messages within CONTEXT_TOKENS"):
        load_settings()


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "capacitor://localhost", "ionic://localhost", "chrome-extension://abcdefghijklmnop",
     "http://localhost:3000", "https://example.com:80", "http://[::1]:3000"],
)  # fmt: skip
def test_origins_that_browsers_send_are_accepted(origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", origin)

    assert load_settings().cors_origins == (origin,)


def test_origins_are_compared_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "HTTPS://Example.com")

    assert load_settings().cors_origins == ("https://example.com",)


@pytest.mark.parametrize("characters", [1, 32_000, 1_000_000])
def test_the_body_limit_admits_any_message_within_its_own_limit(
    characters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_MESSAGE_CHARS", str(characters))
    loaded = load_settings()
    escaped = json.dumps({"user_id": "u" * 128, "conversation_id": "c" * 128, "message": "😀" * characters})
    fact = json.dumps({"fact": "😀" * MAX_FACT_CHARS})

    assert max(len(escaped), len(fact)) <= loaded.body_limit
    assert startup_warnings(loaded) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        ("directory", "is a directory; name one in SSL_CERT_DIR instead"),
        ("canary", "holds no certificates in PEM format"),
    ],
)
def test_a_certificate_file_without_certificates_is_rejected(
    content: str | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "authorities.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    if content == "directory":
        file.mkdir()
    elif content:
        file.write_text(content)

    with pytest.raises(Unusable) as rejected:
        load_settings()

    assert str(rejected.value) == f"SSL_CERT_FILE: the path that it names {problem}"


def test_a_certificate_file_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "authorities.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))

    assert load_settings().port == 8000


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.2", False), ("example.com", False), ("localhost.example.com", False)],
)  # fmt: skip
def test_loopback_addresses_are_recognized(host: str, is_loopback: bool) -> None:
    assert Settings(_env_file=None, host=host).is_loopback == is_loopback


JWT = {"AUTH_JWT_SECRET": "0f9a7c31e2b84d56a1b2c3d4e5f60718", "AUTH_ISSUER": "https://id.example", "AUTH_AUDIENCE": "a"}
KEY_SET = {"AUTH_JWKS_URL": "https://id.example/keys", "AUTH_ISSUER": "https://id.example", "AUTH_AUDIENCE": "a"}
BOTH = {**JWT, **KEY_SET, "AUTH_ISSUER": "https://one.example, https://two.example"}


def configured(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "none"),
        ({"HOST": "0.0.0.0"}, "none"),
        ({"AUTH_MODE": "none"}, "none"),
        ({"AUTH_MODE": "api_key"}, "api_key"),
        ({"AUTH_MODE": "api_key", "AUTH_AUDIENCE": "a"}, "api_key"),
        (JWT, "jwt"),
        (KEY_SET, "jwt"),
        (BOTH, "jwt"),
        ({**KEY_SET, "AUTH_JWKS_URL": "http://127.0.0.1:8080/keys"}, "jwt"),
        ({**KEY_SET, "AUTH_JWKS_URL": "http://localhost:8080/keys"}, "jwt"),
        ({**JWT, "AUTH_MODE": "jwt"}, "jwt"),
        ({**JWT, "AUTH_MODE": "api_key+jwt"}, "api_key+jwt"),
        ({**JWT, "AUTH_MODE": "none"}, "none"),
        ({**JWT, "CORS_ORIGINS": "https://a.example"}, "jwt"),
        ({"CORS_ORIGINS": "*"}, "none"),
    ],
)
def test_the_mode_of_authentication_follows_from_the_settings(
    variables: Mapping[str, str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configured(monkeypatch, variables).auth == mode


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"AUTH_MODE": "jwt"}, "AUTH_JWT_SECRET: it or AUTH_JWKS_URL is required for AUTH_MODE jwt"),
        ({"AUTH_MODE": "api_key+jwt"}, "AUTH_JWT_SECRET: it or AUTH_JWKS_URL is required for AUTH_MODE api_key+jwt"),
        ({**JWT, "AUTH_ISSUER": ""}, "AUTH_ISSUER, AUTH_AUDIENCE: are both required for tokens"),
        ({**JWT, "AUTH_AUDIENCE": ""}, "AUTH_ISSUER, AUTH_AUDIENCE: are both required for tokens"),
        ({**KEY_SET, "AUTH_AUDIENCE": " "}, "AUTH_ISSUER, AUTH_AUDIENCE: are both required for tokens"),
        ({**BOTH, "AUTH_ISSUER": "https://one.example"}, "AUTH_ISSUER: must name one issuer, or two different ones"),
        ({**BOTH, "AUTH_ISSUER": "https://a.example,https://a.example"}, "AUTH_ISSUER: must name one issuer, or two"),
        ({**JWT, "AUTH_ISSUER": "https://a.example,https://b.example"}, "AUTH_ISSUER: must name one issuer, or two"),
        ({**JWT, "CORS_ORIGINS": "*"}, "CORS_ORIGINS: must not be * with authentication"),
        ({"AUTH_MODE": "api_key", "CORS_ORIGINS": "https://a.example,*"}, "CORS_ORIGINS: must not be *"),
    ],
)
def test_incomplete_authentication_is_rejected_in_one_sentence(
    variables: Mapping[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unusable) as rejected:
        configured(monkeypatch, variables)

    assert str(rejected.value).startswith(sentence)
    assert "\n" not in str(rejected.value)
    assert JWT["AUTH_JWT_SECRET"] not in str(rejected.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "chat.example"])
@pytest.mark.parametrize("mode", ["auto", "none"])
def test_other_machines_are_not_served_without_authentication(
    host: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = configured(monkeypatch, {"HOST": host, "AUTH_MODE": mode})

    with pytest.raises(Unusable, match=f"^HOST: {host} can be reached from other machines") as refused:
        loaded.require_authentication()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"HOST": "127.0.0.1"},
        {"HOST": "::1"},
        {"HOST": "localhost", "AUTH_MODE": "none"},
        {"HOST": "0.0.0.0", "AUTH_MODE": "api_key"},
        {"HOST": "0.0.0.0", **JWT},
        {"HOST": "::", **KEY_SET, "AUTH_MODE": "api_key+jwt"},
        {"HOST": "0.0.0.0", "CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED": "true"},
        {"HOST": "0.0.0.0", "CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED": "TRUE", "AUTH_MODE": "none"},
    ],
)
def test_loopback_authentication_or_an_explicit_setting_allow_to_serve(
    variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(monkeypatch, variables).require_authentication()


def test_proxies_are_addresses_or_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = configured(monkeypatch, {"TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8,2001:db8::/32"})

    assert list(map(str, loaded.trusted_proxies)) == ["127.0.0.1/32", "10.0.0.0/8", "2001:db8::/32"]


def test_the_secret_of_tokens_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = configured(monkeypatch, JWT)

    assert JWT["AUTH_JWT_SECRET"] not in f"{loaded} {loaded!r} {loaded.model_dump()} {loaded.model_dump_json()}"


def test_secrets_are_read_from_a_directory_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "secrets"
    directory.mkdir()
    for name, value in (JWT | {"OPENAI_API_KEY": "sk-file", "ZZZ": "canary"}).items():
        (directory / name.lower()).write_text(f"{value}\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")

    loaded = load_settings()

    assert loaded.auth == "jwt"
    assert loaded.auth_jwt_secret == SecretStr(JWT["AUTH_JWT_SECRET"])
    assert loaded.openai_api_key == SecretStr("sk-environment")


def test_a_directory_in_the_place_of_a_secret_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openai_api_key").mkdir()
    (tmp_path / "..data").mkdir()  # Kubernetes has such directories beside the files
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))

    with pytest.raises(Unusable) as rejected:
        load_settings()

    path = tmp_path / "openai_api_key"
    assert str(rejected.value) == f"OPENAI_API_KEY: {path} is a directory, but has to be a file with the value"


def test_a_secret_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tested with a link to nothing, because permissions do not stop root."""
    (tmp_path / "openai_api_key").write_text("canary")
    (tmp_path / "auth_jwt_secret").symlink_to(tmp_path / "missing")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))

    with pytest.raises(Unusable) as rejected:
        load_settings()

    path = tmp_path / "auth_jwt_secret"
    assert str(rejected.value) == f"AUTH_JWT_SECRET: {path} cannot be read: No such file or directory"


def test_a_secret_that_is_not_text_is_rejected_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "auth_jwt_secret").write_bytes(b"canary\xff" * 8)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    with pytest.raises(Unusable) as rejected:
        load_settings()

    assert str(rejected.value) == f"The secrets in {tmp_path} cannot be read; check the permissions of its files."


@pytest.mark.parametrize("directory", ["", "no-such-directory"])
def test_a_directory_of_secrets_is_not_required(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", directory)

    assert load_settings().auth == "none"


@pytest.mark.parametrize(
    ("variables", "store", "file"),
    [
        ({}, "none", "chat.db"),
        ({"AUTH_MODE": "api_key"}, "sql", "chat.db"),
        ({"AUTH_MODE": "api_key", "HISTORY_BACKEND": "in_memory"}, "sql", "chat.db"),
        ({"AUTH_MODE": "api_key", "HISTORY_BACKEND": "in_memory", "MEMORY_BACKEND": "none"}, "own", "keys.db"),
        ({"HISTORY_BACKEND": "in_memory", "MEMORY_BACKEND": "none"}, "none", "keys.db"),
    ],
)
def test_api_keys_are_in_the_database_or_in_one_of_their_own(
    variables: Mapping[str, str], store: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = configured(monkeypatch, variables)

    assert loaded.key_store == store
    assert loaded.key_database == f"sqlite:///data/{file}"


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
    assert startup_warnings(defaults) == []


def test_the_table_of_settings_lists_every_setting_with_its_description_and_default() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- settings -->\n(.*?)<!-- /settings -->", text, re.DOTALL)
    assert found, "docs/settings.md has no settings table between <!-- settings --> and <!-- /settings -->"
    _, _, *rows = [line.strip("| ").split(" | ") for line in found[1].strip().splitlines()]

    shown = {"SYSTEM_PROMPT": "a helpful assistant's"}
    assert rows == [
        [f"`{name}`", description, shown.get(name) or (f"`{default}`" if default else "none")]
        for name, description, default in described()
    ]


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=100)
@given(
    st.fixed_dictionaries(
        {
            "openai_temperature": st.floats(0, 2),
            "openai_max_tokens": st.integers(1, 1_000_000),
            "app_name": words.map(trimmed).filter(bool),
            "debug": st.booleans(),
            "system_prompt": words.filter(trimmed),
            "host": st.sampled_from(["127.0.0.1", "::", "localhost", "a-host.example", "büro", "fe80::1%eth0"]),
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
