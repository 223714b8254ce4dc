"""Redis and Valkey: each row as JSON text under a key of its own, for applications to ``GET``.

Beside every row, under a prefix of ours, lies its version key; one script compares it and sets both. What a late
write loses against:

- the version key. It does not expire while the row exists, whatever the row's own TTL; a deleted row's stays for
  `tombstone_ttl`. Eight days by default, a day more than a delete stays on a compacted log: a reader that still finds
  the old row there finds the delete as well.
- the floor of its partition, set by a truncate or sweep and kept for ever.
- the generation of its partition, claimed by whoever feeds it from now on: an older process is refused.

Where reading goes on is kept beside the generation, and stored once the rows are there. A server that went back to an
older state (a restart that lost the last writes) so gets them again. One that holds nothing any more has no offset
either, which is a gap and not an empty cache.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import redis
from pydantic import AfterValidator, Field
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry

from cdc import faults
from cdc.config.fields import Duration, Secret, SinkConfig
from cdc.errors import (
    CdcError,
    ConfigurationError,
    FencedError,
    GapError,
    PermanentError,
    TransientError,
    UnreachableError,
)
from cdc.findings import Finding, Severity
from cdc.log import TopicPartition
from cdc.sink import ANEW, Batch, Rejected, Row, Sink, StoredOffset, accepted
from cdc.tls import trusting
from schemas.table import TableSchema
from sinks import _redis_scripts as scripts
from sinks._key_template import KeyTemplate, Naming
from sinks._rows import merged
from sinks._url import server_url

ROWS_PER_CALL: Final = 200
BYTES_PER_CALL: Final = 1 << 20
"""A script blocks the server while it runs and may pass `maxmemory` by what it brings, so one call brings little."""
CONNECT_SECONDS: Final = 5.0
REPLY_SECONDS: Final = 30.0
SCAN_COUNT: Final = 1000
SIZE_LIMIT: Final = "proto-max-bulk-len"

_GLOB: Final = re.compile(rb"[*?\[\]\\]")
_LATER: Final = {
    "BUSY": "is busy with a script that does not end",
    "CLUSTERDOWN": "is a cluster that is down",
    "LOADING": "is still loading its files",
    "MASTERDOWN": "is a replica that lost its master",
    "MISCONF": "cannot save to its disk and takes no writes",
    "NOREPLICAS": "has too few replicas and takes no writes",
    "NOSCRIPT": "forgot its scripts between two calls",
    "OOM": "has no memory left for new rows (maxmemory); deletes still go through",
    "READONLY": "is a replica and takes no writes",
    "TRYAGAIN": "asks to try again",
}
"""Error codes that pass by themselves or by an operator's hand, without a change to the sink."""


class RedisConfig(SinkConfig):
    """Configuration of a Redis or Valkey sink."""

    url: Annotated[str, server_url("redis", "rediss")] = Field(examples=["redis://localhost:6379/0"])
    """``redis://host:port/database``; ``rediss://…`` with TLS."""
    username: str | None = None
    """The user; unset: the default one."""
    password: Secret | None = None
    """The user's password."""
    ca: Path | None = None
    """Certificates to trust besides the system's, PEM."""
    key: Annotated[str, AfterValidator(lambda text: KeyTemplate(text).text)] = "{table}:{pk}"
    """Key of a row: ``{schema}``, ``{table}``, ``{pk}`` (all key columns) or single key columns by name."""
    ttl: Annotated[Duration, Field(ge=0.001)] | None = None
    """How long a row that does not change stays in the cache. Unset: as long as it is in the database."""
    tombstone_ttl: Annotated[Duration, Field(gt=0)] = 8 * 86400.0
    """How long the version of a deleted row is kept: longer than any replay of older rows can take."""
    prefix: Annotated[str, Field(min_length=1)] = "_cdc:"
    """What the sink's own keys begin with."""


@dataclass(slots=True)
class _Call:
    """What one call of the upsert script brings: two keys and two values per row."""

    keys: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    size: int = 0


class _Partial(NamedTuple):
    """A partial row that waits to be completed from what the store holds."""

    batch: Batch
    row: Row
    schema: TableSchema
    version_key: bytes
    key: bytes


