"""Mem0's section for a vector store, from the URL that an operator configures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from domain.errors import Unusable

COLLECTION: Final = "memories"

QDRANT_PORT: Final = 6333

CONNECT_TIMEOUT: Final = 5
"""Seconds to wait for a connection to PostgreSQL, or for a free one in the pool."""

STATEMENT_TIMEOUT: Final = 20_000
"""Milliseconds that one statement may take in PostgreSQL."""


def vector_store_section(store_url: str | None, directory: Path) -> Mapping[str, Any]:
    """Return Mem0's section for the store at a URL, or for embedded Qdrant in `directory` if there is no URL.

    Raises:
        Unusable: the URL is malformed or of another scheme.
    """
    common = {"collection_name": COLLECTION}
    if store_url is None:
        return {"provider": "qdrant", "config": {**common, "path": str(directory / "qdrant"), "on_disk": True}}
    try:
        url = urlsplit(store_url)
        port = url.port
    except ValueError:
        raise Unusable("MEM0_VECTOR_STORE is not a valid URL.") from None
    if url.scheme in ("postgresql", "postgres"):
        # Mem0's approximate index finds the nearest vectors of all users, then filters by user, which may leave none.
        # Without it, each user's few vectors are found by the index that `prepare` creates, and compared exactly.
        return {
            "provider": "pgvector",
            "config": {**common, "connection_string": _with_timeouts(store_url), "hnsw": False, "maxconn": 10},
        }
    if url.scheme in ("http", "https") and url.hostname:
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        port = port or QDRANT_PORT
        if url.password:
            address = {"url": f"{url.scheme}://{host}:{port}", "api_key": unquote(url.password)}
            return {"provider": "qdrant", "config": {**common, **address}}
        server = {"host": host, "port": port, "https": url.scheme == "https"}
        return {"provider": "qdrant", "config": {**common, **server}}
    raise Unusable("MEM0_VECTOR_STORE must be a postgresql://, http:// or https:// URL, or empty.")


def _with_timeouts(store_url: str) -> str:
    """Add timeouts to a PostgreSQL URL that has none."""
    import psycopg.conninfo

    try:
        given = psycopg.conninfo.conninfo_to_dict(store_url)
    except psycopg.Error:
        raise Unusable("PostgreSQL does not accept the URL of Mem0's store.") from None
    limits = {"connect_timeout": str(CONNECT_TIMEOUT), "options": f"-c statement_timeout={STATEMENT_TIMEOUT}"}
    return psycopg.conninfo.make_conninfo("", **{**limits, **given})
