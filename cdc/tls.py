"""Whom a client trusts."""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from pathlib import Path

from cdc.errors import PermanentError


def trusting(ca: Path | None, where: str) -> ssl.SSLContext:
    """A context that verifies certificate and host name, against the system's authorities and those in the file `ca`.

    Raises PermanentError, beginning with `where`, when the file cannot be used.
    """
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            raise PermanentError(
                f"{where}: the file {ca} holds no certificate to trust ({error.strerror or type(error).__name__})",
                hint="ca names a PEM file with the certificate of the server's authority",
            ) from error
    return context


def is_on_this_machine(host: str) -> bool:
    """Whether `host`, of a server's URL, is the machine itself: nobody else sees what is said to it."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
