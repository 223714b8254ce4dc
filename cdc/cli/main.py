"""The command line: every command with its options. What a command does is imported when it is called."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cdc import __version__
from cdc.errors import CdcError, ConfigurationError

if TYPE_CHECKING:
    from cdc.cli.session import Session

_SHARED: Final = "cdc.shared"
_SHARED_OPTIONS: Final = {
    "config": Annotated[
        Path | None,
        typer.Option("-c", "--config", metavar="PATH", help="The file; default cdc.yaml, then pipeline.yaml."),
    ],
    "profile": Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="One of the file's profiles; default CDC_PROFILE.")
    ],
    "as_json": Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")],
    "no_color": Annotated[bool, typer.Option("--no-color", help="No colours.")],
}


app = typer.Typer(
    name="cdc",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Change data capture: a database's changes to a log, and from there to search, cache and warehouse.",
    epilog="Exit codes: 0 ok, 1 error, 2 invalid input, 3 unreachable, 4 difference, 5 finding, 6 gap, 130+ aborted.",
)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """`function` with the options that every command has, showing errors as sentences and as exit codes."""

    def call(**arguments: Any) -> None:
        context: typer.Context = arguments["ctx"]
        given = {name: value for name in _SHARED_OPTIONS if (value := arguments.pop(name))}
        context.find_root().meta.setdefault(_SHARED, {}).update(given)
        try:
            function(**arguments)
        except CdcError as error:
            _session(context).failed(error)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # nobody reads any more: not an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            sys.exit(130)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - shown in full, less secrets
            _session(context).broke(error)
            sys.exit(1)

    signature = inspect.signature(function, eval_str=True)
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if name in ("config", "profile") else False,
            annotation=annotation,
        )
        for name, annotation in _SHARED_OPTIONS.items()
    ]
    parameters = [*signature.parameters.values(), *added]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # what inspect reads
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__name__, call.__doc__ = function.__name__, function.__doc__
    return call


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cdc {__version__}")
        raise typer.Exit


@app.callback()
@_command
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


@app.command()
@_command
def init(
    ctx: typer.Context,
    url: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="The database: its URL, or a reference like '${VAR}'.")
    ] = None,
    tables: Annotated[
        list[str] | None, typer.Option("--tables", metavar="PATTERN", help="schema.table or a glob; default all.")
    ] = None,
    sink: Annotated[list[str] | None, typer.Option("--sink", metavar="TYPE", help="A store to feed.")] = None,
    role: Annotated[str, typer.Option("--role", help="The role that is to capture.")] = "cdc",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Where to write.")] = Path(),
) -> None:
    """Write a first cdc.yaml for a database, .env.example, and the grants as SQL. Overwrites nothing."""
    from cdc.cli.init import init as command

    command(_session(ctx), url, tables or [], sink or [], role, yes, folder)


@app.command()
@_command
def validate(
    ctx: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="The file; default as for -c.", show_default=False)] = None,
    connect: Annotated[bool, typer.Option("--connect", help="Also look at source, log and stores.")] = False,
) -> None:
    """Check the configuration: every error with its place, and with --connect whether the systems are ready."""
    from cdc.cli.validate import validate as command

    command(_session(ctx), path, connect)


@app.command()
@_command
def run(
    ctx: typer.Context,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ROLE", help="source/NAME or sink/NAME; can be repeated.")
    ] = None,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when sources, then sinks, have caught up.")
    ] = False,
) -> None:
    """Capture and deliver until stopped: the first signal drains and exits 0, the second aborts."""
    from cdc.cli.run import run as command

    command(_session(ctx), only or [], until_caught_up)


class FailOn(StrEnum):
    """From what on ``cdc status`` ends with 5: a worker that does not work, or already one that has a warning."""

    WARNING = "warning"
    FAILED = "failed"


@app.command()
@_command
def status(
    ctx: typer.Context,
    fail_on: Annotated[
        FailOn | None,
        typer.Option(
            "--fail-on",
            help="Exit with 5 if a worker does not run or needs a person (failed), or has a warning too (warning).",
        ),
    ] = None,
) -> None:
    """Show positions, lag, retained WAL, and each worker's state and last error, whether or not `run` is up."""
    from cdc.cli.status import status as command

    command(_session(ctx), fail_on)


