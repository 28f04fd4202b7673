"""Request heads: those that servers and proxies understand differently, and those that offer another protocol."""

import re
from collections.abc import Sequence
from typing import Final

from entrypoints.http.request_problems import malformed_request

_HOST: Final = re.compile(rb"[\w.~!$&'()*+;=:%\[\]-]*", re.ASCII)

_UPGRADE_FIELDS: Final = frozenset({b"upgrade", b"http2-settings"})
"""Header fields, and options of `Connection`, by which a client offers another protocol."""


def require_unambiguous(version: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Check what tells where a request ends and whom it is for, whatever the parser accepts.

    The names of the headers are in lower case.

    Raises:
        RequestProblem: The body has two lengths, or an encoding other than `chunked`; the host is missing, given twice
            or not a host; or the version is neither HTTP/1.0 nor HTTP/1.1.
    """
    if version not in ("1.0", "1.1"):
        raise malformed_request("Use HTTP/1.1.")
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1 or (not hosts and version == "1.1"):
        raise malformed_request("Send one Host header.")
    if hosts and not _HOST.fullmatch(headers[names.index(b"host")][1]):
        raise malformed_request("The Host header is invalid.")
    encodings = names.count(b"transfer-encoding")
    lengths = names.count(b"content-length")
    if lengths + encodings > 1:
        raise malformed_request("Send one Content-Length or Transfer-Encoding header.")
    if encodings:
        coding = headers[names.index(b"transfer-encoding")][1]
        if version == "1.0" or coding.strip().lower() != b"chunked":
            raise malformed_request("The only supported Transfer-Encoding is chunked, with HTTP/1.1.")


def head_without_offer(start_line: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a request head without its offer of another protocol. The names of the headers are in lower case."""
    lines = [start_line]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() not in _UPGRADE_FIELDS)
        if name not in _UPGRADE_FIELDS and (value or name != b"connection"):
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"\r\n"])
