"""What topics are set to, and what is the matter with one that is set otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from confluent_kafka.admin import NewTopic

from cdc.findings import Finding, Severity
from cdc.log import DELETE_RETENTION_SECONDS, Cleanup, Expire
from cdc.log._kafka_client import MAX_RECORD_BYTES
from cdc.log._kafka_tables import FRESH_SECONDS

UNLIMITED: Final = "-1"
SAFE_REPLICAS: Final = 3
"""From so many copies on two of them must have a record before it counts: one broker may be lost, another down."""
DEFAULTS: Final = {
    "cleanup.policy": "delete",
    "delete.retention.ms": "86400000",
    "max.message.bytes": "1048588",
    "min.compaction.lag.ms": "0",
    "min.insync.replicas": "1",
    "retention.bytes": UNLIMITED,
    "retention.ms": "604800000",
    "unclean.leader.election.enable": "false",
}
"""Kafka's own, for brokers that do not tell all of theirs."""
_DAY_MS: Final = 86_400_000
_SIZE: Final = {"max.message.bytes": str(MAX_RECORD_BYTES + (1 << 20))}
INTERNAL: Final = _SIZE | {
    "cleanup.policy": "compact",
    "delete.retention.ms": str(round(2 * FRESH_SECONDS * 1000)),  # else a day's tombstones are read at each start
    "segment.bytes": str(16 << 20),
    "min.cleanable.dirty.ratio": "0.1",
}
"""Settings of an internal topic, of which only the last value of each key counts."""


def settings(cleanup: Cleanup, replicas: int) -> dict[str, str]:
    """What a new data topic of so many copies is set to."""
    made = dict(_SIZE)
    if replicas >= SAFE_REPLICAS:
        made["min.insync.replicas"] = "2"
    if isinstance(cleanup, Expire):
        return made | {"cleanup.policy": "delete", "retention.ms": str(round(cleanup.expire * 1000))}
    if cleanup == "keep":
        return made | {"cleanup.policy": "delete", "retention.ms": UNLIMITED, "retention.bytes": UNLIMITED}
    return made | {"cleanup.policy": "compact", "delete.retention.ms": str(DELETE_RETENTION_SECONDS * 1000)}


def delete_retention(found: Mapping[str, str]) -> float:
    """For how many seconds a topic of these settings keeps deletes; infinite without compaction."""
    return int(found["delete.retention.ms"]) / 1000 if "compact" in found["cleanup.policy"] else float("inf")


class Examiner:
    """Compares topics with what the pipeline needs. An error loses records, a warning does so under conditions."""

    def __init__(self, cleanup: Cleanup, bootstrap: str) -> None:
        self._cleanup = cleanup
        self._bootstrap = bootstrap

    def topic(self, name: str, replicas: int, found: Mapping[str, str]) -> Iterator[Finding]:
        """The findings of a data topic that has these settings."""
        wanted = settings(self._cleanup, replicas)
        yield from self._policy(name, found, wanted)
        yield from self._size(name, found)
        if replicas >= SAFE_REPLICAS and int(found["min.insync.replicas"]) < 2:
            yield self._finding(
                name,
                Severity.WARNING,
                f"takes a record for stored when one of its {replicas} copies has it: losing that broker loses it",
                {"min.insync.replicas": "2"},
            )
        if replicas > 1 and found["unclean.leader.election.enable"] == "true":
            yield self._finding(
                name,
                Severity.WARNING,
                "may be led by a broker that lacks records which were acknowledged already",
                {"unclean.leader.election.enable": "false"},
            )

    def internal(self, name: str, found: Mapping[str, str]) -> Iterator[Finding]:
        """The findings of an internal topic."""
        if found["cleanup.policy"] != "compact":
            yield self._finding(
                name,
                Severity.ERROR,
                f"has cleanup.policy={found['cleanup.policy']}: what it holds would go with age",
                {"cleanup.policy": "compact"},
            )
        yield from self._size(name, found)

    def _policy(self, name: str, found: Mapping[str, str], wanted: dict[str, str]) -> Iterator[Finding]:
        policy = found["cleanup.policy"]
        limited = "delete" in policy and (found["retention.ms"], found["retention.bytes"]) != (UNLIMITED, UNLIMITED)
        fix = {key: wanted[key] for key in wanted if key not in _SIZE and key != "min.insync.replicas"}
        is_set = f"has cleanup.policy={policy}, retention.ms={found['retention.ms']}"
        if isinstance(self._cleanup, Expire):
            if policy != "delete" or found["retention.ms"] != wanted["retention.ms"]:
                promised = _days(wanted["retention.ms"])
                why = f"{is_set}, while log.topics.cleanup lets records go after {promised}, no sooner and no later"
                yield self._finding(name, Severity.WARNING, why, fix)
        elif limited:
            if found["retention.bytes"] != UNLIMITED:
                is_set += f", retention.bytes={found['retention.bytes']}"
            why = f"{is_set}: rows that do not change for so long are lost, log.topics.cleanup says {self._cleanup}"
            yield self._finding(name, Severity.ERROR, why, fix)
        elif self._cleanup == "keep" and "compact" in policy:
            why = f"has cleanup.policy={policy}: superseded records go, log.topics.cleanup says keep"
            yield self._finding(name, Severity.ERROR, why, fix)
        elif self._cleanup == "compact" and "compact" not in policy:
            why = f"{is_set}: it grows for ever, log.topics.cleanup says compact"
            yield self._finding(name, Severity.WARNING, why, fix)
        elif self._cleanup == "compact":
            yield from self._compaction(name, found, wanted)

    def _compaction(self, name: str, found: Mapping[str, str], wanted: dict[str, str]) -> Iterator[Finding]:
        kept, lag = found["delete.retention.ms"], found["min.compaction.lag.ms"]
        if int(kept) < int(wanted["delete.retention.ms"]):
            yield self._finding(
                name,
                Severity.WARNING,
                f"keeps deletes for {_days(kept)}: a sink that was away for longer must be filled anew",
                {"delete.retention.ms": wanted["delete.retention.ms"]},
            )
        if int(lag) > int(wanted["delete.retention.ms"]):
            yield self._finding(
                name,
                Severity.WARNING,
                f"has min.compaction.lag.ms={lag}: superseded records stay for {_days(lag)} at least",
                {"min.compaction.lag.ms": "0"},
            )

    def _size(self, name: str, found: Mapping[str, str]) -> Iterator[Finding]:
        if int(found["max.message.bytes"]) < MAX_RECORD_BYTES:
            yield self._finding(
                name,
                Severity.WARNING,
                f"takes records of up to {found['max.message.bytes']} bytes only: a larger row stops its source",
                _SIZE,
            )

    def _finding(self, name: str, severity: Severity, message: str, settings: Mapping[str, str]) -> Finding:
        changed = ",".join(f"{key}={value}" for key, value in settings.items())
        command = (
            f"kafka-configs.sh --bootstrap-server {self._bootstrap} --alter --entity-type topics --entity-name {name} "
            f"--add-config {changed}"
        )
        return Finding("log.topic", severity, f"topic {name} {message}", command)


def creation(topic: NewTopic, bootstrap: str) -> str:
    """The command that creates `topic`."""
    configured = "".join(f" --config {key}={value}" for key, value in topic.config.items())
    return (
        f"kafka-topics.sh --bootstrap-server {bootstrap} --create --topic {topic.topic} "
        f"--partitions {topic.num_partitions} --replication-factor {topic.replication_factor}{configured}"
    )


def _days(milliseconds: str) -> str:
    return f"{int(milliseconds) / _DAY_MS:.3g} days"
