"""What warehouses have in common: which rows a table keeps, and the columns of ours that it has for that.

============  ==================================================================================================
kept          the table
============  ==================================================================================================
``hard``      each row as it is; deleted rows go
``soft``      each row as it is; a deleted one stays as it was, and ``_cdc_deleted`` is true
``append``    a row per change, with the time when it came on the log in ``_cdc_at``; a delete repeats the row as it
              was, with ``_cdc_deleted``
``scd2``      a row per change, which was current from ``_cdc_valid_from`` until ``_cdc_valid_to``, null if it still
              is; a delete ends the last one
============  ==================================================================================================
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cdc.config.fields import Duration, SinkConfig
from cdc.errors import GapError
from cdc.sink import ANEW, Row
from sinks._table_names import table_template

KEY, VERSION, PARTITION, DELETED = "_cdc_key", "_cdc_version", "_cdc_partition", "_cdc_deleted"
AT, VALID_FROM, VALID_TO = "_cdc_at", "_cdc_valid_from", "_cdc_valid_to"
OWN_COLUMNS: Final = (KEY, VERSION, PARTITION, DELETED, AT, VALID_FROM, VALID_TO)
"""No column of a source is stored under one of these names, whatever is kept."""


class Kept(StrEnum):
    """Which rows a table keeps."""

    HARD = "hard"
    SOFT = "soft"
    APPEND = "append"
    SCD2 = "scd2"

    @property
    def history(self) -> bool:
        """Whether it has a row per change, and not one per key."""
        return self in (Kept.APPEND, Kept.SCD2)

    def comment(self, topic: str) -> str:
        """The comment of a table: whose rows it holds. One with another comment is never taken."""
        noun = {Kept.APPEND: "changes", Kept.SCD2: "history"}.get(self, "rows")
        return f"{noun} of {topic}, kept by cdc"


def dropped(where: str, comment: str) -> GapError:
    """The error for a table that is gone; `comment` is the one that it had."""
    return GapError(
        f"{where} no longer holds what was written: the table with the {comment}, is gone (dropped, made anew without "
        "this comment, or never made because the sink has another mode now)",
        hint=ANEW,
    )


class WarehouseConfig(SinkConfig):
    """Configuration that every warehouse has."""

    table: Annotated[str, AfterValidator(table_template)] = "{table}"
    """What a table is called: ``{schema}`` and ``{table}`` of the source."""
    mode: Literal["merge", "append", "scd2"] = "merge"
    """``merge``: a row per key. ``append``: a row per change, with ``_cdc_at``, and a delete repeats the row with
    ``_cdc_deleted``. ``scd2``: a row per change, current from ``_cdc_valid_from`` until ``_cdc_valid_to``. The last two
    can only be filled again from a log with ``cleanup: keep``."""
    deletes: Literal["hard", "soft"] | None = None
    """For ``merge``. ``hard``, the default there: a deleted row goes; ``soft``: it stays as it was, and
    ``_cdc_deleted`` is true."""
    tombstone_ttl: Annotated[Duration, Field(gt=0)] = 8 * 86400.0
    """How long the version of a deleted row is kept: longer than any replay of older rows can take."""

    @model_validator(mode="after")
    def _deletes_of_merge(self) -> Self:
        if self.mode != "merge" and self.deletes is not None:
            raise ValueError(f"deletes is for mode: merge; {self.mode} keeps every row in a way of its own")
        return self

    @property
    def kept(self) -> Kept:
        """What the tables keep."""
        return Kept(self.deletes or "hard") if self.mode == "merge" else Kept(self.mode)


class Succession:
    """Which row of a write ends when, in a table of the kind ``scd2``."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, bytes], tuple[dict[int, int], int] | None] = {}

    def add(self, topic: str, row: Row, until: dict[int, int], number: int) -> bool:
        """Add a change, in order; it ends the one before, of which `until` gets to know.

        `until` has the ends of rows by their `number`. Returns whether it is the first of its key: such a one ends what
        the table holds.
        """
        place = (topic, row.key)
        first = place not in self._last
        if (last := self._last.get(place)) is not None:
            ends, ended = last
            ends[ended] = row.at
        self._last[place] = (until, number) if row.after is not None else None
        return first
