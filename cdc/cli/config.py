"""``cdc config show``: the configuration as the workers get it, and where each value comes from."""

from __future__ import annotations

from io import StringIO
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from cdc.cli.session import Session
from cdc.config.document import Node
from cdc.config.problems import pointer
from cdc.config.show import DEFAULT, as_written, resolved

COMMENT_COLUMN: Final = 48


def show(session: Session, fill: bool, origin: bool) -> None:
    """Print the file with what it includes and its profile; with `fill` also what it leaves to defaults."""
    pipeline = session.pipeline()
    node = resolved(pipeline) if fill else as_written(pipeline.tree)
    result = {"config": node.plain()}
    if origin:
        result["origin"] = {pointer(path): _origin(leaf) for path, leaf in node.leaves()}
    yaml = YAML()
    yaml.width = 4096
    written = StringIO()
    yaml.dump(_commented(node, origin), written)
    session.result(result, written.getvalue().rstrip())


def _origin(node: Node) -> str:
    return node.place.file if node.place == DEFAULT else f"{node.place.file}:{node.place.line}"


def _commented(node: Node, origin: bool) -> Any:
    """The tree for ruamel, each leaf with its origin as a comment if that is asked for."""
    if not isinstance(node.value, dict | list):
        return node.value
    made: Any
    if isinstance(node.value, dict):
        made = CommentedMap((key, _commented(child, origin)) for key, child in node.value.items())
    else:
        made = CommentedSeq(_commented(child, origin) for child in node.value)
    for place, child in node.children():
        if origin and not child.children():
            made.yaml_add_eol_comment(_origin(child), place, column=COMMENT_COLUMN)
    return made
