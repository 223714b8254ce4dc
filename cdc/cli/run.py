"""``cdc run``: all workers under a supervisor, or one worker in this process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress

import structlog
import typer

from cdc.cli.screen import screen
from cdc.cli.session import Session
from cdc.config.pipeline import Pipeline
from cdc.config.problems import nearest
from cdc.errors import CdcError, ConfigurationError
from cdc.role import run_role, stop_on_signals
from cdc.supervisor import Supervisor
from cdc.worker import Control


def run(session: Session, only: Sequence[str], until_caught_up: bool) -> None:
    """Exit code 0 after a drain; otherwise that of the worst worker."""
    pipeline = session.pipeline()
    roles = _chosen(pipeline, only)
    session.say(f"pipeline {pipeline.name}: {', '.join(roles)}")
    with screen(session.colour) if sys.stderr.isatty() and not session.json else nullcontext():
        if len(roles) == 1 and only:
            code = _here(session, pipeline, roles[0], until_caught_up)
        else:
            code = Supervisor(pipeline.file, roles, pipeline.profile, until_caught_up=until_caught_up).run()
    for role in roles:
        kind, _, name = role.partition("/")
        if kind == "source":
            with suppress(CdcError):
                session.say(f"{role}: {pipeline.connector(name).farewell()}")
    if session.json:
        session.result({"roles": roles, "exit_code": code}, "", ok=code == 0)
    raise typer.Exit(code)


def _chosen(pipeline: Pipeline, only: Sequence[str]) -> list[str]:
    for role in only:
        if role not in pipeline.parts:
            near = nearest(role, pipeline.parts)
            raise ConfigurationError(
                f"there is no {role} in {pipeline.file}" + (f", did you mean {near}?" if near else ""),
                hint="write --only source/NAME or --only sink/NAME; here: " + ", ".join(pipeline.parts),
            )
    return [role for part in pipeline.parts if part in only or not only for role in pipeline.workers(part)]


def _here(session: Session, pipeline: Pipeline, role: str, until_caught_up: bool) -> int:
    structlog.contextvars.bind_contextvars(worker=role)
    with session.log(pipeline) as log, Control(role, log, until_caught_up=until_caught_up) as control:
        stop_on_signals(control.stop)
        return run_role(pipeline, role, control, log)
