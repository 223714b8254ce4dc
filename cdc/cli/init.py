"""``cdc init``: look at a database and write a pipeline's first files. Asks for what it was not told, on a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import typer
from pydantic import ValidationError

from cdc import registry
from cdc.cli.session import Session
from cdc.config.document import Node
from cdc.config.problems import Place
from cdc.config.references import resolve
from cdc.config.secrets import inline_password, remember
from cdc.config.starter import ENVIRONMENT, FILE, GRANTS, SOURCE, Starter, name_of
from cdc.errors import ConfigurationError, PermanentError
from cdc.log import TopicsConfig

VARIABLE: Final = "DATABASE_URL"
PASSWORD: Final = "PASSWORD"  # noqa: S105 - stands in the place of one

_PASSWORDS: Final = re.compile(r"(?i)(?:^|&)(?:ssl)?password=[^&]*")


def init(
    session: Session, url: str | None, tables: Sequence[str], sinks: Sequence[str], role: str, yes: bool, folder: Path
) -> None:
    """Write the files, unless one of them is there already."""
    paths = [folder / name for name in (FILE, ENVIRONMENT, GRANTS)]
    if there := [str(path) for path in paths if path.exists()]:
        raise ConfigurationError(f"{', '.join(there)} exists", hint="nothing was written; name another folder by --dir")
    ask = not yes and not session.json and sys.stdin.isatty()
    if url is None and not ask:
        raise ConfigurationError(
            "no database was named", hint=f"cdc init --from postgresql://…, mysql://… or '${{{VARIABLE}}}'"
        )
    url = url or _asked(f"URL of the database, or a reference such as ${{{VARIABLE}}}", None)
    if ask and not tables:
        tables = _asked("Tables, by name or glob", "*").replace(",", " ").split()
    if ask and not sinks:
        sinks = _asked(f"Stores to feed ({', '.join(registry.known('sinks'))})", "").replace(",", " ").split()
    starter = _starter(url, tables or ["*"], sinks, role)
    _write(folder, starter.files())
    found = starter.outline.tables
    left_out = [table.name for table in found if table.problem]
    lines = [f"wrote {', '.join(map(str, paths))}: {len(found) - len(left_out)} table(s)"]
    if left_out:
        lines.append(f"not captured, with what mends it in {paths[0]}: {', '.join(left_out)}")
    lines.append(f"next: have {paths[-1]} run in the database, fill in the environment, then cdc validate --connect")
    result = {"files": list(map(str, paths)), "tables": [table.name for table in found if not table.problem]}
    session.result({**result, "left_out": left_out}, "\n".join(lines))


def _asked(question: str, default: str | None) -> str:
    return str(typer.prompt(question, default=default, err=True))


def _starter(url: str, tables: Sequence[str], sinks: Sequence[str], role: str) -> Starter:
    """Read the catalogue at `url`. Raises ConfigurationError, UnreachableError, PermanentError."""
    models = {name: registry.load("sinks", name).Config for name in dict.fromkeys(sinks)}
    address = _resolved(url)
    parts = urlsplit(address)
    kind = _kind(parts.scheme)
    plugin = registry.load("connectors", kind)
    try:
        config = plugin.Config.model_validate({"type": kind, "url": address, "tables": list(tables)})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigurationError(f"{first['loc'][0]}: {first['msg']}", hint="see cdc init --help") from None
    pipeline = name_of(parts.path, "pipeline")
    topics = TopicsConfig()
    outline = plugin(SOURCE, config, pipeline, topics.name, "readable").outline(role)
    if all(table.problem for table in outline.tables):
        problems = [f"{table.name}: {table.problem}\n{table.fix}" for table in outline.tables]
        raise PermanentError("there is no table that can be captured", hint="\n".join(problems) or "see --tables")
    if not outline.database:  # then that of the url is where the administrator works
        pipeline = name_of(outline.tables[0].name.partition(".")[0], "pipeline")
    place = parts.netloc.rpartition("@")[2]
    query = _PASSWORDS.sub("", parts.query)
    path = f"/{quote(outline.database, safe='')}" if outline.database else ""
    template = parts._replace(netloc=f"{quote(role, safe='')}:{PASSWORD}@{place}", path=path, query=query).geturl()
    return Starter(pipeline, kind, url if "${" in url else f"${{{VARIABLE}}}", template, outline, models)


def _resolved(url: str) -> str:
    """What `url` refers to; one that is no reference may have a password in it, since it is not written anywhere."""
    if "${" not in url:
        remember(inline_password(url) or "")
        return url
    node = Node(url, Place(1, 1))
    for problem in resolve(node):
        raise ConfigurationError(f"--from: {problem.message}", hint=problem.help)
    return str(node.value)


def _kind(scheme: str) -> str:
    """The type of connector for URLs of a scheme."""
    schemes: dict[str, str] = {}
    missing: ConfigurationError | None = None
    for name in registry.known("connectors"):
        try:
            schemes |= dict.fromkeys(registry.load("connectors", name).schemes, name)
        except ConfigurationError as error:
            missing = error
    if scheme in schemes:
        return schemes[scheme]
    if missing is not None:
        raise missing
    raise ConfigurationError(
        f"no kind of database has URLs that begin with {scheme or 'nothing'}:", hint="known: " + ", ".join(schemes)
    )


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise ConfigurationError(f"cannot write into {folder}: {error.strerror}", hint="see --dir") from None
