"""Warnings about valid settings that do not do what they seem to."""

from pathlib import Path

import pytest

from entrypoints.settings import Settings, load_settings
from entrypoints.startup_warnings import startup_warnings
from tests.harness.isolated_settings import isolate_settings

pytestmark = pytest.mark.usefixtures("no_proxy_of_this_machine")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate_settings(monkeypatch, tmp_path)


@pytest.fixture
def defaults() -> Settings:
    return load_settings()


@pytest.mark.parametrize(
    ("given", "base_url"),
    [
        ("https://host/v1/chat/completions", "https://host/v1"),
        (" https://host/v1/chat/completions/ ", "https://host/v1"),
        ("https://host/v1/completions", "https://host/v1"),
        ("https://host/chat/completions", "https://host"),
        (
            "https://user:canary@host/openai/deployments/x/chat/completions?api-version=2024-10-21",
            "https://user:canary@host/openai/deployments/x?api-version=2024-10-21",
        ),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_the_endpoint_at_the_end_of_a_base_url_is_ignored_with_a_warning(
    given: str, base_url: str, in_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_file:
        Path(".env").write_text(f"openai_base_url={given}\n")
    else:
        monkeypatch.setenv("OPENAI_BASE_URL", given)
    loaded = load_settings()

    assert loaded.openai_base_url == base_url
    assert startup_warnings(loaded) == [
        "OPENAI_BASE_URL: the endpoint's path at its end, e.g. /chat/completions, is ignored."
    ]


@pytest.mark.parametrize(
    "url", ["https://host/v1", "https://host/v1/", "https://host/models", "https://chat/v1?x=/chat"]
)
def test_other_base_urls_are_left_as_they_are(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    loaded = load_settings()

    assert loaded.openai_base_url == url
    assert startup_warnings(loaded) == []


def test_a_directory_in_place_of_the_file_is_reported() -> None:
    Path(".env").mkdir()

    assert startup_warnings(load_settings()) == [".env: is a directory, so that no settings are read from it."]


def test_the_name_of_the_base_url_in_older_programs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", "http://canary/v1")
    warning = "OPENAI_API_BASE is not a setting; did you mean OPENAI_BASE_URL?"
    assert startup_warnings(load_settings()) == [warning]

    monkeypatch.setenv("OPENAI_BASE_URL", "https://host/v1")
    assert startup_warnings(load_settings()) == []


@pytest.mark.parametrize(
    ("name", "value", "backend", "needed"),
    [
        ("MEM0_API_KEY", "m0-canary", "sql", "mem0_platform"),
        ("MEM0_API_KEY", "m0-canary", "mem0", "mem0_platform"),
        ("MEM0_HOST", "https://canary", "none", "mem0_platform"),
        ("MEM0_VECTOR_STORE", "postgresql://canary/x", "sql", "mem0"),
        ("MEM0_EMBEDDER", "local", "sql", "mem0"),
        ("MEM0_INFER", "false", "sql", "mem0 or mem0_platform"),
    ],
)
def test_a_setting_of_mem0_without_its_backend_warns(
    name: str, value: str, backend: str, needed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("MEMORY_BACKEND", backend)

    assert startup_warnings(load_settings()) == [f"{name}: ignored unless MEMORY_BACKEND is {needed}."]


def test_settings_of_mem0_with_their_backend_do_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEM0_API_KEY", "m0-canary")
    monkeypatch.setenv("MEMORY_BACKEND", "mem0_platform")

    assert startup_warnings(load_settings()) == []


def test_a_placeholder_does_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEM0_API_KEY", "your_mem0_api_key")

    assert startup_warnings(load_settings()) == []


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-canary0123456789abcdef",
        "ck_canary0123456789_0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.canary",
    ],
)
def test_a_key_in_the_system_prompt_warns(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEM_PROMPT", f"You help the customers of a shop. Its API key is {key}.")

    [sentence] = startup_warnings(load_settings())

    assert sentence.startswith("SYSTEM_PROMPT: contains what looks like a key")
    assert "canary" not in sentence


@pytest.mark.parametrize(("origins", "warned"), [("*", True), ("http://localhost:3000", False)])
def test_letting_any_page_in_without_authentication_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, origins: str, warned: bool
) -> None:
    monkeypatch.setenv("CORS_ORIGINS", origins)
    sentences = startup_warnings(load_settings())
    assert [sentence.partition(":")[0] for sentence in sentences] == ["CORS_ORIGINS"] * warned


def test_a_body_limit_that_is_too_small_for_a_message_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_BODY_BYTES", "256000")
    loaded = load_settings()

    assert loaded.body_limit == 256_000
    assert startup_warnings(loaded) == [
        "MAX_BODY_BYTES: a message of MAX_MESSAGE_CHARS characters can exceed it; leave it empty, or set it to 400000."
    ]


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("OPENAI_MODLE", ".env: OPENAI_MODLE is not a setting; did you mean OPENAI_MODEL?"),
        ("openai_apikey", ".env: openai_apikey is not a setting; did you mean OPENAI_API_KEY?"),
        ("HISTORY_BACKENDS", ".env: HISTORY_BACKENDS is not a setting; did you mean HISTORY_BACKEND?"),
        ("OPENAI_API_BASE", ".env: OPENAI_API_BASE is not a setting; did you mean OPENAI_BASE_URL?"),
        ("SSL_CERT_FILE", ".env: SSL_CERT_FILE is not a setting; set it in the environment."),
        ("ZZZ", ".env: ZZZ is not a setting."),
    ],
)
def test_an_unknown_key_in_the_env_file_is_reported_with_the_closest_setting(key: str, sentence: str) -> None:
    Path(".env").write_text(f"{key}=canary\nPORT=1\n")

    assert startup_warnings(load_settings()) == [sentence]


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("localhost", "localhost on this machine"),
        ("127.0.0.1", "127.0.0.1 on this machine"),
        ("[::1]", "::1 on this machine"),
        ("192.168.1.7", "192.168.1.7 on this network"),
        ("[fd00::7]", "fd00::7 on this network"),
        ("ollama", "ollama on this network"),
    ],
)
def test_a_local_model_behind_a_proxy_warns(host: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{host}:11434/v1")
    monkeypatch.setenv("HTTP_PROXY", "http://us:canary@proxy.test:3128")

    *_, warning = startup_warnings(load_settings())
    assert warning == (
        f"OPENAI_BASE_URL: requests to {place} go through the proxy proxy.test:3128; "
        f"add {place.partition(' ')[0]} to NO_PROXY."
    )


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "MEM0_HOST"])
@pytest.mark.parametrize("host", ["192.168.1.7", "ollama", "models.example", "localhost.example", "[fd00::7]"])
def test_an_unencrypted_base_url_of_another_machine_warns(
    name: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMORY_BACKEND", "mem0_platform")
    monkeypatch.setenv("MEM0_API_KEY", "m0-canary")
    monkeypatch.setenv(name, f"http://us:canary@{host}:1/v1")

    assert startup_warnings(load_settings()) == [
        f"{name}: the key and all messages go to {host.strip('[]')} unencrypted; use https."
    ]


@pytest.mark.parametrize("url", ["http://localhost:1/v1", "http://[::1]/v1", "http://0.0.0.0:1", "https://host/v1"])
def test_other_base_urls_do_not_warn(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)

    assert startup_warnings(load_settings()) == []


def test_settings_of_tokens_without_their_mode_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_MODE", "api_key")
    monkeypatch.setenv("AUTH_ISSUER", "https://id.example")
    monkeypatch.setenv("AUTH_JWT_SECRET", "0f9a7c31e2b84d56a1b2c3d4e5f60718")

    assert startup_warnings(load_settings()) == ["AUTH_JWT_SECRET, AUTH_ISSUER: ignored, because AUTH_MODE is api_key."]


def test_an_issuer_without_a_source_of_keys_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_ISSUER", "https://id.example")

    assert startup_warnings(load_settings()) == ["AUTH_ISSUER: ignored, because AUTH_MODE is auto."]


def test_allowing_what_authentication_forbids_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_MODE", "api_key")
    monkeypatch.setenv("CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED", "true")

    assert startup_warnings(load_settings()) == [
        "CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED: ignored, because authentication is configured."
    ]


@pytest.mark.parametrize(
    ("proxy", "problem"),
    [("socks5://us:canary@proxy.test:1080", "scheme socks5 is not supported"), ("http://[canary", "not a URL")],
)
def test_a_proxy_that_cannot_be_used_warns(proxy: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("ALL_PROXY", proxy)

    assert startup_warnings(load_settings()) == [
        f"The proxy that the environment names for api.openai.com cannot be used ({problem}): "
        "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."
    ]


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("http://localhost:11434/v1", {}),
        ("http://localhost:11434/v1", {"HTTPS_PROXY": "http://proxy.test:3128"}),
        ("http://localhost:11434/v1", {"HTTP_PROXY": "http://proxy.test:3128", "NO_PROXY": "localhost"}),
        ("http://[::1]:11434/v1", {"HTTP_PROXY": "http://proxy.test:3128", "NO_PROXY": "::1"}),
        ("https://api.model.test/v1", {"HTTPS_PROXY": "http://proxy.test:3128"}),
        ("https://8.8.8.8/v1", {"HTTPS_PROXY": "http://proxy.test:3128"}),
        ("", {"HTTPS_PROXY": "http://proxy.test:3128"}),
    ],
)
def test_other_models_and_proxies_do_not_warn(
    url: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert startup_warnings(load_settings()) == []


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("OPENAI_MODLE", "OPENAI_MODEL"),
        ("openai_modle", "OPENAI_MODEL"),
        ("OPNEAI_API_KEY", "OPENAI_API_KEY"),
        ("OPENAI_APIKEY", "OPENAI_API_KEY"),
        ("OPENAI_KEY", "OPENAI_API_KEY"),
        ("OPENAI_MODEL_NAME", "OPENAI_MODEL"),
        ("MEMROY_BACKEND", "MEMORY_BACKEND"),
        ("MEMO_API_KEY", "MEM0_API_KEY"),
        ("MEM0_URL", "MEM0_HOST"),
        ("HISTORY_BACKENDS", "HISTORY_BACKEND"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("DATADIR", "DATA_DIR"),
        ("CORS_ORIGIN", "CORS_ORIGINS"),
        ("SYSTEMPROMPT", "SYSTEM_PROMPT"),
        ("UPSTREAM_TIMEOUT", "UPSTREAM_IDLE_TIMEOUT"),
        ("DEBUGG", "DEBUG"),
    ],
)
def test_a_misspelt_variable_of_the_environment_is_reported_without_its_value(
    name: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "canary")

    assert startup_warnings(load_settings()) == [f"{name.upper()} is not a setting; did you mean {setting}?"]


