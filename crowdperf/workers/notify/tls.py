"""TLS towards receivers: whom to trust, and one clear sentence where somebody is not trusted."""

from __future__ import annotations

import ssl

from crowdperf.workers.notify.delivery import ChannelNotReadyError, DeliveryError


def create_tls_context(ca_file: str) -> ssl.SSLContext:
    """A context that checks the receiver's certificate and name; nothing switches that off.

    Args:
        ca_file: certificates to trust instead of the system's; empty for the system's.

    Raises:
        NotReadyError: the file cannot be used. Notifications wait until it can.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise ChannelNotReadyError(
            f"ca_file {ca_file} cannot be used: {error.strerror or error}. Remedy: name a readable file of PEM "
            "certificates."
        ) from None


def build_connection_error(host: str, error: Exception) -> DeliveryError:
    """What to say of a connection that did not come about."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return DeliveryError(
            f"the certificate of {host} is not trusted ({error.verify_message.rstrip('.')}); nothing was sent. Remedy: "
            "name the authority that signed it in ca_file, and the host as the certificate does."
        )
    return DeliveryError(f"{host} does not answer: {error or type(error).__name__}")
