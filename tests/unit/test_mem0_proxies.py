"""Sentences about the proxies that the environment names."""

import httpx
import pytest

from adapters.mem0_proxies import credentials_refused, is_proxied, refuses_credentials, unsupported_proxy

pytestmark = pytest.mark.usefixtures("no_proxy_of_this_machine")


@pytest.mark.parametrize("value", ["", "http://proxy.test:1", "https://proxy.test:1", "proxy.test:1"])
def test_an_http_proxy_is_supported(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", value)

    assert unsupported_proxy() is None


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ALL_PROXY", "socks5://user:secret@127.0.0.1:1080", "SOCKS proxies are not supported; check ALL_PROXY"),
        ("https_proxy", "SOCKS5H://user:secret@127.0.0.1:1080", "SOCKS proxies are not supported; check HTTPS_PROXY"),
        ("HTTP_PROXY", "gopher://secret", "Proxies of this kind are not supported; check HTTP_PROXY"),
    ],
)
def test_another_proxy_is_named_by_its_variable(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    sentence = unsupported_proxy()

    assert sentence is not None
    assert sentence.startswith(words)
    assert "secret" not in sentence


def test_requests_through_any_kind_of_proxy_are_proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_proxied("http://mem0.test")
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    assert is_proxied("http://mem0.test")
    monkeypatch.setenv("no_proxy", "mem0.test")
    assert not is_proxied("http://mem0.test")


@pytest.mark.parametrize(("text", "expected"), [("407 Proxy Authentication Required", True), ("502 Bad", False)])
def test_only_status_407_refuses_the_credentials(text: str, expected: bool) -> None:
    error = RuntimeError("wrapped")
    error.__cause__ = httpx.ProxyError(text)

    assert expected is refuses_credentials(error)


def test_the_proxy_that_refused_is_named_without_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.test:3128")

    assert credentials_refused("https://mem0.test").startswith("The proxy proxy.test:3128 refused our credentials")
    assert credentials_refused("http://mem0.test").startswith("The proxy refused our credentials")
