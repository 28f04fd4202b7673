"""Whether data crosses between users who call everything at random, with the ids of others, at the same time.

    python -m tests.bench.tenants [--users 50] [--calls 2000]

Exits with status 1 if a reply, a prompt or the log has anything of another user.
"""

import argparse
import asyncio
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from time import monotonic

from tests.harness.credentials import authentication
from tests.harness.servers import service_in_process
from tests.harness.tenants import Tenants


async def _run(tenants: Tenants, calls: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        overrides = {"llm": tenants.llm, "authenticate": tenants.authenticate}
        stores = {
            "history_backend": "sql",
            "memory_backend": "sql",
            "data_dir": Path(directory),
            "memory_recall_timeout": 30,  # searches of one process wait for each other
        }
        async with service_in_process(overrides, **stores, **authentication()) as service:
            await tenants.call_at_random(service.client, calls)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--calls", type=int, default=2_000, help="of each user (default: %(default)s)")
    options = parser.parse_args()
    tenants, log, started = Tenants(options.users), io.StringIO(), monotonic()
    with contextlib.redirect_stderr(log):
        asyncio.run(_run(tenants, options.calls))
    in_prompts, in_log = tenants.prompts_with_several_canaries(), tenants.in_log(log.getvalue())
    print(f"{options.users * options.calls} calls in {monotonic() - started:.0f} s, by status: {tenants.statuses}")
    print(f"{len(tenants.llm.prompts)} prompts, {log.getvalue().count(chr(10))} lines of log")
    print(f"crossings: {len(tenants.crossings)} in replies, {len(in_prompts)} in prompts, {len(in_log)} in the log")
    for crossing in tenants.crossings[:10]:
        print(crossing)
    return int(bool(tenants.crossings or in_prompts or in_log))


if __name__ == "__main__":
    sys.exit(main())
