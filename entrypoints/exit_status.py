"""Exit statuses of `smart-chatbot`, besides 0 for success."""

from typing import Final

HUNG: Final = 1
"""Something did not end in time on shutdown."""

USAGE: Final = 2
"""The arguments are wrong."""

BROKEN_PIPE: Final = 128 + 13
"""The reader of the output has gone: the status of programs that SIGPIPE ends."""

UNUSABLE: Final = 3
"""The configuration, or a resource that it names, cannot be used. Starting again does not help."""
