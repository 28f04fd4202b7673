"""What a start costs, beside importing what it stands on."""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.servers import clean_environment

RUNS = 7
_INSTALLED = 'import sys; sys.modules |= dict.fromkeys(("rich", "werkzeug"))'
"""Have what an installation without the packages of developers has: libraries load these two wherever they are."""
_IMPORTS = "import fastapi, uvicorn, openai, sqlalchemy"
_START = """
import asyncio
from entrypoints.http.app import create_app
from entrypoints.settings import Settings
async def start():
    app = create_app(Settings(openai_base_url="http://127.0.0.1:9/v1"))
    async with app.router.lifespan_context(app):
        pass
import uvicorn
asyncio.run(start())
"""


def measure() -> float:
    """Print the processor time from nothing to ready, as a ratio, which is returned."""
    print("\nstart to ready")
    imports, starts = [], []
    with tempfile.TemporaryDirectory() as folder:
        _cpu(_START, folder)  # makes the database, and compiles what is imported
        for _ in range(RUNS):
            imports.append(_cpu(_IMPORTS, folder))
            starts.append(_cpu(_START, folder))
    ratio = statistics.median(starts) / statistics.median(imports)
    print(
        f"  service  {ratio:6.2f} × importing fastapi, uvicorn, openai, sqlalchemy ({statistics.median(starts):.2f} s)"
    )
    return ratio


def _cpu(code: str, folder: str) -> float:
    environment = clean_environment(DATA_DIR=folder, PYTHONPYCACHEPREFIX=str(Path(folder, "compiled")))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with psutil.Popen(
        [sys.executable, "-c", f"{_INSTALLED}\n{code}"], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        before = psutil.Process().cpu_times()
        process.wait()
        after = psutil.Process().cpu_times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return float(used)
