"""The latency of turns while other clients send 500 malformed requests and open 500 connections that stay silent.

    python -m tests.bench.hostile [--seconds 4] [--repetitions 5]

Phases without and with hostile clients alternate. The hostile ones are a process of their own; in `spread` phases the
malformed requests are spread over the phase, in `burst` phases they arrive at once.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter
from typing import Final

import aiohttp

from tests.bench.servers import service, upstream
from tests.harness.malformed_requests import MALFORMED, TOO_LARGE, TOO_LONG
from tests.harness.servers import ROOT, clean_environment

COUNT: Final = 500
"""Of malformed requests, and of silent connections."""

CLIENTS: Final = 8
PAUSE: Final = 0.02
"""Seconds between two turns of a client: a server that is busy all the time has no latency to compare with."""


async def attack(port: int, seconds: float, *, burst: bool) -> None:
    """Open the silent connections, send the malformed requests within `seconds`, then close everything."""
    requests = [*MALFORMED.values(), *TOO_LARGE.values(), *TOO_LONG.values()]
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(COUNT)]

    async def send(number: int) -> None:
        if not burst:
            await asyncio.sleep(seconds * number / COUNT)
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(requests[number % len(requests)])
            with suppress(TimeoutError, OSError):
                await asyncio.wait_for(reader.read(), seconds)
            writer.transport.abort()

    await asyncio.gather(asyncio.sleep(seconds), *(send(number) for number in range(COUNT)))
    for _, writer in silent:
        writer.transport.abort()


async def latencies(port: int, seconds: float) -> Sequence[float]:
    """Return the time of each turn of some clients within `seconds`."""
    times: list[float] = []
    end = perf_counter() + seconds

    async def chat(session: aiohttp.ClientSession, number: int) -> None:
        body = {"user_id": f"user{number}", "message": "Hello"}
        while (started := perf_counter()) < end:
            async with session.post(f"http://127.0.0.1:{port}/api/chat/simple", json=body) as response:
                await response.read()
                assert response.status == 200
            times.append(perf_counter() - started)
            await asyncio.sleep(PAUSE)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(chat(session, number) for number in range(CLIENTS)))
    return times


def measured(port: int, seconds: float, load: str) -> Sequence[float]:
    if load == "none":
        return asyncio.run(latencies(port, seconds))
    command = [sys.executable, "-m", "tests.bench.hostile", "--attack", str(port), "--seconds", str(seconds + 1)]
    with subprocess.Popen([*command, "--load", load], cwd=ROOT, env=clean_environment()) as attacker:
        asyncio.run(asyncio.sleep(1))  # until it has started
        times = asyncio.run(latencies(port, seconds))
        assert attacker.wait() == 0
    return times


def quantiles(times: Sequence[float]) -> tuple[float, float, float]:
    """Return the 50th, 95th and 99th percentile in milliseconds."""
    cuts = statistics.quantiles(times, n=100)
    return cuts[49] * 1e3, cuts[94] * 1e3, cuts[98] * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help="of a phase (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--load", default="spread", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack(options.attack, options.seconds, burst=options.load == "burst"))
        return
    with upstream(5, 0) as base_url, service(base_url) as server:
        measured(server.port, options.seconds, "none")  # warms up
        for _ in range(options.repetitions):
            for load in ("none", "spread", "none", "burst"):
                cpu = server.cpu()
                times = measured(server.port, options.seconds, load)
                cpu = server.cpu() - cpu
                found = quantiles(times)
                if load == "none":
                    unloaded = found
                ratios = "  ".join(
                    f"{one:6.1f} ms {one / base:5.2f} ×" for one, base in zip(found, unloaded, strict=True)
                )
                print(f"{load:7} {len(times):5} turns, {cpu:4.1f} s CPU   p50, p95, p99: {ratios}", flush=True)


if __name__ == "__main__":
    main()
