"""Reading a pipeline's file: every error in it at once, each with its place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, Field

from cdc import registry
from cdc.config import checks
from cdc.config.document import Node, beneath, parse
from cdc.config.fields import Model, SinkConfig
from cdc.config.pipeline import Pipeline
from cdc.config.problems import InvalidConfiguration, Place, Problem, nearest
from cdc.config.references import resolve
from cdc.config.validation import validate
from cdc.connector import SourceConfig
from cdc.errors import ConfigurationError
from cdc.log import LogConfig

C = TypeVar("C", bound=Model)

DEFAULT_FILES: Final = ("cdc.yaml", "pipeline.yaml")
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,27}")
"""Names become parts of slots (63 bytes with two names and a prefix), topics, groups and files."""


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("a name has lower-case letters, digits and _, begins with a letter, and has 28 at most")
    return value


Name = Annotated[str, AfterValidator(_name)]


class Defaults(Model):
    """Settings of every source or sink that does not set them itself, merged key by key."""

    source: dict[str, Any] = Field(default_factory=dict)
    sink: dict[str, Any] = Field(default_factory=dict)


class PipelineFile(Model):
    """The top level of the file; what stands beneath a ``type`` is the plugin's own model."""

    version: Literal[1]
    pipeline: Name | None = None
    """Default: the file's name without its ending."""
    log: dict[str, Any] = Field(default_factory=dict)
    """Default: the embedded log under ``.cdc/``."""
    sources: dict[Name, dict[str, Any]] = Field(min_length=1)
    sinks: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    defaults: Defaults = Defaults()


def find(file: Path | None) -> Path:
    """The file to read: `file`, or the first default that exists. Raises ConfigurationError."""
    if file is not None:
        return file
    for name in DEFAULT_FILES:
        if Path(name).is_file():
            return Path(name)
    raise ConfigurationError(
        f"there is no {' and no '.join(DEFAULT_FILES)} here", hint="name the file: cdc -c PATH …, or write one"
    )


def load(file: Path, environment: Mapping[str, str] = os.environ) -> Pipeline:
    """The pipeline that `file` describes. Raises InvalidConfiguration with everything that is wrong in it."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}", hint="name the file: cdc -c PATH …") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not UTF-8 text") from None
    tree, problems = parse(text)
    syntax_failed = any(problem.code in ("syntax", "too_large") for problem in problems)
    if syntax_failed:
        raise InvalidConfiguration(file, text, problems)
    unresolved = resolve(tree, environment)
    reading = _Reading(file, tree, {problem.place for problem in unresolved})
    pipeline = reading.pipeline()
    problems += unresolved + reading.problems
    if problems or pipeline is None:
        raise InvalidConfiguration(file, text, problems)
    return pipeline


class _Reading:
    def __init__(self, file: Path, tree: Node, known_bad: set[Place]) -> None:
        self._file, self._tree, self._known_bad = file, tree, known_bad
        self.problems: list[Problem] = []

    def pipeline(self) -> Pipeline | None:
        top, problems = validate(PipelineFile, self._tree, ())
        self._add(problems)
        name = (top.pipeline if top else None) or re.sub(r"[^a-z0-9_]", "_", self._file.stem.lower())
        if top and not NAME.fullmatch(name):
            message = f"the file's name gives no name for the pipeline ({self._file.stem})"
            self._add([Problem("missing_key", ("pipeline",), message, Place(1, 1), help="write `pipeline: NAME`")])
        log = self._log()
        sources = self._section("sources", "connectors", "source", SourceConfig)
        sinks = self._section("sinks", "sinks", "sink", SinkConfig)
        if log is not None and not self.problems and not self._known_bad:
            self._add(checks.across(name, log, sources, sinks, self._tree))
        if log is None or top is None:
            return None
        return Pipeline(name, self._file, log, sources, sinks)

    def _log(self) -> LogConfig | None:
        node = self._tree.child("log")
        if node is None:
            start = Place(1, 1)
            node = Node({"type": Node("embedded", start), "path": Node(".cdc", start)}, start)
        return self._plugin("cdc.log", node, ("log",), LogConfig)

    def _section(self, section: str, package: str, kind: str, base: type[C]) -> dict[str, C]:
        """The parts named in a section, as far as they are right."""
        configs: dict[str, C] = {}
        nodes = self._tree.child(section)
        defaults = self._tree.child("defaults")
        default = defaults.child(kind) if defaults else None
        for name, node in nodes.value.items() if nodes and isinstance(nodes.value, dict) else ():
            merged = beneath(default, node) if default else node
            config = self._plugin(package, merged, (section, name), base)
            if config is not None:
                configs[name] = config
        return configs

    def _plugin(self, package: str, node: Node, path: tuple[str, ...], base: type[C]) -> C | None:
        """The configuration of one part by the model that its ``type`` brings, or None."""
        if not isinstance(node.value, dict):
            return None  # the top level said so
        type_node = node.child("type")
        known = registry.known(package)
        where = (*path, "type")
        if type_node is None:
            near = "types: " + ", ".join(known)
            self._add([Problem("missing_key", where, "`type` is missing", node.key or node.place, help=near)])
            return None
        if type_node.value not in known:
            near = nearest(str(type_node.value), known)
            help_ = "known: " + ", ".join(known)
            self._add([Problem("unknown_type", where, "unknown type", type_node.place, near, help_)])
            return None
        try:
            plugin = registry.load(package, str(type_node.value))
        except ConfigurationError as error:
            self._add([Problem("missing_package", where, str(error.args[0]), type_node.place, help=error.hint)])
            return None
        config, problems = validate(plugin.Config, node, path)
        self._add(problems)
        assert config is None or isinstance(config, base), f"{plugin} brings a model of another kind"
        return config

    def _add(self, problems: list[Problem]) -> None:
        """Keep what is not just the echo of a reference that could not be resolved."""
        self.problems += [problem for problem in problems if problem.place not in self._known_bad]
