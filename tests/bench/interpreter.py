"""Which Python the measured workers run on.

``pg_recvlogical`` comes from a distributor who built it with optimisation. A Python that was compiled by a plain
``configure && make``, as version managers do it, takes a third longer for the same work than one from a distribution,
which is profile-guided. So of the interpreters of this version that the machine has, the fastest is taken, and named;
it gets an environment of its own. ``BENCH_PYTHON=PATH`` decides otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from functools import cache
from pathlib import Path
from typing import Final

from tests.servers import CACHE

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("/usr/bin", "/usr/local/bin")
_WORK: Final = """
import time
def work():
    rows = {}
    for number in range(300_000):
        text = b"%d,%b" % (number, b"abc")
        rows[number & 255] = (text[1:3], text, number)
def timed():
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
print(min(timed() for _ in range(5)))
"""


@cache
def chosen() -> str:
    """The interpreter's path as it is named to people."""
    if path := os.environ.get("BENCH_PYTHON"):
        return path
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = {path for folder in FOLDERS if (path := shutil.which(name, path=folder))}
    return min(sorted(found | {sys.executable}), key=_seconds)


@cache
def interpreter() -> str:
    """The interpreter to start workers with: `chosen` in an environment that has what the service needs."""
    if chosen() == sys.executable:
        return chosen()
    project = (ROOT / "pyproject.toml").read_text()
    folder = CACHE / f"bench-{uuid.uuid5(uuid.NAMESPACE_OID, chosen() + str(ROOT) + project).hex[:8]}"
    python = folder / "bin" / "python"
    if not python.exists():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}")
        subprocess.run([chosen(), "-m", "venv", "--without-pip", draft], check=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(draft / "bin" / "python")]
        subprocess.run([*pip, "install", "--editable", f"{ROOT}[test]"], check=True)
        draft.rename(folder)
    return str(python)


def _seconds(python: str) -> float:
    return float(subprocess.run([python, "-c", _WORK], capture_output=True, check=True, text=True).stdout)
