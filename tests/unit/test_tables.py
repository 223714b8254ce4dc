"""Patterns of table names."""

from __future__ import annotations

import pytest

from cdc.tables import selected


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
    assert selected(name, patterns) is expected
