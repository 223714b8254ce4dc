"""``cdc validate``: the file, and with ``--connect`` the systems that it names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import typer

from cdc.cli.changes import Stored, sink_changes, source_changes
from cdc.cli.session import FINDING, Session
from cdc.config.pipeline import Pipeline
from cdc.errors import CdcError, UnreachableError
from cdc.findings import Finding, Severity

_MARKS: Final = {Severity.OK: "✓", Severity.WARNING: "⚠", Severity.ERROR: "✗"}


def validate(session: Session, path: Path | None, connect: bool) -> None:
    """Exit code 2 for an invalid file; with `connect` 3 when something is not reachable, 5 for an error found."""
    pipeline = replace(session, file=path or session.file).pipeline()
    counts = f"{len(pipeline.sources)} source(s), {len(pipeline.sinks)} sink(s)"
    under = f" with profile {pipeline.profile}" if pipeline.profile else ""
    summary = f"{pipeline.file}{under} is valid: pipeline {pipeline.name}, log {pipeline.log.type}, {counts}"
    found = _connected(session, pipeline) if connect else {}
    unreachable = any(isinstance(part, UnreachableError) for part in found.values())
    findings = _histories(pipeline)
    for role, part in found.items():
        findings[role] = _findings(part) + findings.get(role, [])
    errors = [one for part in findings.values() for one in part if one.severity is Severity.ERROR]
    result = {
        "pipeline": pipeline.name,
        "file": str(pipeline.file),
        "findings": [
            {"part": role, "check": one.check, "severity": one.severity, "message": one.message, "fix": one.fix or None}
            for role, part in findings.items()
            for one in part
        ],
    }
    lines = [summary]
    for role, part in findings.items():
        lines.append(role)
        for one in part:
            lines.append(f"  {_MARKS[one.severity]} {one.check:24} {one.message}")
            lines += [f"    → {line}" for line in one.fix.splitlines()]
    session.result(result, "\n".join(lines), ok=not errors, summary=summary)
    if errors:
        raise typer.Exit(UnreachableError.exit_code if unreachable else FINDING)


def _histories(pipeline: Pipeline) -> dict[str, list[Finding]]:
    """Sinks that keep every change, on a log that does not: a matter of the file alone."""
    if pipeline.log.topics.cleanup == "keep":
        return {}
    warning = Finding(
        "history",
        Severity.WARNING,
        "keeps every change, but the log does not: filled anew from it, the store would lack superseded changes",
        "log: {topics: {cleanup: keep}}",
    )
    return {f"sink/{name}": [warning] for name in pipeline.sinks if pipeline.sink(name).every_change}


def _connected(session: Session, pipeline: Pipeline) -> dict[str, list[Finding] | CdcError]:
    """What each part says when it is looked at; one that fails does not keep the others from being looked at."""
    found: dict[str, list[Finding] | CdcError] = {}
    stored: Stored | None = None
    for role in ("log", *pipeline.parts):
        kind, _, name = role.partition("/")
        try:
            if kind == "log":
                with session.log(pipeline) as log:
                    reachable = f"{pipeline.log.type}, {len(log.topics())} topic(s)"
                    found[role] = [Finding("log.reachable", Severity.OK, reachable), *log.check()]
                    stored = Stored.on(log)
                continue
            findings = pipeline.connector(name).preflight() if kind == "source" else pipeline.sink(name).check()
            if stored and not any(finding.severity is Severity.ERROR for finding in findings):
                changes = source_changes if kind == "source" else sink_changes
                findings = [*findings, *changes(pipeline, name, stored)]
            found[role] = findings
        except CdcError as error:
            found[role] = error
    return found


def _findings(part: list[Finding] | CdcError) -> list[Finding]:
    if isinstance(part, CdcError):
        check = "reachable" if isinstance(part, UnreachableError) else "usable"
        return [Finding(check, Severity.ERROR, str(part.args[0]), part.hint)]
    return part
