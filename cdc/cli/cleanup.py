"""``cdc cleanup``: drop what the pipeline made in the database and on the log, after listing it."""

from __future__ import annotations

import sys

import typer

from cdc.cli.session import Session
from cdc.errors import ConfigurationError, PermanentError
from cdc.worker import running


def cleanup(session: Session, yes: bool) -> None:
    """Drop slots, publications, topics and states. What the stores hold is left alone."""
    pipeline = session.pipeline()
    with session.log(pipeline) as log:
        up = [role for role, state in log.states("worker").items() if running(state)]
        if up:
            raise PermanentError(f"the pipeline is running: {', '.join(up)}", hint="stop `cdc run` first")
        connectors = {name: pipeline.connector(name) for name in pipeline.sources}
        left = {name: connector.leftovers() for name, connector in connectors.items()}
        topics = sorted(log.topics())
        things = [f"{name}: {thing}" for name, listed in left.items() for thing in listed]
        things += [f"topic {topic}" for topic in topics]
        things.append("positions, offsets and states of the pipeline on the log")
        result = {"leftovers": left, "topics": topics}
        session.say(f"pipeline {pipeline.name}: this will be dropped, and cannot be had back:")
        for thing in things:
            session.say(f"  {thing}")
        session.say("what the stores hold stays")
        if not yes:
            if session.json or not sys.stdin.isatty():
                raise ConfigurationError("nobody is there to ask", hint="add --yes to drop what is listed")
            if not typer.confirm("drop it?", err=True):
                session.say("nothing was dropped")
                raise typer.Exit(1)
        for connector in connectors.values():
            connector.cleanup()
        log.delete()
    session.result(result, f"dropped: {len(things)} thing(s)")
