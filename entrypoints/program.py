"""The command `smart-chatbot`, as the reader of a message can run it."""

import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

NAME: Final = "smart-chatbot"


def program() -> str:
    """Return how to run the command from the working directory, e.g. `.venv/bin/smart-chatbot`.

    That is its name alone if a shell finds this installation by it, and the module if there is no such file.
    """
    started = Path(sys.argv[0])
    candidates = [Path(sys.executable).with_name(NAME), *([started] if started.name == NAME else [])]
    script = next((candidate.absolute() for candidate in candidates if candidate.is_file()), None)
    if script is None:
        return f"{shlex.quote(sys.executable)} -m entrypoints.cli"
    found = shutil.which(NAME)
    if found is not None and script.samefile(found):
        return NAME
    with suppress(OSError, ValueError):  # the working directory was removed, or the file is elsewhere
        return shlex.quote(str(script.relative_to(Path.cwd())))
    return shlex.quote(str(script))
