"""Names of topics."""

from __future__ import annotations

import pytest

from cdc.errors import ConfigurationError
from cdc.log import topic_name

TEMPLATE = "{pipeline}.{schema}.{table}"


def test_what_kafka_does_not_allow_is_replaced() -> None:
    name = topic_name(TEMPLATE, pipeline="shop", source="db", schema="Odd Names", table='D"öcs')
    assert name == "shop.Odd_Names.D__cs"


def test_too_long_a_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="249"):
        topic_name(TEMPLATE, pipeline="p" * 200, source="db", schema="s" * 63, table="t")
