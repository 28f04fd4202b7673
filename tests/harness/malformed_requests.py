"""Requests that are not valid HTTP/1.1, or unwelcome: the same ones in every run."""

import random
from collections.abc import Iterator, Mapping
from typing import Final

GET: Final = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n"
POST: Final = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"

TOO_LARGE: Final[Mapping[str, bytes]] = {
    "a header of a megabyte": GET + b"X: " + b"x" * 10**6 + b"\r\n\r\n",
    "a header's name of a megabyte": GET + b"x" * 10**6 + b": y\r\n\r\n",
    "headers of 33 kB": GET + b"".join(b"X%d: %s\r\n" % (number, b"v" * 1_000) for number in range(33)) + b"\r\n",
    "101 headers": GET + b"A: b\r\n" * 100 + b"\r\n",
    "endless empty lines": b"\r\n" * 40_000,
}
"""Answered with 431."""

TOO_LONG: Final[Mapping[str, bytes]] = {
    "a path of 70 kB": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path of 33 kB": b"GET /" + b"a" * 33_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a query without an end": b"GET /api/health?" + b"a" * 40_000,
}
"""Answered with 414."""

MALFORMED: Final[Mapping[str, bytes]] = {
    "no host": b"GET /api/health HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "a host with a path": b"GET /api/health HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "a host with a user": b"GET /api/health HTTP/1.1\r\nHost: x@y\r\n\r\n",
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two equal lengths": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "an endless length": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nhello",
    "compressed chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n",
    "a chunk without a size": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"5\r\nhelloXX\r\n0\r\n\r\n",
    "an endless size of a chunk": CHUNKED + b"f" * 30 + b"\r\n",
    "NUL in a header": GET + b"X: a\0b\r\n\r\n",
    "CR in a header": GET + b"X: a\rb\r\n\r\n",
    "LF in a header": GET + b"X: a\nb\r\n\r\n",
    "a folded header": GET + b"X: a\r\n b\r\n\r\n",
    "a space before the headers": b"GET /api/health HTTP/1.1\r\n X: y\r\nHost: localhost\r\n\r\n",
    "a space before the colon": GET + b"X : a\r\n\r\n",
    "a method in lower case": GET.replace(b"GET", b"get") + b"\r\n",
    "an unknown method": GET.replace(b"GET", b"FOO") + b"\r\n",
    "bytes in the path": b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a URL without a path": b"GET http://x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "CONNECT": b"CONNECT x:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "CONNECT with a path": GET.replace(b"GET", b"CONNECT") + b"\r\n",
    "CONNECT with HTTP/1.0": b"CONNECT /livez HTTP/1.0\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 in text": GET.replace(b"1.1", b"2.0") + b"\r\n",
    "HTTP/0.9": b"GET /api/health\r\n\r\n",
    "HTTP/1.2": GET.replace(b"1.1", b"1.2") + b"\r\n",
    "lines without CR": b"GET /api/health HTTP/1.1\nHost: localhost\n\n",
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
}
"""Answered with 400."""


def mutations(count: int, seed: int = 1) -> Iterator[bytes]:
    """Return valid and invalid requests with random changes. None of them is a message that begins a turn."""
    chance = random.Random(seed)
    seeds = [*MALFORMED.values(), GET + b"\r\n", CHUNKED + b"2\r\n{}\r\n0\r\nTrailer: x\r\n\r\n"]
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 8)):
            start = chance.randrange(len(data) + 1)
            match chance.randrange(5):
                case 0:
                    data[start : start + 1] = chance.randbytes(1)
                case 1:
                    del data[start : start + chance.randint(1, 10)]
                case 2:
                    data[start:start] = data[start : start + chance.randint(1, 40)]
                case 3:
                    data[start:start] = chance.choice([b"\r\n", b"\0", b"\r", b"\n", b": ", b" ", b"\t", b";", b","])
                case 4:
                    data[start:start] = bytes([chance.choice(b"a\r:0")]) * chance.choice([100, 10_000, 100_000])
        yield bytes(data)
