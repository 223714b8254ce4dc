"""MySQL and MariaDB: the binlog as a replica reads it, snapshot beside the stream."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Final

import structlog

from cdc.capture import Item, capture
from cdc.connector import Connector, Finding, Outline, SourceConfig, TableChanges
from cdc.errors import CdcError, ConfigurationError, GapError
from cdc.log import Log
from cdc.worker import REQUEST, Control, State
from connectors.mysql.client import address
from connectors.mysql.config import MysqlConfig
from connectors.mysql.history import binlog_state
from connectors.mysql.outline import outline
from connectors.mysql.position import decode_position, parse_executed, within
from connectors.mysql.preflight import preflight
from connectors.mysql.setup import begin_anew, ensure_position
from connectors.mysql.stream import MysqlStream
from connectors.mysql.tables import CapturedTables, Tables
from connectors.mysql.tap import tap

log = structlog.get_logger()

LONGEST_LOCK: Final = 64
"""Characters of a lock's name at the server."""


class MysqlConnector(Connector):
    """See :class:`cdc.connector.Connector`."""

    Config = MysqlConfig
    schemes = ("mysql", "mariadb")

    def __init__(self, name: str, config: SourceConfig, pipeline: str, topic_template: str, profile: str) -> None:
        if not isinstance(config, MysqlConfig):
            raise ConfigurationError(f"source {name} is not configured as mysql")
        address(config.url, config.password, config.ca)
        self._name = name
        self._config = config
        self._names = {"pipeline": pipeline, "source": name}
        self._template = topic_template
        self._profile = profile
        lock = f"cdc.{pipeline}.{name}"
        self._lock = lock if len(lock) <= LONGEST_LOCK else hashlib.sha256(lock.encode()).hexdigest()

    def outline(self, role: str) -> Outline:
        """See :class:`cdc.connector.Connector`."""
        return outline(self._config, role)

    def preflight(self) -> list[Finding]:
        """See :class:`cdc.connector.Connector`."""
        return preflight(self._config)

    def capture(self, log_: Log, control: Control) -> None:
        """Set up what is missing, then run the loop; a gap is mended where `cdc snapshot` was called for it."""
        while not control.stopping():
            control.report(State.STARTING)
            tables = Tables(self._config, log_, self._names, self._template, self._profile)
            try:
                ensure_position(self._name, tables, log_)
                stream = MysqlStream(self._name, self._config, tables, log_, control, self._lock)
                capture(stream, log_.writer(self._name), control)
                return
            except GapError as gap:
                request = log_.states(REQUEST).get(self._name)
                if request is None:
                    raise
                log.warning("gap is mended by reading all tables again", source=self._name, gap=str(gap))
                begin_anew(self._name, tables, log_, request["id"])
            finally:
                tables.close()

    def tap(self, stopping: Callable[[], bool]) -> Generator[Sequence[Item], None, None]:
        """See :class:`cdc.connector.Connector`."""
        return tap(self._name, self._tables(), stopping)

    def status(self, position: bytes | None) -> Mapping[str, Any]:
        """See :class:`cdc.connector.Connector`."""
        status: dict[str, Any] = {}
        stored = decode_position(position) if position is not None else None
        if stored is not None:
            status["position"] = f"{stored.executed} ({stored.place})"
            status["epoch"] = stored.epoch
            status["snapshots"] = {name: {"rows": table.rows} for name, table in stored.snapshots.items()}
            if stored.committed_at:
                status["committed_at"] = stored.committed_at / 1_000_000
        try:
            with self._connected() as tables:
                tables.sql()
                state = binlog_state(tables.rows, tables.server)
                sizes = [(str(row[0]), int(row[1])) for row in tables.rows("SHOW BINARY LOGS")]
                if stored is not None and stored.mariadb == tables.server.mariadb:
                    # Whole files after that of the position, and what of its own comes after it.
                    names = [file for file, _ in sizes]
                    if stored.place.file in names:
                        rest = sizes[names.index(stored.place.file) :]
                        status["lag_bytes"] = max(0, sum(size for _, size in rest) - stored.place.position)
                    if not within(state.purged, parse_executed(stored.executed, mariadb=stored.mariadb)):
                        status["warning"] = "the server has purged what was not captured yet: run `cdc snapshot`"
                status["retained_bytes"] = sum(size for _, size in sizes)
        except CdcError as error:
            status["error"] = str(error)
        return status

    def table_changes(self, position: bytes) -> TableChanges:
        """See :class:`cdc.connector.Connector`."""
        before = decode_position(position).tables
        with self._connected() as tables:
            tables.look()
            now = list(tables.captured)
        added = {name: self._config.snapshot_mode(name) == "initial" for name in now if name not in before}
        return TableChanges(added, [name for name in before if name not in now])

    def row_schemas(self, position: bytes) -> Mapping[str, str]:
        """See :class:`cdc.connector.Connector`."""
        return decode_position(position).schemas

    def leftovers(self) -> list[str]:
        """See :class:`cdc.connector.Connector`. A reader of a binlog leaves nothing at its server."""
        return []

    def cleanup(self) -> None:
        """See :class:`cdc.connector.Connector`."""

    def farewell(self) -> str:
        """See :class:`cdc.connector.Connector`."""
        return (
            "nothing stays behind in the server; it keeps its binlogs as long as binlog_expire_logs_seconds says, and "
            "capture must run again before that"
        )

    def _tables(self) -> CapturedTables:
        return CapturedTables(self._config, self._names, self._template, self._profile)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[CapturedTables]:
        with contextlib.closing(self._tables()) as tables:
            yield tables


CONNECTOR = MysqlConnector
