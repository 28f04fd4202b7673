"""The tokenizers of OpenAI's models. Loading them takes half a second, so that tests import this module first."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # it opens its vocabularies in an old way
    import bpe_openai

_O200K: Final = bpe_openai.get_encoding("o200k_base")
_CL100K: Final = bpe_openai.get_encoding("cl100k_base")
_O200K.encode("Load the vocabulary.")
_CL100K.encode("Load the vocabulary.")


def o200k(text: str) -> int:
    """Count tokens as GPT-4o and later models do."""
    return len(_O200K.encode(text))


def cl100k(text: str) -> int:
    """Count tokens as GPT-4 does. Llama 3 has a similar vocabulary."""
    return len(_CL100K.encode(text))


def prompt_size(messages: Sequence[Mapping[str, Any]]) -> int:
    """Count the tokens of a prompt as OpenAI reports them: four per message and three for the reply's beginning."""
    return 3 + sum(4 + o200k(message["content"]) for message in messages)
