"""``cdc snapshot``: leave word on the log that rows are to be read again, whole tables or listed keys."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cdc.cli.keys import listed_keys, parts
from cdc.cli.session import Session
from cdc.config.patterns import is_literal, selects
from cdc.config.pipeline import Pipeline
from cdc.config.problems import nearest
from cdc.errors import ConfigurationError
from cdc.log import Log
from cdc.worker import REQUEST, running
from schemas.table import TableSchema


def snapshot(session: Session, tables: Sequence[str]) -> None:
    """Request a snapshot of `tables`, or of everything, from the sources that capture them."""
    pipeline = session.pipeline()
    wanted = _by_source(pipeline, tables)
    with session.log(pipeline) as log:
        log.create_topics([])
        pending, workers = log.states(REQUEST), log.states("worker")
        requests = {name: _request(names, pending.get(name)) for name, names in wanted.items()}
        for name, request in requests.items():
            log.put_state(REQUEST, name, request)
    _tell(session, requests, workers)


def snapshot_keys(session: Session, tables: Sequence[str], lines: Sequence[tuple[str, bytes]]) -> None:
    """Request the rows of one table that have the keys in `lines`, each line with its place."""
    if len(tables) != 1:
        raise ConfigurationError("keys are those of one table", hint="cdc snapshot TABLE --keys FILE")
    [table] = tables
    pipeline = session.pipeline()
    wanted = _by_source(pipeline, tables)
    with session.log(pipeline) as log:
        keys = {name: listed_keys(lines, _schema(pipeline, log, name, table)) for name in wanted}
        workers = log.states("worker")
        requests = {name: {**_request([table], None), "keys": listed} for name, listed in keys.items()}
        log.put_states(REQUEST, dict(_parts(requests)))
    _tell(session, {name: {**request, "keys": len(request["keys"])} for name, request in requests.items()}, workers)


def _parts(requests: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Requests for keys as the log keeps them, with their names, in the order in which they are to be carried out."""
    for name, request in requests.items():
        for number, keys in enumerate(parts(request["keys"])):
            part = f"{request['id']}.{number:04d}"
            yield f"{name}/{request['at']:.6f}.{part}", {**request, "id": part, "keys": keys}


def _schema(pipeline: Pipeline, log: Log, source: str, table: str) -> TableSchema:
    """What the rows of `table` that are on the log look like."""
    position = log.positions().get(source)
    id_ = pipeline.connector(source).row_schemas(position).get(table) if position is not None else None
    schema = log.schemas().get(bytes.fromhex(id_)) if id_ is not None else None
    if schema is None:
        raise ConfigurationError(
            f"source {source} has not captured any row of {table} yet: nothing tells what its keys look like",
            hint=f"`cdc run` reads it first, or `cdc snapshot {table}` if its rows were left out",
        )
    return schema


def _tell(session: Session, requests: Mapping[str, Any], workers: Mapping[str, Mapping[str, Any]]) -> None:
    lines = []
    for name, request in requests.items():
        what = ", ".join(request["tables"]) if request["tables"] is not None else "all tables"
        if "keys" in request:
            what = f"{request['keys']:,} key{'s' * (request['keys'] != 1)} of {what}"
        now = running(workers.get(f"source/{name}"))
        when = (
            "its capture begins within seconds" if now else f"the next `cdc run` begins with it ({name} is not running)"
        )
        lines.append(f"source {name}: snapshot of {what} requested; {when}")
    session.result({"requests": requests}, "\n".join(lines))


def _by_source(pipeline: Pipeline, tables: Sequence[str]) -> dict[str, list[str] | None]:
    """The tables to read again per source; None means all."""
    if not tables:
        return dict.fromkeys(pipeline.sources)
    wanted: dict[str, list[str] | None] = {}
    for table in tables:
        sources = [name for name, config in pipeline.sources.items() if selects(config.tables, table)]
        if not sources:
            literal = [name for config in pipeline.sources.values() for name in config.tables if is_literal(name)]
            near = nearest(table, literal)
            raise ConfigurationError(
                f"no source captures {table}" + (f", did you mean {near}?" if near else ""),
                hint="write schema.table as it stands under `tables` of a source",
            )
        for name in sources:
            wanted[name] = [*(wanted.get(name) or []), table]
    return wanted


def _request(tables: list[str] | None, pending: Mapping[str, Any] | None) -> dict[str, Any]:
    """A request that includes one that nobody has carried out yet."""
    if pending is not None:
        before = pending["tables"]
        tables = None if tables is None or before is None else sorted({*before, *tables})
    return {"id": uuid.uuid4().hex, "tables": tables, "at": time.time()}
