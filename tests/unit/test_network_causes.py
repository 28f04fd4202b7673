"""Causes of failed connections, told apart for the operator."""

import errno
import socket
import ssl
from itertools import pairwise

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from adapters.openai_api.errors import from_exception
from adapters.openai_api.http_client import ConnectError
from adapters.openai_api.network_causes import network_cause
from adapters.proxies import BadProxyURL

KEY = ConnectionKey("example.com", 443, True, True, None, None, None)


def certificate_error(reason: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "secret")
    error.verify_message = reason
    return error


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "secret")
    error.reason = reason
    return error


def proxy_answer(status: int) -> aiohttp.ClientHttpProxyError:
    url = URL("http://proxy")
    request = aiohttp.RequestInfo(url, "CONNECT", CIMultiDictProxy(CIMultiDict()), url)
    return aiohttp.ClientHttpProxyError(request, (), status=status, message="secret")


@pytest.mark.parametrize(
    ("error", "cause", "setting"),
    [
        (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "x")), {"cause": "refused"}, "OPENAI_BASE_URL"),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "x")), {"cause": "dns"}, "OPENAI_BASE_URL"),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.EHOSTUNREACH, "x")), {"cause": "no route"}, "OPENAI_BASE_URL"),
        (TimeoutError(), {"cause": "connect timeout"}, "OPENAI_BASE_URL"),
        (aiohttp.ConnectionTimeoutError("secret"), {"cause": "connect timeout"}, "OPENAI_BASE_URL"),
        (aiohttp.ClientConnectorCertificateError(KEY, certificate_error("self-signed certificate")),
         {"cause": "certificate", "cause_detail": "self-signed certificate"}, "SSL_CERT_FILE"),
        (aiohttp.ClientConnectorSSLError(KEY, tls_error("WRONG_VERSION_NUMBER")),
         {"cause": "tls", "cause_detail": "wrong version number"}, "http or https"),
        (aiohttp.ClientProxyConnectionError(KEY, ConnectionRefusedError(111, "x")),
         {"cause": "proxy", "cause_detail": "refused"}, "NO_PROXY"),
        (proxy_answer(407), {"cause": "proxy", "proxy_status": 407}, "refused our credentials"),
        (proxy_answer(502), {"cause": "proxy", "proxy_status": 502}, "NO_PROXY"),
        (BadProxyURL(), {"cause": "proxy", "cause_detail": "not a URL"}, "NO_PROXY"),
        (BadProxyURL("socks5"), {"cause": "proxy", "cause_detail": "scheme socks5 is not supported"}, "NO_PROXY"),
        (aiohttp.ClientConnectorError(KEY, ConnectionResetError(104, "x")), {"cause": "reset"}, ""),
    ],
)  # fmt: skip
def test_the_cause_of_a_failed_connection_is_told(error: Exception, cause: dict[str, object], setting: str) -> None:
    failed = error if isinstance(error, ConnectError) else ConnectError()
    if failed is not error:
        failed.__cause__ = error
    translated = from_exception(failed, streaming=False)
    assert translated.diagnosis == cause
    assert translated.code == "upstream_unreachable"
    assert setting in translated.detail


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (aiohttp.ClientConnectorCertificateError(KEY, certificate_error("expired")), False),
        (proxy_answer(407), False),
        (BadProxyURL("socks5"), False),
        (proxy_answer(502), True),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "x")), True),
        (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "x")), True),
    ],
)
def test_only_a_connection_that_may_succeed_later_is_worth_retrying(error: Exception, retryable: bool) -> None:
    failed = ConnectError()
    failed.__cause__ = error
    assert from_exception(failed, streaming=False).retryable is retryable


@pytest.mark.parametrize(
    ("chain", "cause"),
    [
        ([aiohttp.ServerDisconnectedError()], {"cause": "closed"}),
        ([aiohttp.ClientOSError(104, "x"), ConnectionResetError(104, "x")], {"cause": "reset"}),
        ([TimeoutError()], {"cause": "timeout"}),
        ([ValueError("secret")], {}),
    ],
)
def test_the_cause_of_a_broken_connection_is_told(chain: list[Exception], cause: dict[str, object]) -> None:
    for outer, inner in pairwise(chain):
        outer.__cause__ = inner
    assert network_cause(chain[0]) == cause
