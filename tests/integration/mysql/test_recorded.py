"""Recorded files of versions that are not started here: MySQL 8.0 to 9, MariaDB. They are no part of the project:
``CDC_TEST_BINLOGS`` names their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from connectors.mysql.binlog import read_file
from connectors.mysql.events import Rows
from connectors.mysql.rows import decode_rows
from connectors.mysql.tablemap import TableMap

FOLDER = Path(os.environ.get("CDC_TEST_BINLOGS") or Path(__file__).parents[4] / "shared/binlogs")
FILES = sorted(file for file in FOLDER.glob("*") if file.suffix != ".md")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_recorded_file_is_read_to_its_end(file: Path) -> None:
    assert _rows(file) or "invisible" in file.name


def _rows(file: Path) -> int:
    tables: dict[int, TableMap] = {}
    rows = 0
    with file.open("rb") as stream:
        for _, event in read_file(stream):
            if isinstance(event, TableMap):
                tables[event.table_id] = event
            elif isinstance(event, Rows):
                rows += len(list(decode_rows(tables[event.table_id], event, {})))
    return rows
