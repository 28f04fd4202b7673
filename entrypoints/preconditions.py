"""What has to hold before anything else of the service is imported: a supported system, and our own packages.

The packages have common names, `domain`, `application`, `adapters` and `entrypoints`. Another package of the same name,
in the working directory or installed into the same environment, can take the place of ours. Imports nothing heavy, and
none of them.
"""

import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

PACKAGES: Final = ("domain", "application", "adapters", "entrypoints")

DISTRIBUTION: Final = "smart-chatbot-backend"

ADVICE: Final = "install smart-chatbot into an environment of its own (python -m venv), and start it elsewhere"

ROOT: Final = Path(__file__).parents[1]


def require_preconditions() -> None:
    """Exit with status 3 and one sentence if the service cannot run here."""
    if sys.platform == "win32":
        _refuse("Windows is not supported: use WSL 2 or the container in deploy/.")
    for name, place in _shadowed():
        _refuse(f"The package {name} at {place} takes the place of that of smart-chatbot at {ROOT / name}: {ADVICE}.")


def explain_import_error(error: ImportError) -> None:
    """Exit with status 3 and one sentence if the files of another distribution have replaced some of ours."""
    from importlib.metadata import packages_distributions  # here, because it is not needed otherwise

    installed = packages_distributions()
    others = {other for name in PACKAGES for other in installed.get(name, ()) if other != DISTRIBUTION}
    if others:
        _refuse(f"Files of smart-chatbot were replaced by those of {', '.join(sorted(others))} ({error}): {ADVICE}.")


def _shadowed() -> Iterator[tuple[str, str]]:
    """Yield each of our packages that Python would import from elsewhere, with that place."""
    for name in PACKAGES:
        spec = PathFinder.find_spec(name)
        origin = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
        if origin is not None and not Path(origin).resolve().is_relative_to((ROOT / name).resolve()):
            yield name, origin


def _refuse(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(3)