class RedisSink(Sink):
    """Rows as JSON text in Redis or Valkey; the module's description says what is promised, and how."""

    Config = RedisConfig
    owns_offsets = True

    def __init__(self, name: str, config: SinkConfig, pipeline: str) -> None:
        assert isinstance(config, RedisConfig)
        url = urlsplit(config.url)
        port, database = url.port or 6379, url.path.strip("/") or "0"
        if not database.isdecimal():
            raise ConfigurationError(f"sink {name}: {database!r} at the end of url is not the number of a database")
        self._config = config
        self._where = f"sink {name}: the server at {url.hostname}:{port}"
        self._owner = f"{pipeline}:{name}"
        self._own = f"{config.prefix}{self._owner}:".encode()
        self._partitions = self._own + b"partitions"
        self._generations: dict[TopicPartition, int] = {}
        self._stored: dict[TopicPartition, int] = {}
        self._largest = 512 << 20
        self._template = KeyTemplate(config.key)
        self._namings: dict[tuple[str, bytes], Naming] = {}
        self._client = redis.Redis(
            host=url.hostname or "",
            port=port,
            db=int(database),
            username=config.username,
            password=config.password.get_secret_value() if config.password else None,
            ssl=url.scheme == "rediss",
            ssl_ca_certs=str(config.ca) if config.ca else None,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=REPLY_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._upsert = self._client.register_script(scripts.UPSERT)
        self._delete = self._client.register_script(scripts.DELETE)
        self._raise_floor = self._client.register_script(scripts.RAISE_FLOOR)
        self._store = self._client.register_script(scripts.STORE)

    def check(self) -> list[Finding]:
        """Look whether the server can be reached and fits. Raises UnreachableError, PermanentError."""
        trusting(self._config.ca, self._where)
        with self._border(UnreachableError):
            server: dict[str, Any] = self._client.info()
        version = server.get("valkey_version") or server.get("redis_version")
        findings = [Finding("server", Severity.OK, f"{self._where} answers (version {version})")]
        if server.get("cluster_enabled"):
            findings.append(
                Finding(
                    "cluster",
                    Severity.ERROR,
                    f"{self._where} is a Redis Cluster, where one script cannot reach a row and its version",
                    "point url at a server that is not part of a cluster",
                )
            )
        policy = str(server.get("maxmemory_policy"))
        if server.get("maxmemory") and policy.startswith("allkeys"):
            findings.append(
                Finding(
                    "maxmemory-policy",
                    Severity.ERROR,
                    f"{self._where} may evict versions ({policy}), and a row without one would outlive its delete",
                    "CONFIG SET maxmemory-policy volatile-lru, and give the sink a ttl",
                )
            )
        return findings

    def open(self) -> None:
        """Connect and look whether the server fits. Raises UnreachableError, PermanentError."""
        for finding in self.check():
            if finding.severity is Severity.ERROR:
                raise PermanentError(finding.message, hint=finding.fix)
        # Not everyone may ask; the server's own default is assumed then.
        with self._border(UnreachableError), suppress(redis.ResponseError):
            self._largest = int(self._client.config_get(SIZE_LIMIT)[SIZE_LIMIT] or 0)

    def claim(self, partitions: Collection[TopicPartition]) -> None:
        """Raise the generation of each partition."""
        if not partitions:
            return
        with self._border(TransientError):
            drawn: Any = self._client.eval(scripts.CLAIM, 1, self._partitions, *map(_field, partitions))
        self._generations.update(zip(partitions, drawn, strict=True))
        self._stored.update(dict.fromkeys(partitions, 0))

    def offsets(self) -> Mapping[TopicPartition, StoredOffset]:
        """Where reading goes on, per partition that was ever started."""
        with self._border(TransientError):
            kept: Any = self._client.hgetall(self._partitions)
        found: dict[TopicPartition, StoredOffset] = {}
        for name, value in kept.items():
            topic, number = name.decode().rsplit(":", 1)
            _, offset, topic_id = value.decode().split(" ", 2)
            if topic_id:
                found[TopicPartition(topic, int(number))] = StoredOffset(int(offset), topic_id)
        return found

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        """Apply `batches`, as the contract says. Raises GapError when the server lost what it held."""
        rejected: list[Rejected] = []
        partial: list[_Partial] = []
        with self._border(TransientError):
            calls = self._client.pipeline(transaction=False)
            for batch in batches:
                if batch.floor:
                    self._sweep(batch)
                deleted = [row for row in batch.rows if row.after is None]
                keys = [self._version_key(batch, row.key) for row in deleted]
                self._queue_deletes(calls, batch, keys, [_digits(row.version) for row in deleted])
                partial += self._queue_rows(calls, batch, rejected)
            self._run(calls)
            while partial:
                partial = self._complete(partial)
            faults.reach("sink.between_rows_and_offsets")
            self._store_offsets(accepted(batches, rejected), topic_ids)
        return rejected

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _store_offsets(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> None:
        """Store where reading goes on: the rows before it are there."""
        calls = self._client.pipeline(transaction=False)
        for batch in batches:
            arguments = [*self._claimed(batch), batch.next_offset, topic_ids[batch.topic]]
            self._store(self._guard_keys(batch), arguments, client=calls)
        self._run(calls)
        self._stored.update({TopicPartition(batch.topic, batch.partition): batch.next_offset for batch in batches})

    def _sweep(self, batch: Batch) -> None:
        """Raise the partition's floor, then delete what lies below: what comes late loses in either case."""
        floor = _digits(batch.floor)
        calls = self._client.pipeline(transaction=False)
        self._raise_floor(self._guard_keys(batch), [*self._claimed(batch), floor], client=calls)
        self._run(calls)
        pattern = _GLOB.sub(rb"\\\g<0>", self._version_key(batch, b"")) + b"*"
        cursor: Any = None
        while cursor != 0:
            found: Any = self._client.scan(cursor or 0, match=pattern, count=SCAN_COUNT)
            cursor, keys = found
            self._queue_deletes(calls, batch, keys, [floor] * len(keys))
            self._run(calls)

    def _queue_deletes(self, calls: Pipeline, batch: Batch, keys: list[bytes], versions: list[bytes]) -> None:
        guard = self._guard_keys(batch)
        head = [*self._claimed(batch), _milliseconds(self._config.tombstone_ttl)]
        for start in range(0, len(keys), ROWS_PER_CALL):
            part = slice(start, start + ROWS_PER_CALL)
            self._delete([*guard, *keys[part]], [*head, *versions[part]], client=calls)

    def _queue_rows(self, calls: Pipeline, batch: Batch, rejected: list[Rejected]) -> list[_Partial]:
        """Queue the complete rows in calls of bounded size; returns the partial ones, adds to `rejected`."""
        partial: list[_Partial] = []
        prefix = self._version_key(batch, b"")
        call = _Call()
        schema: TableSchema | None = None
        for row in batch.rows:
            if row.after is None:
                continue
            if schema is None or row.schema is not schema:
                assert row.schema is not None, "a row that is no delete has a schema"
                schema, naming = row.schema, self._naming(batch.topic, row.schema)
            try:
                key = naming(row.key).encode()
                version_key = prefix + row.key
                if max(len(row.after), len(key), len(version_key)) > self._largest:
                    raise ValueError(f"its key or value is longer than the {self._largest} bytes that the server takes")
            except (KeyError, msgspec.DecodeError):
                reason = f"its record key lacks a key column of {schema.table}"
                rejected.append(Rejected(batch.topic, batch.partition, row.offset, row.key, reason))
            except ValueError as error:
                rejected.append(Rejected(batch.topic, batch.partition, row.offset, row.key, str(error)))
            else:
                if row.partial:
                    partial.append(_Partial(batch, row, schema, version_key, key))
                    continue
                call.keys += version_key, key
                call.values += b"%020d" % row.version, row.after
                call.size += len(row.after)
                if len(call.keys) >= 2 * ROWS_PER_CALL or call.size >= BYTES_PER_CALL:
                    self._queue(calls, batch, call)
                    call = _Call()
        self._queue(calls, batch, call)
        return partial

    def _queue(self, calls: Pipeline, batch: Batch, call: _Call) -> None:
        if call.keys:
            head = [*self._claimed(batch), _milliseconds(self._config.ttl or 0)]
            self._upsert([*self._guard_keys(batch), *call.keys], [*head, *call.values], client=calls)

    def _complete(self, partial: Sequence[_Partial]) -> list[_Partial]:
        """Complete partial rows from what the store holds, provided that it still holds that; returns the others."""
        again: list[_Partial] = []
        for start in range(0, len(partial), ROWS_PER_CALL):
            part = partial[start : start + ROWS_PER_CALL]
            stored: Any = self._client.mget([one.version_key for one in part])
            values: Any = self._client.mget([one.key for one in part])
            calls = self._client.pipeline(transaction=False)
            for one, version, value in zip(part, stored, values, strict=True):
                call = _Call([one.version_key, one.key], [b"%020d%b" % (one.row.version, _base(version)), b""])
                if not _is_row(version):
                    call.values[1] = one.row.after or b""
                elif value is not None:
                    call.values[1] = merged(value, one.row.after or b"", one.schema.by_name)
                # else the row is known but its value is gone (a TTL, an eviction): half a row would be worse than none
                self._queue(calls, one.batch, call)
            replies = self._run(calls)
            again += [one for one, stale in zip(part, replies, strict=True) if stale]
        return again

    def _naming(self, topic: str, schema: TableSchema) -> Naming:
        """What names the rows of this table; claims the names for it, so that no two tables ever share them."""
        naming = self._namings.get((topic, schema.id))
        if naming is None:
            try:
                naming = self._template.bind(schema, reserved=self._config.prefix)
            except ValueError as error:
                naming = _refusing(str(error))
            else:
                self._claim_names(topic, self._template.shape(schema))
            self._namings[topic, schema.id] = naming
        return naming

    def _claim_names(self, topic: str, shape: str) -> None:
        claim, owner = f"{self._config.prefix}names:{shape}", f"{self._owner}:{topic}"
        self._client.set(claim, owner, nx=True)
        stored: Any = self._client.get(claim)
        held = stored.decode()
        if held != owner:
            raise PermanentError(
                f"{self._where}: keys of the form {shape} belong to {held} (pipeline:sink:topic), {owner} would mix in",
                hint=f"make the sink's key template tell them apart, or, if {held} is gone for good: DEL {claim}",
            )

    def _version_key(self, batch: Batch, key: bytes) -> bytes:
        return b"%bv:%b:%d:%b" % (self._own, batch.topic.encode(), batch.partition, key)

    def _claimed(self, batch: Batch) -> list[bytes | str | int]:
        """What the guard of each script compares."""
        place = TopicPartition(batch.topic, batch.partition)
        return [_field(place), self._generations[place], self._stored[place]]

    def _guard_keys(self, batch: Batch) -> tuple[bytes, bytes]:
        return self._partitions, b"%bf:%b:%d" % (self._own, batch.topic.encode(), batch.partition)

    def _run(self, calls: Pipeline) -> list[Any]:
        """Send what is queued; all of it is tried before the first error is raised."""
        replies: list[Any] = calls.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, redis.RedisError):
                raise reply
        return replies

    @contextmanager
    def _border(self, unreachable: type[TransientError]) -> Iterator[None]:
        """Turn the client library's errors into ours."""
        try:
            yield
        except redis.RedisError as error:
            raise self._wrapped(error, unreachable) from error

    def _lost(self) -> GapError:
        return GapError(
            f"{self._where} no longer holds what was written (FLUSHALL, a restart without persistence, a failover)",
            hint=ANEW,
        )

    def _wrapped(self, error: redis.RedisError, unreachable: type[TransientError]) -> CdcError:
        code = str(getattr(error, "status_code", "") or str(error).partition(" ")[0])
        if code == scripts.FENCED:
            return FencedError(f"{self._where}: another process of this sink took a partition over")
        if code == scripts.LOST:
            return self._lost()
        if code in _LATER:
            return TransientError(f"{self._where} {_LATER[code]}")
        if isinstance(error, redis.AuthenticationError):
            return unreachable(f"{self._where} refuses the credentials", hint="check username and password")
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return unreachable(
                f"{self._where} could not prove who it is: its certificate is not trusted, or not for this host",
                hint="name the file with its authority's certificate in ca",
            )
        if isinstance(error, redis.ConnectionError | redis.TimeoutError):
            return unreachable(f"{self._where} does not answer ({type(error).__name__})")
        if isinstance(error, redis.exceptions.NoPermissionError):
            return PermanentError(
                f"{self._where} does not let the sink's user do what it has to",
                hint="ACL SETUSER … ~* +@read +@write +@scripting +@connection +info +config|get",
            )
        return PermanentError(f"{self._where} refuses the sink's commands ({code})")


def _field(place: TopicPartition) -> str:
    return f"{place.topic}:{place.partition}"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _digits(version: int) -> bytes:
    return b"%020d" % version


def _base(stored: bytes | None) -> bytes:
    """The version that a version key holds."""
    return stored[:20] if stored else scripts.NOTHING


def _is_row(stored: bytes | None) -> bool:
    """Whether a version key stands for a row that exists."""
    return stored is not None and stored[20:21] == b"r"


def _refusing(reason: str) -> Naming:
    def refuse(_: bytes) -> str:
        raise ValueError(reason)

    return refuse


SINK = RedisSink
