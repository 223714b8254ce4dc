"""The stores of the apply measure: how each is set up, its own batched call in a bare loop, and what it holds then.

A bare loop gets everything prepared: documents, statements' arguments, bodies of requests; each call does what a write
must do in any case: compare versions, write, make it durable as far as the store promises that.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import tantivy
import urllib3

from cdc.sink import Batch, Row
from schemas.table import TableSchema
from sinks import _bulk, _redis_scripts
from sinks import _tantivy_index as documents
from sinks._search_index import mapping
from tests.bench.stage import Stage
from tests.servers.opensearch import OpenSearchServer, opensearch_classes
from tests.servers.postgres import Postgres, embedded_binaries, new_folder
from tests.servers.redis import RedisServer, valkey_binary

Prepared = Sequence[Any]


class Store(ABC):
    """One kind of store. Each fill, ours or the bare one, gets an empty place named by `place`."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @abstractmethod
    def sink(self, place: str) -> dict[str, Any]:
        """The sink's configuration, all else at its default."""

    @abstractmethod
    def prepare(self, place: str, batches: Sequence[Sequence[Batch]]) -> Prepared:
        """Make what the bare loop hands over, one item per batch, and set up the empty place."""

    @abstractmethod
    def bare(self, place: str, prepared: Prepared) -> None:
        """The bare loop; this is what is timed."""

    @abstractmethod
    def rows(self, place: str, *, ours: bool) -> Iterator[bytes]:
        """All rows of the place as JSON objects."""


def _split(batches: Sequence[Batch]) -> tuple[list[tuple[Batch, Row]], list[tuple[Batch, Row]]]:
    """Rows, and deletes, each with its batch."""
    every = [(batch, row) for batch in batches for row in batch.rows]
    return [each for each in every if each[1].after is not None], [each for each in every if each[1].after is None]


class DuckDB(Store):
    """A file per place; the bare loop keeps it open and merges Arrow tables of raw JSON."""

    _MERGE = """
    MERGE INTO orders AS held
    USING (SELECT unnest(from_json(after, '{"id":"BIGINT","customer":"INTEGER","amount":"DECIMAL(12,2)",
      "status":"VARCHAR","note":"VARCHAR","paid":"BOOLEAN","placed_at":"TIMESTAMPTZ","due":"DATE","details":"VARCHAR",
      "reference":"UUID"}')), version FROM batch) AS new
    ON held.id = new.id WHEN MATCHED AND new.version > held.version THEN UPDATE WHEN NOT MATCHED THEN INSERT
    """
    _TABLE = """
    CREATE TABLE orders (id BIGINT, customer INTEGER, amount DECIMAL(12,2), status VARCHAR, note VARCHAR, paid BOOLEAN,
      placed_at TIMESTAMPTZ, due DATE, details JSON, reference UUID, version BIGINT);
    CREATE TABLE deleted (id BIGINT, version BIGINT);
    """

    def _file(self, place: str) -> str:
        return str(self._stage.folder / f"{place}.duckdb")

    def sink(self, place: str) -> dict[str, Any]:
        return {"type": "duckdb", "path": self._file(place)}

    def prepare(self, place: str, batches: Sequence[Sequence[Batch]]) -> Prepared:
        with duckdb.connect(self._file(place)) as connection:
            connection.execute(self._TABLE)
        prepared = []
        for together in batches:
            rows, deletes = _split(together)
            afters = pa.array([row.after for _, row in rows], pa.binary()).cast(pa.string())
            batch = pa.table({"after": afters, "version": [row.version for _, row in rows]})
            ids = [json.loads(row.key)["id"] for _, row in deletes]
            gone = {
                "id": pa.array(ids, pa.int64()),
                "version": pa.array([row.version for _, row in deletes], pa.int64()),
            }
            prepared.append((batch, pa.table(gone)))
        return prepared

    def bare(self, place: str, prepared: Prepared) -> None:
        with duckdb.connect(self._file(place)) as connection:
            for batch, gone in prepared:
                connection.register("batch", batch)
                connection.register("gone", gone)
                connection.begin()
                connection.execute(self._MERGE)
                connection.execute("DELETE FROM orders USING gone WHERE orders.id = gone.id")
                connection.execute("INSERT INTO deleted FROM gone")
                connection.commit()

    def rows(self, place: str, *, ours: bool) -> Iterator[bytes]:
        with duckdb.connect(self._file(place), read_only=True) as connection:
            for (row,) in connection.execute("SELECT to_json(orders)::VARCHAR FROM orders").fetchall():
                yield row.encode()


