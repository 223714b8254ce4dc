"""References in string scalars, and what they make of secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.config.document import parse
from cdc.config.references import resolve
from cdc.config.secrets import Referenced

ENVIRONMENT = {"NAME": "value", "EMPTY": "", "YAML": "{a: 1}\n- x # y", "BRACES": "${NAME}", "PASSWORD": "p/w@d"}


def resolved(text: str) -> object:
    node, _ = parse(f"a: {text}")
    assert resolve(node, ENVIRONMENT) == []
    return node.plain()["a"]


def refused(text: str) -> tuple[str, str, str]:
    node, _ = parse(f"a: {text}")
    (problem,) = resolve(node, ENVIRONMENT)
    return problem.code, problem.message, problem.suggestion


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${NAME}", "value"),
        ("x-${NAME}/${NAME}", "x-value/value"),
        ("${NOPE:-default}", "default"),
        ("${NOPE:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-default}", "default"),
        ("${NAME:-default}", "value"),
        ("${NAME:?needed}", "value"),
        ('"${NOPE:-a:-b}"', "a:-b"),
        ("$${NAME}", "${NAME}"),
        ("$NAME $ {x}", "$NAME $ {x}"),
        ("${YAML}", "{a: 1}\n- x # y"),  # never becomes YAML
        ("${BRACES}", "${NAME}"),  # never resolved again
        ("7", 7),
    ],
)
def test_values(text: str, expected: object) -> None:
    assert resolved(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${NAM}", ("undefined_variable", "the environment variable NAM is not set", "NAME")),
        ("${EMPTY:?say why}", ("undefined_variable", "EMPTY is not set: say why", "")),
        ("${NOPE:?}", ("undefined_variable", "the environment variable NOPE is not set", "")),
        ("${1x}", ("bad_reference", "this is not a reference", "")),
        ("${}", ("bad_reference", "this is not a reference", "")),
        ("${NAME:=x}", ("bad_reference", "this is not a reference", "")),
        ('"${NAME"', ("bad_reference", "a reference is not closed: `}` is missing", "")),
        ("${file:/no/such/file}", ("unreadable_file", "cannot read /no/such/file: No such file or directory", "")),
        ("postgresql://u:x1y2@h/d", ("literal_secret", "a password must not be part of a URL in this file", "")),
        ("postgresql://u:${PASSWORD}@h/d", ("literal_secret", "a password must not be part of a URL in this file", "")),
        ("host=h password=x1y2", ("literal_secret", "a password must not be part of a URL in this file", "")),
    ],
)
def test_what_is_refused(text: str, expected: tuple[str, str, str]) -> None:
    assert refused(text) == expected


def test_a_secret_in_pass_through_options_must_be_a_reference() -> None:
    node, _ = parse("options: {sasl.password: literal, sasl.username: me, ssl.key.password: '${PASSWORD}'}")
    assert [one.path for one in resolve(node, ENVIRONMENT)] == [("options", "sasl.password")]


def test_files_lose_one_line_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"two\nlines\r\n")
    assert resolved(f"${{file:{tmp_path}/secret}}") == "two\nlines"
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert refused(f"${{file:{tmp_path}/binary}}")[0] == "unreadable_file"
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    assert refused(f"${{file:{tmp_path}/large}}")[0] == "unreadable_file"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("${NAME}", True), ("${NAME}${NAME}", True), ("x${NAME}", False), ("${NAME:-x}", False), ("${NAME:-}", True)],
)
def test_only_references_make_a_referenced_string(text: str, expected: bool) -> None:
    value = resolved(text)
    assert isinstance(value, Referenced) is expected
    assert ("value" in repr(value)) is not expected
