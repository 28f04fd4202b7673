"""The certificate authorities that TLS libraries read from the file that `SSL_CERT_FILE` names."""

import ssl
from pathlib import Path

from domain.errors import Unusable


def require_certificates(file: str | None) -> None:
    """Check the file, because TLS libraries report a problem with it as a traceback that does not name it.

    Raises:
        Unusable: The file is missing, a directory, unreadable or not PEM.
    """
    if not file:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except ssl.SSLError:
        problem = "holds no certificates in PEM format"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    else:
        return
    if Path(file).is_dir():
        problem = "is a directory; name one in SSL_CERT_DIR instead"
    raise Unusable(f"SSL_CERT_FILE: the path that it names {problem}")
