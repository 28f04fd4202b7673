"""Import mem0 with telemetry off and its files in our data directory."""

import logging
import os
from pathlib import Path
from types import ModuleType
from typing import Final

from domain.errors import Unusable

INSTALL_MEM0: Final = 'pip install "mem0ai>=2.2" "psycopg[binary,pool]>=3.3"'


def import_mem0(data_dir: Path) -> ModuleType:
    """Import mem0, which then keeps its files in `data_dir / "mem0"`. Blocks for a second or two.

    mem0 reads its environment variables once, when it is imported, so they are set here. If it was imported before,
    its settings stay as they are.

    Raises:
        Unusable: mem0ai is not installed, or its directory cannot be created.
    """
    os.environ["MEM0_TELEMETRY"] = "False"
    os.environ["MEM0_DIR"] = str(data_dir / "mem0")
    try:
        import mem0
    except ImportError:
        raise Unusable(f"Mem0 is not installed; run: {INSTALL_MEM0}") from None
    except OSError as error:
        raise Unusable(f"Mem0 cannot keep its files in {data_dir}: {error.strerror}.") from None

    # mem0 logs each error with the service's response, which may quote users; the adapters report errors themselves.
    logging.getLogger("mem0").setLevel(logging.CRITICAL + 1)
    module: ModuleType = mem0
    return module
