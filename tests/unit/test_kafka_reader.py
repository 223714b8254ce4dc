"""The Kafka reader's own bookkeeping, with a client that does what the test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from confluent_kafka import KafkaError

from cdc.errors import CdcError, FencedError, RebalancingError, TransientError
from cdc.log import Topic, TopicPartition
from cdc.log import _kafka_reader as module
from cdc.log._kafka_client import explained
from cdc.log.kafka import KafkaConfig

PLACE = TopicPartition("orders", 0)


class Message:
    def __init__(self, offset: int) -> None:
        self._offset = offset

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return PLACE.topic

    def partition(self) -> int:
        return PLACE.partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"v"

    def headers(self) -> list[tuple[str, bytes]]:
        return [("cdc", b"h")]

    def timestamp(self) -> tuple[int, int]:
        return 1, 0


class Client:
    """Stands for the client library's consumer: each `consume` is a function of `script`."""

    script: list[Callable[[], list[Message]]]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        pass

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        self.callbacks = callbacks

    def incremental_assign(self, places: list[Any]) -> None:
        pass

    def consume(self, count: int, timeout: float) -> list[Message]:
        return self.script.pop(0)() if self.script else []

    def close(self) -> None:
        pass


class Log:
    """What a reader asks of its log."""

    def group_id(self, group: str) -> str:
        return group

    def topics(self) -> dict[str, Topic]:
        return {PLACE.topic: Topic(PLACE.topic, "id", 1)}

    def committed(self, group: str) -> dict[TopicPartition, Any]:
        return {}

    def start_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 1000)


@pytest.mark.parametrize("how", ["on_revoke", "on_lost"])
def test_a_partition_that_comes_back_within_a_poll_begins_where_it_was_committed(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(module, "Consumer", Client)
    log: Any = Log()
    starts = iter([10, 5])
    reader = module.KafkaReader(
        log,
        KafkaConfig(type="kafka", bootstrap="localhost:9"),
        "search",
        lambda _: True,
        lambda places: dict.fromkeys(places, next(starts)),
        lambda _: None,
        1 << 20,
    )
    client: Any = reader._consumer

    def assigned() -> list[Message]:
        client.callbacks["on_assign"](client, [module.Place(*PLACE)])
        return [Message(10), Message(11)]

    def there_and_back() -> list[Message]:
        client.callbacks[how](client, [module.Place(*PLACE)])
        reader._failure = None  # of a loss, which the next poll would tell
        client.callbacks["on_assign"](client, [module.Place(*PLACE)])
        return [Message(5), Message(6)]

    client.script = [assigned, there_and_back]
    [fetched] = reader.poll(0)
    assert [record.offset for record in fetched.records] == [5, 6]
    assert reader.position() == {PLACE: 7}
    reader.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError.REBALANCE_IN_PROGRESS, RebalancingError),
        (KafkaError.ILLEGAL_GENERATION, RebalancingError),
        (KafkaError.UNKNOWN_MEMBER_ID, FencedError),
    ],
)
def test_a_commit_in_the_middle_of_a_rebalance_is_not_the_end(code: int, kind: type[CdcError]) -> None:
    assert type(explained(KafkaError(code), "committing offsets", otherwise=TransientError)) is kind
