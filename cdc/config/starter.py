"""The first files of a pipeline, as ``cdc init`` writes them: commented, valid, and without a secret."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from glob import escape
from typing import Any, Final

from cdc import registry
from cdc.config.fields import SinkConfig, is_secret
from cdc.connector import FoundTable, Outline

FILE: Final = "cdc.yaml"
ENVIRONMENT: Final = ".env.example"
GRANTS: Final = "grants.sql"
SOURCE: Final = "db"
"""Name of the source."""

_PLAIN: Final = re.compile(r"[A-Za-z_][\w./-]*")
_HEAD: Final = """\
# A pipeline of cdc: `cdc validate --connect` looks whether it can work, `cdc run` runs it.
# Every setting: `cdc schema export config --format markdown`. What they come to: `cdc config show --resolved`.
# Completion in an editor: cdc schema export config > cdc.schema.json, and as the first line of this file
#   # yaml-language-server: $schema=cdc.schema.json
version: 1
pipeline: {pipeline}

# Where changes are kept. In a folder, for one machine; or on Kafka, for many:
#   log: {{type: kafka, bootstrap: "${{KAFKA_BOOTSTRAP}}"}}
log: {{type: embedded, path: cdc-log}}
"""
_TABLES: Final = """\
    # By name, or by globs such as shop.*, which take in tables that are made later; `cdc validate --connect` says
    # beforehand what a change of this list does.
"""


@dataclass(frozen=True)
class Starter:
    """What a pipeline begins with. `url` stands in the file, `address` is the URL that its reference is to give."""

    pipeline: str
    connector: str
    url: str
    address: str
    outline: Outline
    sinks: Mapping[str, type[SinkConfig]]

    def files(self) -> dict[str, str]:
        """The text of each file by its name."""
        variables = dict.fromkeys(re.findall(r"\$\{([A-Za-z_]\w*)[:}]", self.url), self.address)
        lines = [_HEAD.format(pipeline=self.pipeline), *self._source(), "", *self._sinks(variables)]
        head = f"# What {FILE} refers to. Copy it to .env, fill it in, then: set -a; . ./.env; set +a\n"
        environment = head + "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
        head = "-- For an administrator of the database, once.\n"
        return {FILE: "\n".join(lines) + "\n", ENVIRONMENT: environment, GRANTS: head + self.outline.grants}

    def _source(self) -> Iterator[str]:
        yield "sources:"
        yield f"  {SOURCE}:"
        yield f"    type: {self.connector}"
        yield f"    url: {_scalar(self.url)}  # see {ENVIRONMENT}"
        for name, value in self.outline.settings.items():
            yield f"    {name}: {_flow(value)}  # made by {GRANTS}"
        yield _TABLES + "    tables:"
        for table in self.outline.tables:
            yield from _entry(table)

    def _sinks(self, variables: dict[str, str]) -> Iterator[str]:
        kinds = ", ".join(registry.known("sinks"))
        yield "# The stores that follow, each with every table unless it has `tables` of its own."
        yield f"# Types: {kinds}."
        yield "sinks:" if self.sinks else "sinks: {}"
        for name, model in self.sinks.items():
            yield f"  {name_of(name, 'store')}:"
            yield f"    type: {name}"
            for key, field in model.model_fields.items():
                variable = f"{name_of(name, 'store')}_{key}".upper()
                example = str(field.examples[0]) if field.examples else ""
                if not field.is_required() and is_secret(field.annotation):
                    yield f'    # {field.alias or key}: "${{{variable}}}"'
                elif field.is_required() and key != "type":
                    if key == "url" or not example:  # differs from place to place, or is a secret
                        variables[variable] = example
                        example = f"${{{variable}}}"
                    yield f"    {field.alias or key}: {_scalar(example)}"


def name_of(text: str, otherwise: str) -> str:
    """`text` as a name that the file accepts, `otherwise` if nothing of it is left."""
    name = re.sub(r"[^a-z0-9_]", "_", text.lower()).lstrip("_0123456789")[:28]
    return name or otherwise


def _entry(table: FoundTable) -> Iterator[str]:
    """A table of the list; one that cannot be captured as a comment, with what mends it."""
    item = f"- {_scalar(escape(table.name))}"
    if not table.problem:
        yield f"      {item}"
        return
    yield f"      # Not captured: {table.problem}. What mends it:"
    yield f"      #   {' '.join(table.fix.split())}"
    yield f"      # {item}"


def _scalar(value: object) -> str:
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    return _scalar(value)
