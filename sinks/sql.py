"""PostgreSQL, MySQL and MariaDB: each table of the source as a table of another database, typed, for analysis.

Rows, deletes, floors, offsets and the generation are one transaction of the store: exactly once. What a late write
loses against: the row's version, that of the delete in ``_cdc_tombstones`` (kept for `tombstone_ttl`), the floor of
its partition in ``_cdc_floors``, and the partition's generation in ``_cdc_offsets``.

Several workers may share the sink's partitions. Each draws a new generation for the partitions assigned to it; a write
locks the offsets of its partitions, and lands only if none of them has a newer one. So a worker that was
put out of the group, and hangs, writes nothing over its successor, and never waits for those of other partitions.

Each table has columns of ours: ``_cdc_key`` (the record key, its primary key), ``_cdc_version``, ``_cdc_partition``,
and with ``deletes: soft`` ``_cdc_deleted``. Indexes that readers need may be added; they are left alone.
Types, and values that a column cannot hold: see :mod:`sinks._sql_postgres` and :mod:`sinks._sql_mysql`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field
from sqlalchemy import (
    URL,
    Connection,
    create_engine,
    event,
    inspect,
    make_url,
)
from sqlalchemy.exc import ArgumentError, PendingRollbackError
from sqlalchemy.schema import CreateSchema, CreateTable

from cdc import faults
from cdc.config.fields import BatchConfig, Duration, Secret, SinkConfig, Url
from cdc.errors import CdcError, PermanentError, TransientError, UnreachableError
from cdc.findings import Finding, Severity
from cdc.log import TopicPartition
from cdc.sink import Batch, Rejected, Sink, StoredOffset, accepted
from cdc.tls import is_on_this_machine
from sinks._rounds import rounds
from sinks._sql_ledger import Ledger
from sinks._sql_mysql import MySqlServer
from sinks._sql_postgres import PostgresServer
from sinks._sql_rows import Gathered
from sinks._sql_server import DUPLICATES, SqlServer, Trouble
from sinks._sql_staging import INCOMING, Changes
from sinks._sql_tables import Tables
from sinks._warehouse import WarehouseConfig

PURGE_EVERY_SECONDS: Final = 3600.0

_SERVERS: Final[Mapping[str, type[SqlServer]]] = {
    "postgresql": PostgresServer,
    "mysql": MySqlServer,
    "mariadb": MySqlServer,
}


def _database(value: str) -> str:
    """`value` if it names a database on a server, and nothing that could turn TLS verification off."""
    example = "for example postgresql://user@host:5432/database"
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise ValueError(f"is not a URL; {example}") from None
    if url.drivername not in _SERVERS:
        raise ValueError(f"must begin with {', '.join(f'{name}://' for name in _SERVERS)}; {example}")
    if not url.host or not url.database:
        raise ValueError(f"must name a host and a database; {example}")
    if url.query:
        raise ValueError(f"must not have options after the database; {example}")
    return value


class LargeBatch(BatchConfig):
    """Every write is a transaction of several statements: larger ones are faster."""

    rows: int = Field(default=20_000, gt=0)
    """Most rows of one write."""
    every: Duration = 0.5
    """Longest time that a record waits for others."""


class SqlConfig(WarehouseConfig):
    """Configuration of a warehouse in PostgreSQL (14 or later), MySQL (8 or later) or MariaDB (10.6 or later)."""

    url: Annotated[Url, AfterValidator(_database)] = Field(examples=["postgresql://cdc@localhost:5432/warehouse"])
    """``postgresql://user@host:5432/database``, ``mysql://…``, ``mariadb://…``; without the password. TLS is verified
    unless the server is on this machine."""
    password: Secret | None = None
    """The password of the user in `url`."""
    ca: Path | None = None
    """Certificates to trust in place of the system's, PEM."""
    schema_: Annotated[str | None, Field(alias="schema", min_length=1)] = None
    """Schema (MySQL: database) that the tables are made in; default ``public``, or the database of `url`. A second
    sink needs one of its own."""
    batch: LargeBatch = LargeBatch()


