"""The latency of turns while other clients send 500 malformed requests and open 500 connections that stay silent.

    python -m tests.bench.hostile [--seconds 4] [--repetitions 5]

Phases without and with hostile clients alternate. The hostile ones are a process of their own; in `spread` phases the
malformed requests are spread over the phase, in `burst` phases they arrive at once, in its middle. In `elsewhere`
phases they do so at another server, plain uvicorn: what a burst costs because clients and servers share the cores.
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

from tests.bench.servers import baseline, service, upstream
from tests.harness.malformed_requests import MALFORMED, TOO_LARGE, TOO_LONG
from tests.harness.servers import ROOT, clean_environment

COUNT: Final = 500
"""Of malformed requests, and of silent connections."""

CLIENTS: Final = 8
PAUSE: Final = 0.02
"""Seconds between two turns of a client: a server that is busy all the time has no latency to compare with."""


async def attack(port: int, seconds: float, *, burst: bool) -> None:
    """Open the silent connections, print a line, send the malformed requests within `seconds`, and close everything."""
    requests = [*MALFORMED.values(), *TOO_LARGE.values(), *TOO_LONG.values()]
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(COUNT)]
    print(flush=True)

    async def send(number: int) -> None:
        await asyncio.sleep(seconds / 2 if burst else seconds * number / COUNT)
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(requests[number % len(requests)])
            with suppress(TimeoutError, OSError):
                await asyncio.wait_for(reader.read(), seconds)
            writer.transport.abort()

    await asyncio.gather(asyncio.sleep(seconds + 1), *(send(number) for number in range(COUNT)))
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


def measured(port: int, target: int, seconds: float, load: str) -> Sequence[float]:
    if load == "none":
        return asyncio.run(latencies(port, seconds))
    command = [sys.executable, "-m", "tests.bench.hostile", "--attack", str(target), "--seconds", str(seconds)]
    command += ["--load", load]
    with subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE) as attacker:
        assert attacker.stdout is not None
        attacker.stdout.readline()
        times = asyncio.run(latencies(port, seconds))
        assert attacker.wait() == 0
    return times


def quantiles(times: Sequence[float]) -> Sequence[float]:
    """Return the 50th, 95th and 99th percentile and the maximum in milliseconds."""
    cuts = statistics.quantiles(times, n=100)
    return [seconds * 1e3 for seconds in (cuts[49], cuts[94], cuts[98], max(times))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help="of a phase (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--load", default="spread", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack(options.attack, options.seconds, burst=options.load != "spread"))
        return
    with upstream(5, 0) as base_url, service(base_url) as server, baseline("floor", base_url) as other:
        measured(server.port, server.port, options.seconds, "none")  # warms up
        for _ in range(options.repetitions):
            for load in ("none", "spread", "none", "burst", "none", "elsewhere"):
                cpu = server.cpu()
                target = other if load == "elsewhere" else server
                times = measured(server.port, target.port, options.seconds, load)
                cpu = server.cpu() - cpu
                found = quantiles(times)
                if load == "none":
                    unloaded = found
                ratios = "  ".join(
                    f"{one:6.1f} ms {one / base:5.2f} ×" for one, base in zip(found, unloaded, strict=True)
                )
                print(f"{load:9} {len(times):5} turns, {cpu:4.1f} s CPU   p50, p95, p99, max: {ratios}", flush=True)


if __name__ == "__main__":
    main()
