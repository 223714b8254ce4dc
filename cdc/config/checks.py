"""Checks across the parts of a pipeline: what is right by itself may still not go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from cdc import registry
from cdc.config.document import Node
from cdc.config.fields import SinkConfig
from cdc.config.patterns import excluded, included, is_literal, meet, selects
from cdc.config.problems import Place, Problem, nearest
from cdc.connector import SourceConfig
from cdc.log import LogConfig


def across(
    pipeline: str, log: LogConfig, sources: Mapping[str, SourceConfig], sinks: Mapping[str, SinkConfig], tree: Node
) -> list[Problem]:
    """Everything that does not go together."""
    return [
        *_shared_topics(pipeline, log, sources, tree),
        *_unmatched(sources, sinks, tree),
        *_disagreements(log, sources, tree),
        *_crowded(sinks, tree),
    ]


def _shared_topics(pipeline: str, log: LogConfig, sources: Mapping[str, SourceConfig], tree: Node) -> Iterator[Problem]:
    """Two sources that write one topic would overwrite each other: versions of different sources don't compare."""

    def topic(source: str, pattern: str) -> str:
        schema, dot, table = pattern.partition(".")
        return log.topics.name.format(pipeline=pipeline, source=source, schema=schema, table=table if dot else schema)

    for (one, first), (other, second) in combinations(sources.items(), 2):
        for pattern in _possible(second):
            met = [
                mine
                for mine in _possible(first)
                if meet(topic(one, mine), topic(other, pattern))
                and not _kept_out(second, mine)
                and not _kept_out(first, pattern)
            ]
            if met:
                yield Problem(
                    "shared_topic",
                    ("sources", other, "tables"),
                    f"{pattern} may write the same topics as {met[0]} of the source {one}",
                    _place(tree, "sources", other, pattern),
                    help='put {source} into log.topics.name, for example "{pipeline}.{source}.{schema}.{table}"',
                )


def _unmatched(sources: Mapping[str, SourceConfig], sinks: Mapping[str, SinkConfig], tree: Node) -> Iterator[Problem]:
    captured = [pattern for source in sources.values() for pattern in _possible(source)]
    for name, sink in sinks.items():
        for pattern in included(sink.tables):
            reached = any(
                meet(pattern, theirs) and not (is_literal(pattern) and _kept_out(source, pattern))
                for source in sources.values()
                for theirs in _possible(source)
            )
            if not reached:
                near = nearest(pattern, [theirs for theirs in captured if is_literal(theirs)])
                yield Problem(
                    "unmatched_pattern",
                    ("sinks", name, "tables"),
                    f"no source captures a table that {pattern} matches",
                    _place(tree, "sinks", name, pattern),
                    near,
                    "" if near else "captured: " + ", ".join(captured),
                )


def _disagreements(log: LogConfig, sources: Mapping[str, SourceConfig], tree: Node) -> Iterator[Problem]:
    for name, source in sources.items():
        for key, message in source.disagreements(log):
            node = _node(tree, "sources", name, key) or _node(tree, "sources", name)
            yield Problem("disagreement", ("sources", name, key), message, (node or tree).place)


def _crowded(sinks: Mapping[str, SinkConfig], tree: Node) -> Iterator[Problem]:
    """A store that one process holds cannot be fed by several."""
    for name, sink in sinks.items():
        if sink.workers > 1 and registry.load("sinks", sink.type).single_worker:
            node = _node(tree, "sinks", name, "workers") or _node(tree, "defaults", "sink", "workers")
            yield Problem(
                "single_worker",
                ("sinks", name, "workers"),
                f"only one process can hold a store of type {sink.type}",
                node.place if node else Place(1, 1),
                help="leave `workers` out here, or use a store that is a server",
            )


def _possible(source: SourceConfig) -> list[str]:
    """Patterns of a source that can let a table in."""
    return [
        pattern for pattern in included(source.tables) if not is_literal(pattern) or selects(source.tables, pattern)
    ]


def _kept_out(source: SourceConfig, pattern: str) -> bool:
    """Whether `source` surely leaves out every table that `pattern` means."""
    if is_literal(pattern):
        return not selects(["*", *(f"!{out}" for out in excluded(source.tables))], pattern)
    return pattern in excluded(source.tables)


def _node(tree: Node, *path: str) -> Node | None:
    found: Node | None = tree
    for part in path:
        found = found.child(part) if found else None
    return found


def _place(tree: Node, section: str, name: str, pattern: str) -> Place:
    """Where a pattern of ``tables`` stands, or as near to it as can be."""
    tables = _node(tree, section, name, "tables")
    if tables and isinstance(tables.value, dict) and pattern in tables.value:
        key = tables.value[pattern].key
        return key or tables.place
    if tables and isinstance(tables.value, list):
        return next((item.place for item in tables.value if item.value == pattern), tables.place)
    named = _node(tree, section, name)
    return (named.key or named.place) if named else tree.place
