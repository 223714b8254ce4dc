"""What a pipeline's configuration comes to, value by value, each with the place that it comes from."""

from __future__ import annotations

from typing import Final

from cdc.config.document import Node
from cdc.config.fields import Model
from cdc.config.pipeline import Pipeline
from cdc.config.problems import Place
from cdc.config.secrets import Referenced, redact

DEFAULT: Final = Place(0, 0, file="default")
"""Where a value comes from that no file sets."""


def as_written(node: Node) -> Node:
    """`node` with its references as they stand in the file."""
    if isinstance(node.value, dict):
        return Node({key: as_written(one) for key, one in node.value.items()}, node.place)
    if isinstance(node.value, list):
        return Node([as_written(one) for one in node.value], node.place)
    return Node(node.value if node.written is None else node.written, node.place)


def resolved(pipeline: Pipeline) -> Node:
    """All settings, those that are left out with their defaults, and references with what they gave.

    Whatever can be a secret is shown as the reference that was written.
    """
    tree = pipeline.tree
    named = tree.child("pipeline")

    def section(name: str, configs: dict[str, Model]) -> Node:
        node = tree.child(name) or Node({}, DEFAULT)
        return Node({part: _part(config, node.child(part)) for part, config in configs.items()}, node.place)

    top = {
        "version": tree.child("version"),
        "pipeline": _shown(named) if named and named.value else Node(pipeline.name, DEFAULT),
        "log": _part(pipeline.log, tree.child("log")),
        "sources": section("sources", dict(pipeline.sources)),
        "sinks": section("sinks", dict(pipeline.sinks)),
    }
    return Node({key: node for key, node in top.items() if node is not None}, tree.place)


def _part(config: Model, node: Node | None) -> Node:
    return _filled(config.model_dump(mode="json", by_alias=True), node)


def _filled(value: object, node: Node | None) -> Node:
    """What the file says at this place, and `value`, as the model has it, where it says nothing."""
    if isinstance(value, dict) and (node is None or isinstance(node.value, dict)):
        entries = {key: _filled(one, node.child(key) if node else None) for key, one in value.items()}
        return Node(entries, node.place if node else DEFAULT)
    if node is not None:
        return _shown(node)
    if isinstance(value, list):
        return Node([_filled(one, None) for one in value], DEFAULT)
    assert value is None or isinstance(value, str | int | float | bool)
    return Node(value, DEFAULT)


def _shown(node: Node) -> Node:
    """`node` with what its references gave. A file can give secrets only as a reference and nothing else."""
    if isinstance(node.value, dict):
        return Node({key: _shown(one) for key, one in node.value.items()}, node.place)
    if isinstance(node.value, list):
        return Node([_shown(one) for one in node.value], node.place)
    value = node.value
    if isinstance(value, Referenced) or (isinstance(value, str) and (redact(value) != value or "${" in value)):
        return as_written(node)
    return Node(value, node.place)
