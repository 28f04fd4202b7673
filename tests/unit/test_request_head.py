"""Request heads that are ambiguous, and offers of other protocols."""

import pytest

from entrypoints.http.request_problems import RequestProblem
from entrypoints.request_head import head_without_offer, require_unambiguous

HOST = (b"host", b"x")
LENGTH, CHUNKED = (b"content-length", b"5"), (b"transfer-encoding", b"chunked")


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.1", []),
        ("1.1", [HOST, HOST]),
        ("1.0", [HOST, HOST]),
        ("1.1", [(b"host", b"x/y")]),
        ("1.1", [(b"host", b"user@x")]),
        ("1.1", [(b"host", b"x, y")]),
        ("1.1", [(b"host", b"x y")]),
        ("1.1", [HOST, LENGTH, CHUNKED]),
        ("1.1", [HOST, CHUNKED, LENGTH]),
        ("1.1", [HOST, LENGTH, LENGTH]),
        ("1.1", [HOST, CHUNKED, CHUNKED]),
        ("1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")]),
        ("1.1", [HOST, (b"transfer-encoding", b"identity")]),
        ("1.0", [HOST, CHUNKED]),
        ("0.9", [HOST]),
        ("2.0", [HOST]),
    ],
)
def test_an_ambiguous_head_is_rejected(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(RequestProblem) as caught:
        require_unambiguous(version, headers)
    assert (caught.value.status, caught.value.code) == (400, "malformed_request")


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.0", []),
        ("1.1", [HOST, LENGTH]),
        ("1.1", [(b"accept", b"*/*"), HOST, (b"transfer-encoding", b" Chunked ")]),
        ("1.1", [(b"host", b"")]),
        ("1.1", [(b"host", b"[fe80::1%25eth0]:8000")]),
        ("1.1", [(b"host", b"xn--bro-hoa.example:80")]),
    ],
)
def test_an_unambiguous_head_is_accepted(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    require_unambiguous(version, headers)


def test_an_offer_is_removed_and_everything_else_kept() -> None:
    headers = [
        HOST,
        (b"connection", b"Upgrade, close, HTTP2-Settings"),
        (b"upgrade", b"h2c"),
        (b"http2-settings", b"AAEAAEAA"),
        (b"connection", b"upgrade"),
        LENGTH,
    ]
    expected = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\n"
    assert head_without_offer(b"POST / HTTP/1.1", headers) == expected
