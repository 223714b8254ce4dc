"""Certificates for servers that speak TLS."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.servers import unavailable


def certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A new self-signed certificate for `host` and its key, as files in `folder`."""
    if not shutil.which("openssl"):
        unavailable("TLS", "needs the openssl command")
    pem, key = folder / f"{host}.pem", folder / f"{host}.key"
    command = ["openssl", *["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"], "-subj", f"/CN={host}"]
    command += ["-addext", f"subjectAltName=DNS:{host}", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    return pem, key
