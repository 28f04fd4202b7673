"""Whether every response conforms to the OpenAPI document, in each mode of authentication.

    python -m tests.bench.conformance [--cases 1000] [--mode none]

Runs every check of schemathesis on a running service, with so many generated requests per operation and phase, and
exits with status 1 if one fails.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.harness.generated_requests import MODES, send_generated_requests


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000, help="per operation and phase (default: %(default)s)")
    parser.add_argument("--mode", choices=MODES, action="append", help="of authentication (default: each)")
    options = parser.parse_args()
    failed = False
    for mode in options.mode or MODES:
        with tempfile.TemporaryDirectory() as directory:
            status, output = asyncio.run(send_generated_requests(mode, Path(directory), options.cases))
        print(f"AUTH_MODE={mode}\n{output}")
        failed = failed or status != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
