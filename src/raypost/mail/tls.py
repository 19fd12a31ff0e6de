"""TLS toward the mail relay: one context, and certificate faults in words a person can act on."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from raypost.errors import SecurityError, UnreachableError, UsageError

_MEANING = (
    "No mail leaves or enters this site over this relay until it is mended; nothing was sent, the images are kept."
)

CERTIFICATE_FAULTS: dict[int, tuple[str, str]] = {
    # OpenSSL's X509_V_ERR_... numbers (x509_vfy.h), which ssl.SSLCertVerificationError carries as verify_code.
    9: ("is not valid yet", "Check the clock of this machine, then ask the relay's administrator."),
    10: ("has expired", "Check the clock of this machine, then ask the relay's administrator for a new certificate."),
    18: ("is self-signed and not one this site trusts", "Set ca_file of the relay in raypost.toml."),
    19: ("comes from an authority this site does not trust", "Set ca_file of the relay in raypost.toml."),
    20: ("comes from an authority this site does not trust", "Set ca_file of the relay in raypost.toml."),
    21: ("comes from an authority this site does not trust", "Set ca_file of the relay in raypost.toml."),
    23: ("has been revoked", "Ask the relay's administrator before anything else."),
    62: ("is for another host name", "Write the relay's name as its certificate says it, or ask its administrator."),
    64: ("is for another IP address", "Write the relay's name as its certificate says it, or ask its administrator."),
}


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that checks the relay's certificate and name, TLS 1.2 or later.

    Args:
        ca_file: The authority to trust instead of the system's, PEM.

    Raises:
        UsageError: The file is missing or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise UsageError(f"ca_file {ca_file} cannot be read as a certificate.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def connection_error(where: str, error: OSError) -> SecurityError | UnreachableError:
    """Translate what a connection to `where` (host:port) failed with; certificate faults are named."""
    if isinstance(error, ssl.SSLCertVerificationError):
        other = (f"is refused ({error.verify_message})", "Ask the relay's administrator.")
        fault, remedy = CERTIFICATE_FAULTS.get(error.verify_code, other)
        return SecurityError(f"The certificate of {where} {fault}.", meaning=_MEANING, do=remedy)
    if isinstance(error, ssl.SSLError):
        return UnreachableError(
            f"{where} does not speak TLS as expected ({error.reason or 'broken handshake'}).",
            do="Check port and security of the relay in raypost.toml.",
        )
    if isinstance(error, socket.gaierror):
        return UnreachableError(f"The name of {where} is not found.")
    if isinstance(error, TimeoutError):
        return UnreachableError(f"{where} did not answer in time.")
    return UnreachableError(f"{where} is not reachable ({error.strerror or type(error).__name__}).")


def starttls_missing(where: str) -> SecurityError:
    """Return the error for a relay that offers no STARTTLS: somebody in between may have removed it (RFC 3207, 6)."""
    return SecurityError(
        f"{where} does not offer STARTTLS.",
        meaning=_MEANING,
        do="Use the port with TLS from the first byte (465, 993), or ask the relay's administrator.",
    )
