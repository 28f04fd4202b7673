"""What a start costs, beside importing what it stands on."""

import statistics
import subprocess
import sys
import tempfile

import psutil

from tests.servers import clean_environment

RUNS = 7
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


def measure() -> None:
    """Print the processor time from nothing to ready, as a ratio."""
    print("\nstart to ready")
    imports, starts = [], []
    with tempfile.TemporaryDirectory() as folder:
        _cpu(_START, folder)  # makes the database
        for _ in range(RUNS):
            imports.append(_cpu(_IMPORTS, folder))
            starts.append(_cpu(_START, folder))
    ratio = statistics.median(starts) / statistics.median(imports)
    print(
        f"  service  {ratio:6.2f} × importing fastapi, uvicorn, openai, sqlalchemy ({statistics.median(starts):.2f} s)"
    )


def _cpu(code: str, folder: str) -> float:
    with psutil.Popen(
        [sys.executable, "-c", code], env=clean_environment(DATA_DIR=folder), stderr=subprocess.DEVNULL
    ) as process:
        before = psutil.Process().cpu_times()
        process.wait()
        after = psutil.Process().cpu_times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return float(used)
