"""What the service costs, as ratios to two yardsticks that are measured in the same run.

    python -m tests.bench [--seconds N] [--streams N ...]

`floor` is as little as Python can do, `plain` what one writes in an afternoon; neither stores or checks anything.
Absolute figures depend on the machine; the ratios much less.
"""

import argparse
import asyncio
import platform
import re
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.bench import history, hold, start
from tests.bench.load import load
from tests.bench.servers import Server, service, upstream, yardstick

ROUNDS = 3

Rows = dict[str, dict[str, float]]
"""Figures by server."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6, help="length of a round (default: %(default)s)")
    parser.add_argument(
        "--streams", type=int, nargs="+", default=[20, 100, 300], help="streams at a time (default: %(default)s)"
    )
    options = parser.parse_args()
    print(f"{_machine()}, {psutil.cpu_count()} processors, Python {platform.python_version()}")
    paced = {
        streams: _compare("paced, 20 ms a chunk", 100, 20, streams, options.seconds) for streams in options.streams
    }
    middle = sorted(options.streams)[len(options.streams) // 2]
    fast = _compare("as fast as it goes", 100, 0, middle, options.seconds)
    single = _compare("one token", 1, 0, middle, options.seconds)
    held = hold.measure(hold.STREAMS)
    read = history.measure()
    started = start.measure()

    print(f"\nIn short, at {middle} streams:")
    for title, rows in {"a chunk, paced": paced[middle], "a chunk, unpaced": fast, "a turn of a token": single}.items():
        print(f"  {title:18} {_ratio(rows, 'floor'):5.2f} × floor, {_ratio(rows, 'plain'):5.2f} × plain")
    service, floor = paced[middle]["service"], paced[middle]["floor"]
    for figure in ("first p50 ms", "first p99 ms", "gap p99 ms"):
        print(f"  {figure:18} {service[figure] - floor[figure]:5.1f} above floor")
    print(f"  a stream held      {held:5.0f} kB")
    print(f"  reading history    {read:5.2f} × as dear with {history.SIZES[-1]:,} turns as with {history.SIZES[0]}")
    print(f"  start to ready     {started:5.2f} × importing the libraries")


def _compare(title: str, tokens: int, pause: float, streams: int, seconds: float) -> Rows:
    print(f"\n{title}, {streams} streams")
    with ExitStack() as stack:
        base_url = stack.enter_context(upstream(tokens, pause))
        servers = {
            "service": stack.enter_context(service(base_url)),
            "plain": stack.enter_context(yardstick("plain", base_url)),
            "floor": stack.enter_context(yardstick("floor", base_url)),
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for _ in range(ROUNDS):  # in turn, so that a machine whose speed drifts treats them alike
            for name, server in servers.items():
                rounds[name].append(_round(server, streams, seconds))
    rows = {name: {key: statistics.median(r[key] for r in of) for key in of[0]} for name, of in rounds.items()}
    floor = rows["floor"]
    for name, row in rows.items():
        ratio = row["µs a chunk"] / floor["µs a chunk"]
        figures = "  ".join(f"{key} {value:8.2f}" for key, value in row.items())
        print(f"  {name:8} {ratio:6.2f} × floor  {figures}")
    return rows


def _ratio(rows: Rows, yardstick: str) -> float:
    return rows["service"]["µs a chunk"] / rows[yardstick]["µs a chunk"]


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.machine()


def _round(server: Server, streams: int, seconds: float) -> dict[str, float]:
    idle = server.memory()
    before = server.cpu()
    seen = asyncio.run(load(server.port, streams, seconds))
    spent = server.cpu() - before
    return {
        "µs a chunk": spent / max(seen.chunks, 1) * 1e6,
        "µs a turn": spent / max(seen.turns, 1) * 1e6,
        "first p50 ms": _quantile(seen.first, 0.5) * 1e3,
        "first p99 ms": _quantile(seen.first, 0.99) * 1e3,
        "gap p99 ms": _quantile(seen.gaps, 0.99) * 1e3,
        "kB a stream": (server.memory() - idle) / streams / 1e3,
        "errors": seen.errors,
    }


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int((len(values) - 1) * share)] if values else 0.0


if __name__ == "__main__":
    main()
