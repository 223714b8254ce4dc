"""What all clients of the Kafka log share: configuration, connection settings, and what an error means."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final, Literal

from confluent_kafka import KafkaError, KafkaException
from pydantic import Field, field_validator

from cdc.config.fields import Model, Secret
from cdc.errors import (
    CdcError,
    FencedError,
    PermanentError,
    RebalancingError,
    TransientError,
    UnreachableError,
)
from cdc.log import LogConfig, TopicsConfig

CALL_SECONDS: Final = 10.0
"""Patience with one request that is not part of a writer's sliced calls."""
CONSUMER_QUEUE_KIB: Final = 8 << 10
PRODUCER_QUEUE_KIB: Final = 16 << 10
"""What a client may hold in its queue."""
MAX_RECORD_BYTES: Final = 16_000_000
"""The largest record, key and headers included; topics are created so that they take it."""

_ANY: Final = {
    "broker.address.family",
    "client.dns.lookup",
    "client.rack",
    "connections.max.idle.ms",
    "debug",
    "metadata.max.age.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "socket.keepalive.enable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.cipher.suites",
    "ssl.crl.location",
    "ssl.key.password",
}
_PRODUCER: Final = {"batch.size", "compression.level", "compression.type", "linger.ms", "transaction.timeout.ms"}
_CONSUMER: Final = {
    "fetch.max.bytes",
    "fetch.wait.max.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "session.timeout.ms",
}


class TlsConfig(Model):
    """``log.tls``: encrypt, and verify the broker's certificate and name. ``{}`` trusts the system's authorities."""

    ca: Path | None = None
    """PEM file of the authorities to trust instead of the system's."""
    cert: Path | None = None
    """PEM file of the client's certificate."""
    key: Path | None = None
    """PEM file of the client's private key."""


class SaslConfig(Model):
    """``log.sasl``: who we are."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How the brokers ask for it."""
    username: str
    """The user."""
    password: Secret
    """The user's password."""


class KafkaTopicsConfig(TopicsConfig):
    """``log.topics`` of the Kafka log."""

    replicas: int | None = Field(default=None, gt=0)
    """Copies of each partition; unset: 3, or the number of brokers when there are fewer."""
    create: bool = True
    """False: somebody else creates the topics; what is missing is an error."""


class KafkaConfig(LogConfig):
    """``log: {type: kafka, bootstrap: "host:9092"}``."""

    type: Literal["kafka"] = "kafka"
    bootstrap: str
    """``host:port`` of some brokers, separated by commas."""
    tls: TlsConfig | None = None
    sasl: SaslConfig | None = None
    topics: KafkaTopicsConfig = KafkaTopicsConfig()
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """librdkafka properties, by librdkafka's names: those that tune; what correctness rests on cannot be changed."""

    @field_validator("options")
    @classmethod
    def _allowed(cls, options: dict[str, Any]) -> dict[str, Any]:
        allowed = _ANY | _PRODUCER | _CONSUMER
        if refused := sorted(options.keys() - allowed):
            raise ValueError(f"{refused[0]!r} cannot be set here; allowed: {', '.join(sorted(allowed))}")
        return options


def _common(config: KafkaConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "bootstrap.servers": config.bootstrap,
        "client.id": "cdc",
        # The client calls every failed connection an error; what matters comes to us as one, and is told once.
        "logger": logging.getLogger("cdc.log.kafka"),
        "log_level": 7 if "debug" in config.options else 2,
        "security.protocol": ("SASL_" if config.sasl else "") + ("SSL" if config.tls else "PLAINTEXT"),
        "socket.timeout.ms": 10_000,
        "reconnect.backoff.max.ms": 1_000,
    }
    if config.tls is not None:
        files = {"ssl.ca.location": "ca", "ssl.certificate.location": "cert", "ssl.key.location": "key"}
        settings |= {name: str(path) for name, field in files.items() if (path := getattr(config.tls, field))}
        settings |= {"enable.ssl.certificate.verification": True, "ssl.endpoint.identification.algorithm": "https"}
    if config.sasl is not None:
        settings |= {
            "sasl.mechanism": config.sasl.mechanism,
            "sasl.username": config.sasl.username,
            "sasl.password": config.sasl.password.get_secret_value(),
        }
    return settings


