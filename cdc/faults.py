"""Named fault points, so that tests can kill a process exactly where it hurts.

``CDC_FAILPOINT=capture.before_acknowledge:kill:3`` kills the process (SIGKILL) the third time it reaches that point;
``…:stop`` stops it (SIGSTOP), ``…:raise`` raises a TransientError. Several are separated by commas. Unset, which is
always so outside tests, reaching a point costs one look into an empty dictionary.
"""

from __future__ import annotations

import os
import signal

from cdc.errors import TransientError


def _parse(text: str) -> dict[str, tuple[str, int]]:
    points: dict[str, tuple[str, int]] = {}
    for part in filter(None, text.split(",")):
        name, action, *nth = part.split(":")
        points[name] = (action, int(nth[0]) if nth else 1)
    return points


_armed = _parse(os.environ.get("CDC_FAILPOINT", ""))


def reach(name: str) -> None:
    """Tell that the process is at the fault point `name`; what was armed there happens now."""
    if name not in _armed:
        return
    action, left = _armed[name]
    if left > 1:
        _armed[name] = (action, left - 1)
        return
    del _armed[name]
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        raise TransientError(f"fault point {name} was armed to raise")
