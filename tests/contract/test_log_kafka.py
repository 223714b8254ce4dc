"""What only the Kafka log has to stand: brokers that stop, stall and die, long internal topics, other sources."""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psutil
import pytest
from confluent_kafka import OFFSET_END, KafkaException, Producer
from confluent_kafka import TopicPartition as Offset
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exports
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from pydantic import ValidationError

from cdc.errors import CdcError, PermanentError, TransientError, UnreachableError
from cdc.findings import Severity
from cdc.log import Log, LogWriter, Produced
from cdc.log._kafka_client import KafkaConfig, admin_settings
from cdc.log.kafka import KafkaLog
from tests.contract.logs import (
    HEADER,
    Place,
    append,
    append_and_commit,
    append_prepared,
    beginning,
    commit,
    keys,
    read_all,
    read_until,
)
from tests.servers import free_port, wait_until
from tests.servers.kafka import Broker

pytestmark = pytest.mark.xdist_group("kafka")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of our own, to be maltreated."""
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


def _place(bootstrap: str) -> Place:
    return Place({"type": "kafka", "bootstrap": bootstrap}, f"t{uuid.uuid4().hex[:8]}")


def _log(place: Place) -> Log:
    log = place.open()
    log.create_topics([place.topic])
    return log


def _until_it_fails(writer: LogWriter, records: list[Produced], seconds: float) -> CdcError:
    with pytest.raises(CdcError) as caught:
        append_and_commit(writer, records, b"lost", seconds)
    return caught.value


def test_taking_over_does_not_wait_for_a_connection_that_the_client_drops(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """It then asks again after half a second only. Whether it meets that is a race, hence several times."""
    caplog.set_level(logging.DEBUG, "cdc.log.kafka")
    place = _place(broker.bootstrap)
    place = Place({**place.settings, "options": {"debug": "eos"}}, place.pipeline)
    log = _log(place)
    for _ in range(5):
        with closing(log.writer("shop")) as writer:
            writer.fence()
            wait_until(lambda: writer.append([], 0) == 0, what="the client's log")
    assert "Transaction coordinator changed" in caplog.text
    assert "Unable to query for transaction coordinator" not in caplog.text


def test_a_stalled_broker_leaves_calls_short_and_memory_bounded(broker: Broker) -> None:
    place = _place(broker.bootstrap)
    log = _log(place)
    writer = log.writer("shop")
    writer.fence()
    records = [place.record(n, b"x" * 1000) for n in range(1000)]
    append_and_commit(writer, records, b"p")
    before = psutil.Process().memory_info().rss
    broker.pause()
    taken, longest = 0, 0.0
    try:
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            began = time.monotonic()
            taken += writer.append(records, 0.5)
            longest = max(longest, time.monotonic() - began)
        began = time.monotonic()
        assert writer.commit(b"q", 0.5) is False
        longest = max(longest, time.monotonic() - began)
        began = time.monotonic()
        writer.close()
        assert time.monotonic() - began < 5
    finally:
        broker.resume()
    assert longest < 1.5
    assert taken < 20_000  # what fits into 16 MiB
    assert psutil.Process().memory_info().rss - before < 48 << 20
    writer = log.writer("shop")
    assert writer.fence() == b"p"
    append_and_commit(writer, [place.record(1)], b"r")
    assert len(keys(read_all(log))) == 1001


def test_a_stalled_broker_takes_only_so_many_parts_of_a_prepared_transaction(broker: Broker) -> None:
    log = _log(_place(broker.bootstrap))
    writer = log.writer("shop")
    writer.fence()
    append_prepared(writer, "a", b"1")
    commit(writer, b"p")
    part, taken = b"x" * 1_000_000, 0
    broker.pause()
    try:
        began = time.monotonic()
        while writer.append_prepared("a", part, 0.5):
            taken += 1
        assert time.monotonic() - began < 1.0
        writer.close()
    finally:
        broker.resume()
    assert 5 < taken < 30  # what fits into 16 MiB
    writer = log.writer("shop")
    assert writer.fence() == b"p"
    append_prepared(writer, "a", b"2")
    commit(writer, b"q")
    assert list(log.prepared_parts("shop", "a")) == [b"1", b"2"]


def test_a_broker_killed_within_an_append_costs_the_writer_but_no_record(broker: Broker) -> None:
    place = _place(broker.bootstrap)
    log = _log(place)
    reader = log.reader("search", lambda _: True, beginning, lambda _: None)
    writer = log.writer("shop")
    writer.fence()
    append_and_commit(writer, [place.record(1)], b"1")
    # Kafka 4.3 forgets the markers of a commit when its only broker is killed before they are written: wait for them.
    read_until(reader, lambda found: found)
    reader.close()
    wait_until(lambda: log.positions() == {"shop": b"1"}, seconds=10)
    append(writer, [place.record(2)])
    broker.kill()
    try:
        error = _until_it_fails(writer, [place.record(3)], 10)
    finally:
        broker.start()
    assert isinstance(error, TransientError)
    writer = log.writer("shop")
    assert writer.fence() == b"1"
    append_and_commit(writer, [place.record(4)], b"2")
    reader = log.reader("search", lambda _: True, beginning, lambda _: None)
    found = read_until(reader, lambda found: len(keys(found)) > 1 and b'{"id":4}' in keys(found), seconds=40)
    assert sorted(keys(found)) == [b'{"id":1}', b'{"id":4}']
    reader.close()


def test_a_clean_restart_while_idle_is_no_failure(broker: Broker) -> None:
    place = _place(broker.bootstrap)
    log = _log(place)
    writer = log.writer("shop")
    writer.fence()
    append_and_commit(writer, [place.record(1)], b"1")
    broker.stop()
    broker.start()
    append_and_commit(writer, [place.record(2)], b"2")
    assert keys(read_all(log)) == [b'{"id":1}', b'{"id":2}']


def test_no_broker_at_all_is_a_sentence_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc.log._kafka_admin.CALL_SECONDS", 2)
    place = Place({"type": "kafka", "bootstrap": f"127.0.0.1:{free_port()}"}, "nobody")
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="bootstrap"):
        place.open().topics()
    with pytest.raises(UnreachableError):
        place.open().put_state("worker", "x", {})
    assert time.monotonic() - began < 10


def test_the_position_is_found_at_the_far_end_of_a_long_topic(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = _place(kafka)
    log = _log(place)
    quiet, busy = log.writer("quiet"), log.writer("busy")
    quiet.fence()
    commit(quiet, b"long ago")
    busy.fence()
    for n in range(40):
        commit(busy, b"%d" % n)
    monkeypatch.setattr("cdc.log._kafka_tables.FIRST_STEP", 8)
    assert log.writer("busy").fence() == b"39"
    assert log.writer("quiet").fence() == b"long ago"
    assert log.writer("new").fence() is None


def test_an_open_append_of_another_source_does_not_hide_the_position(kafka: str) -> None:
    place = _place(kafka)
    log = _log(place)
    other, writer = log.writer("other"), log.writer("shop")
    other.fence()
    writer.fence()
    commit(writer, b"old")
    positions = f"{place.pipeline}._positions"
    append(other, [Produced(positions, b"other", b"open", b"")] * 20_000)  # an open transaction amid the positions
    commit(writer, b"new")
    with ThreadPoolExecutor(1) as executor:
        taken_over = executor.submit(log.writer("shop").fence)
        with pytest.raises(TimeoutError):
            taken_over.result(1.0)
        commit(other, b"done")
        assert taken_over.result(20) == b"new"


def test_an_open_append_of_another_source_delays_parts_but_hides_none(kafka: str) -> None:
    log = _log(_place(kafka))
    other, writer = log.writer("other"), log.writer("shop")
    other.fence()
    writer.fence()
    append_prepared(writer, "a", b"1")
    commit(writer, b"p")
    assert log.prepared("shop") == {"a": 1}
    append_prepared(other, "a", *[b"open" * 250_000] * 20)  # more than the client holds back
    append_prepared(writer, "a", b"2")
    commit(writer, b"q")
    with ThreadPoolExecutor(1) as executor:
        parts = executor.submit(lambda: list(log.prepared_parts("shop", "a")))
        with pytest.raises(TimeoutError):
            parts.result(1.0)
        commit(other, b"done")
        assert parts.result(20) == [b"1", b"2"]


def test_a_part_fits_into_a_topic_of_the_default_size(kafka: str) -> None:
    place = _place(kafka)
    _create(kafka, f"{place.pipeline}._prepared", {"cleanup.policy": "compact"})
    log = _log(place)
    writer = log.writer("shop")
    writer.fence()
    part = os.urandom(3_000_000)
    append_prepared(writer, "a", part)
    commit(writer, b"p")
    assert list(log.prepared_parts("shop", "a")) == [part]


def test_a_topic_that_takes_no_piece_of_a_part_is_a_sentence(kafka: str) -> None:
    place = _place(kafka)
    _create(kafka, f"{place.pipeline}._prepared", {"cleanup.policy": "compact", "max.message.bytes": "100000"})
    writer = _log(place).writer("shop")
    writer.fence()
    append_prepared(writer, "a", os.urandom(200_000))
    with pytest.raises(PermanentError, match=r"max\.message\.bytes"):
        commit(writer, b"p")


def test_parts_whose_tombstones_were_compacted_away_unseen_are_gone(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = _place(kafka)
    log = _log(place)
    writer = log.writer("shop")
    writer.fence()
    append_prepared(writer, "a", b"1")
    commit(writer, b"p")
    wait_until(lambda: place.open().prepared("shop"), what="the commit's marker")  # behind it no offset is left
    monkeypatch.setattr("cdc.log._kafka_tables.FRESH_SECONDS", 0.0)
    assert log.prepared("shop") == {"a": 1}
    topic = f"{place.pipeline}._prepared"
    _alter(kafka, topic, {"cleanup.policy": "compact,delete"})
    client = AdminClient({"bootstrap.servers": kafka})
    wait_until(lambda: _emptied(client, topic), what="the topic to be emptied")
    assert log.prepared("shop") == {}


def _emptied(client: AdminClient, topic: str) -> bool:
    """Whether all records of `topic` were deleted; what allows it takes effect a little later."""
    try:
        client.delete_records([Offset(topic, 0, OFFSET_END)])[Offset(topic, 0)].result(10)
    except KafkaException:
        return False
    return True


def test_a_part_that_compaction_took_meanwhile_is_not_just_left_out(kafka: str) -> None:
    log = _log(_place(kafka))
    assert isinstance(log, KafkaLog)
    writer = log.writer("shop")
    writer.fence()
    for part in (b"1", b"2", b"3"):  # each with a commit's marker after it, which like what was taken is only a hole
        append_prepared(writer, "a", part)
        commit(writer, b"p")
    assert list(log.prepared_parts("shop", "a")) == [b"1", b"2", b"3"]
    (offsets,) = log._prepared.kept("shop").values()
    for hole in (1, 2):
        values = log._prepared._values("a", deque(offset + (n == hole) for n, offset in enumerate(offsets.values())))
        for _ in range(hole):
            next(values)
        with pytest.raises(TransientError, match="forgotten"):
            next(values)


@pytest.mark.parametrize(
    ("cleanup", "expected"),
    [
        ("compact", {"cleanup.policy": "compact", "delete.retention.ms": "604800000"}),
        ("keep", {"cleanup.policy": "delete", "retention.ms": "-1"}),
        ({"expire": "7d"}, {"cleanup.policy": "delete", "retention.ms": "604800000"}),
    ],
)
def test_topics_are_created_as_configured(kafka: str, cleanup: object, expected: dict[str, str]) -> None:
    place = _place(kafka)
    log = place.open(cleanup=cleanup, partitions=4, replicas=1)
    log.create_topics([place.topic])
    client = AdminClient({"bootstrap.servers": kafka})
    names = [place.topic, *(f"{place.pipeline}.{name}" for name in ("_positions", "_schemas", "_states", "_prepared"))]
    found = client.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
    settings = {resource.name: future.result(10) for resource, future in found.items()}
    assert {key: settings[place.topic][key].value for key in expected} == expected
    assert all(settings[name]["cleanup.policy"].value == "compact" for name in names[1:])
    assert all(settings[name]["delete.retention.ms"].value == "7200000" for name in names[1:])
    assert log.topics()[place.topic].partitions == 4


def _create(bootstrap: str, topic: str, settings: Mapping[str, str]) -> None:
    """Create a topic of one partition, as an operator would."""
    client = AdminClient({"bootstrap.servers": bootstrap})
    client.create_topics([NewTopic(topic, 1, 1, config=dict(settings))])[topic].result(10)


def _alter(bootstrap: str, topic: str, changed: Mapping[str, str]) -> None:
    """Change a topic's settings, as an operator would."""
    entries = [ConfigEntry(*each, incremental_operation=AlterConfigOpType.SET) for each in changed.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    client = AdminClient({"bootstrap.servers": bootstrap})
    client.incremental_alter_configs([resource])[resource].result(10)


@pytest.mark.parametrize(
    ("cleanup", "topic", "changed", "refused"),
    [
        ("compact", "public.orders", {"cleanup.policy": "delete"}, True),
        ("compact", "public.orders", {"delete.retention.ms": "60000"}, False),
        ("keep", "public.orders", {"cleanup.policy": "compact"}, True),
        ("compact", "_positions", {"cleanup.policy": "delete"}, True),
        ("compact", "_prepared", {"cleanup.policy": "delete"}, True),
    ],
)
def test_a_setting_that_somebody_changed_is_found_and_mended_by_the_command(
    kafka: str, cleanup: str, topic: str, changed: dict[str, str], refused: bool
) -> None:
    place = _place(kafka)
    log = place.open(cleanup=cleanup)
    log.create_topics([place.topic])
    assert log.check() == []
    name = f"{place.pipeline}.{topic}"
    _alter(kafka, name, changed)
    wait_until(log.check, what="the finding")
    [finding] = log.check()
    assert finding.severity is (Severity.ERROR if refused else Severity.WARNING)
    assert f"topic {name} " in finding.message
    if refused:
        with pytest.raises(PermanentError, match=r"(?s)cleanup\.policy.*kafka-configs\.sh"):
            log.create_topics([place.topic])
    else:
        log.create_topics([place.topic])
    command, settings = finding.fix.split(" --add-config ")
    assert command.endswith(f"--bootstrap-server {kafka} --alter --entity-type topics --entity-name {name}")
    _alter(kafka, name, dict(setting.split("=") for setting in settings.split(",")))
    wait_until(lambda: log.check() == [], what="the topic being in order")
    log.create_topics([place.topic])


def test_topics_that_others_create_are_not_created(kafka: str) -> None:
    place = _place(kafka)
    with pytest.raises(PermanentError, match=r"_positions") as caught:
        place.open(create=False).create_topics([place.topic])
    assert place.topic in str(caught.value)
    assert place.open().topics() == {}
    created = [re.split(r" --(?:topic|partitions|replication-factor|config) ", line) for line in _hint(caught)[1:]]
    client = AdminClient({"bootstrap.servers": kafka})
    new = [
        NewTopic(name, int(partitions), int(replicas), config=dict(each.split("=") for each in settings))
        for _, name, partitions, replicas, *settings in created
    ]
    for created_ in client.create_topics(new).values():
        created_.result(10)
    log = place.open(create=False)
    log.create_topics([place.topic])
    assert log.check() == []


def _hint(caught: pytest.ExceptionInfo[PermanentError]) -> list[str]:
    return (caught.value.hint or "").split("\n")


def test_topics_of_another_pipeline_are_not_ours(kafka: str) -> None:
    mine, other = _place(kafka), _place(kafka)
    _log(other)
    log = _log(mine)
    assert list(log.topics()) == [mine.topic]
    log.delete()
    assert list(other.open().topics()) == [other.topic]


def test_records_that_others_wrote_into_a_topic_have_no_header(kafka: str) -> None:
    place = _place(kafka)
    log = _log(place)
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(place.topic, b"v", b"k", headers=[("trace", b"1"), ("cdc", HEADER)])
    producer.produce(place.topic, b"v", b"l")
    assert producer.flush(10) == 0
    records = [record for found in read_all(log).values() for record in found]
    assert sorted((record.key, record.header) for record in records) == [(b"k", HEADER), (b"l", b"")]


def test_what_correctness_rests_on_cannot_be_configured() -> None:
    for name in (
        "transactional.id",
        "acks",
        "enable.idempotence",
        "isolation.level",
        "auto.offset.reset",
        "partitioner",
    ):
        with pytest.raises(ValidationError, match="cannot be set"):
            KafkaConfig(bootstrap="h:1", options={name: "x"})


def test_tls_verifies_and_the_password_is_not_shown() -> None:
    sasl = {"username": "u", "password": "s3cret"}
    config = KafkaConfig.model_validate({"bootstrap": "h:1", "tls": {"ca": "/ca.pem"}, "sasl": sasl})
    settings = admin_settings(config)
    assert settings["security.protocol"] == "SASL_SSL"
    assert settings["enable.ssl.certificate.verification"] is True
    assert settings["ssl.endpoint.identification.algorithm"] == "https"
    assert settings["ssl.ca.location"] == "/ca.pem"
    assert settings["sasl.password"] == "s3cret"
    assert "s3cret" not in repr(config) + repr(KafkaLog(config, "p"))