def test_a_misspelt_name_in_both_places_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("OPENAI_MODLE=canary\n")
    monkeypatch.setenv("OPENAI_MODLE", "canary")

    assert startup_warnings(load_settings()) == [".env: OPENAI_MODLE is not a setting; did you mean OPENAI_MODEL?"]


OF_OTHERS = [
    "PATH", "HOME", "HOSTNAME", "HOSTTYPE", "USER", "PWD", "OLDPWD", "SHELL", "SHLVL", "TERM", "LANG", "LC_ALL", "TZ",
    "EDITOR", "PAGER", "DISPLAY", "MAIL", "LOGNAME", "TMPDIR", "DEBUGINFOD_URLS", "DEBIAN_FRONTEND", "HISTFILE",
    "HISTSIZE", "HISTCONTROL", "MEMORY_LIMIT", "MEMORY_PRESSURE_WATCH", "HISTORY_FILE", "OPENAI_ORG_ID",
    "OPENAI_ORGANIZATION", "OPENAI_PROJECT", "OPENAI_LOG", "OPENAI_API_VERSION", "MEM0_TELEMETRY", "MEM0_DIR",
    "GENAI_API_KEY", "XAI_API_KEY", "GEMINI_API_KEY", "ANTHROPIC_API_KEY", "AZURE_OPENAI_API_KEY", "MISTRAL_API_KEY",
    "MEM0_SERVICE_HOST", "MEM0_SERVICE_PORT", "MEM0_PORT", "MEM0_PORT_8000_TCP", "MEM0_PORT_8000_TCP_ADDR",
    "OPENAI_SERVICE_PORT_HTTP", "UPSTREAM_BRANCH", "UPSTREAM_REPOSITORY", "UPSTREAM_HOST", "PORTS", "HOSTS", "POST",
    "APP_HOME", "APP_MODE", "APP_ENV", "APP_KEY", "IDLE_TIMEOUT", "DATABASE_NAME", "DATABASE_PORT", "RUN_TIMEOUT",
    "PGDATA", "PGHOST", "PGPORT", "DOCKER_HOST", "KUBERNETES_PORT", "REASON", "VIRTUAL_ENV", "PYTHONPATH",
    "PYTHON_VERSION", "UV_CACHE_DIR", "PIP_INDEX_URL", "CI", "GITHUB_TOKEN", "XDG_DATA_DIRS", "XDG_DATA_HOME",
    "INVOCATION_ID",
]  # fmt: skip


def test_variables_of_other_programs_do_not_warn(defaults: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OF_OTHERS:
        monkeypatch.setenv(name, "canary")

    assert startup_warnings(defaults) == []


def test_an_empty_variable_does_not_warn(defaults: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_MODLE", "")

    assert startup_warnings(defaults) == []


def test_the_defaults_do_not_warn(defaults: Settings) -> None:
    assert startup_warnings(defaults) == []
