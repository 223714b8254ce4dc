"""The same commands where the log is Kafka."""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exports
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.integration.scripted import Scripted, invoke, scripted
from tests.servers import free_port, wait_until
from tests.servers.postgres import Server, create_database, drop_database

__all__ = ["scripted"]

pytestmark = pytest.mark.xdist_group("kafka")


def use(scripted: Scripted, bootstrap: str) -> str:
    """Have the pipeline keep its log there, under a name that no other test uses; returns the name."""
    name = f"shop_{uuid.uuid4().hex[:8]}"
    log = f'{{type: kafka, bootstrap: "{bootstrap}", topics: {{partitions: 2}}}}'
    lines = scripted.file.read_text().splitlines()
    lines[1:3] = [f"pipeline: {name}", f"log: {log}"]
    scripted.file.write_text("\n".join(lines))
    return name


def test_from_the_first_look_to_cleanup(scripted: Scripted, kafka: str) -> None:
    use(scripted, kafka)
    assert scripted.json("status")["result"]["sinks"]["one"]["state"] == "never_ran"
    assert scripted.cdc("validate", "--connect").exit_code == 0

    scripted.insert(20)
    scripted.run_to_the_end("source/db", "sink/two")
    result = scripted.json("status")["result"]
    assert [(sink["state"], sink["lag_records"] > 0) for sink in result["sinks"].values()] == [
        ("never_ran", True),
        ("stopped", False),
    ]
    assert result["sinks"]["one"]["lag_seconds"] > 0
    assert result["sources"]["db"]["position"] == "20"
    tapped = scripted.cdc("tap", "--from", "beginning", "--limit", "20").stdout.splitlines()
    assert {json.loads(line)["key"]["id"] for line in tapped} == set(range(1, 21))
    assert scripted.cdc("tap", "--since", "1h", "--limit", "20").stdout.splitlines() == tapped

    assert scripted.cdc("snapshot").exit_code == 0
    scripted.run_to_the_end()
    assert (scripted.stored("one"), scripted.stored("two")) == (20, 20)
    assert (scripted.folder / "db" / "snapshot").exists()

    assert scripted.cdc("cleanup", "--yes").exit_code == 0
    assert scripted.json("status")["result"]["sources"]["db"]["position"] == "0"


def test_listed_keys_from_a_file_and_from_stdin(postgres18: Server, kafka: str, tmp_path: Path) -> None:
    """More than a request has, of a real database: rows are read again, one that is not there is deleted."""
    database = create_database(postgres18)
    database.execute("CREATE TABLE item (id int PRIMARY KEY)")
    database.execute("INSERT INTO item SELECT generate_series(1, 1300)")
    name = f"shop_{uuid.uuid4().hex[:8]}"
    log = f'{{type: kafka, bootstrap: "{kafka}", topics: {{partitions: 2}}}}'
    source = f'{{type: postgres, url: "{database.dsn}", tables: [public.item]}}'
    sink = "{type: duckdb, path: warehouse.duckdb}"
    lines = ["version: 1", f"pipeline: {name}", f"log: {log}", f"sources: {{db: {source}}}", f"sinks: {{one: {sink}}}"]
    (tmp_path / "cdc.yaml").write_text("\n".join(lines))

    def cdc(*arguments: str, stdin: str | None = None) -> str:
        result = invoke(tmp_path, os.environ, *arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    try:
        cdc("run", "--only", "source/db", "--until-caught-up")
        (tmp_path / "keys.jsonl").write_text("\n".join(f'{{"id":{n}}}' for n in range(1, 1201)))
        cdc("snapshot", "public.item", "--keys", "keys.jsonl")
        cdc("snapshot", "public.item", "--keys", "-", stdin='{"id":1250}\n{"id":7000}\n')
        assert json.loads(cdc("status", "--json"))["result"]["sources"]["db"]["requested_keys"] == 1202
        cdc("run", "--only", "source/db", "--until-caught-up")
        assert not json.loads(cdc("status", "--json"))["result"]["sources"]["db"].get("requested_keys")
        said = [json.loads(line) for line in cdc("tap", "--from", "beginning", "--limit", "2502").splitlines()]
        found = Counter((event["op"], event["key"]["id"]) for event in said)
        again = {*range(1, 1201), 1250}
        assert found == {("d", 7000): 1, **{("r", n): 1 + (n in again) for n in range(1, 1301)}}
        cdc("cleanup", "--yes")
    finally:
        drop_database(database)


def test_a_sink_is_tapped_beside_its_group(scripted: Scripted, kafka: str) -> None:
    use(scripted, kafka)
    scripted.insert(20)
    scripted.run_to_the_end("source/db", "sink/two")
    tap = scripted.start("tap", "--at", "sink/one", "--from", "beginning", "--limit", "20")
    scripted.says("tapping")
    assert len(scripted.cdc("tap", "--at", "sink/two", "--since", "1h", "--limit", "20").stdout.splitlines()) == 20
    assert scripted.stdout == ""
    scripted.run_to_the_end("sink/one")
    assert tap.wait(30) == 0
    assert {json.loads(line)["key"]["id"] for line in scripted.stdout.splitlines()} == set(range(1, 21))


def test_an_offset_that_is_gone(scripted: Scripted, kafka: str) -> None:
    topic = f"{use(scripted, kafka)}.public.items"
    scripted.file.write_text(scripted.file.read_text().replace("partitions: 2", "partitions: 2, cleanup: {expire: 7d}"))
    scripted.insert(20)
    scripted.run_to_the_end("source/db")
    client = AdminClient({"bootstrap.servers": kafka})
    client.delete_records([TopicPartition(topic, 0, 3)])[TopicPartition(topic, 0)].result(10)
    everything = [
        json.loads(line) for line in scripted.cdc("tap", "--since", "1h", "--limit", "17").stdout.splitlines()
    ]
    result = scripted.cdc("tap", "--from", "0", "--limit", "17")
    assert [json.loads(line) for line in result.stdout.splitlines()] == everything
    assert "partition 0 has the offsets 3 to " in result.stderr
    assert "partition 1" not in result.stderr


def test_a_topic_that_deletes_by_age_is_refused_with_the_command_that_mends_it(scripted: Scripted, kafka: str) -> None:
    pipeline = use(scripted, kafka)
    scripted.insert(1)
    scripted.run_to_the_end("source/db")
    topic = f"{pipeline}.public.items"
    entry = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": kafka})
    client.incremental_alter_configs([resource])[resource].result(10)
    wait_until(lambda: scripted.cdc("validate", "--connect").exit_code == 5, what="the finding")
    command = f"kafka-configs.sh --bootstrap-server {kafka} --alter --entity-type topics --entity-name {topic} "
    assert command in scripted.cdc("validate", "--connect").stdout
    result = scripted.cdc("run", "--only", "source/db")
    assert result.exit_code == 1
    assert command in scripted.json("status")["result"]["sources"]["db"]["error"]


def test_a_broker_that_is_not_there(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc.log._kafka_admin.CALL_SECONDS", 2)
    use(scripted, f"127.0.0.1:{free_port()}")
    assert scripted.cdc("validate").exit_code == 0
    for arguments in (("validate", "--connect"), ("status",)):
        result = scripted.cdc(*arguments)
        assert result.exit_code == 3, result.output
        assert "check log.bootstrap" in result.output
