"""What a start costs, beside importing what it stands on."""

import statistics
import tempfile
from pathlib import Path

from tests.bench.servers import running

RUNS = 9
_INSTALLED = 'import sys; sys.modules |= dict.fromkeys(("rich", "werkzeug", "yaml"))'
"""Have what an installation without the packages of developers has: libraries load these wherever they are."""
_IMPORTS = "import fastapi, uvicorn, openai, sqlalchemy"
_SERVE = "from entrypoints.cli.main import main; main(['serve'])"


def measure() -> float:
    """Print the processor time from nothing to ready, as a ratio, which is returned."""
    print("\nstart to ready")
    imports, starts = [], []
    with tempfile.TemporaryDirectory() as folder:
        _start(folder)  # makes the database, and compiles what is imported
        for _ in range(RUNS):
            imports.append(_import(folder))
            starts.append(_start(folder))
    ratio = statistics.median(starts) / statistics.median(imports)
    print(
        f"  service  {ratio:6.2f} × importing fastapi, uvicorn, openai, sqlalchemy ({statistics.median(starts):.2f} s)"
    )
    return ratio


def _import(folder: str) -> float:
    return _used_until("ready", f"{_IMPORTS}; print('ready', flush=True); import time; time.sleep(60)", folder)


def _start(folder: str) -> float:
    return _used_until("listens on", _SERVE, folder)


def _used_until(said: str, code: str, folder: str) -> float:
    """The processor time that a new process has used when it says so."""
    environment = {
        "DATA_DIR": folder,
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "PORT": "0",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(Path(folder, "compiled")),
    }
    with running(("-c", f"{_INSTALLED}\n{code}"), said, environment) as (process, _):
        return process.cpu()
