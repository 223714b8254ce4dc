"""Which Python the measured workers run on.

``pg_recvlogical`` comes from a distributor who built it with optimisation. A Python that was compiled by a plain
``configure && make``, as version managers do it, takes a third longer for the same work than one from a distribution,
which is profile-guided. So of the interpreters of this version that the machine has, the fastest is taken, and named.
``BENCH_PYTHON=PATH`` decides otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from typing import Final

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
def interpreter() -> str:
    """The path of the interpreter."""
    if chosen := os.environ.get("BENCH_PYTHON"):
        return chosen
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = {sys.executable} | {
        path for folder in ("/usr/bin", "/usr/local/bin") if (path := shutil.which(name, path=folder))
    }
    return min(sorted(found), key=_seconds)


def environment() -> dict[str, str]:
    """What `interpreter` needs to find what is installed here."""
    if interpreter() == sys.executable:
        return {}
    return {"PYTHONPATH": sysconfig.get_path("platlib")}


def _seconds(python: str) -> float:
    return float(subprocess.run([python, "-c", _WORK], capture_output=True, check=True, text=True).stdout)
