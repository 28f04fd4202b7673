"""Programs of npm that tests need; `make test-tools` installs them."""

from pathlib import Path

import pytest

from tests.harness.commands import run
from tests.harness.documents import ROOT

_NODE = ROOT / ".venv" / "node"


def link_packages(directory: Path) -> None:
    """Let programs in a directory import the installed packages."""
    if not (_NODE / "installed").exists():
        pytest.fail("This test needs packages of npm: run `make test-tools`.")
    (directory / "node_modules").symlink_to(_NODE / "node_modules")


async def node(program: str, *arguments: str, directory: Path) -> str:
    """Run a program of an installed package, or `node` itself, and return its output."""
    command = program if program == "node" else directory / "node_modules" / ".bin" / program
    status, output, errors = await run(command, *arguments, directory=directory)
    assert status == 0, output + errors
    return output


async def check_types(directory: Path, *files: str) -> None:
    """Compile TypeScript in strict mode without writing anything."""
    options = ("--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler")
    await node("tsc", *options, "--jsx", "react-jsx", "--skipLibCheck", *files, directory=directory)


async def bundle(directory: Path, source: str, target: str, *options: str) -> None:
    """Compile a module and everything that it imports into one file."""
    await node(
        "esbuild", source, "--bundle", "--format=esm", f"--outfile={target}", "--jsx=automatic", "--log-level=error",
        *options, directory=directory,
    )  # fmt: skip
