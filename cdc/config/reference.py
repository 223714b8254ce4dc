"""The page of reference: every setting of the file and of the plugins that are installed, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cdc.config.load import Parts, PipelineFile
from cdc.config.schema import REF, SECTIONS, Schema, definitions

_INTRODUCTION: Final = """\
# Configuration

*Made from the models by `make docs`; a test keeps it up to date. `cdc schema export config` prints the same as JSON
Schema, for editors; `cdc config show --resolved --origin` says what your own file comes to.*

A pipeline is one YAML 1.2 file, by default `cdc.yaml`. Unknown keys are errors.

- **References** may stand wherever a value may: `${VAR}`, `${VAR:-default}`, `${VAR:?message}`, `${file:/path}`; `$${`
  is a literal `${`. They are resolved after parsing, so no value can become YAML.
- A **secret** must be a reference. A password inside a URL is a secret as well: then the whole URL must be a reference.
- A **duration** is written with a unit, `ms`, `s`, `m`, `h`, `d`; a **size** with `B`, `KiB`, `MiB`, `GiB`, `TiB`.
- A **pattern** of tables is `schema.table`, a glob such as `public.*`, or `!pattern`, which leaves out.
"""
_SCALARS: Final = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
_BOUNDS: Final = {"exclusiveMinimum": ">", "minimum": "≥", "maximum": "≤"}


def page() -> str:
    """The whole page."""
    known = definitions()
    del known[Parts.__name__]  # said once, of the file
    parts = [_INTRODUCTION, "## The file\n", _table(known[PipelineFile.__name__], known)]
    for section in SECTIONS:
        for name, schema in known.items():
            if name.startswith(section + "."):
                heading = f"## {section}: `type: {name.partition('.')[2]}`"
                parts += [heading, "", schema.get("description", ""), "", _table(schema, known)]
    return "\n".join(parts)


def _table(schema: Schema, known: Mapping[str, Schema]) -> str:
    rows = [("setting", "value", "default", "meaning"), ("---",) * 4, *_rows(schema, known, "", {})]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def _rows(schema: Schema, known: Mapping[str, Schema], path: str, given: Any) -> Iterator[tuple[str, str, str, str]]:
    """Setting, value, default and meaning of all properties and of those beneath; `given` is the default of it all."""
    required = schema.get("required", ())
    for name, one in sorted(schema.get("properties", {}).items(), key=lambda item: item[0] not in required):
        if "const" in one and name == "type":
            continue  # it is in the heading
        default = given.get(name) if isinstance(given, dict) and name in given else one.get("default")
        models = list(_models(one, known, f"{path}{name}"))
        meaning = one.get("description") or next((model.get("description", "") for _, model in models), "")
        shown = "" if default is None or isinstance(default, dict) else f"`{_plain(default)}`"
        yield f"`{path}{name}`", _value(one), "*required*" if name in required else shown, meaning
        for place, model in models:
            yield from _rows(model, known, f"{place}.", default)


def _models(schema: Schema, known: Mapping[str, Schema], path: str) -> Iterator[tuple[str, Schema]]:
    """Models that may stand at `path`, or beneath it under names of the user's."""
    name = schema.get("$ref", "").removeprefix(REF)
    if name in known:
        yield path, known[name]
    for alternative in schema.get("anyOf", ()):
        yield from _models(alternative, known, path)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _models(schema["additionalProperties"], known, f"{path}.NAME")


def _value(schema: Schema) -> str:
    """What may stand there, in words."""
    if "anyOf" in schema:
        words = (_value(one) for one in schema["anyOf"] if one.get("type") != "null")
        return " or ".join(dict.fromkeys(words))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{one}`" for one in schema["enum"])
    if "title" in schema and schema.get("type") == "string":
        return str(schema["title"])
    kind = schema.get("type", "object")
    if kind == "array":
        return f"list of {_value(schema['items'])}"
    if kind == "object":
        return "map"
    bounds = [f"{sign} {schema[name]}" for name, sign in _BOUNDS.items() if name in schema]
    return " ".join([_SCALARS[kind], *bounds])


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
