"""What capture refuses, with the SQL that mends it, and what it leaves out."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdc.connector import Severity
from cdc.errors import PermanentError, UnreachableError
from connectors.postgres.slot import counts_as_standby
from tests.integration.postgres.conftest import MakeSource
from tests.servers import wait_until
from tests.servers.postgres import Database, Postgres, since

pytestmark = pytest.mark.xdist_group("postgres-refusals")

REFUSED = {
    "no key": ("CREATE TABLE bad (id int)", "ALTER TABLE .* ADD PRIMARY KEY"),
    "deferrable key": ("CREATE TABLE bad (id int PRIMARY KEY DEFERRABLE)", "DROP CONSTRAINT .* PRIMARY KEY"),
    "identity nothing": (
        "CREATE TABLE bad (id int PRIMARY KEY); ALTER TABLE bad REPLICA IDENTITY NOTHING",
        "REPLICA IDENTITY DEFAULT",
    ),
    "identity full without a key": ("CREATE TABLE bad (id int); ALTER TABLE bad REPLICA IDENTITY FULL", "PRIMARY KEY"),
    "key of nullable columns": ("CREATE TABLE bad (id int UNIQUE)", "NOT NULL"),
    "partial index": (
        "CREATE TABLE bad (id int NOT NULL); CREATE UNIQUE INDEX ON bad (id) WHERE id > 0",
        "ADD PRIMARY KEY",
    ),
    "unlogged": ("CREATE UNLOGGED TABLE bad (id int PRIMARY KEY)", "SET LOGGED"),
    "view": ("CREATE VIEW bad AS SELECT 1 AS id", "capture the tables beneath"),
    "partitioned": ("CREATE TABLE bad (id int PRIMARY KEY) PARTITION BY RANGE (id)", "unpartitioned"),
    "json key": ("CREATE TABLE bad (id jsonb PRIMARY KEY)", "key"),
    "array key": ("CREATE TABLE bad (id int[] PRIMARY KEY)", "key"),
    "interval key": ("CREATE TABLE bad (id interval PRIMARY KEY)", "key"),
    "generated key": (
        "CREATE TABLE bad (of int, id int GENERATED ALWAYS AS (of) STORED PRIMARY KEY)",
        "generated column.*USING INDEX",
    ),
    "missing": ("SELECT 1", "does not exist"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_table_named_literally_stops_the_source(database18: Database, source18: MakeSource, why: str) -> None:
    database18.execute("CREATE TABLE good (id int PRIMARY KEY)")
    database18.execute(REFUSED[why][0])
    shop = source18(["public.good", "public.bad"])
    with pytest.raises(PermanentError, match=rf"(?s)public\.bad.*{REFUSED[why][1]}"):
        shop.capture()
    assert database18.execute("SELECT 1 FROM pg_publication") == [], "nothing was published"
    findings = [f for f in shop.connector.preflight() if f.severity is Severity.ERROR]
    assert any("public.bad" in finding.message for finding in findings)


@pytest.mark.parametrize("why", [why for why in REFUSED if why != "missing"])
def test_a_table_that_a_glob_matches_is_left_out(
    database18: Database, source18: MakeSource, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    database18.execute("CREATE TABLE good (id int PRIMARY KEY)")
    database18.execute(REFUSED[why][0])
    shop = source18(["public.*"])
    shop.capture()
    if why not in ("view",):
        assert "public.bad is left out" in capfd.readouterr().out
    if why not in ("view", "partitioned", "json key", "array key", "interval key", "generated key"):
        database18.execute("INSERT INTO bad VALUES (1); UPDATE bad SET id = 2; DELETE FROM bad")
    database18.execute("INSERT INTO good VALUES (1)")
    shop.capture()
    assert [r.topic for r in shop.events()] == ["test.public.good"]


def test_a_generated_column_under_full_identity(database: Database, source: MakeSource) -> None:
    """Since PostgreSQL 18 the server refuses UPDATE and DELETE of such a table once it is published."""
    database.execute("CREATE TABLE item (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)")
    database.execute("ALTER TABLE item REPLICA IDENTITY FULL; INSERT INTO item VALUES (1)")
    shop = source(["public.item"])
    if refused := database.server.version >= 18:
        with pytest.raises(PermanentError, match=r"(?s)twice generated.*REPLICA IDENTITY DEFAULT"):
            shop.capture()
    else:
        shop.capture()
    database.execute("UPDATE item SET id = 2; DELETE FROM item")
    if refused:
        database.execute("ALTER TABLE item REPLICA IDENTITY DEFAULT; INSERT INTO item VALUES (1)")
        shop.capture()
        database.execute("UPDATE item SET id = 2; DELETE FROM item")
    shop.capture()
    assert [(r.operation, r.record.value and r.envelope["after"]) for r in shop.events()] == [
        ("r", {"id": 1}),
        ("d", None),
        ("c", {"id": 2}),
        ("d", None),
    ]


def test_no_table_left(database18: Database, source18: MakeSource) -> None:
    with pytest.raises(PermanentError, match="no table of this database"):
        source18(["public.*"]).capture()


def test_wal_level_replica(own_postgres: Postgres, source18: MakeSource) -> None:
    own_postgres.settings["wal_level"] = "replica"
    own_postgres.start()
    own_postgres.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop = source18(["public.item"]).changed(dsn=own_postgres.dsn)
    with pytest.raises(PermanentError, match=r"(?s)wal_level.*ALTER SYSTEM SET wal_level = 'logical'"):
        shop.capture()
    assert any("wal_level" in f.message for f in shop.connector.preflight() if f.severity is Severity.ERROR)


@pytest.fixture
def role(database18: Database) -> str:
    """A role that may replicate and nothing else."""
    name = f"{database18.name}_role"
    database18.execute(f"CREATE ROLE {name} LOGIN REPLICATION")
    return name


def as_role(database: Database, role: str) -> str:
    return make_conninfo(database.dsn, user=role)


def test_a_role_that_owns_nothing_uses_a_dbas_publication(
    database18: Database, source18: MakeSource, role: str
) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)")
    database18.execute(f"GRANT USAGE ON SCHEMA public TO {role}; INSERT INTO item VALUES (1)")
    shop = source18(["public.item"]).changed(dsn=as_role(database18, role))
    with pytest.raises(PermanentError, match=r"(?s)superuser.*CREATE PUBLICATION"):
        shop.capture()
    database18.execute("CREATE PUBLICATION dba FOR TABLE item, other")
    shop = shop.changed(publication={"name": "dba", "manage": "none"})
    with pytest.raises(PermanentError, match=r"(?s)permission denied.*GRANT SELECT ON"):
        shop.capture()
    assert any("GRANT SELECT" in f.fix for f in shop.connector.preflight())
    database18.execute(f"GRANT SELECT ON item TO {role}")
    shop.capture()
    database18.execute("INSERT INTO other VALUES (2); INSERT INTO item VALUES (2)")
    shop.capture()
    assert [(r.topic, r.operation) for r in shop.events()] == [("test.public.item", "r"), ("test.public.item", "c")]


def test_a_role_that_may_not_replicate(database18: Database, source18: MakeSource, role: str) -> None:
    database18.execute(f"ALTER ROLE {role} NOREPLICATION; CREATE TABLE item (id int PRIMARY KEY)")
    database18.execute(f"ALTER TABLE item OWNER TO {role}; GRANT CREATE ON DATABASE {database18.name} TO {role}")
    shop = source18(["public.item"]).changed(dsn=as_role(database18, role))
    assert any("REPLICATION" in f.fix for f in shop.connector.preflight())
    with pytest.raises((UnreachableError, PermanentError), match=r"(?i)replication"):
        shop.capture()
    database18.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}")


@pytest.mark.parametrize(
    ("made", "says", "version"),
    [
        ("SELECT 1", "does not exist.*CREATE PUBLICATION", 14),
        ("CREATE PUBLICATION dba FOR TABLE other", "lacks public.item.*ADD TABLE", 14),
        ("CREATE PUBLICATION dba FOR TABLE item WITH (publish = 'insert, update, delete')", "publish = .*truncate", 14),
        ("CREATE PUBLICATION dba FOR TABLE item WHERE (id > 1)", "row filter.*DROP TABLE", 15),
        ("CREATE PUBLICATION dba FOR TABLE item (id)", "list of columns", 15),
        (
            "CREATE PUBLICATION dba FOR TABLE item WITH (publish_generated_columns = stored)",
            "generated columns.*publish_generated_columns = none",
            18,
        ),
    ],
)
def test_a_dbas_publication_that_does_not_do(
    database18: Database, source18: MakeSource, made: str, says: str, version: int
) -> None:
    since(version, database18.server)
    database18.execute("CREATE TABLE item (id int PRIMARY KEY, name text); CREATE TABLE other (id int PRIMARY KEY)")
    database18.execute(made)
    shop = source18(["public.item"], publication={"name": "dba", "manage": "none"})
    with pytest.raises(PermanentError, match=f"(?s){says}"):
        shop.capture()


def test_all_tables_publication(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE PUBLICATION dba FOR ALL TABLES")
    shop = source18(["public.item"], publication={"name": "dba", "manage": "none"})
    shop.capture()
    database18.execute("CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1), (2)")
    database18.execute("INSERT INTO item VALUES (1)")
    shop.capture()
    assert [r.record.key for r in shop.events()] == [b'{"id":1}']


@pytest.mark.parametrize("stranger", ["plugin", "database", "physical"])
def test_a_slot_name_that_somebody_else_uses(database18: Database, source18: MakeSource, stranger: str) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY)")
    name = f"{database18.name}_slot"
    shop = source18(["public.item"], slot={"name": name})
    where = database18.server if stranger == "database" else database18
    plugin = "pgoutput" if stranger == "database" else "test_decoding"
    try:
        if stranger == "physical":
            where.execute(f"SELECT pg_create_physical_replication_slot('{name}')")
        else:
            where.execute(f"SELECT pg_create_logical_replication_slot('{name}', '{plugin}')")
    except psycopg.Error as error:
        pytest.skip(f"the server has no {plugin}: {error}")
    try:
        with pytest.raises(PermanentError, match=r"(?s)slot .* needed is pgoutput.*slot\.name"):
            shop.capture()
        assert any("slot.name" in f.fix for f in shop.connector.preflight() if f.severity is Severity.ERROR)
    finally:
        where.execute(f"SELECT pg_drop_replication_slot('{name}')")


def test_leftovers_and_cleanup(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop = source18(["public.item"])
    assert shop.connector.leftovers() == []
    shop.capture()
    assert [sentence.split(" (")[0] for sentence in shop.connector.leftovers()] == [
        f"replication slot {shop.slot}",
        f"publication {shop.slot}",
    ]
    assert shop.slot in shop.connector.farewell()
    with shop.running() as running:
        running.catch_up()
        with pytest.raises(UnreachableError, match="active"):
            shop.connector.cleanup()
    shop.connector.cleanup()
    shop.connector.cleanup()
    assert shop.connector.leftovers() == []
    assert database18.execute(f"SELECT 1 FROM pg_replication_slots WHERE database = '{database18.name}'") == []


def test_a_database_that_takes_us_for_a_standby(database18: Database, source18: MakeSource) -> None:
    """Its commits would wait until we have acknowledged them, or be lost with a server although they seemed safe."""
    database18.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop = source18(["public.item"])
    server = database18.server
    try:
        server.execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'")
        server.execute("SELECT pg_reload_conf()")
        wait_until(lambda: server.execute("SHOW synchronous_standby_names") == [("ANY 1 (*)",)])
        with pytest.raises(PermanentError, match=r"(?s)commits would wait for us.*ALTER SYSTEM"):
            shop.capture()
        errors = [f.message for f in shop.connector.preflight() if f.severity is Severity.ERROR]
        assert any("synchronous_standby_names" in message for message in errors)
    finally:
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("SELECT pg_reload_conf()")
    wait_until(lambda: server.execute("SHOW synchronous_standby_names") == [("",)])
    shop.capture()


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        ("", False),
        ("*", True),
        ("FIRST 1 (standby1, *)", True),
        ("standby1, CDC", True),
        ('2 (a, "cdc")', True),
        ('ANY 1 ("c""dc", cdc2, "*x")', False),
        ("standby1", False),
    ],
)
def test_who_counts_as_a_standby(names: str, counts: bool) -> None:
    assert counts_as_standby(names, "cdc") == counts
