"""The CPU time of a start, relative to importing the libraries."""

import statistics
import tempfile
from pathlib import Path

from tests.bench.servers import running

RUNS = 9
_INSTALLED = 'import sys; sys.modules |= dict.fromkeys(("rich", "werkzeug", "yaml"))'
"""Hides packages that libraries import if they find them, and that only development environments have."""
_IMPORTS = "import fastapi, uvicorn, openai, sqlalchemy"
_SERVE = "from entrypoints.cli.main import main; main(['serve'])"


def measure() -> float:
    """Print and return the CPU time from the start until ready, as a ratio to that of the imports."""
    print("\nstart until ready")
    imports, starts = [], []
    with tempfile.TemporaryDirectory() as folder:
        _start(folder)  # creates the database and the bytecode
        for _ in range(RUNS):
            imports.append(_import(folder))
            starts.append(_start(folder))
    ratio = statistics.median(starts) / statistics.median(imports)
    print(
        f"  service  {ratio:6.2f} × importing fastapi, uvicorn, openai, sqlalchemy ({statistics.median(starts):.2f} s)"
    )
    return ratio


def _import(folder: str) -> float:
    return _cpu_until("ready", f"{_IMPORTS}; print('ready', flush=True); import time; time.sleep(60)", folder)


def _start(folder: str) -> float:
    return _cpu_until("listens on", _SERVE, folder)


def _cpu_until(output: str, code: str, folder: str) -> float:
    """Run `code` in a new process and return the CPU time used when `output` appears, in seconds."""
    environment = {
        "DATA_DIR": folder,
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "PORT": "0",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(Path(folder, "compiled")),
    }
    with running(("-c", f"{_INSTALLED}\n{code}"), output, environment) as (process, _):
        return process.cpu()
