"""Valkey, held to the sink contract: another server behind the sink for Redis."""

from __future__ import annotations

from tests.contract.sinks.redis import RedisStore


class ValkeyStore(RedisStore):
    """One server for all tests, emptied for each."""

    fixture = "valkey_server"


STORE = ValkeyStore
