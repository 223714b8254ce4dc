"""What a change consists of: its operation, its values, and the one integer that orders everything."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final, Union

SEQUENCE_BITS: Final = 48


class Operation(StrEnum):
    """What happened to a row; the value is Debezium's code and the byte in the ``cdc`` header."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    READ = "r"
    TRUNCATE = "t"
    MESSAGE = "m"
    SWEEP = "s"


class Unchanged(Enum):
    """Type of the sentinel :data:`UNCHANGED`."""

    UNCHANGED = "UNCHANGED"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""A column that the source did not send. Never null, never a magic string inside the process."""

Value = Union[None, bool, int, str, bytes, list["Value"], Unchanged]  # noqa: UP007 - recursive
"""A canonical value; which form belongs to which logical type stands in :mod:`schemas.types`."""


def version(epoch: int, sequence: int) -> int:
    """The version of a record: ``epoch << 48 | sequence``, a positive 63-bit integer.

    Raises ValueError when either part does not fit (epoch 15 bits, sequence 48 bits).
    """
    if not 0 <= epoch < 1 << 15 or not 0 <= sequence < 1 << SEQUENCE_BITS:
        raise ValueError(f"epoch {epoch} or sequence {sequence} is out of range")
    return epoch << SEQUENCE_BITS | sequence


def epoch_of(number: int) -> int:
    """The epoch of a version."""
    return number >> SEQUENCE_BITS


def sequence_of(number: int) -> int:
    """The sequence of a version, within its epoch."""
    return number & (1 << SEQUENCE_BITS) - 1
