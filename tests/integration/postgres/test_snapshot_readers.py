"""Chunks of one table, or of several, are read side by side; and not while the database is busy."""

from __future__ import annotations

import signal
import threading

import pytest

from cdc.source.plan import KeyRange
from connectors.postgres.chunk import ChunkReader, PostgresChunk
from tests.integration.postgres.conftest import MakeSource
from tests.integration.postgres.support import assert_dense, busy
from tests.integration.postgres.test_snapshot import held
from tests.servers.postgres import Database

pytestmark = pytest.mark.xdist_group("postgres-snapshot")

FOUR = {"readers": 4, "chunk_bytes": "8KiB"}


class Begun:
    """Which chunks are begun, and how many of them were being read at the same time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chunks: list[PostgresChunk] = []
        self.at_once = 0
        begin = ChunkReader.begin

        def counting(reader: ChunkReader, chunk: PostgresChunk) -> None:
            self.chunks.append(chunk)
            self.at_once = max(self.at_once, sum(not one.done.is_set() for one in self.chunks))
            begin(reader, chunk)

        monkeypatch.setattr(ChunkReader, "begin", counting)


def test_a_large_table_is_divided(database: Database, source: MakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    database.execute("CREATE TABLE item (a text, b int, note text, PRIMARY KEY (b, a))")
    database.execute("INSERT INTO item SELECT 'k' || n, n % 1000, repeat('x', 40) FROM generate_series(1, 9000) n")
    begun = Begun(monkeypatch)
    shop = source(["public.item"], snapshot=FOUR)
    shop.capture()
    shop.assert_equal("public.item")
    assert [r.operation for r in shop.records()] == ["r"] * 9000, "every row once"
    assert_dense(shop.records())
    assert begun.chunks[0].range == KeyRange()
    ends = [chunk.range.until for chunk in begun.chunks]
    divided = {tuple(end) for end in ends if end is not None}
    assert 8 <= len(divided) <= 15
    share = [int(end[0]) for end in divided]
    assert min(share) < 200 < 800 < max(share), "each range has about as many rows"
    assert begun.at_once == 4


def test_small_tables_are_read_side_by_side(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(6):
        database18.execute(f"CREATE TABLE item{n} (id int PRIMARY KEY); INSERT INTO item{n} VALUES ({n})")
    begun = Begun(monkeypatch)
    shop = source18(["public.*"], snapshot=FOUR)
    shop.capture()
    shop.assert_equal(*(f"public.item{n}" for n in range(6)))
    assert len(begun.chunks) == 6, "none of them is looked at twice"
    assert begun.at_once == 4


def test_killed_among_several_chunks_each_range_goes_on(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY, name text)")
    database18.execute("INSERT INTO item SELECT n, 'row ' || n FROM generate_series(1, 9000) n")
    shop = source18(["public.item"], snapshot=FOUR)
    for point in ("capture.in_append:kill:4", "snapshot.in_chunk:kill:4", "capture.before_acknowledge:kill:3"):
        assert shop.process(point, {"cdc.capture:LOADED_COMMIT_SECONDS": 0.0}).wait() == -signal.SIGKILL
    left = shop.position.snapshots["public.item"]
    assert len(left.ranges) > 2
    assert left.rows > 0
    database18.execute("UPDATE item SET name = 'x' WHERE id % 10 = 0; DELETE FROM item WHERE id % 100 = 1")
    shop.capture()
    reads = [r for r in shop.records() if r.operation == "r"]
    assert len({r.record.key for r in reads}) == len(reads), "no chunk is read twice"
    shop.assert_equal("public.item")
    assert_dense(shop.records())


def test_ddl_in_the_middle_voids_what_was_read_before(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that was read before, and whose high mark comes behind those of chunks that were read after."""
    database18.execute("CREATE TABLE item (id int PRIMARY KEY, name text)")
    database18.execute("INSERT INTO item SELECT n, 'row ' || n FROM generate_series(1, 9000) n")
    reached, go_on = threading.Event(), threading.Event()
    copy = ChunkReader._copy

    def after_copy(reader: ChunkReader, connection: object, chunk: PostgresChunk) -> None:
        copy(reader, connection, chunk)  # type: ignore[arg-type]
        if chunk.range.until is not None and not reached.is_set():
            held.append(chunk)
            reached.set()

    emit = ChunkReader._emit

    def emitting(reader: ChunkReader, connection: object, content: str) -> None:
        if held and content == held[0].mark("high"):
            assert go_on.wait(30)
        emit(reader, connection, content)  # type: ignore[arg-type]

    held: list[PostgresChunk] = []
    monkeypatch.setattr(ChunkReader, "_copy", after_copy)
    monkeypatch.setattr(ChunkReader, "_emit", emitting)
    shop = source18(["public.item"], snapshot=FOUR)
    with shop.running() as running:
        running.wait(reached.is_set, "a chunk to be read")
        database18.execute("ALTER TABLE item ADD COLUMN more text DEFAULT 'all rows'")
        running.wait(lambda: any(table.since for table in shop.position.snapshots.values()), "a new beginning")
        go_on.set()
        running.catch_up()
    shop.assert_equal("public.item")


def test_a_locked_table_does_not_hold_up_the_others(
    database18: Database, source18: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    database18.execute("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)")
    database18.execute("CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1)")
    reached, go_on = held(monkeypatch, "low")
    shop = source18(["public.a", "public.b"], snapshot={"readers": 1})
    with database18.connect() as writer, shop.running() as running:
        running.wait(reached.is_set, "the first chunk to be begun")
        writer.execute("BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
        go_on.set()
        running.wait(lambda: list(shop.position.snapshots) == ["public.a"], "the other table's end")
        writer.execute("COMMIT")
        running.catch_up()
    shop.assert_equal("public.a", "public.b")


@pytest.mark.parametrize("privileged", [False, True])
def test_a_busy_database_is_left_alone(database18: Database, source18: MakeSource, privileged: bool) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)")
    shop = source18(["public.item"], snapshot={"max_active_sessions": 2})
    if not privileged:
        role = f"reader_{database18.name}"
        database18.execute(f"CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON item TO {role}")
        database18.execute(f"GRANT CREATE ON DATABASE {database18.name} TO {role}; ALTER TABLE item OWNER TO {role}")
        shop = shop.changed(dsn=database18.dsn.replace("postgres@", f"{role}@"))
        assert shop.dsn != database18.dsn
    state = lambda: shop.log.states("worker").get("source/shop", {})  # noqa: E731
    with busy(database18, 3) as end, shop.running() as running:
        running.wait(lambda: "sessions are active" in state().get("waiting_for", ""), "the snapshot to wait")
        assert shop.position.snapshots
        end()
        running.catch_up()
    shop.assert_equal("public.item")
    if not privileged:
        database18.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")
