"""Every document can be followed: its links lead somewhere, and its settings exist."""

import re
from pathlib import Path
from typing import Final

import pytest

from entrypoints.settings import Settings, load_settings
from tests.harness.documents import DOCUMENTS, GUIDES, ROOT, Block, blocks

LINK: Final = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
PROSE: Final = [*DOCUMENTS, *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"))]
CODE: Final = re.compile(r"^```.*?^```$", re.M | re.S)

README_LINES: Final = 300
"""What a person may read in the first hour, besides the code."""


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document, as GitHub makes them of its headings."""
    text = CODE.sub("", document.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("document", PROSE, ids=lambda path: path.name)
def test_every_link_to_the_repository_leads_to_a_file_and_a_heading(document: Path) -> None:
    text = CODE.sub("", document.read_text(encoding="utf-8"))
    broken = []
    for target in (match["target"] for match in LINK.finditer(text)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)

    assert broken == []


def test_the_readme_links_to_every_guide() -> None:
    linked = {match["target"].partition("#")[0] for match in LINK.finditer((ROOT / "README.md").read_text())}

    assert {str(guide.relative_to(ROOT)) for guide in GUIDES} <= linked


def test_the_readme_is_a_page_for_the_first_hour() -> None:
    text = CODE.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))

    assert len(text.splitlines()) < README_LINES


SETTINGS: Final = [block for document in DOCUMENTS for block in blocks(document) if block.marker == "settings"]


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_documented_settings_exist_and_are_accepted(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(block.text)
    names = [line.partition("=")[0] for line in block.text.splitlines() if line and not line.startswith("#")]
    settings = load_settings()

    assert [name for name in names if name.lower() not in Settings.model_fields] == []
    assert [name for name in names if getattr(settings, name.lower()) in (None, "")] == []
