"""Tantivy under the contract suite: an index in the test's folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdc.event import Value
from cdc.formats.json import decode
from cdc.sink import Row
from schemas.table import TableSchema
from sinks import tantivy
from sinks._rows import merged
from sinks._tantivy_index import live_rows
from tests.contract.sinks import Store
from tests.contract.sinks._tables import table


class TantivyStore(Store):
    type = "tantivy"

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._path = folder / "search"
        self._elsewhere = folder / "unmounted"

    def config(self) -> dict[str, Any]:
        return {"path": str(self._path)}

    def rows(self, schema: TableSchema) -> dict[bytes, dict[str, Value]]:
        found = list(live_rows(self._path, schema.topic))
        rows = {
            key: {**dict.fromkeys(schema.by_name), **decode(schema, merged(row, b"{}", schema.by_name))}
            for key, row in found
        }
        assert len(rows) == len(found), "a key has two documents"
        return rows

    def cut(self) -> None:
        """The volume is gone."""
        self._path.rename(self._elsewhere)

    def mend(self) -> None:
        self._elsewhere.rename(self._path)

    def empty(self) -> None:
        shutil.rmtree(self._path)

    def without_guard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tantivy, "lands", lambda *_: True)

    def refused(self) -> Callable[[int], Row]:
        return lambda version: table().row(version, id=version)._replace(key=b'{"id":"' + b"k" * 66_000 + b'"}')


STORE = TantivyStore
