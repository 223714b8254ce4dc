"""The servers' own statements: what they write into a binlog as text, and what it leaves of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest

from connectors.mysql.events import Query, Rows, XaId, XaPrepare
from connectors.mysql.statement import (
    Begin,
    Changed,
    Commit,
    Created,
    Ddl,
    Dropped,
    Effect,
    Harmless,
    Renamed,
    Rollback,
    RollbackTo,
    RowsWithoutEvents,
    Savepoint,
    SchemaDropped,
    Statement,
    TableName,
    Truncated,
    Xa,
)
from connectors.mysql.statements import read_statement
from tests.integration.mysql.conftest import Binlog

pytestmark = pytest.mark.xdist_group("mysql")


def name(table: str) -> TableName:
    return TableName("shop", table)


def ddl(*effects: Effect) -> Ddl:
    return Ddl(effects)


def read(binlog: Binlog, query: Query) -> Statement:
    return read_statement(query.sql, query.schema, query.sql_mode, mariadb=not binlog.mysql)


def written(binlog: Binlog, *statements: str) -> list[Statement | str]:
    """What the server writes about `statements`, the operation where it is a row. Only MySQL says that a transaction
    begins."""
    binlog.rotate()
    binlog.execute(*statements)
    found: list[Statement | str] = []
    for _, event in binlog.events():
        if isinstance(event, Query):
            found.append(read(binlog, event))
        elif isinstance(event, Rows):
            found.append(event.operation)
    return [one for one in found if one != Begin()]


def test_tables_come_and_go(binlog: Binlog) -> None:
    a, b, c, far = name("a"), name("b"), name("c"), TableName("far", "t")
    for statements, expected in (
        (["DROP DATABASE IF EXISTS far", "CREATE DATABASE far"], [ddl(SchemaDropped("far")), Harmless()]),
        (
            ["CREATE TABLE a (id int)", "CREATE TABLE IF NOT EXISTS far . t LIKE a"],
            [ddl(Created(a)), ddl(Created(far))],
        ),
        (["RENAME TABLE a TO b, far.t TO a"], [ddl(Renamed(a, b), Renamed(far, a))]),
        (["ALTER TABLE a RENAME TO far.t, ADD x int"], [ddl(Changed(a, False, True), Renamed(a, far))]),
        (["INSERT INTO b VALUES (1)", "CREATE TABLE c SELECT * FROM b"], ["c", ddl(Created(c)), "c"]),
        (["TRUNCATE c", "TRUNCATE TABLE far.t"], [ddl(Truncated(c)), ddl(Truncated(far))]),
        (["CREATE TEMPORARY TABLE c (id int)", "ALTER TABLE c ADD x int", "INSERT INTO c VALUES (1, 2)"], []),
        (["TRUNCATE c", "DROP TABLE c"], []),
        (["DROP TABLE b, c, far.t"], [ddl(Dropped(b), Dropped(c), Dropped(far))]),
        (["DROP TABLE IF EXISTS c /* it is gone */"], [ddl(Dropped(c))]),
        (["DROP DATABASE far"], [ddl(SchemaDropped("far"))]),
    ):
        assert written(binlog, *statements) == expected, statements


@pytest.mark.parametrize("binlog", ["mariadb"], indirect=True)
def test_what_only_mariadb_has(binlog: Binlog) -> None:
    a, b, c = name("a"), name("b"), name("c")
    columns = "(id int) PARTITION BY LIST (id) (PARTITION p VALUES IN (1), PARTITION q VALUES IN (2))"
    for statements, expected in (
        ([f"CREATE OR REPLACE TABLE a {columns}"], [ddl(Dropped(a), Created(a))]),
        (["RENAME TABLE IF EXISTS a WAIT 3 TO b"], [ddl(Renamed(a, b))]),
        (["TRUNCATE b WAIT 3", "DROP TABLE IF EXISTS a WAIT 3"], [ddl(Truncated(b)), ddl(Dropped(a))]),
        (["ALTER IGNORE TABLE b ADD UNIQUE (id)"], [ddl(Changed(b, True, True))]),
        (
            ["ALTER TABLE b CONVERT PARTITION q TO TABLE c"],
            [ddl(Changed(b, True, True), Created(c), Changed(c, True, False))],
        ),
        (
            ["ALTER TABLE b CONVERT TABLE c TO PARTITION q VALUES IN (2)"],
            [ddl(Changed(b, True, True), Dropped(c))],
        ),
        (["CREATE SEQUENCE s", "SELECT nextval(s)", "DROP SEQUENCE s"], [Harmless(), "c", Commit(), Harmless()]),
        (["CREATE OR REPLACE DATABASE far", "DROP SCHEMA far"], [ddl(SchemaDropped("far"))] * 2),
        (["SET STATEMENT lock_wait_timeout=9 FOR ALTER TABLE b ADD x int"], [ddl(Changed(b, False, True))]),
        # In two phases it is written when it begins, and again when it is done.
        (
            ["SET binlog_alter_two_phase = 1", "ALTER TABLE b ADD y int", "SET binlog_alter_two_phase = 0"],
            [ddl(Changed(b, False, True))] * 2,
        ),
        (["ALTER TABLE b /*M! ADD z int */"], [ddl(Changed(b, False, True))]),
    ):
        assert written(binlog, *statements) == expected, statements


@pytest.mark.parametrize("binlog", ["mysql"], indirect=True)
def test_what_only_mysql_has(binlog: Binlog) -> None:
    a, b = name("a"), name("b")
    for statements, expected in (
        (["CREATE TABLE a VALUES ROW (1)", "CREATE TABLE b TABLE a"], [ddl(Created(a)), "c", ddl(Created(b)), "c"]),
        (["ALTER TABLE a FORCE /*M! , ADD z int NOT NULL */"], [Harmless()]),
        (["CREATE UNDO TABLESPACE u ADD DATAFILE 'u.ibu'", "ALTER UNDO TABLESPACE u SET INACTIVE"], []),
        (["CREATE LIBRARY l LANGUAGE JAVASCRIPT AS $$ INSERT $$", "DROP LIBRARY l"], [Harmless()] * 2),
        (["ALTER TABLE b ADD PRIMARY KEY (column_0)"], [ddl(Changed(b, True, True))]),
        (["CREATE JSON DUALITY VIEW v AS SELECT JSON_DUALITY_OBJECT('_id': column_0) FROM b"], [Harmless()]),
    ):
        assert written(binlog, *statements) == expected, statements


def test_harmless_statements(binlog: Binlog) -> None:
    binlog.execute("CREATE TABLE a (id int PRIMARY KEY)", "DROP USER IF EXISTS x, y", "DROP ROLE IF EXISTS r")
    insert = "INSERT INTO a VALUES (1)"
    statements = [
        f"CREATE PROCEDURE p() BEGIN {insert}; DROP TABLE a; END",
        f"CREATE FUNCTION f() RETURNS int DETERMINISTIC MODIFIES SQL DATA BEGIN {insert}; RETURN 1; END",
        f"CREATE TRIGGER t BEFORE UPDATE ON a FOR EACH ROW {insert}",
        f"CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO {insert}",
        "ALTER EVENT e RENAME TO a",
        "CREATE VIEW v AS SELECT * FROM a",
        "CREATE OR REPLACE ALGORITHM=MERGE SQL SECURITY INVOKER VIEW v AS SELECT 1 AS x",
        "ALTER VIEW v AS SELECT 2 AS x",
        "CREATE USER x IDENTIFIED BY 'y'",
        "SET PASSWORD FOR x = ''",
        "RENAME USER x TO y",
        "GRANT INSERT ON a TO y",
        "REVOKE INSERT ON a FROM y",
        "CREATE ROLE r",
        "CREATE INDEX i ON a (id)",
        "ANALYZE TABLE a",
        "OPTIMIZE TABLE a",
        "FLUSH TABLES",
        "ALTER DATABASE shop CHARACTER SET utf8mb4",
        "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'x')",
        "DROP SERVER s",
        *(
            f"DROP {kind}"
            for kind in ("EVENT a", "TRIGGER t", "PROCEDURE p", "FUNCTION f", "VIEW v", "USER y", "ROLE r")
        ),
    ]
    found = written(binlog, *statements)
    assert set(found) == {Harmless()}
    assert len(found) > len(statements) - 5  # servers are not in the binlog
    assert written(binlog, "CREATE TEMPORARY TABLE b SELECT * FROM a", "SELECT GET_LOCK('a', 0)", "DO SLEEP(0)") == []


def test_transactions(binlog: Binlog) -> None:
    """Rows that MariaDB undoes are before the statement that undoes them."""
    binlog.execute("CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE m (id int) ENGINE=MyISAM")
    insert = "INSERT INTO a VALUES ({})".format
    temporary = ["CREATE TEMPORARY TABLE b (id int)", "DROP TEMPORARY TABLE b"]
    found = written(
        binlog,
        *("BEGIN", insert(1), "SAVEPOINT `ä x`", insert(2), temporary[0], "ROLLBACK TO `ä x`", insert(3), "COMMIT"),
        temporary[1],
    )
    undone = [] if binlog.mysql else ["c", RollbackTo("ä x")]
    assert found == ["c", Savepoint("ä x"), *undone, "c"]
    if not binlog.mysql:
        found = written(binlog, "BEGIN", insert(4), temporary[0], "INSERT INTO m VALUES (1)", "ROLLBACK", temporary[1])
        assert found == ["c", Commit(), "c", Rollback()]
    assert binlog.execute("SELECT id FROM a ORDER BY id") == [(1,), (3,)]
    found = written(binlog, "BEGIN", insert(5), "SAVEPOINT x", "RELEASE SAVEPOINT x", insert(6), "COMMIT")
    assert [one for one in found if one != Savepoint("x")] == ["c", "c"]


def test_xa_transactions(binlog: Binlog) -> None:
    """They are named as the events name them."""
    binlog.execute("CREATE TABLE a (id int PRIMARY KEY)")
    names = ["'a'", "'ö','b',99", "'x',X'00',2147483647", *(["'',0x4142,4294967295"] if binlog.mysql else [])]
    for number, one in enumerate(names):
        decision = "COMMIT" if number % 2 else "ROLLBACK"
        found = written(
            binlog,
            *(f"XA START {one}", f"INSERT INTO a VALUES ({number})", f"XA END {one}"),
            *(f"XA PREPARE {one}", f"XA {decision} {one}"),
        )
        (xa,) = [event.xa for _, event in binlog.events() if isinstance(event, XaPrepare)]
        assert isinstance(xa, XaId)
        start = [Xa("START", xa)] if binlog.mysql else []
        assert found == [*start, "c", Xa("END", xa), Xa(decision, xa)]


def test_statements_that_change_rows_without_events(binlog: Binlog) -> None:
    function = "CREATE FUNCTION f() RETURNS int DETERMINISTIC MODIFIES SQL DATA BEGIN {}; RETURN 1; END"
    binlog.execute("CREATE TABLE a (id int)", function.format("INSERT INTO a VALUES (1)"))
    binlog.execute("CREATE PROCEDURE p() UPDATE a SET id = 9")
    statements = {
        "INSERT INTO a VALUES (1)": "INSERT",
        "/* c */ INSERT /*!50000 IGNORE */ a SET id = 2": "INSERT",
        "REPLACE a VALUES (3)": "REPLACE",
        "UPDATE a SET id = 4": "UPDATE",
        "SELECT f()": "SELECT",
        "DO f()": "SELECT",
        "SET @x = f()": "SELECT",
        "CALL p()": "UPDATE",  # what is in it
        "DELETE FROM a": "DELETE",
    }
    if binlog.mysql:
        statements["WITH x AS (SELECT 5 AS y) DELETE FROM a WHERE id IN (SELECT y FROM x)"] = "WITH"
    else:
        statements["INSERT INTO a VALUES (6) RETURNING id"] = "INSERT"
        statements["SET STATEMENT lock_wait_timeout=9 FOR INSERT INTO a VALUES (7)"] = "INSERT"
        statements["ANALYZE FORMAT=JSON UPDATE a SET id = 8"] = "UPDATE"
    assert "c" in written(binlog, *statements)
    binlog.execute("SET binlog_format = STATEMENT")
    found = [one for one in written(binlog, *statements) if one != Commit()]
    assert found == [RowsWithoutEvents(kind) for kind in statements.values()]
    filled = [Created(name("b")), Changed(name("b"), rows=True, definition=False)]
    assert written(binlog, "CREATE TABLE b SELECT 1 AS x") == [ddl(*filled)]
    binlog.execute("SET binlog_format = ROW")


def test_a_file_that_is_loaded_as_a_statement(binlog: Binlog, tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_text("1\n2\n")
    ((allowed,),) = binlog.execute("CREATE TABLE a (id int)", "SELECT @@GLOBAL.local_infile")
    binlog.execute("SET GLOBAL local_infile = 1")
    url = urlsplit(binlog.server.url)
    try:
        with pymysql.connect(
            host=url.hostname, port=url.port or 3306, user=url.username, autocommit=True, local_infile=True
        ) as connection:
            binlog.rotate()
            for statement in ("SET binlog_format = STATEMENT", f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE shop.a"):
                connection.cursor().execute(statement)
    finally:
        binlog.execute(f"SET GLOBAL local_infile = {allowed}")
    found = [read(binlog, event) for _, event in binlog.events() if isinstance(event, Query)]
    assert [one for one in found if one != Begin()] == [RowsWithoutEvents("LOAD")]
    assert binlog.execute("SELECT id FROM a") == [(1,), (2,)]


TABLE = (
    "CREATE TABLE {0} (id int NOT NULL, a char(9) CHARACTER SET latin1, b varchar(99), n int DEFAULT 7, u int UNSIGNED,"
    " d datetime(3), t timestamp(6) NULL, f float, g double, m decimal(9,3), e enum('x','','y'), s set('p','q'),"
    " j json, h binary(4), l blob, y year, i time(2), PRIMARY KEY (id, n), KEY k (b), UNIQUE KEY uu (u, id, n),"
    " CONSTRAINT ck_{0} CHECK (n > -9)) {1}"
)
ROWS = (
    "INSERT INTO {} VALUES (1, 'ä ', 'ü  ', 7, 4000000000, '2024-02-29 12:34:56.789', '2024-01-01 00:00:00.123456',"
    " 1.1, 2.2e-9, -1.500, '', '', '[1.0, \"x\"]', 'a', '', 0, '-838:59:59.00'),"
    " (2, NULL, NULL, 8, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),"
    " (15, '', '', 9, 0, '1000-01-01', '1970-01-02', 0, -0.0, 0, 'y', 'p,q', 'null', '', 'b', 2155, '00:00:00.01')"
)
RANGES = "PARTITION BY RANGE (id) (PARTITION p VALUES LESS THAN (10), PARTITION q VALUES LESS THAN (20))"
HASHES = "PARTITION BY HASH (id) PARTITIONS 4"

LEAVES: dict[str, list[str]] = {
    "": [
        "ADD x int",
        "ADD COLUMN `x y` varchar(9) CHARACTER SET latin1 COLLATE latin1_bin NULL DEFAULT NULL COMMENT 'c' AFTER a",
        "ADD x timestamp NULL, ADD (z datetime DEFAULT NULL ON UPDATE CURRENT_TIMESTAMP, zz json, KEY (x)), DROP a",
        "ADD x enum('a'), ADD z set('a') FIRST, ADD zz bit(3) INVISIBLE, ADD zzz decimal(9,2) unsigned zerofill UNIQUE",
        "ADD x double precision, ADD z national varchar(3), ADD zz point, ADD zzz boolean CHECK (zzz > 0)",
        "ADD COLUMN x int, ALGORITHM=INSTANT",
        "ADD COLUMN x int, ALGORITHM=COPY, LOCK=SHARED",
        "DROP COLUMN d, DROP f",
        "ADD INDEX (d), ADD KEY z (f)",
        "ADD FULLTEXT (b)",
        "ADD UNIQUE (b), DROP KEY k",
        "ADD CONSTRAINT z UNIQUE INDEX zz (g)",
        "DROP INDEX uu",
        "RENAME INDEX k TO kk",
        "ADD CONSTRAINT zz_{0} CHECK (id > 0)",
        "DROP CONSTRAINT ck_{0}",
        "ADD FOREIGN KEY (id) REFERENCES parent (id) ON DELETE CASCADE",
        "ENGINE=InnoDB",
        "ENGINE = MyISAM",
        "ROW_FORMAT=DYNAMIC, COMMENT='DROP PARTITION', AUTO_INCREMENT 99",
        "DEFAULT CHARACTER SET ascii COLLATE ascii_bin",
        "STATS_PERSISTENT=1 STATS_AUTO_RECALC=DEFAULT STATS_SAMPLE_PAGES=9 MAX_ROWS=9 MIN_ROWS 3 AVG_ROW_LENGTH=99",
        "FORCE",
        "DISABLE KEYS, ENABLE KEYS",
        RANGES,
        HASHES,
    ],
    RANGES: [
        "ADD PARTITION (PARTITION r VALUES LESS THAN (30))",
        "REORGANIZE PARTITION p, q INTO (PARTITION r VALUES LESS THAN (99))",
        "REBUILD PARTITION p, q",
        "OPTIMIZE PARTITION p",
        "ANALYZE PARTITION ALL",
        "REMOVE PARTITIONING",
    ],
    HASHES: ["ADD PARTITION PARTITIONS 3", "COALESCE PARTITION 2"],
}
LEAVES_MARIADB: dict[str, list[str]] = {
    "": [
        "ADD COLUMN IF NOT EXISTS x inet6, ADD IF NOT EXISTS (z uuid, zz text COMPRESSED)",
        "DROP COLUMN IF EXISTS g, DROP IF EXISTS f, DROP INDEX IF EXISTS zz",
        "WAIT 3 FORCE",
        "NOWAIT ADD x int",
        "ALTER INDEX k IGNORED",
        "ENGINE=Aria TRANSACTIONAL=1 PAGE_CHECKSUM=1",
        "PAGE_COMPRESSED=1 PAGE_COMPRESSION_LEVEL=3",
    ],
}
LEAVES_MYSQL: dict[str, list[str]] = {
    "": [
        "ALTER INDEX k INVISIBLE",
        "ALTER CHECK ck_{0} NOT ENFORCED",
        "DROP CHECK ck_{0}",
        "ALTER COLUMN b SET INVISIBLE",
        "ADD x geometry SRID 4326, ADD z vector(3), ADD zz int STORAGE DISK COLUMN_FORMAT FIXED",
        "COMPRESSION='zlib', ENCRYPTION='N', AUTOEXTEND_SIZE=4M",
        "TABLESPACE innodb_file_per_table",
        "ADD x int, ALGORITHM=INPLACE, WITHOUT VALIDATION",
    ],
}
CHANGES: dict[str, list[str]] = {
    "": [
        "ADD x int DEFAULT 5",
        "ADD x int NOT NULL",
        "ADD (x int, z varchar(9) NOT NULL)",
        "ADD x timestamp",
        "ADD x serial",
        "ADD x int AS (id + 1)",
        "ADD x int GENERATED ALWAYS AS (id + 1) STORED",
        "MODIFY b varchar(99) NOT NULL",
        "MODIFY m decimal(9,1)",
        "CHANGE b x varchar(99)",
        "CHANGE b f varchar(99), CHANGE f b float",
        "MODIFY d datetime",
        "DROP g, ADD g double",
    ],
    RANGES: ["TRUNCATE PARTITION p", "DROP PARTITION p"],
}
"""These change the rows that are there, so the comparison is able to see that."""


def cells(binlog: Binlog, table: str) -> dict[str, tuple[Any, ...]]:
    """The values of every column, the hidden ones too, in the order of the keys."""
    found = binlog.execute(
        "SELECT column_name FROM information_schema.columns"
        f" WHERE table_schema = 'shop' AND table_name = '{table}' ORDER BY ordinal_position"
    )
    names = [column for (column,) in found]
    wanted = ", ".join(f"`{column}`" for column in names)
    rows = binlog.execute(f"SELECT {wanted} FROM {table} ORDER BY id")
    return dict(zip(names, map(tuple, zip(*rows, strict=True)), strict=True))


def same(before: dict[str, tuple[Any, ...]], after: dict[str, tuple[Any, ...]]) -> bool:
    """Whether the values of columns that are in both are equal, and those of new columns NULL."""
    nothing = (None,) * len(before["id"])
    return all(repr(before.get(column, nothing)) == repr(values) for column, values in after.items())


def altered(binlog: Binlog, corpus: dict[str, list[str]]) -> list[tuple[str, Changed | None, bool]]:
    """Each clause of the corpus, what is read from the statement that the server wrote, and whether it left the rows
    of a table of its own alone."""
    clauses = {f"t{n}": one for n, one in enumerate((kept, clause) for kept in corpus for clause in corpus[kept])}
    binlog.execute("SET sql_mode = '', explicit_defaults_for_timestamp = 0", "CREATE TABLE parent (id int PRIMARY KEY)")
    binlog.execute("INSERT INTO parent VALUES (1), (2), (15)")
    left = {}
    for table, (kept, clause) in clauses.items():
        binlog.execute(TABLE.format(table, kept), ROWS.format(table))
        before = cells(binlog, table)
        binlog.execute(f"ALTER TABLE {table} {clause.format(table)}")
        left[table] = same(before, cells(binlog, table))
    found: dict[str, Changed | None] = {}
    for _, event in binlog.events():
        if isinstance(event, Query) and event.sql.startswith("ALTER"):
            table, statement = event.sql.split()[2], read(binlog, event)
            if isinstance(statement, Ddl):
                (effect,) = statement.effects
                assert isinstance(effect, Changed), event.sql
                assert effect.table == name(table)
                found[table] = effect
            else:
                assert statement == Harmless(), event.sql
                found[table] = None
    return [(clause, found[table], left[table]) for table, (_, clause) in clauses.items()]


def test_clauses_that_leave_the_rows_alone(binlog: Binlog) -> None:
    own = LEAVES_MYSQL if binlog.mysql else LEAVES_MARIADB
    for clause, effect, left in altered(binlog, {**LEAVES, "": LEAVES[""] + own[""]}):
        assert left, clause
        assert effect is None or not effect.rows, clause


def test_clauses_that_change_rows(binlog: Binlog) -> None:
    for clause, effect, left in altered(binlog, CHANGES):
        assert not left, clause
        assert effect is not None, clause
        assert effect.rows, clause


@pytest.mark.parametrize("kind", ["VIRTUAL", "STORED"])
def test_a_generated_column_follows_another_ones_default(binlog: Binlog, kind: str) -> None:
    binlog.execute(f"CREATE TABLE a (id int PRIMARY KEY, n int DEFAULT 7, v int AS (DEFAULT(n)) {kind})")
    binlog.execute("INSERT INTO a (id) VALUES (1)")
    assert written(binlog, "ALTER TABLE a ALTER n SET DEFAULT 9") == [ddl(Changed(name("a"), True, True))]
    assert binlog.execute("SELECT * FROM a") == [(1, 7, 9)]


def test_partitions_that_go_elsewhere(binlog: Binlog) -> None:
    columns = "(id int PRIMARY KEY, x int)"
    binlog.execute(f"CREATE TABLE a {columns} {RANGES}", f"CREATE TABLE b {columns}", "INSERT INTO a VALUES (1, 1)")
    effects = [Changed(name("a"), True, True), Changed(name("b"), True, False)]
    assert written(binlog, "ALTER TABLE a EXCHANGE PARTITION p WITH TABLE b") == [ddl(*effects)]
    assert binlog.execute("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)") == [(0, 1)]
