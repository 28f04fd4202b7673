"""Short deltas that occur again and again are kept in memory once."""


class DeltaCache(dict[str, str]):
    """`cache[delta]` is a string equal to `delta`, the same one each time if it is short.

    Models use the tokens of one vocabulary: a shared delta costs a pointer instead of 60 bytes. Unlike `sys.intern`,
    which never frees a string in some releases of Python, the table is bounded: it starts afresh when it is full.
    """

    def __init__(self, *, max_entries: int = 16_384, max_chars: int = 32) -> None:
        super().__init__()
        self._max_entries = max_entries
        self._max_chars = max_chars

    def __missing__(self, delta: str) -> str:
        if len(delta) <= self._max_chars:
            if len(self) >= self._max_entries:
                self.clear()
            self[delta] = delta
        return delta
