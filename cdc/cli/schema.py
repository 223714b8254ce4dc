"""``cdc schema export config``: what the file may hold, for editors or to read."""

from __future__ import annotations

import json

from cdc.cli.session import Session
from cdc.config.reference import page
from cdc.config.schema import file_schema
from cdc.errors import ConfigurationError


def export_config(session: Session, format_: str) -> None:
    """Print the JSON Schema of the pipeline's file, or the page of reference."""
    if format_ not in ("json-schema", "markdown"):
        raise ConfigurationError("--format is json-schema or markdown", hint="json-schema is for editors")
    schema = file_schema()
    shown = page().rstrip() if format_ == "markdown" else json.dumps(schema, indent=2, ensure_ascii=False)
    session.result(schema, shown)
