"""Types of settings that hold secrets, and of those that must not."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, SecretStr

from entrypoints.configuration.types import QUOTES

SAMPLE_KEYS: Final = frozenset({"your_openai_api_key_here", "your_mem0_api_key"})
"""Placeholders of `.env.example`; each counts as no key."""

KEY: Final = re.compile(
    r"(?<![\w-])(?:(?:sk|pk|rk|gsk|csk|m0|ck)[-_][\w-]{20,}|(?:xai|hf|nvapi|pplx|r8|fw|tgp|gh[pousr])[-_]\w{20,}"
    r"|AIza[\w-]{30,}|eyJ[\w-]{10,}\.eyJ[\w-]+)"
)
"""What looks like a key or token of a well-known service, or like one of ours."""

MIN_PSEUDONYM_KEY_CHARS: Final = 32
MIN_JWT_SECRET_CHARS: Final = 32
"""As many bytes as a digest of HS256. The other algorithms require more, see `adapters/tokens_jwt.py`."""

SAMPLE_SECRETS: Final = frozenset(
    {
        "a-string-secret-at-least-256-bits-long",
        "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
        "aym1sysppbydfgzld3umj1qzkobwvmkoqq-estjqlr_t-1qs0gzh75aktmn3yj0ips4hcguutwjazzr1z9caow",
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
        "super-secret-jwt-token-with-at-least-32-characters-long",
        "your-super-secret-jwt-token-with-at-least-32-characters-long",
        "this-is-a-very-long-secret-key-for-jwt-signing",
        "your-secret-key-must-be-at-least-32-characters-long",
        "your_super_secret_key_at_least_32_characters",
        "change-this-secret-in-production-32-characters",
        "my-super-secret-key-that-is-at-least-32-characters",
    }
)
"""Secrets of at least 32 characters in documentation that is copied from, in lower case."""

_MIN_DISTINCT_CHARS: Final = 8
"""In a secret. One of 32 random hexadecimal digits has fewer once in a million times."""

_ADVICE: Final = "make one with: openssl rand -hex 32"


def _key(value: SecretStr) -> SecretStr:
    """Return a key that fits into a header."""
    if not all("!" <= character <= "~" and character not in QUOTES for character in value.get_secret_value()):
        raise ValueError("must consist of visible ASCII characters, without spaces and quotation marks")
    return value


def _no_key(value: str) -> str:
    if KEY.search(value):
        raise ValueError("must not be a key: it is a name, which is logged and shown")
    return value


def _pseudonym_key(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < MIN_PSEUDONYM_KEY_CHARS:
        raise ValueError(f"must have at least {MIN_PSEUDONYM_KEY_CHARS} characters, e.g. from: openssl rand -hex 32")
    return value


def _jwt_secret(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if len(secret) < MIN_JWT_SECRET_CHARS:
        raise ValueError(f"must have at least {MIN_JWT_SECRET_CHARS} characters; {_ADVICE}")
    if secret.lower() in SAMPLE_SECRETS or len(set(secret)) < _MIN_DISTINCT_CHARS:
        raise ValueError(f"must not be a sample that everybody knows, or a repeated word; {_ADVICE}")
    return value


Key = Annotated[SecretStr, AfterValidator(_key)]
NoKey = Annotated[str, AfterValidator(_no_key)]
"""A name that is shown. Keys that are pasted into the wrong line of a file must not be."""
PseudonymKey = Annotated[Key, AfterValidator(_pseudonym_key)]
JWTSecret = Annotated[Key, AfterValidator(_jwt_secret)]
