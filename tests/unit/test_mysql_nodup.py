"""FULL_NODUP of MariaDB, as a server wrote it: Debian's here has none."""

from __future__ import annotations

import pytest

from cdc.errors import DecodeError
from cdc.event import Operation
from connectors.mysql.events import Rows
from connectors.mysql.nodup import completed, sizes
from connectors.mysql.tablemap import ColumnType, MapColumn

COLUMNS = [
    MapColumn("id", ColumnType.LONG, 0, 0, False),
    MapColumn("a", ColumnType.LONG, 0, 0, True),
    MapColumn("v", ColumnType.VARCHAR, 300, 0, True, collation=45),
    MapColumn("d", ColumnType.NEWDECIMAL, 12, 4, True),
    MapColumn("body", ColumnType.BLOB, 2, 0, True, collation=45),
    MapColumn("at", ColumnType.DATETIME2, 0, 0, False),
]
FULL = (
    "d20100000001007880000001138899b2bac000" "c00100000009000000000080000001138801003199b2bac000"
    "c802000000070000000200c3a901007499b2bac000" "ca02000000000001003299b2bac000"
)  # fmt: skip
NODUP = (
    "d20100000001007880000001138899b2bac000" "f8090000000000010031"
    "c802000000070000000200c3a901007499b2bac000" "f90000010032"
)  # fmt: skip
"""The same update of two rows, of ``a``, ``v`` and ``body``, from and to null too."""


def update(body: bytes) -> Rows:
    return Rows(Operation.UPDATE, 7, True, len(COLUMNS), 0b111111, 0b010110, False, body)


def test_a_recorded_update() -> None:
    found = completed(update(bytes.fromhex(NODUP)), sizes(COLUMNS))
    assert found == update(bytes.fromhex(FULL))._replace(after=0b111111)


def test_bytes_that_end_within_a_row() -> None:
    body = bytes.fromhex(NODUP)
    for end in range(len(body) - 5, len(body)):
        with pytest.raises(DecodeError):
            completed(update(body[:end]), sizes(COLUMNS))
