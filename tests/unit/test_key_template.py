"""Names of rows made from their keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType
from sinks._key_template import KeyTemplate


def table(*key: str, name: str = "customer", schema: str = "public") -> TableSchema:
    columns = tuple(Column(column, LogicalType(Kind.STRING), "text") for column in (*key, "name"))
    return TableSchema(f"shop.{schema}.{name}", schema, name, columns, key)


def named(template: str, schema: TableSchema, **values: object) -> str:
    return KeyTemplate(template).bind(schema, reserved="_cdc:")(json.encode(values))


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("{table}:{pk}", {"id": 1}, "customer:1"),
        ("{table}:{pk}", {"id": "a:b%é"}, "customer:a:b%é"),
        ("{table}:{pk}", {"id": True}, "customer:true"),
        ("{schema}/{table}/{id}/v1", {"id": 7}, "public/customer/7/v1"),
        ("{table}:{pk}", {"a": 1, "b": "x"}, "customer:1:x"),
        ("{a}-{b}", {"a": "x-y", "b": "100%"}, "x%2Dy-100%25"),
        ("{{{pk}}}", {"id": 1}, "{1}"),
    ],
)
def test_name(template: str, values: dict[str, object], expected: str) -> None:
    assert named(template, table(*values), **values) == expected


def test_digits_are_kept() -> None:
    name = KeyTemplate("{table}:{pk}").bind(table("id"), reserved="_cdc:")
    assert name(b'{"id":1.10e400}') == "customer:1.10e400"
    assert name(b'{"id":123456789012345678901234567890}') == "customer:123456789012345678901234567890"


@given(st.lists(st.tuples(st.text(), st.text()), min_size=2, max_size=2, unique=True))
def test_two_rows_never_share_a_name(pairs: list[tuple[str, str]]) -> None:
    first, second = (named("x:{a}:{b}", table("a", "b"), a=a, b=b) for a, b in pairs)
    assert first != second


@pytest.mark.parametrize(
    "template", ["customer", "{table}", "", "{pk", "{pk!r}", "{pk:>5}", "{table}:{}", "{schema}.{table}"]
)
def test_template_that_cannot_work_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"must contain|may contain|brace"):
        KeyTemplate(template)


@pytest.mark.parametrize(
    ("template", "reason"), [("{table}:{name}", "name"), ("{table}:{a}", "leaves out b"), ("{a}{b}", "side by side")]
)
def test_template_that_does_not_fit_the_table_is_refused(template: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        KeyTemplate(template).bind(table("a", "b"), reserved="_cdc:")


def test_name_among_the_sinks_own_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with '_cdc:'"):
        named("{pk}", table("id"), id="_cdc:shop:cache:generation")


def test_attributes_are_not_looked_up() -> None:
    with pytest.raises(ValueError, match="not in the key"):
        KeyTemplate("{pk}:{id.__class__}").bind(table("id"), reserved="_cdc:")


def test_tables_that_would_share_names_have_one_shape() -> None:
    template = KeyTemplate("{table}:{pk}")
    assert template.shape(table("id")) == template.shape(table("id", schema="archive"))
    assert template.shape(table("id")) != template.shape(table("id", name="orders"))
