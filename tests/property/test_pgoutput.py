"""The plain decoder on arbitrary bytes: a message, or DecodeError, never anything else."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import DecodeError
from connectors.postgres import arrays
from connectors.postgres.pgoutput import decode, decode_frame
from connectors.postgres.values import load, to_sql_text
from connectors.postgres.wire import unescape
from tests.property.rows import ARRAYS, TYPES, mutated

LSN = struct.pack(">Q", 1)
EXAMPLES = [
    b"B" + LSN * 2 + b"\0\0\0\7",
    b"C\0" + LSN * 3,
    b"M\1" + LSN + b"cdc\0\0\0\0\3abc",
    b"O" + LSN + b"origin\0",
    b"R\0\0\0\5public\0orders\0d\0\2\1id\0\0\0\0\x17\xff\xff\xff\xff\0note\0\0\0\0\x19\xff\xff\xff\xff",
    b"Y\0\0\0\5public\0mood\0",
    b"I\0\0\0\5N\0\3t\0\0\0\1anu",
    b"U\0\0\0\5K\0\2t\0\0\0\1anN\0\2t\0\0\0\1bn",
    b"D\0\0\0\5O\0\2t\0\0\0\1an",
    b"T\0\0\0\2\3\0\0\0\5\0\0\0\6",
]


@given(st.one_of(st.binary(), st.sampled_from(EXAMPLES).flatmap(mutated)))
@settings(max_examples=1000)
def test_decode(message: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(message)


@given(st.one_of(st.binary(), st.binary().map(b"w".__add__), st.binary().map(b"k".__add__)))
def test_decode_frame(content: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_frame(content)


@given(st.sampled_from(TYPES), st.binary())
def test_load(case: object, text: bytes) -> None:
    with contextlib.suppress(DecodeError):
        load(case.type, text)  # type: ignore[attr-defined] - a TypeCase


@given(st.sampled_from(ARRAYS).flatmap(lambda case: st.tuples(st.just(case.type), case.texts.flatmap(mutated))))
def test_load_mutated_array(case: tuple[object, bytes]) -> None:
    with contextlib.suppress(DecodeError):
        load(*case)  # type: ignore[arg-type] - a LogicalType


@given(st.sampled_from(TYPES).flatmap(lambda case: st.tuples(st.just(case.type), case.texts)))
def test_text_round_trip(case: tuple[object, bytes]) -> None:
    type_, text = case
    value = load(type_, text)  # type: ignore[arg-type] - a LogicalType
    printed = to_sql_text(type_, value)  # type: ignore[arg-type] - a LogicalType
    assert printed is not None
    assert load(type_, printed.encode()) == value  # type: ignore[arg-type] - a LogicalType


@given(st.binary())
def test_unescape_takes_anything(field: bytes) -> None:
    assert isinstance(unescape(field), bytes | None)


@given(st.binary())
def test_array_parser_raises_value_error_only(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        arrays.parse(text, bytes)
