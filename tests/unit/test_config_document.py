"""YAML text to a tree in which every value knows its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.config.document import LARGEST_FILE_BYTES, Node, beneath, parse
from cdc.config.problems import Place


def tree(text: str) -> Node:
    node, problems = parse(text)
    assert problems == []
    return node


def codes(text: str) -> list[str]:
    return [problem.code for problem in parse(text)[1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# nothing", {}),
        ("a: 1\nb: 1.5\nc: true\nd: null\ne: ~\nf:", {"a": 1, "b": 1.5, "c": True, "d": None, "e": None, "f": None}),
        ("a: no\nb: on\nc: 22:22\nd: 012", {"a": "no", "b": "on", "c": "22:22", "d": 12}),  # not YAML 1.1's booleans
        ("a: 2026-01-01", {"a": "2026-01-01"}),
        ("a: '1'", {"a": "1"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("1: x\nyes: y", {"1": "x", "yes": "y"}),
        ("a: |\n  b\n  c\n", {"a": "b\nc\n"}),
    ],
)
def test_values(text: str, expected: Any) -> None:
    assert tree(text).plain() == expected


def test_places_of_keys_and_values() -> None:
    node = tree("sources:\n  db: {type: postgres, tables: [a.b, 'c.d']}\n")
    db = node.child("sources").child("db")  # type: ignore[union-attr]  # it is there
    assert db is not None
    assert (db.key, db.place) == (Place(2, 3, 2), Place(2, 7, 1))
    assert db.child("type") == Node("postgres", Place(2, 14, 8), Place(2, 8, 4))
    assert db.child("tables").child(1) == Node("c.d", Place(2, 38, 5))  # type: ignore[union-attr]  # it is there


def test_every_duplicate_is_found_and_names_the_first() -> None:
    _, problems = parse("a: 1\nb: {c: 1, c: 2}\na: 2\n")
    assert [(one.path, one.place, one.message) for one in problems] == [
        (("b", "c"), Place(2, 11), "the key is here twice (first on line 2)"),
        (("a",), Place(3, 1), "the key is here twice (first on line 1)"),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [1,", "syntax"),
        ("a: b: c", "syntax"),
        ("\ta: 1", "syntax"),
        ("a: 1\n---\nb: 1", "syntax"),
        ("a: *nobody", "syntax"),
        ("a: \x00", "syntax"),
        ("? [a, b]\n: 1", "bad_key"),
        ("a: &x {b: 1}\nc: {<<: *x}", "bad_key"),
        ("a: !!python/object/apply:os.system [ls]", "bad_value"),
        ("a: !secret x", "bad_value"),
        ("a: &a [*a]", "too_large"),
        ("[" * 5000, "too_large"),
        ("a: " + "x" * LARGEST_FILE_BYTES, "too_large"),
    ],
)
def test_what_is_refused(text: str, code: str) -> None:
    assert codes(text) == [code]


def test_an_alias_bomb_ends_early() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert codes("\n".join(lines)) == ["too_large"]


def test_defaults_lie_beneath_key_by_key_and_keep_their_places() -> None:
    base, over = tree("batch: {rows: 1, every: 1s}\nx: 1"), tree("\n\nbatch: {rows: 2}\nx: {y: 1}")
    merged = beneath(base, over)
    assert merged.plain() == {"batch": {"rows": 2, "every": "1s"}, "x": {"y": 1}}
    assert merged.child("batch").child("every").place.line == 1  # type: ignore[union-attr]  # it is there
    assert over.plain() == {"batch": {"rows": 2}, "x": {"y": 1}}


@given(st.text(max_size=60) | st.text(" \n:-[]{}&*!|>'\"#%@`a1,?", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    node, problems = parse(text)
    assert problems or node.plain() is not None or text.strip()
