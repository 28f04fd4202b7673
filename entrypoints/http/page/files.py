"""The files of the chat page, read from the package once and then served from memory."""

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

MEDIA_TYPES: Final[Mapping[str, str]] = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
"""Types of the files that are served, by extension. Others, e.g. licences, stay in the package."""

INDEX: Final = "index.html"
CLASSIC_SCRIPT: Final = "js/theme-at-start.js"


@dataclass(frozen=True)
class PageFile:
    """One file as it is served. `path` is relative to the folder of static files, e.g. `js/main.js`."""

    path: str
    content: bytes

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.path.rpartition(".")[2]]

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    @cached_property
    def compressed(self) -> bytes:
        """The content in the gzip format, about a third of its size."""
        return gzip.compress(self.content, mtime=0)


def page_files(app_name: str) -> list[PageFile]:
    """Return every file of the page, the index with the name of the service and its modules filled in."""
    found = _static_files()
    return [_filled_in(file, app_name, found) if file.path == INDEX else file for file in found]


@cache
def _static_files() -> list[PageFile]:
    return _read(files("entrypoints.http.page") / "static", "")


def _read(folder: Traversable, prefix: str) -> list[PageFile]:
    found: list[PageFile] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = prefix + entry.name
        if entry.is_dir():
            found += _read(entry, f"{path}/")
        elif path.rpartition(".")[2] in MEDIA_TYPES:
            found.append(PageFile(path, entry.read_bytes()))
    return found


def _filled_in(index: PageFile, app_name: str, found: Sequence[PageFile]) -> PageFile:
    """Fill in the placeholders. Modules are preloaded, because each would otherwise wait for those that import it."""
    modules = [file.path for file in found if file.path.endswith(".js") and file.path != CLASSIC_SCRIPT]
    preloads = "\n".join(f'<link rel="modulepreload" href="page/{path}">' for path in modules)
    values = {b"{{app_name}}": escape(app_name), b"{{modules}}": preloads}
    content = index.content
    for placeholder, value in values.items():
        content = content.replace(placeholder, value.encode())
    return PageFile(index.path, content)
