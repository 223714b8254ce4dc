"""What the tables and columns of a source are called in a warehouse."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from string import Formatter


def table_template(value: str) -> str:
    """`value` if it is a template of table names: ``{schema}`` and ``{table}`` of the source. Raises ValueError."""
    try:
        fields = {field for _, field, _, _ in Formatter().parse(value) if field is not None}
    except ValueError as error:
        raise ValueError(f"is no template: {error}") from error
    if unknown := fields - {"schema", "table"}:
        raise ValueError(f"unknown field {{{min(unknown)}}}, known: {{schema}} {{table}}")
    if "table" not in fields:
        raise ValueError("needs {table}: otherwise several tables of the source share one")
    return value


def hashed(name: str, of: str = "") -> str:
    """`name` with a short hash behind it, of itself or of the longer name that it stands for."""
    return f"{name}_{hashlib.blake2b((of or name).encode(), digest_size=4).hexdigest()}"


def stored_names(
    columns: Iterable[str],
    held: Collection[str],
    own: Iterable[str],
    *,
    fold: Callable[[str], str] = str.casefold,
    legal: Callable[[str], str] = str,
) -> dict[str, str]:
    """What each of `columns` is called in a table that has the columns `held`, besides our `own`.

    Its own name, if the table has it or it is free there; otherwise that name with a hash. `fold` makes equal what the
    store cannot tell apart, `legal` gives a name that it takes, with a hash if it is another one.
    """
    columns = list(columns)
    names = {column: column for column in columns if column in held}
    taken = {fold(name) for name in (*own, *held)}
    for column in columns:
        if column in names:
            continue
        name = legal(column)
        if name == column and fold(name) in taken:
            name = legal(hashed(column))
        taken.add(fold(name))
        names[column] = name
    return names
