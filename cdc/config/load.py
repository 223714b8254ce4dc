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
from cdc.config.document import Node, beneath
from cdc.config.fields import Model, SinkConfig
from cdc.config.include import Reading
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
    """Of every source."""
    sink: dict[str, Any] = Field(default_factory=dict)
    """Of every sink; one of another ``type`` than these, if they have one, gets none of them."""


class Parts(Model):
    """What a pipeline consists of. What stands beneath a ``type`` is the plugin's own model."""

    log: dict[str, Any] = Field(default_factory=dict)
    """Where changes are kept. Default: the embedded log, in the folder ``.cdc``."""
    sources: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """The databases to capture, by name."""
    sinks: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """The stores to feed, by name."""
    defaults: Defaults = Defaults()


class PipelineFile(Parts):
    """The top level of the file."""

    version: Literal[1]
    """Of the form of this file."""
    pipeline: Name | None = None
    """What topics, slots and consumer groups are called by. Default: the file's name without its ending."""
    include: list[str] = Field(default_factory=list)
    """Files that hold more of this one, as paths or globs relative to it. Maps are merged by key; a key that two files
    hold is an error."""
    sources: dict[Name, dict[str, Any]] = Field(min_length=1)
    """The databases to capture, by name."""
    profiles: dict[Name, Parts] = Field(default_factory=dict)
    """Variants, with any of ``log``, ``sources``, ``sinks``, ``defaults``. ``--profile NAME`` or ``CDC_PROFILE`` lays
    one of them over the rest, key by key; an entry that changes a ``type`` replaces the whole entry."""


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


def load(file: Path, environment: Mapping[str, str] = os.environ, profile: str | None = None) -> Pipeline:
    """The pipeline that `file` describes under `profile`.

    Raises InvalidConfiguration with everything that is wrong in it, ConfigurationError when there is no such profile.
    """
    reading = Reading(environment)
    tree = reading.read(file)
    if any(problem.code in ("syntax", "too_large", "bad_include") for problem in reading.problems):
        raise InvalidConfiguration(reading.texts, reading.problems)
    if profile:
        tree = _overlaid(file, tree, profile)
    unresolved = resolve(tree.without("profiles"), environment)
    assembly = _Assembly(file, tree, {problem.place for problem in unresolved})
    pipeline = assembly.pipeline(profile)
    problems = reading.problems + unresolved + assembly.problems
    if problems or pipeline is None:
        raise InvalidConfiguration(reading.texts, problems)
    return pipeline


def _overlaid(file: Path, tree: Node, profile: str) -> Node:
    """`tree` with a profile laid over it. Raises ConfigurationError when there is none of that name."""
    profiles = tree.child("profiles")
    over = profiles.child(profile) if profiles else None
    if over is None:
        known = list(profiles.value) if profiles and isinstance(profiles.value, dict) else []
        near = nearest(profile, known)
        raise ConfigurationError(
            f"there is no profile {profile} in {file}" + (f", did you mean {near}?" if near else ""),
            hint="profiles here: " + (", ".join(known) or "none"),
        )
    return Node(beneath(tree, over).value, tree.place) if isinstance(over.value, dict) else tree


class _Assembly:
    def __init__(self, file: Path, tree: Node, known_bad: set[Place]) -> None:
        self._file, self._tree, self._known_bad = file, tree, known_bad
        self.problems: list[Problem] = []

    def pipeline(self, profile: str | None) -> Pipeline | None:
        top, problems = validate(PipelineFile, self._tree, ())
        self._add(problems)
        name = (top.pipeline if top else None) or re.sub(r"[^a-z0-9_]", "_", self._file.stem.lower())
        if top and not NAME.fullmatch(name):
            message = f"the file's name gives no name for the pipeline ({self._file.stem})"
            self._add([Problem("missing_key", ("pipeline",), message, self._tree.place, help="write `pipeline: NAME`")])
        log = self._log()
        sources = self._section("sources", "connectors", "source", SourceConfig)
        sinks = self._section("sinks", "sinks", "sink", SinkConfig)
        if log is not None and not self.problems and not self._known_bad:
            self._add(checks.across(name, log, sources, sinks, self._tree))
        if log is None or top is None:
            return None
        return Pipeline(name, self._file, log, sources, sinks, profile, self._tree.without("profiles", "defaults"))

    def _log(self) -> LogConfig | None:
        node = self._tree.child("log")
        if node is None:
            start = self._tree.place
            node = Node({"type": Node("embedded", start), "path": Node(".cdc", start)}, start)
        return self._plugin("cdc.log", node, ("log",), LogConfig)

    def _section(self, section: str, package: str, kind: str, base: type[C]) -> dict[str, C]:
        """The parts named in a section, as far as they are right."""
        configs: dict[str, C] = {}
        nodes = self._tree.child(section)
        defaults = self._tree.child("defaults")
        default = defaults.child(kind) if defaults else None
        if nodes is None or not isinstance(nodes.value, dict):
            return configs
        for name, node in nodes.value.items():
            if default is not None:
                nodes.value[name] = node = beneath(default, node)
            config = self._plugin(package, node, (section, name), base)
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
