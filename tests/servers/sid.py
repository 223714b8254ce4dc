"""Packages of Debian sid, unpacked with all they need into the cache. No root, no change of the system."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.servers import CACHE, unavailable

_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_APT = """
Dir::Etc "{folder}/etc"; Dir::Etc::Parts "{folder}/etc/apt.conf.d"; Dir::Etc::sourceparts "/dev/null";
Dir::State "{folder}/state"; Dir::State::status "{folder}/status"; Dir::Cache "{folder}/cache";
APT::Architecture "amd64"; APT::Install-Recommends "0"; Acquire::Languages "none"; Acquire::Check-Valid-Until "false";
Debug::NoLocking "1";
"""


def unpacked(server: str, package: str) -> Path:
    """The root folder that `package` of `server` is unpacked in; fetched once. Skips the test where that cannot be."""
    root = CACHE / f"{server.lower()}-sid"
    if not root.exists():
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                unavailable(server, f"{tool} is not installed")
        CACHE.mkdir(parents=True, exist_ok=True)
        draft = root.with_name(f"{root.name}.{os.getpid()}")
        _fetch(server, draft, package)
        try:
            draft.rename(root)
        except OSError:  # another test process was faster
            shutil.rmtree(draft)
    return root


def program(root: Path, name: str) -> list[str]:
    """The command that runs a program of ``/usr/sbin`` below `root` with the libraries that are there."""
    usr = root / "usr"
    loader = [str(usr / "lib64/ld-linux-x86-64.so.2"), "--library-path", str(usr / "lib/x86_64-linux-gnu")]
    return [*loader, str(usr / "sbin" / name)]


def _fetch(server: str, root: Path, package: str) -> None:
    """Unpack `package` and all that it depends on, the C library too, into `root`."""
    folder = root.with_name(f"{root.name}.apt")
    try:
        for name in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "etc/sources.list").write_text(f"deb [signed-by={_KEYS}] {_mirror()} sid main\n")
        (folder / "apt.conf").write_text(_APT.format(folder=folder))
        _run(server, folder, "apt-get", "-qq", "update")
        _run(server, folder, "apt-get", "-qq", "-y", "--download-only", "install", package)
        for name in ("lib", "lib64", "bin", "sbin"):
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        for archive in sorted((folder / "cache/archives").glob("*.deb")):
            _run(server, folder, "dpkg-deb", "-x", str(archive), str(root))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(server: str, folder: Path, *command: str) -> None:
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        unavailable(server, f"{' '.join(command[:2])} said: {done.stderr.strip()[-300:]}")


def _mirror() -> str:
    """The Debian mirror that apt uses here."""
    for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"):
        if Path(path).exists() and (
            found := re.search(r"^(?:URIs:|deb\b.*?) *(https?://\S+)", Path(path).read_text(), re.M)
        ):
            return found[1]
    return "http://deb.debian.org/debian"
