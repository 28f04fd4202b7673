"""Warnings about settings that are valid but do not do what they seem to."""

import ipaddress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from adapters.proxies import CHECK_PROXY, BadProxyURL, proxy_for
from entrypoints.configuration.env_file import ALIASES, unknown_key, values
from entrypoints.configuration.environment_names import misspelt
from entrypoints.configuration.keys import KEY
from entrypoints.configuration.types import trimmed
from entrypoints.configuration.urls import host_of, without_endpoint
from entrypoints.settings import ENV_FILE, Settings, environment

_NEEDED_BACKENDS: Final = {
    "mem0_api_key": ("mem0_platform",),
    "mem0_host": ("mem0_platform",),
    "mem0_infer": ("mem0", "mem0_platform"),
    "mem0_embedder": ("mem0",),
    "mem0_embedding_model": ("mem0",),
    "mem0_vector_store": ("mem0",),
    "mem0_config_file": ("mem0",),
}
"""The values of `memory_backend` with which a setting of Mem0's has an effect."""

_THIS_MACHINE: Final = "on this machine"

_TOKEN_SETTINGS: Final = ("auth_jwt_secret", "auth_jwks_url", "auth_issuer", "auth_audience")


def startup_warnings(settings: Settings, env_file: Path = ENV_FILE) -> list[str]:
    """Return a sentence for each setting that was changed, has no effect or contradicts another."""
    known = [name.upper() for name in Settings.model_fields]
    file = values(env_file)
    variables = environment()
    given = {name.upper(): value for name, value in file.items()} | variables
    sentences = [f"{env_file}: {unknown_key(key, known)}" for key in file if key.upper() not in known]
    if env_file.is_dir():  # e.g. made by Docker, when it mounts a file that does not exist
        sentences.append(f"{env_file}: is a directory, so that no settings are read from it.")
    for alias, name in ALIASES.items():
        if variables.get(alias) and not given.get(name):
            sentences.append(unknown_key(alias, known))
    expected = {*known, *ALIASES, *(key.upper() for key in file)}
    unknown = [name for name, value in variables.items() if value and name not in expected]
    sentences += [unknown_key(name, known) for name in misspelt(unknown, known)]
    if settings.secrets_dir is not None:
        files = (file.name.upper() for file in settings.secrets_dir.iterdir() if file.is_file())
        unknown = [name for name in files if name not in known]
        sentences += [f"SECRETS_DIR: {unknown_key(name, known)}" for name in misspelt(unknown, known)]
    base_url = trimmed(given.get("OPENAI_BASE_URL", ""))
    if base_url and without_endpoint(base_url) != base_url:
        sentences.append("OPENAI_BASE_URL: the endpoint's path at its end, e.g. /chat/completions, is ignored.")
    if KEY.search(settings.system_prompt):
        sentences.append("SYSTEM_PROMPT: contains what looks like a key, and users can make a model repeat its prompt.")
    if settings.auth == "none" and "*" in settings.cors_origins:
        sentences.append(
            "CORS_ORIGINS: without authentication, * lets every page that is open in a browser on this machine read "
            "and delete all conversations; name the origins."
        )
    sentences += _unencrypted(settings)
    sentences += proxy_before_the_model(settings)
    sentences += _without_effect(settings)
    if settings.body_limit < settings.sufficient_body_bytes:
        sentences.append(
            "MAX_BODY_BYTES: a message of MAX_MESSAGE_CHARS characters can exceed it; leave it empty, or set it to "
            f"{settings.sufficient_body_bytes}."
        )
    return sentences


def proxy_before_the_model(settings: Settings) -> list[str]:
    """Return a sentence if a proxy that is named for the model's service cannot be used, or should not be."""
    if not settings.has_model:
        return []
    url = settings.openai_base_url or "https://api.openai.com"
    host = urlsplit(url).hostname or ""
    place = _place(host)
    try:
        proxy = proxy_for(url)
    except BadProxyURL as error:
        return [f"The proxy that the environment names for {host} cannot be used ({error.problem}): {CHECK_PROXY}."]
    if proxy is None or not place:
        return []
    return [
        f"OPENAI_BASE_URL: requests to {host} {place} go through the proxy {host_of(proxy)}; add {host} to NO_PROXY."
    ]


def _unencrypted(settings: Settings) -> list[str]:
    urls = {"OPENAI_BASE_URL": settings.openai_base_url, "MEM0_HOST": settings.mem0_host}
    hosts = {name: urlsplit(url) for name, url in urls.items() if url}
    return [
        f"{name}: the key and all messages go to {parts.hostname} unencrypted; use https."
        for name, parts in hosts.items()
        if parts.scheme == "http" and _place(parts.hostname or "") != _THIS_MACHINE
    ]


def _place(host: str) -> str:
    """Return where a host is if it is not on the Internet; empty if it may be. Names are not resolved."""
    if host == "localhost" or host.endswith(".localhost"):
        return _THIS_MACHINE
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "on this network" if host and "." not in host else ""
    if address.is_loopback or address.is_unspecified:
        return _THIS_MACHINE
    return "on this network" if address.is_private or address.is_link_local else ""


def _without_effect(settings: Settings) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, backends in _NEEDED_BACKENDS.items():
        changed = getattr(settings, name) != Settings.model_fields[name].default
        if changed and settings.memory_backend not in backends:
            names.setdefault(" or ".join(backends), []).append(name.upper())
    sentences = [
        f"{', '.join(ignored)}: ignored unless MEMORY_BACKEND is {needed}." for needed, ignored in names.items()
    ]
    ignored = [name.upper() for name in _TOKEN_SETTINGS if getattr(settings, name)]
    if ignored and "jwt" not in settings.auth:
        sentences.append(f"{', '.join(ignored)}: ignored, because AUTH_MODE is {settings.auth_mode}.")
    if settings.auth != "none" and settings.chat_dangerously_allow_unauthenticated:
        sentences.append("CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED: ignored, because authentication is configured.")
    return sentences
