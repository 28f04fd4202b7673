"""A disk that is really full."""

import os
import resource
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = 2 * 2**20
"""Bytes that fit on the small disk."""

SERVE_WITHOUT_SPACE = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
from entrypoints.cli.main import main
main(["serve"])
"""


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Keep this process's files from growing beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Disk(ABC):
    """A disk for the files of one service, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def serve(self) -> tuple[str, ...]:
        """Arguments of Python that start a service on this disk while it is full."""
        return ("-m", "entrypoints.cli", "serve")

    @abstractmethod
    def fill(self, service: int | None = None) -> None:
        """Leave no space; `service` is the process id of the running service."""
        ...

    @abstractmethod
    def free(self, service: int) -> None:
        """Leave space again."""
        ...


class SmallDisk(Disk):
    """A file system of its own that another file fills."""

    def fill(self, service: int | None = None) -> None:
        filler = os.open(self.directory / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (4096, 1):
                try:
                    while os.write(filler, b"x" * size):
                        pass
                except OSError:
                    continue
        finally:
            os.close(filler)

    def free(self, service: int) -> None:
        (self.directory / "filler").unlink()


class LimitedFiles(Disk):
    """For users that may not mount a file system: the service may not write to files."""

    @property
    def serve(self) -> tuple[str, ...]:
        return ("-c", SERVE_WITHOUT_SPACE)

    def fill(self, service: int | None = None) -> None:
        if service is not None:
            _, hard = resource.prlimit(service, resource.RLIMIT_FSIZE)
            resource.prlimit(service, resource.RLIMIT_FSIZE, (0, hard))

    def free(self, service: int) -> None:
        _, hard = resource.prlimit(service, resource.RLIMIT_FSIZE)
        resource.prlimit(service, resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def disk(directory: Path) -> Iterator[Disk]:
    """Provide a disk that can be filled; a small file system if the user may mount one."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(directory)]
    try:
        mounted = sys.platform == "linux" and subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        yield LimitedFiles(directory)
        return
    try:
        yield SmallDisk(directory)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
