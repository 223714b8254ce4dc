"""A pipeline as its file describes it, and how its parts are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cdc import registry
from cdc.config.document import Node
from cdc.config.fields import SinkConfig
from cdc.connector import Connector, SourceConfig
from cdc.log import Log, LogConfig
from cdc.sink import Sink


def part_of(role: str) -> str:
    """What a worker is for: ``sink/NAME:2``, a second worker of a sink, is one for ``sink/NAME``."""
    return role.partition(":")[0]


@dataclass(frozen=True, repr=False)
class Pipeline:
    """What :func:`cdc.config.load.load` returns. Nothing is connected to until a part is used."""

    name: str
    file: Path
    log: LogConfig
    sources: Mapping[str, SourceConfig]
    sinks: Mapping[str, SinkConfig]
    profile: str | None
    tree: Node
    """The file's values with their places: what is included, the profile and ``defaults`` in it."""

    @property
    def parts(self) -> list[str]:
        """All sources and sinks, ``source/NAME`` and ``sink/NAME``, in the order of the file."""
        return [f"source/{name}" for name in self.sources] + [f"sink/{name}" for name in self.sinks]

    @property
    def roles(self) -> list[str]:
        """All workers: one for each part under its name, and ``sink/NAME:2`` … for a sink that has several."""
        return [role for part in self.parts for role in self.workers(part)]

    def workers(self, part: str) -> list[str]:
        """The roles of the workers of `part`."""
        kind, _, name = part.partition("/")
        count = self.sinks[name].workers if kind == "sink" else 1
        return [part, *(f"{part}:{number}" for number in range(2, count + 1))]

    def open_log(self) -> Log:
        """The log; connects on first use."""
        made: Log = registry.load("cdc.log", self.log.type)(self.log, self.name)
        return made

    def connector(self, name: str) -> Connector:
        """The connector of a source."""
        config = self.sources[name]
        made: Connector = registry.load("connectors", config.type)(
            name, config, self.name, self.log.topics.name, self.log.format.profile
        )
        return made

    def sink(self, name: str) -> Sink:
        """A sink, not opened."""
        config = self.sinks[name]
        made: Sink = registry.load("sinks", config.type)(name, config, self.name)
        return made