class Redis(Store):
    """A Valkey server per place; the bare loop sends the compare-and-set scripts' calls, pipelined by the batch."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._servers: dict[str, RedisServer] = {}

    def server(self, place: str) -> RedisServer:
        """The server of `place`."""
        if place not in self._servers:
            folder = self._stage.folder / place
            folder.mkdir()
            server = RedisServer(valkey_binary(), folder, "--appendfsync", "everysec")
            self._stage.also_close(server.stop)
            self._servers[place] = server.start()
        return self._servers[place]

    def sink(self, place: str) -> dict[str, Any]:
        return {"type": "redis", "url": self.server(place).url}

    def prepare(self, place: str, batches: Sequence[Sequence[Batch]]) -> Prepared:
        prepared = []
        guard, claimed = [b"partitions", b"floor"], [b"0", b"1", b"0"]
        for together in batches:
            calls: list[tuple[bool, list[bytes], list[bytes]]] = []
            rows, deletes = _split(together)
            for start in range(0, len(rows), 200):
                part = [row for _, row in rows[start : start + 200]]
                names = [(b"v:" + row.key, b"orders:%d" % json.loads(row.key)["id"]) for row in part]
                values = [(b"%020d" % row.version, row.after or b"") for row in part]
                calls.append((True, guard + _flat(names), [*claimed, b"0", *_flat(values)]))
            for start in range(0, len(deletes), 200):
                part = [row for _, row in deletes[start : start + 200]]
                versions = [b"%020d" % row.version for row in part]
                calls.append((False, guard + [b"v:" + row.key for row in part], [*claimed, b"86400000", *versions]))
            prepared.append(calls)
        with self.server(place).client() as client:
            client.hset("partitions", "0", "1 0 ")
        return prepared

    def bare(self, place: str, prepared: Prepared) -> None:
        with self.server(place).client() as client:
            upsert = client.register_script(_redis_scripts.UPSERT)
            delete = client.register_script(_redis_scripts.DELETE)
            for calls in prepared:
                pipeline = client.pipeline(transaction=False)
                for writes, keys, values in calls:
                    (upsert if writes else delete)(keys, values, client=pipeline)
                pipeline.execute()

    def rows(self, place: str, *, ours: bool) -> Iterator[bytes]:
        with self.server(place).client() as client:
            keys = list(client.scan_iter(match="orders:*", count=5000))
            for start in range(0, len(keys), 5000):
                yield from client.mget(keys[start : start + 5000])


def _flat(pairs: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    return [each for pair in pairs for each in pair]


class OpenSearch(Store):
    """One node, an index per place; the bare loop posts bulk requests of up to 8 MB."""

    @cached_property
    def _url(self) -> str:
        opensearch_classes()
        folder = self._stage.folder / "opensearch"
        folder.mkdir()
        server = OpenSearchServer(folder)
        self._stage.also_close(server.stop)
        return server.start().url

    @cached_property
    def _http(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(headers={"content-type": "application/json"}, retries=False, timeout=120)

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        answer = self._http.request(method, f"{self._url}{path}", body=body)
        assert answer.status < 300, answer.data[:500]
        return answer.json()

    def sink(self, place: str) -> dict[str, Any]:
        return {"type": "opensearch", "url": self._url, "index": f"{place}.{{schema}}.{{table}}"}

    def prepare(self, place: str, batches: Sequence[Sequence[Batch]]) -> Prepared:
        schema = next(row.schema for batch in batches for each in batch for row in each.rows if row.schema)
        self._create(place, schema)
        prepared = []
        for together in batches:
            entries = [self._entry(place, batch, row) for batch in together for row in batch.rows]
            bodies, size = [[]], 0  # type: ignore[var-annotated]
            for entry in entries:
                if size + len(entry) > _bulk.BULK_BYTES:
                    bodies.append([])
                    size = 0
                bodies[-1].append(entry)
                size += len(entry)
            prepared.append([b"".join(body) for body in bodies if body])
        return prepared

    def _create(self, place: str, schema: TableSchema) -> None:
        settings = {"number_of_shards": 1, "number_of_replicas": 1}
        mappings = {"dynamic": False, "properties": mapping(schema)}
        self._call("PUT", f"/{place}", json.dumps({"settings": settings, "mappings": mappings}).encode())

    def _entry(self, place: str, batch: Batch, row: Row) -> bytes:
        index = json.dumps(place).encode()
        if row.after is None:
            return _bulk.deletion(index, _bulk.document_id(row.key), row.version)
        return _bulk.insertion(index, batch.partition, row, row.after)

    def bare(self, place: str, prepared: Prepared) -> None:
        for bodies in prepared:
            for body in bodies:
                self._call("POST", "/_bulk?filter_path=errors,items.*.status", body)

    def rows(self, place: str, *, ours: bool) -> Iterator[bytes]:
        index = f"{place}.public.orders" if ours else place
        self._call("POST", f"/{index}/_refresh")
        after: list[Any] = []
        while True:
            query = {"size": 5000, "sort": [{"id": "asc"}], **({"search_after": after} if after else {})}
            hits = self._call("POST", f"/{index}/_search", json.dumps(query).encode())["hits"]["hits"]
            if not hits:
                return
            for hit in hits:
                yield json.dumps(hit["_source"]).encode()
            after = hits[-1]["sort"]


class Tantivy(Store):
    """A folder per place; the bare loop replaces prepared documents and commits after each batch."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._topic = ""

    def _path(self, place: str) -> Path:
        return self._stage.folder / f"{place}.tantivy"

    def sink(self, place: str) -> dict[str, Any]:
        return {"type": "tantivy", "path": str(self._path(place))}

    def prepare(self, place: str, batches: Sequence[Sequence[Batch]]) -> Prepared:
        self._path(place).mkdir()
        self._topic = batches[0][0].topic
        return [[self._document(batch, row) for batch in together for row in batch.rows] for together in batches]

    def _document(self, batch: Batch, row: Row) -> tuple[str, tantivy.Document]:
        name = documents.term(batch.topic, row.key)
        made = documents.document(batch.topic, batch.partition, name, row.version)
        if row.after is None:
            made.add_boolean("_deleted", True)
        else:
            documents.add_row(made, row.after)
        return name, made

    def bare(self, place: str, prepared: Prepared) -> None:
        index = tantivy.Index(documents.SCHEMA, str(self._path(place)))
        writer = index.writer(64 << 20, num_threads=1)
        for together in prepared:
            for name, document in together:
                writer.delete_documents_by_term("_key", name)
                writer.add_document(document)
            writer.commit()

    def rows(self, place: str, *, ours: bool) -> Iterator[bytes]:
        for _, row in documents.live_rows(self._path(place), self._topic):
            yield row


