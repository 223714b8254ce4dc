"""Fixtures of the PostgreSQL connector's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.postgres.support import Source
from tests.servers.postgres import Database, Server, create_database, drop_database

MakeSource = Callable[..., Source]


@pytest.fixture
def source(database: Database, tmp_path: Path) -> MakeSource:
    """Makes a source of the test's database, on each version of the server."""

    def make(tables: Any, **options: Any) -> Source:
        return _source(database.dsn, tmp_path, tables, options)

    return make


@pytest.fixture
def database18(postgres18: Server) -> Iterator[Database]:
    """A fresh database on version 18 only, where versions do not differ."""
    made = create_database(postgres18)
    yield made
    drop_database(made)


@pytest.fixture
def source18(database18: Database, tmp_path: Path) -> MakeSource:
    """Makes a source of the test's database on version 18."""

    def make(tables: Any, **options: Any) -> Source:
        return _source(database18.dsn, tmp_path, tables, options)

    return make


def _source(dsn: str, folder: Path, tables: Any, options: dict[str, Any]) -> Source:
    settings = {name: options.pop(name) for name in ("partitions", "profile") if name in options}
    return Source(dsn, folder, {"tables": tables, **options}, **settings)
