"""Debian packages that servers need, installed where that is possible: apt is there and we are root."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path


def install(*packages: str) -> str:
    """Install `packages`. Returns why that did not work, empty when it did or is not ours to do."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return ""
    steps = [
        ["dpkg", "--configure", "-a"],  # an installation that was interrupted stands in the way of every other
        ["apt-get", "-q", "update"],
        ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120", "install", "--no-install-recommends", *packages],
    ]
    with Path("/tmp/cdc-service-tests.apt").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for step in steps:
            done = subprocess.run(
                step, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, text=True
            )
    return "" if done.returncode == 0 else f"; apt-get said: {done.stderr.strip()[-300:]}"
