"""Benchmarks of the service, in both formats, as ratios to two baselines that are measured in the same run.

    python -m tests.bench [--seconds N] [--streams N ...]

`floor` does the least that is possible in Python; `plain` is a typical first version with FastAPI and the OpenAI SDK.
Neither validates or stores anything. Absolute figures depend on the machine, the ratios much less.
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

from tests.bench import history, hold, neighbours, start, writes
from tests.bench.load import NATIVE, OPENAI, Surface, load
from tests.bench.servers import Server, baseline, service, upstream

ROUNDS = 3

Rows = dict[str, dict[str, float]]
"""Figures by server."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6, help="seconds per round (default: %(default)s)")
    parser.add_argument(
        "--streams", type=int, nargs="+", default=[20, 100, 300], help="concurrent streams (default: %(default)s)"
    )
    options = parser.parse_args()
    print(f"{_machine()}, {psutil.cpu_count()} CPUs, Python {platform.python_version()}")
    paced = {
        streams: _compare("one chunk every 20 ms", 100, 20, streams, options.seconds) for streams in options.streams
    }
    middle = sorted(options.streams)[len(options.streams) // 2]
    fast = _compare("chunks without pauses", 100, 0, middle, options.seconds)
    single = _compare("replies of one token", 1, 0, middle, options.seconds)
    stream_kb = hold.measure(hold.STREAMS)
    history_ratio = history.measure()
    start_ratio = start.measure()
    beside = neighbours.measure(options.seconds)
    written = writes.measure()

    print(f"\nSummary, at {middle} streams:")
    titles = {
        "CPU per chunk, every 20 ms": paced[middle],
        "CPU per chunk, no pauses": fast,
        "CPU per one-token turn": single,
    }
    for title, rows in titles.items():
        print(f"  {title:28} {_ratio(rows, 'floor'):5.2f} × floor, {_ratio(rows, 'plain'):5.2f} × plain")
    for title, rows in titles.items():
        print(f"  {title:28} {_ratio(rows, 'service', 'openai'):5.2f} × native, in OpenAI's format")
    service, floor = paced[middle]["service"], paced[middle]["floor"]
    for figure in ("first chunk p50 ms", "first chunk p99 ms", "chunk gap p99 ms"):
        print(f"  {figure:28} {service[figure] - floor[figure]:5.1f} above floor")
    print(f"  {'memory per open stream':28} {stream_kb:5.0f} kB")
    sizes = f"with {history.SIZES[-1]:,} turns relative to {history.SIZES[0]}"
    print(f"  {'reading history':28} {history_ratio:5.2f} × {sizes}")
    for name, ratio in beside.items():
        print(f"  {'turns while others':28} {ratio:5.2f} × without: {name}")
    print(f"  {'start until ready':28} {start_ratio:5.2f} × importing the libraries")
    print(f"  {'written to store a reply':28} {written:5.2f} × its text")


def _compare(title: str, tokens: int, pause: float, streams: int, seconds: float) -> Rows:
    print(f"\n{title}, {streams} streams")
    with ExitStack() as stack:
        base_url = stack.enter_context(upstream(tokens, pause))
        servers = {
            "service": stack.enter_context(service(base_url)),
            "openai": stack.enter_context(service(base_url)),
            "plain": stack.enter_context(baseline("plain", base_url)),
            "floor": stack.enter_context(baseline("floor", base_url)),
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for _ in range(ROUNDS):  # alternate, so that changes in the speed of the machine affect all servers alike
            for name, server in servers.items():
                rounds[name].append(_round(server, streams, seconds, OPENAI if name == "openai" else NATIVE))
    rows = {name: {key: statistics.median(r[key] for r in of) for key in of[0]} for name, of in rounds.items()}
    floor = rows["floor"]
    for name, row in rows.items():
        ratio = row["µs per chunk"] / floor["µs per chunk"]
        figures = "  ".join(f"{key} {value:8.2f}" for key, value in row.items())
        print(f"  {name:8} {ratio:6.2f} × floor  {figures}")
    return rows


def _ratio(rows: Rows, baseline: str, of: str = "service") -> float:
    return rows[of]["µs per chunk"] / rows[baseline]["µs per chunk"]


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.machine()


def _round(server: Server, streams: int, seconds: float, surface: Surface) -> dict[str, float]:
    idle = server.memory()
    before = server.cpu()
    result = asyncio.run(load([server.port], streams, seconds, surface))
    used = server.cpu() - before
    return {
        "µs per chunk": used / max(result.chunks, 1) * 1e6,
        "µs per turn": used / max(result.turns, 1) * 1e6,
        "first chunk p50 ms": _quantile(result.first, 0.5) * 1e3,
        "first chunk p99 ms": _quantile(result.first, 0.99) * 1e3,
        "chunk gap p99 ms": _quantile(result.gaps, 0.99) * 1e3,
        "kB per stream": (server.memory() - idle) / streams / 1e3,
        "errors": result.errors,
    }


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int((len(values) - 1) * share)] if values else 0.0


if __name__ == "__main__":
    main()