class SqlSink(Sink):
    """Rows as typed tables in an SQL database; the module's description says what is promised, and how."""

    Config = SqlConfig
    owns_offsets = True

    def __init__(self, name: str, config: SinkConfig, pipeline: str) -> None:
        assert isinstance(config, SqlConfig)
        url = make_url(config.url)
        self._config = config
        self.every_change = config.kept.history
        self._server = _SERVERS[url.drivername]()
        self._schema = config.schema_ or ("public" if url.drivername == "postgresql" else str(url.database))
        self._where = f"sink {name}: {url.database} at {url.host}"
        self._ledger = Ledger(self._server, self._schema, f"{pipeline}:{name}", self._where)
        self._tables: Tables | None = None
        password = config.password.get_secret_value() if config.password else url.password
        self._engine = create_engine(
            URL.create(self._server.driver, url.username, None, url.host, url.port, url.database),
            connect_args=self._server.connect_arguments(password, config.ca, local=is_on_this_machine(str(url.host))),
            isolation_level="READ COMMITTED",
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
        )
        event.listen(self._engine, "connect", self._connected)

    def check(self) -> list[Finding]:
        """Look whether the server can be reached and the credentials are taken. Raises UnreachableError."""
        with self._border(UnreachableError), self._engine.connect() as connection:
            version = ".".join(map(str, connection.dialect.server_version_info or ()))
        return [Finding("server", Severity.OK, f"{self._where} answers (version {version})")]

    def open(self) -> None:
        """Make the schema and the tables of ours.

        Raises UnreachableError, PermanentError when the schema belongs to another sink.
        """
        with self._border(UnreachableError), self._engine.begin() as connection:
            if not inspect(connection).has_schema(self._schema):
                connection.execute(CreateSchema(self._schema))
            self._ledger.open(connection)

    def claim(self, partitions: Collection[TopicPartition]) -> None:
        """Give `partitions` a generation that is newer than that of whoever had them before.

        Raises GapError when the table of one was dropped.
        """
        self._tables = None  # who had them before may have made or changed some
        with self._border(UnreachableError), self._engine.begin() as connection:
            topics = {partition.topic for partition in partitions}
            self._read_tables(connection).require(topics & self._ledger.made(connection))
            self._ledger.claim(connection, partitions)

    def offsets(self) -> Mapping[TopicPartition, StoredOffset]:
        """Where reading goes on, per partition that was ever started."""
        with self._border(UnreachableError), self._engine.begin() as connection:
            return self._ledger.offsets(connection)

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        """Apply `batches` and their offsets in one transaction."""
        if not batches:
            return []
        tables, self._tables = self._tables, None  # to be forgotten, should anything go wrong
        with self._border(TransientError):
            tables = self._prepared(tables, batches)
            rejected = self._apply(tables, batches, topic_ids)
        self._tables = tables
        return rejected

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    def _prepared(self, tables: Tables | None, batches: Sequence[Batch]) -> Tables:
        """The tables, ready for the rows of `batches`. What must be made or changed is, in a transaction of its own:
        MySQL commits with each such statement.
        """
        topics = {batch.topic for batch in batches}
        found = {id(row.schema): row.schema for batch in batches for row in batch.rows if row.after is not None}
        schemas = {schema for schema in found.values() if schema is not None}
        if tables is None or not tables.is_ready(topics, schemas):
            with self._engine.begin() as connection:
                self._ledger.fence(connection, batches)
                made = self._ledger.made(connection)
                tables = tables or self._read_tables(connection)
                tables.require(topics & made)
                tables.prepare(connection, topics, schemas)
                if new := {schema.topic for schema in schemas} - made:
                    self._ledger.add_made(connection, new)
        return tables

    def _read_tables(self, connection: Connection) -> Tables:
        config = self._config
        return Tables(connection, self._server, self._schema, config.table, self._where, config.kept)

    def _apply(self, tables: Tables, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> list[Rejected]:
        rejected: list[Rejected] = []
        staged = 0
        with self._engine.begin() as connection:
            floors = self._ledger.begin(connection, batches)
            for together in rounds(batches):
                for batch in together:
                    if batch.floor > floors.get(TopicPartition(batch.topic, batch.partition), 0):
                        self._ledger.raise_floor(connection, batch, floors)
                        if (target := tables.of_topic(connection, batch.topic)) is not None:
                            target.sweep(connection, batch)
                gathered = Gathered(together, floors, self._ledger.newest_deletes, self._config.kept)
                rejected += gathered.rejected
                for upserts in gathered.upserts:
                    rejected += self._upsert(connection, tables, upserts, staged)
                    staged += len(upserts.rows)
                for deletes in gathered.deletes:
                    self._server.stage(connection, deletes, staged)
                    if (target := tables.of_topic(connection, deletes.topic)) is not None:
                        target.delete(connection, deletes.staged_from(staged))
                    if not self._config.kept.history:
                        self._ledger.remember(connection, deletes, staged)
                    staged += len(deletes.rows)
            faults.reach("sink.between_rows_and_offsets")
            self._ledger.store(connection, batches, accepted(batches, rejected), topic_ids)
            self._ledger.purge(connection, self._config.tombstone_ttl)
        return rejected

    def _upsert(self, connection: Connection, tables: Tables, upserts: Changes, first: int) -> list[Rejected]:
        server, schema = self._server, upserts.schema
        target = tables.of_topic(connection, upserts.topic)
        assert target is not None, "it has been prepared"
        assert schema is not None, "they are no deletes"
        names = tables.stored_names(schema, target.columns)
        unfit = server.upsert(connection, target, self._ledger.tombstones, upserts, names, first)
        if target.kept.history and upserts.sent is not None:
            missing = [name for column, name in names.items() if column not in upserts.sent]
            for row in upserts.rows:
                target.complete(connection, row, server.key(row.key), missing)
        return upserts.rejected(unfit)

    def _connected(self, connection: Any, _: object) -> None:
        """Give a new session the table that rows are staged in."""
        cursor = connection.cursor()
        cursor.execute(str(CreateTable(INCOMING).compile(dialect=self._engine.dialect)))
        cursor.close()
        connection.commit()

    @contextmanager
    def _border(self, unreachable: type[TransientError]) -> Iterator[None]:
        """Turn errors of SQLAlchemy and the driver into ours; their text may hold values of a row, it is not shown."""
        try:
            yield
        except PendingRollbackError as error:
            raise unreachable(f"{self._where}: the connection was lost") from error
        except self._server.errors as error:
            raise self._wrapped(error, unreachable) from error

    def _wrapped(self, error: Exception, unreachable: type[TransientError]) -> CdcError:
        trouble, code = self._server.trouble(error)
        if code in DUPLICATES:
            return TransientError(f"{self._where}: another worker made the same in the same moment ({code})")
        match trouble:
            case Trouble.LATER:
                return unreachable(f"{self._where}: the server does not answer, or not now ({code})")
            case Trouble.ACCESS:
                return unreachable(
                    f"{self._where}: the server does not let us in ({code})", hint="see url, password and ca"
                )
            case Trouble.MISSING:
                return self._ledger.gap()
        return PermanentError(
            f"{self._where}: the server refuses a statement ({code})",
            hint="is a table changed by others, or a privilege missing? The user needs to create and alter tables in "
            f"schema {self._schema}, and to read and write them",
        )


SINK = SqlSink
