"""The code blocks of the documents, so that tests run what readers copy."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

GUIDES: Final = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS: Final = [ROOT / "README.md", *GUIDES]

_BLOCK: Final = re.compile(r"^<!-- *(?P<marker>[^>]*?) *-->\n+```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A code block that follows a comment, e.g. `<!-- run -->` or `<!-- file: index.html -->`."""

    document: str
    marker: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}: {self.text.splitlines()[0]}"


def blocks(document: Path) -> list[Block]:
    """Return the marked blocks of a document."""
    name = str(document.relative_to(ROOT))
    return [
        Block(name, match["marker"], match["language"], match["text"])
        for match in _BLOCK.finditer(document.read_text(encoding="utf-8"))
    ]


def files_of(document: Path) -> dict[str, str]:
    """Return the files that a document tells its reader to save, by name."""
    found = [block for block in blocks(document) if block.marker.startswith("file: ")]
    return {block.marker.removeprefix("file: "): block.text for block in found}