def admin_settings(config: KafkaConfig) -> dict[str, Any]:
    """Settings of an AdminClient."""
    return _common(config) | _options(config, _ANY)


def producer_settings(config: KafkaConfig) -> dict[str, Any]:
    """Settings of a Producer: keys to partitions as Java clients do it, a bounded queue, few large batches."""
    return {
        **_common(config),
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "compression.type": "lz4",
        "linger.ms": 5,
        "batch.size": 1 << 18,
        "batch.num.messages": 100_000,
        "message.max.bytes": MAX_RECORD_BYTES,
        "queue.buffering.max.kbytes": PRODUCER_QUEUE_KIB,
        "queue.buffering.max.messages": 100_000,
        **_options(config, _ANY | _PRODUCER),
    }


def consumer_settings(config: KafkaConfig) -> dict[str, Any]:
    """Settings of a Consumer: committed records only, no offset of its own invention, bounded queue.

    ``fetch.queue.backoff.ms``: with the default a full queue stops fetching for a second. ``session.timeout.ms``: so
    long the partitions of a worker that was killed wait for another.
    """
    return {
        **_common(config),
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "queued.max.messages.kbytes": CONSUMER_QUEUE_KIB,
        "fetch.queue.backoff.ms": 2,
        "session.timeout.ms": 10_000,
        "fetch.max.bytes": CONSUMER_QUEUE_KIB << 10,
        "receive.message.max.bytes": 100_000_000,
        "topic.metadata.refresh.interval.ms": 10_000,
        **_options(config, _ANY | _CONSUMER),
    }


def _options(config: KafkaConfig, known: set[str]) -> dict[str, Any]:
    return {name: value for name, value in config.options.items() if name in known}


class LeaderlessError(TransientError):
    """A partition is between two leaders: created or moved a moment ago."""


_LEADERLESS: Final = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.KAFKA_STORAGE_ERROR,
}
_FENCED: Final = {
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID,
}
_REBALANCING: Final = {KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION}
"""The second: the group has moved on, and this member has not polled since."""
_UNREACHABLE: Final = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError._WAIT_COORD,
}
_REFUSED: Final = {
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
_BUSY: Final = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.CONCURRENT_TRANSACTIONS,
}
_TOO_LARGE: Final = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}


def error_of(raised: KafkaException) -> KafkaError:
    """The KafkaError in `raised`."""
    error: KafkaError = raised.args[0]
    return error


def explained(error: KafkaError, doing: str, *, otherwise: type[CdcError] = PermanentError) -> CdcError:
    """`error` as one of our own; `doing` completes "Kafka: … failed"."""
    code = error.code()
    message = f"Kafka: {doing} failed: {error.str()}"
    if code in _FENCED:
        return FencedError(message, hint="another process has taken over; run each source and each sink's role once")
    if code in _REBALANCING:
        return RebalancingError(message, hint="it is tried again")
    if code in _REFUSED:
        return PermanentError(message, hint="check log.tls, log.sasl and the rights that this user has in Kafka")
    if code in _TOO_LARGE:
        return PermanentError(message, hint="raise max.message.bytes of the topic, or leave the column out")
    if code in _UNREACHABLE:
        return UnreachableError(message, hint="check log.bootstrap and whether the brokers are up")
    if code in _LEADERLESS:
        return LeaderlessError(message, hint="look at the brokers' health; it is tried again")
    if error.retriable() or code in _BUSY:
        return TransientError(message, hint="it is tried again")
    return otherwise(message)
