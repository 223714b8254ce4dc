"""JSON Schema of the pipeline's file with every plugin that is installed: for editors, and for the page of reference.

It keeps to what draft 7 knows, which every editor understands. Where a scalar may stand, a reference may as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from cdc import registry
from cdc.config.load import NAME, Parts, PipelineFile
from cdc.errors import ConfigurationError

Schema = dict[str, Any]

DRAFT: Final = "http://json-schema.org/draft-07/schema#"
REF: Final = "#/definitions/"
SECTIONS: Final = {"log": "cdc.log", "sources": "connectors", "sinks": "sinks"}
"""Where the plugins of each section of the file come from."""

_REFERENCE: Final = {"type": "string", "pattern": r"\$\{[^{}]+\}"}
_NOTES: Final = {"title", "description", "default", "examples"}
_BY_REFERENCE: Final = "by-reference"
_PART: Final = "-part"
"""Ends the names of definitions in which nothing is required: of what is laid over or beneath an entry."""


def definitions() -> dict[str, Schema]:
    """Schemas of the top level (``PipelineFile``), of each plugin (``sinks.redis``), and of what they refer to."""
    plugins = {}
    for section, package in SECTIONS.items():
        for name in registry.known(package):
            with suppress(ConfigurationError):  # its driver is not installed
                plugins[f"{section}.{name}"] = registry.load(package, name).Config
    models: list[Any] = [PipelineFile, Parts, *plugins.values()]
    # As it is written, defaults included, not as it is read: a duration is a text with a unit.
    found, generated = models_json_schema(
        [(model, "serialization") for model in dict.fromkeys(models)],
        ref_template=REF + "{model}",
        schema_generator=_Generator,
    )
    made = {name: _walked(one, _tidied) for name, one in generated["$defs"].items()}
    for name, model in plugins.items():
        body = made[found[model, "serialization"]["$ref"].removeprefix(REF)]
        properties = body["properties"] | {"type": {"const": name.partition(".")[2]}}
        made[name] = {**body, "properties": properties, "required": sorted({"type", *body.get("required", [])})}
    return made


def file_schema() -> Schema:
    """The schema of a pipeline's file.

    A file with ``version`` and neither ``include`` nor ``defaults`` is whole. What another lacks may stand elsewhere.
    """
    made = {name: _walked(one, _referable) for name, one in definitions().items()}
    top, variant = made.pop(PipelineFile.__name__), made.pop(Parts.__name__)
    parts = {name + _PART: _walked(one, _partial) for name, one in made.items()}
    piece = _walked(top, _partial)
    for schema, choices in ((top, made), (variant, parts), (piece, parts)):
        properties = schema["properties"]
        properties["log"] |= _choice("log", choices)
        for section in ("sources", "sinks"):
            properties[section] |= _named(_choice(section, choices))
        defaults = {"source": _choice("sources", parts), "sink": _choice("sinks", parts)}
        properties["defaults"] = {"type": "object", "properties": defaults, "additionalProperties": False}
    for schema in (top, piece):
        schema["properties"]["profiles"] |= _named(variant)
    by_reference = {"properties": {"type": _REFERENCE}, "required": ["type"]}
    whole = {"required": ["version"], "not": {"anyOf": [{"required": ["include"]}, {"required": ["defaults"]}]}}
    return {
        "$schema": DRAFT,
        "title": "cdc pipeline",
        "type": "object",
        "if": whole,
        "then": top,
        "else": piece,
        "definitions": {**made, **parts, _BY_REFERENCE: by_reference},
    }


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False


def _walked(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """`schema` with `change` made to every schema in it, from the innermost outwards."""
    walked = dict(schema)
    for key, value in schema.items():
        if key == "properties":
            walked[key] = {name: _walked(one, change) for name, one in value.items()}
        elif key in ("anyOf", "oneOf"):
            walked[key] = [_walked(one, change) for one in value]
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            walked[key] = _walked(value, change)
    return change(walked)


def _tidied(schema: Schema) -> Schema:
    """Less what only Python means, and descriptions as Markdown."""
    tidied = {key: value for key, value in schema.items() if key != "format"}
    if "description" in schema:
        tidied["description"] = " ".join(schema["description"].split()).replace("``", "`")
    return tidied


def _referable(schema: Schema) -> Schema:
    """A scalar that is not just any text, or a reference in its place. A secret is nothing else anyway."""
    limited = schema.get("type") == "string" and not schema.keys() <= {"type", *_NOTES}
    scalar = limited or schema.get("type") in ("integer", "number", "boolean")
    if not scalar or "const" in schema or schema.get("title") == "secret":
        return schema
    notes = {key: value for key, value in schema.items() if key in _NOTES}
    return {**notes, "anyOf": [{key: value for key, value in schema.items() if key not in _NOTES}, _REFERENCE]}


def _partial(schema: Schema) -> Schema:
    partial = {key: value for key, value in schema.items() if key != "required"}
    if "$ref" in schema:
        partial["$ref"] += _PART
    return partial


def _choice(section: str, schemas: dict[str, Schema]) -> Schema:
    """One of the plugins of a section, or one whose type only a reference tells."""
    names = [name for name in schemas if name.startswith(section + ".")]
    return {"type": "object", "anyOf": [{"$ref": REF + name} for name in [*names, _BY_REFERENCE]]}


def _named(schema: Schema) -> Schema:
    """A map of such things by name."""
    return {"type": "object", "propertyNames": {"pattern": f"^{NAME.pattern}$"}, "additionalProperties": schema}
