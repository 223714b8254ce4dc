"""What is found in a topic's settings: which matter, how much, and the command that mends them."""

from __future__ import annotations

from typing import Any

import pytest

from cdc.findings import Severity
from cdc.log import Cleanup, Expire
from cdc.log._kafka_settings import DEFAULTS, Examiner, delete_retention, settings

WEEK: Cleanup = Expire(expire="7d")  # type: ignore[arg-type]  # as in the file


def examined(cleanup: Cleanup, changed: dict[str, str], replicas: int = 3) -> list[tuple[Severity, str, str]]:
    """Severity, message and settings to change of each finding on a topic of ours that somebody changed."""
    found = DEFAULTS | settings(cleanup, replicas) | changed
    findings = list(Examiner(cleanup, "kafka:9092").topic("shop.public.orders", replicas, found))
    command = (
        "kafka-configs.sh --bootstrap-server kafka:9092 --alter --entity-type topics --entity-name shop.public.orders "
        "--add-config "
    )
    assert all(one.fix.startswith(command) for one in findings)
    return [(one.severity, one.message, one.fix.removeprefix(command)) for one in findings]


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("cleanup", ["compact", "keep", WEEK])
def test_what_we_create_is_in_order(cleanup: Any, replicas: int) -> None:
    assert examined(cleanup, {}, replicas) == []


COMPACT = "cleanup.policy=compact,delete.retention.ms=604800000"
KEEP = "cleanup.policy=delete,retention.ms=-1,retention.bytes=-1"


@pytest.mark.parametrize(
    ("cleanup", "changed", "severity", "says", "fix"),
    [
        ("compact", {"cleanup.policy": "delete"}, "error", "rows that do not change for so long are lost", COMPACT),
        ("compact", {"cleanup.policy": "compact,delete"}, "error", "retention.ms=604800000", COMPACT),
        (
            "compact",
            {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "1000"},
            "error",
            "retention.bytes=1000",
            COMPACT,
        ),
        ("compact", {"cleanup.policy": "delete", "retention.ms": "-1"}, "warning", "grows for ever", COMPACT),
        ("compact", {"delete.retention.ms": "86400000"}, "warning", "for 1 days", "delete.retention.ms=604800000"),
        ("compact", {"min.compaction.lag.ms": "864000000"}, "warning", "10 days", "min.compaction.lag.ms=0"),
        ("compact", {"min.insync.replicas": "1"}, "warning", "one of its 3 copies", "min.insync.replicas=2"),
        (
            "compact",
            {"unclean.leader.election.enable": "true"},
            "warning",
            "acknowledged already",
            "unclean.leader.election.enable=false",
        ),
        ("compact", {"max.message.bytes": "1048588"}, "warning", "1048588 bytes", "max.message.bytes=17048576"),
        ("keep", {"cleanup.policy": "compact"}, "error", "superseded records go", KEEP),
        ("keep", {"retention.ms": "86400000"}, "error", "log.topics.cleanup says keep", KEEP),
        (WEEK, {"retention.ms": "1000"}, "warning", "after 7 days", "cleanup.policy=delete,retention.ms=604800000"),
        (WEEK, {"cleanup.policy": "compact"}, "warning", "no later", "cleanup.policy=delete,retention.ms=604800000"),
    ],
)
def test_a_setting_that_matters(cleanup: Any, changed: dict[str, str], severity: str, says: str, fix: str) -> None:
    [(found_severity, message, found_fix)] = examined(cleanup, changed)
    assert (found_severity, found_fix) == (severity, fix)
    assert says in message
    assert "shop.public.orders" in message


def test_an_internal_topic_only_compacts() -> None:
    found = {"cleanup.policy": "compact,delete", "max.message.bytes": "20000000"}
    [finding] = Examiner("keep", "kafka:9092").internal("shop._positions", found)
    assert finding.severity is Severity.ERROR
    assert finding.fix.endswith("--entity-name shop._positions --add-config cleanup.policy=compact")


def test_only_compaction_takes_deletes() -> None:
    assert delete_retention(DEFAULTS | settings("compact", 1)) == 7 * 86400
    assert delete_retention(DEFAULTS | settings("keep", 1)) == float("inf")
    assert delete_retention(DEFAULTS | {"cleanup.policy": "compact,delete"}) == 86400
