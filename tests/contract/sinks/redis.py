"""Redis, held to the sink contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from cdc.event import Value
from cdc.formats.json import decode
from cdc.sink import Row
from schemas.table import TableSchema
from sinks import _redis_scripts as scripts
from sinks._rows import columns_of
from tests.contract.sinks import Store
from tests.contract.sinks._tables import table
from tests.servers.redis import RedisServer


class RedisStore(Store):
    """One server for all tests, emptied for each."""

    type = "redis"
    fixture: ClassVar[str] = "redis_server"

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._server: RedisServer = request.getfixturevalue(self.fixture)
        self._server.client().flushdb()
        self._server.client().config_set("proto-max-bulk-len", 1 << 20)

    def config(self) -> dict[str, Any]:
        return {"url": self._server.url, "key": "{schema}:{table}:{pk}"}

    def rows(self, schema: TableSchema) -> dict[bytes, dict[str, Value]]:
        client = self._server.client()
        held = {}
        for key in client.scan_iter(f"{schema.schema}:{schema.table}:*"):
            columns = columns_of(row := client.get(key))
            record_key = msgspec.json.encode({name: columns[name] for name in schema.key})
            held[record_key] = {**dict.fromkeys(schema.by_name), **decode(schema, row)}
        return held

    def cut(self) -> None:
        self._server.kill()

    def mend(self) -> None:
        self._server.start()

    def empty(self) -> None:
        self._server.client().flushall()

    def without_guard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        guards = {"UPSERT": "held < version", "DELETE": "string.sub(stored, 1, 20) < version"}
        for name, guard in guards.items():
            script: str = getattr(scripts, name)
            assert script.count(guard) == 1
            monkeypatch.setattr(scripts, name, script.replace(guard, "true"))

    def refused(self) -> Callable[[int], Row] | None:
        return lambda version: table().row(version, id=99, name="x" * (1 << 20))

    def stop(self) -> None:
        self._server.start()
        self._server.client().config_set("proto-max-bulk-len", 512 << 20)


STORE = RedisStore
