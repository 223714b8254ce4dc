"""Record keys and partial rows as stores need them: JSON in, JSON out, every digit kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

columns_of: Final[Callable[[bytes | str], dict[str, msgspec.Raw]]] = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""The members of a JSON object by name, each still JSON. Raises msgspec.DecodeError."""

_decode_text: Final[Callable[[bytes], str]] = msgspec.json.Decoder(str).decode


def text_of(value: msgspec.Raw) -> str:
    """A JSON value as plain text: a string's characters, anything else as it is printed."""
    printed = bytes(value)
    return _decode_text(printed) if printed.startswith(b'"') else printed.decode()


def merged(held: bytes | str | None, newer: bytes, names: Iterable[str]) -> bytes:
    """A partial row completed: columns that `newer` lacks keep what the store holds; of both only `names` are kept.

    Values are never decoded, so that no number changes its digits. Raises msgspec.DecodeError when `held` is no row.
    """
    both = {**(columns_of(held) if held is not None else {}), **columns_of(newer)}
    return msgspec.json.encode({name: both[name] for name in names if name in both})


def renamed(row: bytes, names: Mapping[str, str]) -> bytes:
    """A row with its columns under the names that `names` gives them; other columns go."""
    return msgspec.json.encode({names[name]: value for name, value in columns_of(row).items() if name in names})
