"""Addresses of stores as they stand in a configuration."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import AfterValidator


def server_url(*schemes: str) -> AfterValidator:
    """A validator of a server's URL: one of `schemes`, a host, and nothing secret or switched off inside it.

    Credentials have fields of their own that are never shown, and a query string could turn TLS verification off.
    """

    def check(url: str) -> str:
        example = f"{schemes[0]}://host:port"
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ValueError(f"is not a URL; for example {example}") from None
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not contain credentials; put them into the fields of their own, as ${VAR}")
        if parts.scheme not in schemes or not host:
            raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)} and name a host")
        if parts.query or parts.fragment:
            raise ValueError(f"must not have options after the address; for example {example}")
        return url

    return AfterValidator(check)
