"""PostgreSQL: logical decoding through pgoutput, snapshot beside the stream."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
import structlog

from cdc.capture import Item, capture
from cdc.connector import Connector, Finding, Outline, SourceConfig, TableChanges
from cdc.errors import CdcError, ConfigurationError, GapError
from cdc.log import Log
from cdc.worker import REQUEST, Control, State
from connectors.postgres.catalogue import captured_tables
from connectors.postgres.client import connect, conninfo, refused
from connectors.postgres.config import PostgresConfig
from connectors.postgres.feedback import StepAside
from connectors.postgres.lsn import format_lsn
from connectors.postgres.outline import outline
from connectors.postgres.position import decode_position
from connectors.postgres.preflight import preflight
from connectors.postgres.setup import ensure_slot, recreate
from connectors.postgres.slot import slot_state
from connectors.postgres.stream import PostgresStream
from connectors.postgres.tables import CapturedTables, Tables
from connectors.postgres.tap import tap

log = structlog.get_logger()

ASIDE_SECONDS: Final = (10.0, 30.0)
"""How long the server is left alone when it wants to shut down; coming back sooner would hold it up again."""
RETAINED_WARNING_BYTES: Final = 1 << 30


class PostgresConnector(Connector):
    """See :class:`cdc.connector.Connector`."""

    Config = PostgresConfig
    schemes = ("postgresql", "postgres")

    def __init__(self, name: str, config: SourceConfig, pipeline: str, topic_template: str, profile: str) -> None:
        if not isinstance(config, PostgresConfig):
            raise ConfigurationError(f"source {name} is not configured as postgres")
        conninfo(config)
        self._name = name
        self._config = config
        self._names = {"pipeline": pipeline, "source": name}
        self._template = topic_template
        self._profile = profile
        default = "".join(c if c.isalnum() else "_" for c in f"cdc_{pipeline}_{name}".lower())
        self.slot = config.slot.name or default[:63]
        self.publication = config.publication.name or self.slot

    def outline(self, role: str) -> Outline:
        """See :class:`cdc.connector.Connector`."""
        return outline(self._config, self.publication, role)

    def preflight(self) -> list[Finding]:
        """See :class:`cdc.connector.Connector`."""
        return preflight(self._config, self.slot, self.publication)

    def capture(self, log_: Log, control: Control) -> None:
        """Set up what is missing, then run the loop; a gap is mended where `cdc snapshot` was called for it."""
        while not control.stopping():
            control.report(State.STARTING)
            tables = self._tables(log_)
            try:
                ensure_slot(self._name, self._config, tables, log_, self.slot)
                stream = PostgresStream(self._name, self._config, tables, log_, control)
                capture(stream, log_.writer(self._name), control)
                return
            except GapError as gap:
                request = log_.states(REQUEST).get(self._name)
                if request is None:
                    raise
                log.warning("gap is mended by reading all tables again", source=self._name, gap=str(gap))
                recreate(self._name, self._config, tables, log_, self.slot, request["id"])
            except psycopg.Error as error:  # what the loop over the stream has no time to look at
                raise refused(error) from None
            except StepAside as aside:
                control.report(State.RETRYING, str(aside))
                control.wait(random.uniform(*ASIDE_SECONDS))  # noqa: S311 - jitter
            finally:
                tables.close()

    def _tables(self, log_: Log) -> Tables:
        return Tables(self._config, log_, self._names, self._template, self._profile, self.publication)

    def tap(self, stopping: Callable[[], bool]) -> Generator[Sequence[Item], None, None]:
        """See :class:`cdc.connector.Connector`."""
        tables = CapturedTables(self._config, self._names, self._template, self._profile, self.publication)
        return tap(self._name, self._config, tables, stopping)

    def status(self, position: bytes | None) -> Mapping[str, Any]:
        """See :class:`cdc.connector.Connector`."""
        status: dict[str, Any] = {}
        stored = decode_position(position) if position is not None else None
        if stored is not None:
            status["position"] = format_lsn(stored.commit_lsn)
            status["epoch"] = stored.epoch
            status["snapshots"] = {name: {"rows": table.rows} for name, table in stored.snapshots.items()}
            if stored.anchor is not None:
                status["committed_at"] = stored.anchor.commit_time / 1_000_000
        try:
            with connect(self._config) as connection:
                row = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
                if stored is not None and row is not None:
                    status["lag_bytes"] = max(0, row[0] - stored.commit_lsn)
                slot = slot_state(connection, self.slot)
                status["retained_bytes"] = slot.retained if slot is not None else None
                if slot is None:
                    if stored is not None:
                        status["warning"] = f"slot {self.slot} does not exist: run `cdc snapshot`"
                elif slot.invalidated:
                    status["warning"] = f"slot {self.slot} was invalidated ({slot.invalidated}): run `cdc snapshot`"
                elif slot.retained > RETAINED_WARNING_BYTES:
                    status["warning"] = f"the server keeps {slot.retained >> 20} MiB of WAL for slot {self.slot}"
        except CdcError as error:
            status["error"] = str(error)
        except psycopg.Error as error:
            status["error"] = " ".join(str(error).split())
        return status

    def table_changes(self, position: bytes) -> TableChanges:
        """See :class:`cdc.connector.Connector`."""
        before = decode_position(position).tables
        with self._connected() as connection:
            now = [table.full_name for table in captured_tables(connection, self._config, lambda *_: None)]
        added = {name: self._config.snapshot_mode(name) == "initial" for name in now if name not in before}
        return TableChanges(added, [name for name in before if name not in now])

    def row_schemas(self, position: bytes) -> Mapping[str, str]:
        """See :class:`cdc.connector.Connector`."""
        return decode_position(position).schemas

    def leftovers(self) -> list[str]:
        """See :class:`cdc.connector.Connector`."""
        with self._connected() as connection:
            slot = slot_state(connection, self.slot)
            published = connection.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", [self.publication])
            sentences = []
            if slot is not None:
                kept = slot.invalidated or f"the server keeps {slot.retained >> 20} MiB of WAL for it"
                sentences.append(f"replication slot {self.slot} ({kept})")
            if published.fetchone() is not None and self._config.publication.manage == "tables":
                sentences.append(f"publication {self.publication}")
        return sentences

    def cleanup(self) -> None:
        """See :class:`cdc.connector.Connector`."""
        with self._connected() as connection:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [self.slot]
            )
            if self._config.publication.manage == "tables":
                name = psycopg.sql.Identifier(self.publication)
                connection.execute(psycopg.sql.SQL("DROP PUBLICATION IF EXISTS {}").format(name))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection for a command; what the server says leaves as an error of ours."""
        try:
            with connect(self._config) as connection:
                yield connection
        except psycopg.Error as error:
            raise refused(error) from None

    def farewell(self) -> str:
        """See :class:`cdc.connector.Connector`."""
        return (
            f"replication slot {self.slot} stays: until capture runs again, the server keeps all WAL from now on "
            f"(watch it with `cdc status`; `cdc cleanup` drops the slot)"
        )


CONNECTOR = PostgresConnector
