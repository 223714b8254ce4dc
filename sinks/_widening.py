"""When a column of one type takes every value of another, so that a table can follow its source."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

_DECIMAL: Final = re.compile(r"(?:DECIMAL|NUMERIC)\((\d+), ?(\d+)\)")


@dataclass(frozen=True, slots=True)
class TypeNames:
    """A store's own names of its types."""

    digits: Mapping[str, int]
    """Integer types, and how many decimal digits they have at most."""
    wider: Mapping[str, Collection[str]]
    """For a type all others that take its values, apart from decimals and texts."""
    text: str
    uuid: str
    any_decimal: str = ""
    """The type of decimals of any size, if there is one."""

    def holds(self, held: str, wanted: str) -> bool:
        """Whether a column of type `held` takes every value of type `wanted` without a change of its meaning."""
        if held == wanted:
            return True
        if held.endswith("[]") and wanted.endswith("[]"):
            return self.holds(held[:-2], wanted[:-2])
        if held in self.wider.get(wanted, ()):
            return True
        decimal = _DECIMAL.fullmatch(wanted)
        digits, scale = (int(decimal[1]), int(decimal[2])) if decimal else (self.digits.get(wanted), 0)
        if held == self.text:
            return digits is not None or wanted in (self.uuid, self.any_decimal)
        if held == self.any_decimal:
            return digits is not None
        into = _DECIMAL.fullmatch(held)
        return (
            into is not None
            and digits is not None
            and int(into[2]) >= scale
            and int(into[1]) - int(into[2]) >= digits - scale
        )
