"""Tell which failures of a TLS handshake are lasting, by the reasons of OpenSSL."""

from typing import Final, Literal

Lasting = Literal["no tls", "tls rejected"]

NO_TLS: Final = "no tls"
"""The peer does not use TLS: the scheme, or the port, is wrong."""

REJECTED: Final = "tls rejected"
"""One side accepts neither what the other offers nor its certificate: either has to be configured differently."""

_NO_TLS: Final = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "RECORD_LAYER_FAILURE",
        "PACKET_LENGTH_TOO_LONG",
        "UNKNOWN_PROTOCOL",
        "HTTP_REQUEST",
        "HTTPS_PROXY_REQUEST",
    }
)
_REJECTED: Final = frozenset(
    {
        # Versions and ciphers
        "UNSUPPORTED_PROTOCOL",
        "NO_PROTOCOLS_AVAILABLE",
        "UNSUPPORTED_SSL_VERSION",
        "WRONG_SSL_VERSION",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "SSLV3_ALERT_ILLEGAL_PARAMETER",
        "NO_SHARED_CIPHER",
        "NO_CIPHERS_AVAILABLE",
        "NO_SUITABLE_SIGNATURE_ALGORITHM",
        "WRONG_SIGNATURE_TYPE",
        "DH_KEY_TOO_SMALL",
        "EE_KEY_TOO_SMALL",
        "CA_KEY_TOO_SMALL",
        "CA_MD_TOO_WEAK",
        "UNSAFE_LEGACY_RENEGOTIATION_DISABLED",
        # The host name and the protocol within TLS
        "TLSV1_UNRECOGNIZED_NAME",
        "TLSV1_ALERT_UNRECOGNIZED_NAME",
        "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        "NO_APPLICATION_PROTOCOL",
        # A certificate of the client
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV13_ALERT_MISSING_EXTENSION",
        "TLSV1_UNSUPPORTED_EXTENSION",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_UNKNOWN_CA",
        "SSLV3_ALERT_NO_CERTIFICATE",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    }
)


def lasting_failure(reason: str) -> Lasting | None:
    """Return the kind of a failure that no retry overcomes; None if it may pass. `reason` as in `ssl.SSLError.reason`.

    A connection that ends within the handshake, a broken record and an internal error of the peer may pass.
    """
    if reason in _NO_TLS:
        return NO_TLS
    return REJECTED if reason in _REJECTED else None
