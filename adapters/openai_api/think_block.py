"""The reasoning that models without a field for it write at the start of a reply."""

from typing import Final

_OPENING: Final = "<think>"
_CLOSING: Final = "</think>"


class ThinkBlockFilter:
    """Removes a `<think>…</think>` block at the start of a text that arrives in pieces, however they are split.

    White space before the block is removed with it. A block that is never closed extends to the end of the text.

    Args:
        max_indent: The most characters of white space that may precede the block. They have to be held back.
    """

    def __init__(self, *, max_indent: int = 64) -> None:
        self.removed = False
        """Whether the text began with a block."""
        self.passed = False
        """Whether all further pieces are returned as they are."""
        self._max_indent = max_indent
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return the part of the text so far that was not returned yet and is not in the block."""
        if self.passed:
            return piece
        text, self._held = self._held + piece, ""
        if not self.removed:
            start = text.lstrip()
            indented = len(text) - len(start) <= self._max_indent
            if indented and len(start) < len(_OPENING) and _OPENING.startswith(start):
                self._held = text
                return ""
            if not indented or not start.startswith(_OPENING):
                self.passed = True
                return text
            self.removed = True
            text = start.removeprefix(_OPENING)
        _, closing, rest = text.partition(_CLOSING)
        if closing:
            self.passed = True
            return rest
        self._held = text[1 - len(_CLOSING) :]
        return ""

    def finish(self) -> str:
        """Return what was held back, at the end of the text."""
        text, self._held = "" if self.removed else self._held, ""
        return text
