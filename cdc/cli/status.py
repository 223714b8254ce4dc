"""``cdc status``: read from the log and the databases, so it works whether or not ``cdc run`` is up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cdc.cli.lag import lag
from cdc.cli.session import FINDING, Session
from cdc.config.pipeline import Pipeline
from cdc.config.secrets import redact
from cdc.log import Log
from cdc.progress import sentence
from cdc.worker import REQUEST, State, running

NOISE_BYTES: Final = 8192
"""A page of WAL: what a server that is at rest writes for itself is not lag."""

_STYLES: Final = {State.STREAMING: "green", State.SNAPSHOT: "green", State.RETRYING: "yellow", State.STARTING: "yellow"}


_WORKING: Final = {State.STARTING, State.SNAPSHOT, State.STREAMING, State.RETRYING}
_WELL: Final = _WORKING - {State.RETRYING}


def status(session: Session, fail_on: str | None = None) -> None:
    """Show each source and sink. Exit code 3 when the log does not answer.

    5 when `fail_on` is ``failed`` and a worker does not work, or ``warning`` and one has anything to be said of it;
    otherwise 0 whatever the states are.
    """
    pipeline = session.pipeline()
    with session.log(pipeline) as log:
        workers = log.states("worker")
        positions = log.positions()
        sources = {
            name: _source(pipeline, name, positions.get(name), workers.get(f"source/{name}"))
            for name in pipeline.sources
        }
        sinks = {name: _sink(pipeline, log, name, workers) for name in pipeline.sinks}
        requests = log.states(REQUEST)
    for name, request in sorted(requests.items()):
        if name in sources:
            sources[name]["snapshot_request"] = request
        elif (source := name.partition("/")[0]) in sources:
            sources[source]["requested_keys"] = sources[source].get("requested_keys", 0) + len(request["keys"])
    result = {"pipeline": pipeline.name, "sources": sources, "sinks": sinks}
    found = _findings(sources, sinks, fail_on) if fail_on else []
    shown = Group(_source_table(sources), _sink_table(sinks), *_remarks(sources, sinks))
    session.result(result, shown, ok=not found, summary="; ".join(found))
    if found:
        session.say("; ".join(found), "bold red")
        raise typer.Exit(FINDING)


def _findings(
    sources: Mapping[str, Mapping[str, Any]], sinks: Mapping[str, Mapping[str, Any]], fail_on: str
) -> list[str]:
    """What is the matter, at `fail_on` or worse, a few words for each part."""
    well = _WELL if fail_on == "warning" else _WORKING
    found = []
    for kind, parts in (("source", sources), ("sink", sinks)):
        for name, part in parts.items():
            if part["state"] not in well:
                found.append(f"{kind} {name} is {part['state']}")
            elif fail_on == "warning" and (part.get("warning") or part.get("database_error")):
                found.append(f"{kind} {name} has a warning")
    return found


def _worker(report: Mapping[str, Any] | None) -> dict[str, Any]:
    """State and last error of a worker; a state that nobody holds any more is not shown as if it were true."""
    if report is None:
        return {"state": "never_ran", "running": False, "error": "", "reported_at": None}
    alive = running(report)
    over = report["state"] in (State.STOPPED, State.FAILED, State.NEEDS_REBUILD, State.NEEDS_SNAPSHOT)
    state = report["state"] if alive or over else "not_running"
    return {"state": state, "running": alive, "error": report["error"], "reported_at": report["at"]}


def _source(pipeline: Pipeline, name: str, position: bytes | None, report: Mapping[str, Any] | None) -> dict[str, Any]:
    observed = dict(pipeline.connector(name).status(position))
    found = {**_worker(report), "database_error": observed.pop("error", None), **observed}
    behind, committed_at = found.get("lag_bytes"), found.get("committed_at")
    if behind is not None and committed_at is not None:
        found["lag_seconds"] = 0.0 if behind < NOISE_BYTES else round(max(0.0, time.time() - committed_at), 3)
    if report is not None and found["running"]:  # it knows more than what is stored
        found |= {name: report[name] for name in ("snapshots", "waiting_for") if name in report}
    return found


def _sink(pipeline: Pipeline, log: Log, name: str, reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A sink is as well as its worst worker."""
    workers = [_worker(reports.get(role)) for role in pipeline.workers(f"sink/{name}")]
    worst = min(workers, key=lambda worker: (worker["running"], not worker["error"]))
    alive = sum(worker["running"] for worker in workers)
    return {
        **worst,
        "workers": len(workers),
        "workers_running": alive,
        **lag(log, name, pipeline.sinks[name])._asdict(),
    }


def _source_table(sources: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("SOURCE", "STATE", "POSITION", "LAG", "RETAINED")
    for name, source in sources.items():
        lag_text = " ".join(filter(None, [_bytes(source.get("lag_bytes")), _seconds(source.get("lag_seconds"))]))
        retained = _bytes(source.get("retained_bytes"))
        table.add_row(name, _state(source), str(source.get("position") or "-"), lag_text or "?", retained or "?")
    return table


def _sink_table(sinks: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("SINK", "STATE", "LAG", "", "PARTITIONS")
    for name, sink in sinks.items():
        records = f"{sink['lag_records']:,} rec"
        table.add_row(name, _state(sink), records, _seconds(sink["lag_seconds"]), str(sink["partitions"]))
    return table


def _remarks(sources: Mapping[str, Mapping[str, Any]], sinks: Mapping[str, Mapping[str, Any]]) -> list[Text]:
    """Warnings and last errors, a line each."""
    remarks = []
    for kind, parts in (("source", sources), ("sink", sinks)):
        for name, part in parts.items():
            for table, read in (part.get("snapshots") or {}).items():
                remarks.append(Text(f"{kind} {name}: snapshot of {table}: {sentence(read)}"))
            if part.get("waiting_for"):
                remarks.append(Text(redact(f"{kind} {name}: the snapshot waits for {part['waiting_for']}"), "yellow"))
            if part.get("snapshot_request"):
                remarks.append(Text(f"{kind} {name}: a snapshot is requested and not begun"))
            if part.get("requested_keys"):
                remarks.append(Text(f"{kind} {name}: {part['requested_keys']:,} keys are requested and not begun"))
            for key, style in (("warning", "yellow"), ("database_error", "red"), ("error", "red")):
                if part.get(key):
                    remarks.append(Text(redact(f"{kind} {name}: {part[key]}"), style))
    return remarks


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _state(part: Mapping[str, Any]) -> Text:
    return Text(part["state"], _STYLES.get(part["state"], "red" if part["error"] else ""))


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f} s"


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
