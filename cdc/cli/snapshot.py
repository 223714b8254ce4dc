"""``cdc snapshot``: leave word on the log that rows are to be read again."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from cdc.cli.session import Session
from cdc.config.patterns import is_literal, selects
from cdc.config.pipeline import Pipeline
from cdc.config.problems import nearest
from cdc.errors import ConfigurationError
from cdc.worker import REQUEST, running


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
    lines = []
    for name, request in requests.items():
        what = ", ".join(request["tables"]) if request["tables"] is not None else "all tables"
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
