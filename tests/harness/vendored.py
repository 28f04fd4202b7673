"""The JavaScript libraries that the chat page brings along, as they are in npm's packages.

    python -m tests.harness.vendored      replace them by the newest versions (make vendor)

`versions.json`, beside them, names each one's package, version and licence, and each file's place in the package and
digest. `integrity` is npm's own digest of the whole package.
"""

import hashlib
import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[2] / "entrypoints" / "http" / "page" / "static" / "vendor"
MANIFEST: Final = FOLDER / "versions.json"


def manifest() -> dict[str, dict[str, Any]]:
    """Return what is vendored, by package."""
    found: dict[str, dict[str, Any]] = json.loads(MANIFEST.read_text(encoding="utf-8"))
    return found


def digest(name: str) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()


def renew() -> None:
    """Replace every file by that of the newest version of its package."""
    renewed = {package: _renew_package(package, known["files"]) for package, known in manifest().items()}
    MANIFEST.write_text(json.dumps(renewed, indent=2) + "\n", encoding="utf-8")


def _renew_package(package: str, files: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    with TemporaryDirectory() as directory:
        command = ["npm", "pack", "--json", "--silent", f"{package}@latest"]
        packed = subprocess.run(command, cwd=directory, capture_output=True, check=True, timeout=120).stdout
        [archive] = Path(directory).glob("*.tgz")
        [described] = json.loads(packed)
        with tarfile.open(archive) as contents:
            contents.extractall(directory, filter="data")
        root = Path(directory) / "package"
        license_name = json.loads((root / "package.json").read_text(encoding="utf-8"))["license"]
        for name, file in files.items():
            (FOLDER / name).write_bytes((root / file["from"]).read_bytes())
    return {
        "version": described["version"],
        "license": license_name,
        "integrity": described["integrity"],
        "files": {name: {"from": file["from"], "sha256": digest(name)} for name, file in files.items()},
    }


if __name__ == "__main__":
    renew()
