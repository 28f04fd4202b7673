"""Variables of the environment that look like misspelt settings."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Final

_OF_LIBRARIES: Final = frozenset(
    {
        "MEM0_APPLICATION",
        "MEM0_CLIENT_STACK",
        "MEM0_DIR",
        "MEM0_SOURCE",
        "MEM0_TELEMETRY",
        "MEM0_TELEMETRY_SAMPLE_RATE",
        "OPENAI_ADMIN_KEY",
        "OPENAI_API_TYPE",
        "OPENAI_API_VERSION",
        "OPENAI_CUSTOM_HEADERS",
        "OPENAI_LOG",
        "OPENAI_ORGANIZATION",
        "OPENAI_ORGANIZATION_ID",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT",
        "OPENAI_PROJECT_ID",
        "OPENAI_WEBHOOK_SECRET",
    }
)
"""Names that the clients of OpenAI and Mem0 use themselves."""

_OURS: Final = ("OPENAI_", "MEM0_")
"""Prefixes that hardly anything else uses: every unknown variable with one of them is reported."""

_SHARED: Final = ("UPSTREAM_", "MEMORY_", "HISTORY_")
"""Prefixes that other programs use, too: a variable with one of them is reported if it resembles a setting."""

_MIN_SIMILARITY: Final = 0.8
"""Of names with a shared prefix, as a ratio of matching characters."""

_LINK: Final = re.compile(r"_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)$")
"""The end of variables that Kubernetes and Docker set for a service of that name, e.g. `MEM0_SERVICE_HOST`."""


def misspelt(names: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    """Yield those of the `names`, which are in upper case and not known, that look like misspelt `known` ones.

    >>> list(misspelt(["OPENAI_MODLE", "MEMROY_BACKEND", "PATH"], ["OPENAI_MODEL", "MEMORY_BACKEND"]))
    ['OPENAI_MODLE', 'MEMROY_BACKEND']
    """
    settings = list(known)
    for name in names:
        if name in _OF_LIBRARIES or _LINK.search(name):
            continue
        resembles = name.startswith(_SHARED) and difflib.get_close_matches(name, settings, 1, _MIN_SIMILARITY)
        if name.startswith(_OURS) or resembles or any(_is_near(name, setting) for setting in settings):
            yield name


def _is_near(name: str, setting: str) -> bool:
    """Whether a slip or two turn `setting` into `name`. Short names are too close to those of other programs."""
    slips = 2 if len(setting) >= 10 else 1 if len(setting) >= 5 else 0
    return name[:1] == setting[:1] and abs(len(name) - len(setting)) <= slips and _distance(name, setting) <= slips


def _distance(one: str, other: str) -> int:
    """Return how many insertions, deletions, replacements and swaps of neighbours make `one` into `other`."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        before, last, row = row, before, [i]
        for j, right in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and (left, one[i - 2]) == (other[j - 2], right):
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
