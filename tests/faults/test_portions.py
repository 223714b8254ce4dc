"""A transaction whose missing values are read in portions, each an append of its own, through kill -9 between them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.log._kafka_client import KafkaConfig
from cdc.log.kafka import KafkaLog
from cdc.record import PARTIAL
from tests.integration import sources
from tests.integration.postgres.support import PIPELINE, Source, assert_dense
from tests.servers.postgres import Database, Server, create_database, drop_database

pytestmark = [
    pytest.mark.xdist_group("kafka"),
    pytest.mark.skipif(
        "CDC_TORTURE_BIG" not in os.environ, reason="make torture-path; on the embedded log: test_toast"
    ),
]

ROWS = 40
PORTION = {"cdc.source.incomplete:PORTION_BYTES": 40_000, "cdc.capture:LOADED_COMMIT_SECONDS": 0.0}
KILLS = [f"{point}:kill:{n}" for n in (1, 3, 2) for point in ("capture.in_append", "capture.before_acknowledge")]
KILLS += ["capture.after_decode:kill:3", "capture.in_append:kill:5"]


class KafkaSource(Source):
    """On the broker that the file ``kafka`` names."""

    module = "tests.faults.test_portions"

    def __post_init__(self) -> None:
        bootstrap = (self.folder / "kafka").read_text()
        topics = {"partitions": self.partitions, "cleanup": "keep"}
        self.log = KafkaLog(KafkaConfig.model_validate({"bootstrap": bootstrap, "topics": topics}), PIPELINE)


@pytest.fixture
def database(postgres18: Server) -> Iterator[Database]:
    made = create_database(postgres18)
    yield made
    drop_database(made)


@pytest.fixture
def shop(database: Database, kafka: str, tmp_path: Path) -> Iterator[KafkaSource]:
    (tmp_path / "kafka").write_text(kafka)
    made = KafkaSource(database.dsn, tmp_path, {"tables": ["public.*"], "snapshot": {"mode": "never"}})
    yield made
    made.log.delete()
    made.log.close()


def test_killed_between_the_portions_of_a_transaction(database: Database, shop: KafkaSource) -> None:
    """Of two tables, with whole rows and changes of keys between."""
    body = "(SELECT string_agg(md5((n * 7)::text), '') FROM generate_series(1, 300) n)"
    for table in ("doc", "other"):
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, name text, body text)")
        database.execute(f"ALTER TABLE {table} ALTER body SET STORAGE EXTERNAL")
        database.execute(f"INSERT INTO {table} SELECT n, '', {body} FROM generate_series(1, {ROWS}) n")
    shop.capture()
    changes = []
    for first in range(1, ROWS, 10):
        changes += [f"UPDATE doc SET name = id WHERE id BETWEEN {first} AND {first + 9}"]
        changes += [f"UPDATE other SET name = {first} WHERE id <= 10"]
        changes += [f"INSERT INTO doc VALUES ({100 + first}, 'new', 'whole')"]
        changes += [f"UPDATE doc SET id = id + 500 WHERE id = {first + 9}"]
    database.execute("; ".join(changes))
    within = 0
    for kill in KILLS:
        process = shop.process(kill, PORTION)
        assert process.wait() == -signal.SIGKILL, process.output()
        within += shop.position.open is not None
    assert within >= 5
    shop.capture()
    assert len(shop.events()) == ROWS // 10 * (10 + 10 + 1 + 2), "each once, a key change as two"
    assert not [r for r in shop.events() if r.header.flags & PARTIAL]
    assert_dense(shop.records())
    shop.assert_equal("public.doc")


if __name__ == "__main__":
    sys.exit(sources.main(KafkaSource))
