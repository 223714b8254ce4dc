"""What the configuration of a store accepts, and what must never get into a message."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import SecretStr, ValidationError

from cdc.config.fields import SinkConfig
from cdc.errors import ConfigurationError
from sinks._rows import merged
from sinks.opensearch import OpenSearchConfig
from sinks.redis import RedisConfig, RedisSink

REDIS, SEARCH = "redis://cache:6379/0", "https://search:9200"


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (RedisConfig, {"url": "redis://user:canary@cache:6379/0"}),
        (RedisConfig, {"url": "redis://:canary@cache/0"}),
        (RedisConfig, {"url": "rediss://cache/0?ssl_cert_reqs=none"}),
        (RedisConfig, {"url": "http://cache"}),
        (RedisConfig, {"url": "redis://"}),
        (RedisConfig, {"url": "redis://cache:port"}),
        (RedisConfig, {"url": REDIS, "key": "{table"}),
        (RedisConfig, {"url": REDIS, "prefix": ""}),
        (RedisConfig, {"url": REDIS, "ttl": "0s"}),
        (OpenSearchConfig, {"url": "https://user:canary@search"}),
        (OpenSearchConfig, {"url": SEARCH, "username": "canary"}),
        (OpenSearchConfig, {"url": SEARCH, "username": "u", "password": "canary", "api_key": "canary"}),
        (OpenSearchConfig, {"url": SEARCH, "shards": 0}),
        (OpenSearchConfig, {"url": SEARCH, "index": "{topic}"}),
        (OpenSearchConfig, {"url": SEARCH, "index": "{table.__class__}"}),
        (OpenSearchConfig, {"url": SEARCH, "index": "{table"}),
    ],
)
def test_configuration_that_cannot_work(model: type[SinkConfig], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        model(type="x", **fields)
    assert "canary" not in str(caught.value)


def test_what_only_the_sink_can_see() -> None:
    with pytest.raises(ConfigurationError, match="number of a database"):
        RedisSink("cache", RedisConfig(type="redis", url="redis://cache/customers"), "shop")


def test_secrets_are_not_shown() -> None:
    for config in (
        RedisConfig(type="redis", url=REDIS, password=SecretStr("canary")),
        OpenSearchConfig(type="opensearch", url=SEARCH, api_key=SecretStr("canary")),
    ):
        assert "canary" not in repr(config) + str(config)


def test_partial_row_is_completed_digit_by_digit() -> None:
    names = ("id", "big", "price", "note")
    held = b'{"_cdc_version":5,"id":1,"big":123456789012345678901,"price":1.10,"dropped":1,"note":"old"}'
    assert (
        merged(held, b'{"id":1,"note":null}', names) == b'{"id":1,"big":123456789012345678901,"price":1.10,"note":null}'
    )
    assert merged(None, b'{"id":1}', names) == b'{"id":1}'
    with pytest.raises(msgspec.DecodeError):
        merged(b"not a row", b'{"id":1}', names)
