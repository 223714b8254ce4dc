"""Patterns of table names."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.config.patterns import meet, selects


@pytest.mark.parametrize(
    ("name", "patterns", "expected"),
    [
        ("public.orders", ["*"], True),
        ("public.orders", ["public.*"], True),
        ("public.orders", ["sales.*"], False),
        ("public.orders", ["public.order_items"], False),
        ("public.orders", ["sales.*", "*.orders"], True),
        ("public.orders", ["public.*", "!public.orders"], False),
        ("public.orders", ["!public.orders", "public.*"], False),
        ("public.orders", ["!public.secrets"], True),
        ("public.secrets", ["!public.secrets"], False),
        ("public.Orders", ["public.orders"], False),
        ("public.orders", [], False),
    ],
)
def test_a_table_passes_one_pattern_and_no_exclusion(name: str, patterns: list[str], expected: bool) -> None:
    assert selects(patterns, name) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("public.orders", "public.orders", True),
        ("public.*", "public.orders", True),
        ("*", "a.b", True),
        ("public.a*", "public.*b", True),
        ("public.a*", "public.b*", False),
        ("a?c", "ab", False),
        ("a?c", "ab*", True),
        ("a[bc]d", "a?d", True),
        ("a[bc]d", "axd", False),
        ("a[!b]d", "abd", False),
        ("", "*", True),
        ("", "?", False),
    ],
)
def test_patterns_meet_when_a_name_could_match_both(one: str, other: str, expected: bool) -> None:
    assert meet(one, other) is expected
    assert meet(other, one) is expected


LETTERS = st.text("ab", max_size=4)
PATTERNS = st.text("ab*?", max_size=5)


@given(PATTERNS, PATTERNS, LETTERS)
def test_no_meeting_is_missed(one: str, other: str, name: str) -> None:
    if fnmatchcase(name, one) and fnmatchcase(name, other):
        assert meet(one, other)


@given(PATTERNS, LETTERS)
def test_a_literal_meets_what_matches_it(pattern: str, name: str) -> None:
    assert meet(pattern, name) is bool(re.fullmatch(pattern.replace("*", ".*").replace("?", "."), name))
