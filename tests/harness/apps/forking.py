"""A process that imports the service once and forks it on request, since imports take most of the time of a start.

A fork has its own signals, files and database connections, and exits like any other process. For tests that start the
service dozens of times and do not test the start itself.

Reads commands from standard input, one JSON object per line, and prints a number for each: for `{"wait": pid}` the exit
code of that fork, for any other command the process id of the new fork.
"""

import gc
import json
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

MODULES = (
    "entrypoints.cli.main",
    "entrypoints.server",
    "entrypoints.http.app",
    "adapters.llm_openai",
    "adapters.history_sql",
    "adapters.sql.sqlite.database",
    "qdrant_client",  # most of the import of Mem0, which each fork imports itself
)


def serve() -> dict[str, Any] | None:
    """Fork on each command. Returns the command in a fork, and None in the parent when the input ends."""
    for name in MODULES:
        import_module(name)
    _warm_up()
    for line in sys.stdin:
        command = json.loads(line)
        if "wait" in command:
            _, status = os.waitpid(command["wait"], 0)
            result = os.waitstatus_to_exitcode(status)
        else:
            result = os.fork()
            if result == 0:
                return dict(command)
        print(result, flush=True)
    return None


def _warm_up() -> None:
    """Fill caches, e.g. of the routes: half of what a start costs after the imports."""
    settings = import_module("entrypoints.settings").Settings(
        _env_file=None, openai_base_url="http://127.0.0.1:9/v1", log_pseudonym_key="k" * 32
    )
    import_module("entrypoints.http.app").create_app(settings)
    gc.collect()
    gc.freeze()  # so that the collections of forks need not copy everything that was imported


def run(command: dict[str, Any]) -> None:
    """Set up the fork like a newly started process, then run its module."""
    output = os.open(command["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    no_input = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((no_input, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.chdir(command["directory"])
    if command["urgent"]:
        with suppress(PermissionError):  # unless the tests run as root
            os.nice(-10)
    os.environ.clear()
    os.environ.update(command["environment"])
    import_module(command["module"]).main(command["arguments"])


if __name__ == "__main__" and (fork_command := serve()):
    run(fork_command)
