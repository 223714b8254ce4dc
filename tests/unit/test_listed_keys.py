"""What an operator may list as keys."""

from __future__ import annotations

import pytest

from cdc.cli import keys as command
from cdc.cli.keys import listed_keys, parts
from cdc.errors import ConfigurationError
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType

TYPES = {
    "id": ("integer", LogicalType(Kind.INT32)),
    "unsigned": ("bigint unsigned", LogicalType(Kind.UINT64)),
    "flag": ("boolean", LogicalType(Kind.BOOLEAN)),
    "price": ("numeric(12,2)", LogicalType(Kind.DECIMAL, 12, 2)),
    "any": ("numeric", LogicalType(Kind.DECIMAL)),
    "real": ("real", LogicalType(Kind.FLOAT32)),
    "name": ("text", LogicalType(Kind.STRING)),
    "word": ("citext", LogicalType(Kind.STRING)),
    "mood": ("mood", LogicalType(Kind.ENUM)),
    "raw": ("bytea", LogicalType(Kind.BYTES)),
    "uid": ("uuid", LogicalType(Kind.UUID)),
    "day": ("date", LogicalType(Kind.DATE)),
    "clock": ("time without time zone", LogicalType(Kind.TIME)),
    "local": ("timestamp without time zone", LogicalType(Kind.TIMESTAMP)),
    "at": ("timestamp with time zone", LogicalType(Kind.TIMESTAMPTZ)),
}


def schema(*key: str, profile: str = "readable") -> TableSchema:
    columns = tuple(Column(name, type_, native) for name, (native, type_) in TYPES.items())
    return TableSchema("p.public.item", "public", "item", columns, key, profile)


def listed(*lines: str, key: tuple[str, ...] = ("id",), profile: str = "readable") -> list[str]:
    numbered = [(f"line {number}", line.encode()) for number, line in enumerate(lines, 1)]
    return listed_keys(numbered, schema(*key, profile=profile))


def test_keys_are_as_the_records_have_them() -> None:
    assert listed('{"id": 7}', "", '{"id":8}\n', ' {"id" : 7}') == ['{"id":7}', '{"id":8}']
    assert listed('{"name":"é", "id":1}', key=("id", "name")) == ['{"id":1,"name":"é"}']
    assert listed('{"any":"1.50"}', key=("any",)) == ['{"any":"1.5"}']
    assert listed('{"word":"ABC"}', key=("word",)) == ['{"word":"abc"}']


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", "-2147483648"),
        ("unsigned", "18446744073709551615"),
        ("flag", "false"),
        ("price", '"-0.50"'),
        ("any", '"NaN"'),
        ("real", "1.5e-20"),
        ("real", '"-Infinity"'),
        ("name", '""'),
        ("mood", '"so so"'),
        ("raw", '"AP8n"'),
        ("uid", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
        ("day", '"0044-03-15 BC"'),
        ("day", '"0000-00-00"'),
        ("clock", '"-838:59:59"'),
        ("local", '"2026-01-31T12:00:00.5"'),
        ("at", '"2026-01-31T12:00:00Z"'),
        ("at", '"infinity"'),
    ],
)
def test_every_type_has_one_form(column: str, value: str) -> None:
    line = f'{{"{column}":{value}}}'
    assert listed(line, key=(column,)) == [line]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *[("id", value) for value in ('"7"', "7.0", "true", "null", "2147483648", "[7]")],
        *[("unsigned", value) for value in ("-1", "18446744073709551616")],
        *[("flag", value) for value in ("0", '"false"')],
        *[("price", value) for value in ("1.5", '"1.5"', '"01.50"', '"1.5O"')],
        *[("real", value) for value in ('"1.5"', '"much"')],
        *[("name", value) for value in ("7", "null", '{"a":1}')],
        *[("raw", value) for value in ('"AP8n="', '"%"', "7")],
        *[("uid", value) for value in ('"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"', '"a0ee"')],
        *[("day", value) for value in ('"31.1.2026"', "20484", '"2026-01-31T00:00:00"')],
        *[("local", value) for value in ('"2026-01-31 12:00:00"', '"2026-01-31T12:00:00.50"')],
        *[("at", value) for value in ('"2026-01-31T12:00:00"', '"2026-01-31T12:00:00+01"')],
    ],
)
def test_another_form_is_refused_without_showing_it(column: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        listed(f'{{"{column}":{value}}}', key=(column,))
    assert str(refused.value.args[0]).startswith("line 1: ")
    assert f'{{"{column}": {TYPES[column][0]}}}' in refused.value.hint
    assert value.strip('"') not in refused.value.args[0]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("7", "not a JSON object"),
        ('{"id":7', "not a JSON object"),
        ("id=7", "not a JSON object"),
        ("{}", "the columns are not those of the key (id)"),
        ('{"id":7,"name":"a"}', "the columns are not those of the key (id)"),
        ('{"ID":7}', "the columns are not those of the key (id)"),
        ('{"id":"7"}', "the value of id is not as record keys have it"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(line: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        listed('{"id":1}', line)
    assert refused.value.args[0] == f"line 2: {problem}; nothing was requested"
    assert refused.value.hint == 'expected {"id": integer}, as `cdc tap --table public.item` shows keys'


def test_in_the_debezium_profile_keys_are_as_debezium_has_them() -> None:
    assert listed('{"day":20484}', key=("day",), profile="debezium") == ['{"day":20484}']
    assert listed('{"day":"2024-00-10"}', key=("day",), profile="debezium") == ['{"day":"2024-00-10"}']
    for value in ('"2026-01-31"', "null"):
        with pytest.raises(ConfigurationError, match="line 1: the value of day is not as record keys have it"):
            listed(f'{{"day":{value}}}', key=("day",), profile="debezium")


def test_none_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="no key is listed"):
        listed("", " ")
    monkeypatch.setattr(command, "MOST_KEYS", 2)
    with pytest.raises(ConfigurationError, match="more than 2 keys are listed"):
        listed('{"id":1}', '{"id":2}', '{"id":3}')


def test_a_request_is_bounded_by_keys_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PART_KEYS", 3)
    monkeypatch.setattr(command, "PART_BYTES", 10)
    assert list(parts(["a", "b", "c", "d"])) == [["a", "b", "c"], ["d"]]
    assert list(parts(["a" * 6, "b" * 6, "c" * 20, "d"])) == [["a" * 6], ["b" * 6], ["c" * 20], ["d"]]