class Sql(Store):
    """A schema per place of one PostgreSQL, which syncs to its disk; the bare loop copies a prepared text into a typed
    table and upserts from there, guarded by the version.
    """

    _TABLES = """
    CREATE SCHEMA {place};
    CREATE TABLE {place}.orders (id bigint PRIMARY KEY, customer integer, amount numeric(12,2), status text, note text,
      paid boolean, placed_at timestamptz, due date, details json, reference uuid, version bigint);
    CREATE TABLE {place}.deleted (id bigint PRIMARY KEY, version bigint);
    CREATE UNLOGGED TABLE {place}.batch (LIKE {place}.orders);
    CREATE UNLOGGED TABLE {place}.gone (LIKE {place}.deleted);
    """

    @cached_property
    def _server(self) -> Postgres:
        folder = new_folder()
        server = Postgres(embedded_binaries(folder), folder, {"fsync": "on"})
        self._stage.also_close(lambda: shutil.rmtree(folder))
        self._stage.also_close(server.immediate)
        return server.start()

    def sink(self, place: str) -> dict[str, Any]:
        return {"type": "sql", "url": self._server.dsn, "schema": place}

    def prepare(self, place: str, batches: Sequence[Sequence[Batch]]) -> Prepared:
        with self._server.connect() as connection:
            connection.execute(self._TABLES.format(place=place).encode())
        prepared = []
        for together in batches:
            rows, deletes = _split(together)
            lines = (self._line([*json.loads(row.after or b"").values(), row.version]) for _, row in rows)
            gone = (self._line([json.loads(row.key)["id"], row.version]) for _, row in deletes)
            prepared.append(("".join(lines).encode(), "".join(gone).encode()))
        return prepared

    def _line(self, values: Sequence[Any]) -> str:
        escapes = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
        return "\t".join(r"\N" if value is None else str(value).translate(escapes) for value in values) + "\n"

    def bare(self, place: str, prepared: Prepared) -> None:
        names = ["customer", "amount", "status", "note", "paid", "placed_at", "due", "details", "reference", "version"]
        updates = ", ".join(f"{name} = excluded.{name}" for name in names)
        statements = f"""
            INSERT INTO {place}.orders AS held SELECT * FROM {place}.batch
              ON CONFLICT (id) DO UPDATE SET {updates} WHERE held.version < excluded.version;
            DELETE FROM {place}.orders AS held USING {place}.gone
              WHERE held.id = gone.id AND held.version < gone.version;
            INSERT INTO {place}.deleted AS held SELECT * FROM {place}.gone
              ON CONFLICT (id) DO UPDATE SET version = excluded.version WHERE held.version < excluded.version;
            TRUNCATE {place}.batch, {place}.gone;
        """
        with psycopg.connect(self._server.dsn) as connection, connection.cursor() as cursor:
            for rows, gone in prepared:
                for table, lines in ((f"{place}.batch", rows), (f"{place}.gone", gone)):
                    with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                        copy.write(lines)
                cursor.execute(statements.encode())
                connection.commit()

    def rows(self, place: str, *, ours: bool) -> Iterator[bytes]:
        with self._server.connect() as connection:
            found = connection.execute(f"SELECT row_to_json(held)::text FROM {place}.orders AS held".encode())
            for (row,) in found:
                yield row.encode()


STORES: dict[str, type[Store]] = {
    "duckdb": DuckDB,
    "tantivy": Tantivy,
    "redis": Redis,
    "opensearch": OpenSearch,
    "sql": Sql,
}
