"""``cdc tap``: events as they pass, at a source, on the log, or at a sink."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from cdc.cli.session import Session
from cdc.cli.tap import source, topic
from cdc.cli.tap.event import Filter as Filter
from cdc.cli.tap.output import Output
from cdc.cli.tap.rate import Rate
from cdc.cli.tap.remarks import Remarks
from cdc.cli.tap.sink import Applied, applied
from cdc.cli.tap.start import Start
from cdc.cli.tap.text import FORMATS
from cdc.config.patterns import selects
from cdc.config.pipeline import Pipeline
from cdc.config.problems import nearest
from cdc.errors import ConfigurationError
from cdc.log import TopicPartition
from cdc.role import stop_on_signals

TERMINAL_RATE: Final = 100
"""Events a second on a terminal, unless ``--rate`` says otherwise."""


def tap(
    session: Session,
    at: str,
    wanted: Filter,
    start: str | None,
    since: str | None,
    rate: int | None,
    limit: int | None,
    format_: str,
) -> None:
    """Print events until `limit` of them were shown, or a signal comes. The options are as they were typed."""
    if format_ not in FORMATS:
        raise ConfigurationError("--format is json or diff", hint="see `cdc tap --help` for examples")
    if rate is None:
        rate = TERMINAL_RATE if sys.stdout.isatty() else 0
    begin = Start.of(start, since)
    pipeline = session.pipeline()
    part = _part(pipeline, at)
    kind, _, name = part.partition("/")
    if kind == "source" and (start is not None or since is not None):
        raise ConfigurationError(
            "--from and --since are for the log: a source is tapped from now on", hint="leave them out, or --at topic"
        )
    with Remarks(rate, session.say) as remarks:
        output = Output(FORMATS[format_], Rate(rate), limit, remarks, session.say)
        stop_on_signals(output.end)
        if kind == "source":
            events = source.events(pipeline.connector(name), wanted, remarks, output.stopping)
            output.show(f"{pipeline.name} at {part} from now on", events)
        else:
            _tap_log(session, pipeline, name, wanted, begin, remarks, output)


def _tap_log(
    session: Session, pipeline: Pipeline, sink: str, wanted: Filter, begin: Start, remarks: Remarks, output: Output
) -> None:
    """All that is on the log, or what `sink` has applied of it."""
    patterns = pipeline.sinks[sink].tables if sink else ["*"]
    with session.log(pipeline) as log:
        tables = topic.Tables(log, lambda table: wanted.selects(table) and selects(patterns, table))
        partitions = tables.partitions()
        if begin.offset is not None:
            partitions = [place for place in partitions if tables.wanted(place.topic)]
            _refuse_several_tables(partitions)
        gate = Applied(log, sink, remarks) if sink else topic.everything
        offsets = begin.offsets(log, partitions, applied(log, sink) if sink else None, session.say)
        events = topic.events(log, tables, wanted, offsets, gate, output.stopping)
        output.show(f"{pipeline.name} at {f'sink/{sink}' if sink else 'the log'} from {begin.text}", events)


def _refuse_several_tables(partitions: Sequence[TopicPartition]) -> None:
    """Raises ConfigurationError, too, if there is none."""
    topics = sorted({place.topic for place in partitions})
    if len(topics) != 1:
        raise ConfigurationError(
            f"--from OFFSET is for one table, but what is selected has these topics: {', '.join(topics) or 'none yet'}",
            hint="select one by --table schema.table",
        )


def _part(pipeline: Pipeline, at: str) -> str:
    """``topic``, ``source/NAME`` or ``sink/NAME``; a name may be left out where there is one of its kind only."""
    known = ["topic", *pipeline.parts]
    matching = [part for part in known if at in (part, part.partition("/")[0])]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise ConfigurationError(f"{pipeline.file} has more than one {at}", hint="--at " + " or ".join(matching))
    near = nearest(at, known)
    raise ConfigurationError(
        f"there is no {at} in {pipeline.file}" + (f", did you mean {near}?" if near else ""),
        hint="--at takes one of these: " + ", ".join(known),
    )
