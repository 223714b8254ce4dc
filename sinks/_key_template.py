"""Names of rows made from their key columns: ``{table}:{pk}`` becomes ``customer:1``.

Only the key goes into a name, so that the place of a row can always be found again. A template never evaluates what
rows contain, and two rows never get one name: with several columns, characters of the text between them are escaped
(``%3A``) inside values; a template that leaves a key column out is refused.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Final

from schemas.table import TableSchema
from sinks._rows import columns_of, text_of

Naming = Callable[[bytes], str]
"""From the bytes of a record key to the row's name."""

_TABLE_FIELDS: Final = frozenset({"schema", "table"})


def fields_of(text: str) -> list[tuple[str, str | None]]:
    """A template's texts, each with the field in braces that follows it (None after the last).

    Raises ValueError when it contains more than names in braces.
    """
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError:
        raise ValueError("has a brace without its partner; for example {table}:{pk}") from None
    if any(spec or conversion or (field is not None and not field.strip()) for _, field, spec, conversion in parts):
        raise ValueError("may contain names in braces only, without conversion or format")
    return [(literal, field) for literal, field, _, _ in parts]


class KeyTemplate:
    """A template as it stands in the configuration. Raises ValueError when it is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = fields_of(text)
        if all(field is None or field in _TABLE_FIELDS for _, field in self._parts):
            raise ValueError("must contain {pk} or the key columns, or all rows would have one key")

    def shape(self, schema: TableSchema) -> str:
        """The template with everything filled in but the columns, in one spelling: equal shapes, equal names."""
        texts, columns = self._flat(schema)
        return texts[0] + "".join(f"{{{column}}}{text}" for column, text in zip(columns, texts[1:], strict=True))

    def bind(self, schema: TableSchema, reserved: str) -> Naming:
        """The function that names a row of this table; it raises ValueError for a name that begins with `reserved`.

        Raises ValueError when the template does not fit the table.
        """
        texts, columns = self._flat(schema)
        if unknown := [column for column in columns if column not in schema.key]:
            raise ValueError(f"the key template names {', '.join(unknown)}, not in the key of {schema.table}")
        if absent := [column for column in schema.key if column not in columns]:
            raise ValueError(f"the key template leaves out {', '.join(absent)}, in the key of {schema.table}")
        if not all(texts[1:-1]):
            raise ValueError(f"the key template puts two columns of {schema.table} side by side with nothing between")
        escape = str.maketrans({char: f"%{ord(char):02X}" for char in {"%", *"".join(texts[1:-1])}})
        first, rest = texts[0], tuple(zip(columns, texts[1:], strict=True))

        def name(key: bytes) -> str:
            values = columns_of(key)
            if len(rest) == 1:
                (column, last) = rest[0]
                made = first + text_of(values[column]) + last
            else:
                made = first + "".join(text_of(values[column]).translate(escape) + text for column, text in rest)
            if made.startswith(reserved):
                raise ValueError(f"the key template gives it a key that begins with {reserved!r}, as the sink's own do")
            return made

        return name

    def _flat(self, schema: TableSchema) -> tuple[list[str], list[str]]:
        """The texts around the columns, and the columns between the texts."""
        texts, columns = [""], []
        for literal, field in self._parts:
            texts[-1] += literal
            if field in _TABLE_FIELDS:
                texts[-1] += schema.schema if field == "schema" else schema.table
            elif field is not None:
                for position, column in enumerate(schema.key if field == "pk" else (field,)):
                    if position:
                        texts[-1] = ":"
                    columns.append(column)
                    texts.append("")
        return texts, columns
