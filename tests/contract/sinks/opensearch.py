"""OpenSearch, held to the sink contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec
import pytest
import urllib3

from cdc.event import Value
from cdc.formats.json import decode
from cdc.sink import Row
from schemas.table import TableSchema
from sinks import _bulk, opensearch
from sinks._rows import columns_of, renamed
from sinks._search_index import field_names, index_name
from tests.contract.sinks import PIPELINE, Store
from tests.contract.sinks._tables import table
from tests.servers.opensearch import OpenSearchServer


class _Hit(msgspec.Struct):
    source: msgspec.Raw = msgspec.field(name="_source")


class _Hits(msgspec.Struct):
    hits: list[_Hit]


class _Found(msgspec.Struct):
    hits: _Hits


MOST_ROWS = 1_000_000


class OpenSearchStore(Store):
    """One node for all tests; the pipeline's indices are deleted for each."""

    type = "opensearch"
    fixture: ClassVar[str] = "opensearch"

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._server: OpenSearchServer = request.getfixturevalue(self.fixture)
        self.empty()

    def config(self) -> dict[str, Any]:
        return {"url": self._server.url, "replicas": 0}

    def rows(self, schema: TableSchema) -> dict[bytes, dict[str, Value]]:
        index = "/" + quote(index_name(f"{PIPELINE}.{schema.schema}.{schema.table}"), safe="")
        self._ask("POST", f"{index}/_refresh")
        self._answer("PUT", f"{index}/_settings", {"max_result_window": MOST_ROWS})
        found = self._answer("GET", f"{index}/_search?size={MOST_ROWS}&ignore_unavailable=true")
        held = {}
        for hit in msgspec.json.decode(found, type=_Found).hits.hits:
            row = renamed(bytes(hit.source), {field: column for column, field in field_names(schema).items()})
            columns = columns_of(row)
            key = msgspec.json.encode({name: columns[name] for name in schema.key})
            held[key] = {**dict.fromkeys(schema.by_name), **decode(schema, row)}
        return held

    def cut(self) -> None:
        self._server.kill()

    def mend(self) -> None:
        self._server.start()

    def empty(self) -> None:
        for index in self._ask("GET", "/_cat/indices?format=json&expand_wildcards=all"):
            if index["index"] == opensearch.STATE_INDEX or index["index"].startswith(f"{PIPELINE}."):
                self._ask("DELETE", f"/{index['index']}")

    def drop(self, schema: TableSchema) -> bool:
        self._ask("DELETE", "/" + quote(index_name(schema.topic) + "_g1", safe=""))
        return True

    def without_guard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unguarded(entry: Callable[..., bytes]) -> Callable[..., bytes]:
            version = re.compile(rb'"version_type":"external","version":\d+,')
            return lambda *arguments: version.sub(b"", entry(*arguments), 1)

        for name in ("insertion", "deletion"):
            monkeypatch.setattr(opensearch, name, unguarded(getattr(_bulk, name)))

    def refused(self) -> Callable[[int], Row] | None:
        def row(version: int) -> Row:
            good = table().row(version, id=99, name="x")
            assert good.after is not None
            return good._replace(after=good.after.replace(b'"name":"x"', b'"name":{"first":"x"}'))

        return row

    def stop(self) -> None:
        self._server.start()

    def _ask(self, method: str, path: str) -> Any:
        return msgspec.json.decode(self._answer(method, path))

    def _answer(self, method: str, path: str, body: object = None) -> bytes:
        return urllib3.request(method, self._server.url + path, json=body, retries=False).data


STORE = OpenSearchStore
