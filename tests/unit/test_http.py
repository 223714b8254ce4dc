"""How stores are spoken to over HTTP, against a real HTTPS server."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cdc.errors import CdcError, PermanentError, TransientError, UnreachableError
from sinks._http import HttpServer
from tests.servers import free_port
from tests.servers.tls import certificate


class Answers(BaseHTTPRequestHandler):
    """Answers with the status that the path names, and says who asked."""

    def do_GET(self) -> None:
        body = b'{"error":{"type":"some_type","reason":"canary"},"asked":"%b"}' % self.headers["authorization"].encode()
        self.send_response(int(self.path.strip("/") or 200))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name in the standard library
        """Say nothing."""


@contextmanager
def served(pem: Path, key: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    server = HTTPServer(("127.0.0.1", 0), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(url: str, ca: Path | None, path: str = "/") -> bytes:
    server = HttpServer(url, "sink search: the server", {"authorization": "canary"}, ca)
    try:
        return server.request("GET", path).body
    finally:
        server.close()


def test_tls_is_verified(tmp_path: Path) -> None:
    here, elsewhere = (certificate(tmp_path, host) for host in ("localhost", "elsewhere"))
    with served(*here) as url:
        assert b"canary" in ask(url, here[0])
        for ca in (None, elsewhere[0]):
            with pytest.raises(UnreachableError, match="could not prove") as caught:
                ask(url, ca)
            assert "name the file" in caught.value.hint
        with pytest.raises(PermanentError, match="no certificate to trust"):
            ask(url, tmp_path / "absent.pem")
    with served(*elsewhere) as url, pytest.raises(UnreachableError, match="could not prove"):
        ask(url, elsewhere[0])


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, UnreachableError),
        (403, PermanentError),
        (404, PermanentError),
        (302, PermanentError),
        (429, TransientError),
        (502, TransientError),
        (503, TransientError),
        (500, PermanentError),
    ],
)
def test_what_an_answer_means(tmp_path: Path, status: int, error: type[CdcError]) -> None:
    pem, key = certificate(tmp_path, "localhost")
    with served(pem, key) as url, pytest.raises(error) as caught:
        ask(url, pem, f"/{status}")
    assert type(caught.value) is error
    assert "canary" not in str(caught.value)


def test_nobody_there() -> None:
    with pytest.raises(UnreachableError, match=r"does not answer .*refused"):
        ask(f"http://127.0.0.1:{free_port()}", None)
