"""Several workers on one PostgreSQL, under load and faults: whether a turn is lost, duplicated or out of order.

    python -m tests.bench.workers [--workers N] [--scale FACTOR] [--minutes N] [--only SCENARIO ...]

Prints what each scenario did, and every violation of the rules in tests/harness/history_checker.py. Exits with status 1
if there is one, or if a scenario fails or is not finished in time.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from tests.harness import scenarios
from tests.harness.cluster import Cluster, running_cluster
from tests.harness.forks import Forks, forking_process
from tests.harness.postgres import Postgres, postgres_server
from tests.harness.workload import Workload

MAX_PRINTED = 20
"""Violations of a scenario that are printed."""


class Scenario(NamedTuple):
    """`run` is given the cluster, the server and the URL of the database, and how often to do what it does."""

    description: str
    times: int
    run: Callable[[Cluster, Postgres, str, int], Awaitable[Workload]]
    options: Mapping[str, Any] = {}
    """Arguments of `running_cluster`."""


SCENARIOS = {
    "chat": Scenario(
        "8 clients of one user, turns each",
        500,
        lambda cluster, server, url, times: scenarios.chat_together(cluster, clients=8, turns=times),
    ),
    "kills": Scenario(
        "kills of a worker under load",
        50,
        lambda cluster, server, url, times: scenarios.chat_meanwhile(
            cluster, scenarios.kills(cluster, times, (0.5, 3)), users=10
        ),
        {"deltas": 10, "pause_ms": 20},
    ),
    "rolling": Scenario(
        "rolling restarts of all workers under load",
        20,
        lambda cluster, server, url, times: scenarios.rolling_restarts(cluster, times=times, users=10),
        {"deltas": 40, "pause_ms": 40, "SHUTDOWN_GRACE": "0.2"},
    ),
    "pause": Scenario(
        "pauses of a worker, 20 s each",
        1,
        lambda cluster, server, url, times: scenarios.chat_meanwhile(
            cluster, *[scenarios.pause(cluster, 20)] * times, users=10
        ),
        {"deltas": 20, "pause_ms": 50},
    ),
    "keys": Scenario(
        "idempotency keys, 3 requests each",
        1000,
        lambda cluster, server, url, times: scenarios.repeat_keys(cluster, keys=times),
        {"deltas": 5, "pause_ms": 5},
    ),
    "streams": Scenario(
        "streams, cut 5 times each",
        500,
        lambda cluster, server, url, times: scenarios.cut_streams(cluster, streams=times, cuts=5),
        {"deltas": 60, "pause_ms": 20},
    ),
    "deletions": Scenario(
        "races of a deletion with messages",
        1000,
        lambda cluster, server, url, times: scenarios.race_deletions(cluster, races=times),
        {"pause_ms": 5},
    ),
    "disconnects": Scenario(
        "ends of all connections of PostgreSQL",
        20,
        lambda cluster, server, url, times: scenarios.chat_meanwhile(
            cluster, scenarios.disconnects(server, url, times, 1), users=10
        ),
        {"deltas": 10, "pause_ms": 20},
    ),
    "restarts": Scenario(
        "immediate restarts of PostgreSQL",
        5,
        lambda cluster, server, url, times: scenarios.chat_meanwhile(
            cluster, scenarios.restarts(server, times, 5), users=10
        ),
        {"deltas": 10, "pause_ms": 20},
    ),
}


async def run(scenario: Scenario, forks: Forks, server: Postgres, workers: int, times: int) -> bool:
    """Run a scenario on workers and a database of its own. Returns whether nothing was violated."""
    url = await asyncio.to_thread(server.new_database)
    with tempfile.TemporaryDirectory() as folder:
        started = monotonic()
        async with running_cluster(
            forks, Path(folder), workers=workers, DATABASE_URL=url, **scenario.options
        ) as cluster:
            workload = await scenario.run(cluster, server, url, times)
            violations = await workload.finish(wait_for_lost=True)
    report(workload, monotonic() - started, violations)
    return not violations


def report(workload: Workload, seconds: float, violations: list[str]) -> None:
    outcomes = [sent.outcome for sent in workload.observed.sent]
    counts = ", ".join(f"{outcomes.count(outcome):,} {outcome}" for outcome in dict.fromkeys(sorted(outcomes)))
    print(f"  {len(outcomes):,} messages ({counts}), {len(workload.observed.reads):,} reads, {seconds:.0f} s")
    print("  " + ", ".join(f"{count:,} x {answer}" for answer, count in workload.answers.most_common()))
    print(f"  {len(violations)} violations")
    for violation in violations[:MAX_PRINTED]:
        print(f"    {violation}", flush=True)


async def run_all(options: argparse.Namespace, forks: Forks, server: Postgres) -> bool:
    passed, until = True, monotonic() + options.minutes * 60
    for name in options.only:
        scenario = SCENARIOS[name]
        times = max(1, round(scenario.times * options.scale))
        print(f"\n{name}: {times:,} {scenario.description}", flush=True)
        try:
            async with asyncio.timeout(max(1, until - monotonic())):
                passed &= await run(scenario, forks, server, options.workers, times)
        except Exception as error:  # so that the other scenarios run nevertheless
            print(f"  failed: {error!r}", flush=True)
            passed = False
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=3, help="number of workers (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1, help="factor for all numbers (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60, help="minutes to run at most (default: %(default)s)")
    parser.add_argument("--only", choices=SCENARIOS, nargs="+", default=list(SCENARIOS), help="scenarios to run")
    options = parser.parse_args()
    with postgres_server() as server, forking_process() as forks:
        passed = asyncio.run(run_all(options, forks, server))
    sys.exit(not passed)


if __name__ == "__main__":
    main()
