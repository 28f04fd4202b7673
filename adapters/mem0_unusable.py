"""What ends a start with Mem0."""


class Mem0Unusable(Exception):
    """Mem0 can not be used as it is configured; the message is one sentence for people and holds no secret."""
