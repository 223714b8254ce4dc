"""What the servers write into a binlog besides rows."""

from __future__ import annotations

import pytest

from connectors.mysql.binlog import read_file
from connectors.mysql.events import (
    FormatDescription,
    GtidEvent,
    MariadbGtidEvent,
    MariadbGtidList,
    PreviousGtids,
    Query,
    Rotate,
    XaPrepare,
    Xid,
)
from connectors.mysql.gtid import GtidSet, MariadbPosition
from tests.integration.mysql.conftest import Binlog

pytestmark = pytest.mark.xdist_group("mysql")


def test_gtids_add_up_to_what_the_server_has_executed(binlog: Binlog) -> None:
    binlog.execute("CREATE TABLE item (id int PRIMARY KEY)", "INSERT INTO item VALUES (1)")
    if binlog.mysql:
        binlog.execute("SET gtid_next = 'AUTOMATIC:our_tag'", "INSERT INTO item VALUES (2)")
    binlog.execute("SET SESSION autocommit = 0", "INSERT INTO item VALUES (3)", "COMMIT", "SET autocommit = 1")
    binlog.rotate()
    binlog.execute("INSERT INTO item VALUES (4)")
    events = [event for _, event in binlog.events()]
    assert isinstance(events[0], FormatDescription)
    assert events[0].mariadb == (not binlog.mysql)
    if binlog.mysql:
        executed = GtidSet({})
        for event in events:
            if isinstance(event, PreviousGtids):
                executed = event.gtids
                assert GtidSet.decode(executed.encode()) == executed
            elif isinstance(event, GtidEvent):
                assert event.gtid is not None
                assert event.gtid not in executed
                executed = executed.add(event.gtid)
        ((printed,),) = binlog.execute("SELECT @@gtid_executed")
        assert str(executed) == printed.replace("\n", " ").replace(" ", "")
        assert executed == GtidSet.parse(printed)
    else:
        position = MariadbPosition({})
        for event in events:
            if isinstance(event, MariadbGtidList):
                position = event.position
            elif isinstance(event, MariadbGtidEvent):
                position = position.add(event.gtid)
        assert [(str(position),)] == binlog.execute("SELECT @@gtid_binlog_pos")


@pytest.mark.parametrize("binlog", ["mysql"], indirect=True)
def test_gtid_arithmetic_is_the_servers(binlog: Binlog) -> None:
    a, b = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "ff4afe30-eaa3-11f1-bc7c-02fc00000001"
    texts = ["", f"{a}:1-5", f"{a}:3-9:12,{b}:1", f"{b}:1-3", f"{a}:1-9:12:t:1-4,{b}:1:t:9", f"{a}:t:2-3"]
    for left in texts:
        for right in texts:
            ((subset, minus),) = binlog.execute(
                f"SELECT GTID_SUBSET('{left}','{right}'), GTID_SUBTRACT('{left}','{right}')"
            )
            ours, theirs = GtidSet.parse(left), GtidSet.parse(right)
            assert (ours <= theirs) == bool(subset)
            assert str(ours - theirs) == minus.replace("\n", "")


def test_transactions_and_statements(binlog: Binlog) -> None:
    binlog.execute("CREATE TABLE item (id int PRIMARY KEY)")
    binlog.rotate()
    binlog.execute(
        "BEGIN",
        "INSERT INTO item VALUES (1)",
        "SAVEPOINT here",
        "INSERT INTO item VALUES (2)",
        "COMMIT",
        "SET sql_mode = 'ANSI_QUOTES'",
        'ALTER TABLE "item" ADD COLUMN "ä" int',
        "SET binlog_format = STATEMENT",
        "INSERT INTO item VALUES (3, 3)",
        "SET binlog_format = ROW",
    )
    name = binlog.server.binlog().name
    path = binlog.server.binlog()
    binlog.rotate()
    with path.open("rb") as file:
        events = [event for _, event in read_file(file)]
    queries = [event for event in events if isinstance(event, Query)]
    assert [query.schema for query in queries] == ["shop"] * len(queries)
    texts = [query.sql for query in queries]
    assert [text for text in texts if text != "BEGIN"] == [
        "SAVEPOINT `here`",
        'ALTER TABLE "item" ADD COLUMN "ä" int',
        "INSERT INTO item VALUES (3, 3)",
    ]
    ansi_quotes = 4
    assert next(query for query in queries if "ALTER" in query.sql).sql_mode & ansi_quotes
    assert sum(isinstance(event, Xid) for event in events) == 2
    (rotate,) = [event for event in events if isinstance(event, Rotate)]
    assert rotate.position == 4
    assert rotate.name != name


def test_xa_transactions(binlog: Binlog) -> None:
    binlog.execute("CREATE TABLE item (id int PRIMARY KEY)")
    binlog.rotate()
    for one, statement in ((1, "XA COMMIT 'g','b',7"), (2, "XA ROLLBACK 'g','b',7")):
        binlog.execute("XA START 'g','b',7", f"INSERT INTO item VALUES ({one})", "XA END 'g','b',7")
        binlog.execute("XA PREPARE 'g','b',7", statement)
    binlog.execute("XA START 'h'", "INSERT INTO item VALUES (3)", "XA END 'h'", "XA COMMIT 'h' ONE PHASE")
    events = [event for _, event in binlog.events()]
    prepared = [event for event in events if isinstance(event, XaPrepare)]
    assert [(p.xa.format_id, p.xa.global_id, p.xa.branch) for p in prepared if not p.one_phase] == [(7, b"g", b"b")] * 2
    assert sum(p.one_phase for p in prepared) == binlog.mysql  # MariaDB: an ordinary transaction
    decided = [event.sql for event in events if isinstance(event, Query) and event.sql.startswith("XA ")]
    assert [sql for sql in decided if not sql.startswith(("XA START", "XA END"))] == [
        "XA COMMIT X'67',X'62',7",
        "XA ROLLBACK X'67',X'62',7",
    ]
    if not binlog.mysql:
        ours = [event for event in events if isinstance(event, MariadbGtidEvent) and event.xa is not None]
        assert [(event.prepared, event.completed) for event in ours] == [(True, False), (False, True)] * 2
        assert {event.xa for event in ours} == {prepared[0].xa}
