"""What a check of a running system found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters: an ``error`` keeps the part from running."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check: what was looked at, what is the matter, and the SQL or command that mends it."""

    check: str
    severity: Severity
    message: str
    fix: str = ""
