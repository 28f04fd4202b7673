"""A process that has imported the service, and forks it as often as it is told to.

Imports are most of what a start takes. A fork has its own signals, files and database connections, and ends like any
other process; tests that start the service dozens of times, and are not about starting, use it.

It reads orders, one JSON object a line, and answers each with a number: `{"wait": pid}` with how that fork ended,
anything else with the new fork's process id.
"""

import json
import os
import sys
from importlib import import_module
from typing import Any

IMPORTED_AHEAD = (
    "entrypoints.cli.main",
    "entrypoints.server",
    "entrypoints.http.app",
    "adapters.llm_openai",
    "adapters.history_sql",
    "adapters.sql.sqlite.database",
)


def serve_orders() -> dict[str, Any] | None:
    """Fork as ordered; in a fork, what it is to run."""
    for name in IMPORTED_AHEAD:
        import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                return dict(order)
        print(answer, flush=True)
    return None


def become(order: dict[str, Any]) -> None:
    """Be the process that was ordered: from here on nothing tells it from one that was started."""
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])
    import_module(order["module"]).main(order["arguments"])


if __name__ == "__main__" and (ordered := serve_orders()):
    become(ordered)
