"""A process that imports the service once and forks it on request.

Most of the start-up time goes into imports. A fork has its own signal handlers, files and database connections, and
exits like any other process. It is for tests that start the service dozens of times and do not test the start itself.

It reads one JSON object per line and answers each with a number: `{"wait": pid}` with the exit status of that fork,
anything else with the process id of a new fork.
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
    """Fork on request. Returns only in a fork, with its order, or with None at the end of the input."""
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
    """Turn this fork into the requested process: environment, directory, output and arguments."""
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
