"""Importing mem0 so that it tells nobody, and keeps its files where ours are."""

import logging
import os
from pathlib import Path
from types import ModuleType


def import_mem0(data_dir: Path) -> ModuleType:
    """mem0, with telemetry off and its folder in `data_dir`. Takes a second and reads files: not on an event loop.

    mem0 reads both from the environment while it is imported, and nowhere else; hence they are set here. What was
    imported before stays as it is.

    Raises:
        ImportError: mem0ai is not installed.
        OSError: its folder can not be made.
    """
    os.environ["MEM0_TELEMETRY"] = "False"
    os.environ["MEM0_DIR"] = str(data_dir / "mem0")
    import mem0

    # It logs each error with what the service wrote, which may repeat a user's text; we tell of errors ourselves.
    logging.getLogger("mem0").setLevel(logging.CRITICAL + 1)
    module: ModuleType = mem0
    return module
