"""A store that is spoken to over HTTP: bytes out, bytes in, failures as our errors. Nothing is tried twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import urllib3

from cdc.errors import CdcError, PermanentError, TransientError, UnreachableError
from cdc.tls import trusting

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 60.0
OVERLOADED: Final = frozenset({429, 502, 503, 504})
"""What a server, or a proxy before it, answers when it may well take the same request later."""


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body decoded. Raises PermanentError when it is not JSON."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise PermanentError(
                "a server answered something that is not JSON", hint="is url the right one?"
            ) from error


class HttpServer:
    """One server, one connection that is kept. `where` begins every error message."""

    def __init__(self, url: str, where: str, headers: Mapping[str, str], ca: Path | None) -> None:
        parts = urlsplit(url)
        self._where = where
        self._base = parts.path.rstrip("/")
        self._ca = ca
        self._headers = {"content-type": "application/json", **headers}
        self._options: dict[str, Any] = {"host": parts.hostname, "port": parts.port}
        self._https = parts.scheme == "https"
        self._pool: urllib3.HTTPConnectionPool | None = None

    def request(self, method: str, path: str, body: bytes | None = None, *, expect: Collection[int] = ()) -> Answer:
        """Send, and return the answer if its status is 2xx or one of `expect`.

        Raises UnreachableError (no answer, credentials refused), TransientError (overloaded), PermanentError.
        """
        try:
            response = self._connected().urlopen(
                method, self._base + path, body, headers=self._headers, retries=False, redirect=False
            )
        except urllib3.exceptions.SSLError as error:
            raise UnreachableError(
                f"{self._where} could not prove who it is, or does not speak TLS ({_cause(error)})",
                hint="check url, and name the file with its authority's certificate in ca",
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"{self._where} does not answer ({_cause(error)})") from error
        answer = Answer(response.status, response.data)
        if 200 <= answer.status < 300 or answer.status in expect:
            return answer
        raise self._refused(answer, f"{method} {path.partition('?')[0]}")

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _connected(self) -> urllib3.HTTPConnectionPool:
        if self._pool is None:
            timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS)
            if self._https:
                context = trusting(self._ca, self._where)
                self._pool = urllib3.HTTPSConnectionPool(**self._options, timeout=timeout, ssl_context=context)
            else:
                self._pool = urllib3.HTTPConnectionPool(**self._options, timeout=timeout)
        return self._pool

    def _refused(self, answer: Answer, request: str) -> CdcError:
        kind = error_type(answer.body)
        if answer.status == 401:
            return UnreachableError(f"{self._where} refuses the credentials", hint="check username, password, api_key")
        if answer.status in OVERLOADED:
            return TransientError(f"{self._where} is overloaded or not ready ({answer.status} {kind})")
        if answer.status == 403 and kind == "cluster_block_exception":
            return TransientError(f"{self._where} is blocked for writes; is its disk full?")
        if answer.status == 403:
            return PermanentError(f"{self._where} forbids {request}", hint="grant the sink's user this privilege")
        return PermanentError(f"{self._where} refuses {request} ({answer.status} {kind})")


def error_type(body: bytes) -> str:
    """The type of the error that an answer describes; its reason may quote a row, so it is left out."""
    try:
        return str(msgspec.json.decode(body)["error"]["type"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "no reason given"


def _cause(error: urllib3.exceptions.HTTPError) -> str:
    cause = error.__cause__ or error.__context__ or error
    return getattr(cause, "verify_message", "") or getattr(cause, "strerror", "") or type(error).__name__