@app.command()
@_command
def tap(
    ctx: typer.Context,
    table: Annotated[
        list[str] | None, typer.Option("--table", metavar="PATTERN", help="schema.table or a glob.")
    ] = None,
    op: Annotated[list[str] | None, typer.Option("--op", help="Letters: c u d r, t (truncate), s (sweep), m.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="A key: 42, or id=42,line=1, or JSON.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many events.")] = None,
    format: Annotated[str, typer.Option("--format", help="json or diff.")] = "json",  # noqa: A002 - the option's name
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="PLACE", help="beginning, end, or for one table an offset; default end."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="By the time of the append: 10m, 2h, or ISO 8601.")
    ] = None,
    at: Annotated[
        str,
        typer.Option("--at", metavar="PART", help="topic, source or sink; source/NAME, sink/NAME if there are more."),
    ] = "topic",
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate", min=0, help="At most so many events a second, evenly; 0: all. Default 100 on a terminal, else 0."
        ),
    ] = None,
) -> None:
    """Show events as they pass: events on stdout, everything else on stderr.

    \b
    cdc tap --at topic --since 10m --op d     # what is on the log
    cdc tap --at source --format diff         # what the database sends now
    cdc tap --at sink/search --key 42         # what a sink has applied

    A source can be tapped whether or not the pipeline runs. What events have only
    on the log, version and offset, is null; large columns that an update left
    alone are not shown. A sink's are shown once it has committed their offset.
    """
    from cdc.cli.tap import Filter
    from cdc.cli.tap import tap as command

    command(_session(ctx), at, Filter.of(table or [], op or [], key), start, since, rate, limit, format)


@app.command()
@_command
def snapshot(
    ctx: typer.Context,
    tables: Annotated[list[str] | None, typer.Argument(metavar="[TABLE]...", help="schema.table; default all.")] = None,
    keys: Annotated[
        typer.FileBinaryRead | None,
        typer.Option("--keys", metavar="FILE", help='Only these rows of the table: {"id": 7}, a key a line; -: stdin.'),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="JSON", help="One of them; can be repeated.")
    ] = None,
) -> None:
    """Have rows read again, which also mends a gap. A running capture does it now, otherwise the next one.

    Listed keys are mended everywhere: a row is read again, one that is gone is deleted.
    """
    from cdc.cli.snapshot import snapshot, snapshot_keys

    if keys is None and not key:
        snapshot(_session(ctx), tables or [])
        return
    lines = [(f"--key {number}", one.encode()) for number, one in enumerate(key or [], 1)]
    lines += [(f"line {number}", line) for number, line in enumerate(keys or [], 1)]
    snapshot_keys(_session(ctx), tables or [], lines)


@app.command()
@_command
def cleanup(ctx: typer.Context, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Drop what the pipeline made: slot, publication, topics, states. Lists it and asks first; stores stay."""
    from cdc.cli.cleanup import cleanup as command

    command(_session(ctx), yes)


_config = typer.Typer(name="config", no_args_is_help=True, help="The configuration as cdc understands it.")
app.add_typer(_config)


@_config.command()
@_command
def show(
    ctx: typer.Context,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Also the defaults, and what references gave that can be no secret.")
    ] = False,
    origin: Annotated[
        bool, typer.Option("--origin", help="Where each value comes from: file:line, or default.")
    ] = False,
) -> None:
    """Show the file with what it includes, its defaults and its profile put in their places."""
    from cdc.cli.config import show as command

    command(_session(ctx), resolved, origin)


_schema = typer.Typer(name="schema", no_args_is_help=True, help="What files and rows look like.")
_export = typer.Typer(name="export", no_args_is_help=True, help="Print a schema.")
_schema.add_typer(_export)
app.add_typer(_schema)


@_export.command("config")
@_command
def export_config(
    ctx: typer.Context,
    format: Annotated[str, typer.Option("--format", help="json-schema or markdown.")] = "json-schema",  # noqa: A002
) -> None:
    """Print what the pipeline's file may hold with the plugins that are installed: for editors, or to read."""
    from cdc.cli.schema import export_config as command

    command(_session(ctx), format)


class DemoSource(StrEnum):
    """Kinds of databases that the demo can start."""

    POSTGRES = "postgres"
    MYSQL = "mysql"


@app.command()
@_command
def demo(
    ctx: typer.Context,  # noqa: ARG001 - for the shared options
    duration: Annotated[
        float | None, typer.Option("--duration", min=1, help="Seconds; then compare, and exit 4 if a store differs.")
    ] = None,
    source: Annotated[
        DemoSource, typer.Option("--source", help="Kind of the shop's database; mysql needs a server installed.")
    ] = DemoSource.POSTGRES,
) -> None:
    """Show it all at work on this machine: a shop's database, and three stores that follow it."""
    try:
        from cdc.demo import run as command
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the demo needs the Python package {error.name!r}, which is not installed",
            hint="pip install 'cdc-service[demo]'",
        ) from error
    raise typer.Exit(command(duration, source))


def _session(ctx: typer.Context) -> Session:
    from cdc.cli.session import Session

    shared = ctx.find_root().meta.get(_SHARED, {})
    command = ctx.command_path.partition(" ")[2]
    profile = shared.get("profile") or os.environ.get("CDC_PROFILE")
    colour = not shared.get("no_color") and not os.environ.get("NO_COLOR")
    return Session(command, shared.get("config"), profile, bool(shared.get("as_json")), colour)


def main() -> None:
    """Entry point of ``cdc``."""
    app(prog_name="cdc")
