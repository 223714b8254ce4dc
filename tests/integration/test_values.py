"""Everyday types, exact in both directions: the database itself says what is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import pq

from cdc.formats.envelope import Envelope, plain_records
from cdc.formats.json import decode as decode_row
from cdc.record import unpack_header
from connectors.postgres.pgoutput import Delete, Insert, Relation, Update, decode
from connectors.postgres.values import CatalogType, load, logical_type, to_sql_text
from connectors.postgres.wire import compile_copy, compile_relation, row_values
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType
from tests.servers.postgres import Database, Server, create_database, drop_database

EDGES: dict[str, list[str]] = {
    "boolean": ["true", "false"],
    "smallint": ["-32768", "32767", "0"],
    "integer": ["-2147483648", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "oid": ["0", "4294967295"],
    "numeric": ["0", "-0.00", "1.10", "NaN", "Infinity", "-Infinity", "1e-40", "9" * 200, "1e5000", "12300"],
    "numeric(12,2)": ["0", "-1.10", "9999999999.99", "NaN"],
    "numeric(5)": ["-99999"],
    "real": ["1.5", "-0", "0.1", "3.4028235e38", "1e-45", "NaN", "Infinity", "-Infinity", "16777216"],
    "double precision": ["0.1", "-0", "1e20", "1.7976931348623157e308", "5e-324", "NaN", "Infinity", "-Infinity"],
    "text": [
        "",
        "a",
        "Grüße 🎉",
        'quotes " and \\ and \t\n\r\b\f\v',
        "NULL",
        "\x01\x7f",
        "{}",
        "\\N",
        "\u2028",
        "%s %b",
    ],
    "character varying(20)": ["", "x  "],
    "character(5)": ["", "ab"],
    "bpchar": ["ab  "],
    "name": ["pg_class"],
    "bytea": ["", "\\x00ff10", "\\x5c6e22"],
    "json": ['{"a": 1,  "b":[null, "é\\u0000"]}', "null", '"x"'],
    "jsonb": ['{"b": 1e400, "a": [1.10, "\\\\"]}', "null"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "date": ["2026-01-31", "4713-01-01 BC", "0001-12-31 BC", "5874897-12-31", "infinity", "-infinity", "10000-01-01"],
    "time without time zone": ["00:00", "24:00:00", "12:00:00.5", "23:59:59.999999"],
    "time(0) without time zone": ["12:34:56.7"],
    "time(3) without time zone": ["12:34:56.789"],
    "time with time zone": ["12:00+02", "24:00:00+00", "00:00-15:59", "12:00:00.25+05:30:15", "23:00-01"],
    "timestamp without time zone": [
        "2026-01-31 12:00:00.5",
        "4713-01-01 00:00:00 BC",
        "0044-03-15 12:00:00.000001 BC",
        "294276-12-31 23:59:59.999999",
        "infinity",
        "-infinity",
        "1969-12-31 23:59:59.999999",
    ],
    "timestamp(3) without time zone": ["2026-01-31 12:00:00.123", "infinity"],
    "timestamp(0) without time zone": ["1960-01-31 12:00:00"],
    "timestamp with time zone": [
        "2026-01-31 12:00:00.5+02",
        "4713-01-01 00:00:00+00 BC",
        "0001-12-31 23:59:59.999999+00 BC",
        "294276-12-31 23:59:59.999999+00",
        "infinity",
        "-infinity",
    ],
    "timestamp(3) with time zone": ["2026-01-31 12:00:00.12+00"],
    "timestamp(0) with time zone": ["2026-01-31 12:00:00+00"],
    "mood": ["sad", "so so", 'ha"ppy', "é,{}"],
    "positive": ["7"],
    "price": ["1.20"],
    "names": ['{a,"b c",NULL}'],
    "integer[]": ["{}", "{1,NULL,-3}", "{{1,2},{3,4}}", "{{{1}}}"],
    "text[]": ["{}", '{"",NULL,"NULL","a\\"b","a\\\\b","{x}","c,d"," s "}', '{{"x"},{"y"}}'],
    "boolean[]": ["{t,f,NULL}"],
    "bytea[]": ['{"\\\\x00ff",NULL}'],
    "numeric[]": ["{1.10,NaN,NULL}"],
    "numeric(6,2)[]": ["{1.10,NULL}"],
    "double precision[]": ["{1.5,-0,NaN,Infinity,NULL,1}"],
    "timestamp with time zone[]": ['{"2026-01-31 12:00:00.5+00",infinity,NULL}'],
    "timestamp(3) without time zone[]": ['{"2026-01-31 12:00:00.5",NULL}'],
    "date[]": ['{"0044-03-15 BC",2026-01-31}'],
    "uuid[]": ["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"],
    "jsonb[]": ['{"{\\"a\\": [1, null]}",null}'],
    "mood[]": ['{sad,"ha\\"ppy",NULL}'],
    "interval": ["1 year 2 mons -3 days 04:05:06.7", "0"],
    "inet": ["10.0.0.1/8", "::1"],
    "money": ["12.34"],
    "bit varying": ["101", "", "00"],
    "bit(1)": ["0", "1"],
    "bit(17)": ["10000000100000001", "00000000000000000"],
    "bit(3)[]": ["{001,NULL}"],
    "point": ["(1,2.5)", "(-0,1e20)", "(NaN,-Infinity)", "(1e-300,123456789012345678)"],
    "point[]": ['{"(1,2.5)",NULL}'],
    "int4range": ["[1,6)", "empty"],
    "tsvector": ["'a':1 'b'"],
    "box[]": ["{(1,2),(3,4);(5,6),(7,8)}"],
    "inet[]": ["{10.0.0.1,NULL}"],
}
TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'so so', 'ha"ppy', 'é,{}');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN price AS numeric(12,2);
CREATE DOMAIN names AS text[];
"""
SESSION = "-c timezone=UTC -c datestyle=ISO -c extra_float_digits=3 -c bytea_output=hex -c intervalstyle=postgres"
CASES = [(native, literal) for native, literals in EDGES.items() for literal in literals]


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    database.execute(TYPES)
    with database.connect(options=SESSION) as connection:
        yield connection


def lookup_in(connection: psycopg.Connection[Any]) -> Any:
    """The catalogue's answer for types that are not built in."""
    kinds = {"b": "base", "e": "enum", "d": "domain"}

    def lookup(oid: int) -> CatalogType | None:
        row = connection.execute(
            "SELECT typtype::text, format_type(oid, NULL), typelem, typbasetype, typtypmod, typsubscript::text"
            " FROM pg_type WHERE oid = %s",
            [oid],
        ).fetchone()
        if row is None:
            return None
        kind, name, element, base, modifier, subscript = row
        if subscript == "array_subscript_handler":
            return CatalogType("array", name, element)
        return CatalogType(kinds.get(kind, "base"), name, base, modifier)  # type: ignore[arg-type] - typed dict of str

    return lookup


def select_text(connection: psycopg.Connection[Any], statement: str, *parameters: str | None) -> list[bytes | None]:
    """One row as the server prints it, no parsing in between."""
    encoded = [None if p is None else p.encode() for p in parameters]
    result = connection.pgconn.exec_params(statement.encode(), encoded)
    assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message.decode()
    return [result.get_value(0, place) for place in range(result.nfields)]


def test_values_come_back_exactly(connection: psycopg.Connection[Any]) -> None:
    lookup = lookup_in(connection)
    for native, literal in CASES:
        (text,) = select_text(connection, f"SELECT $1::{native}", literal)
        assert text is not None
        column = connection.execute(f"SELECT NULL::{native}".encode()).description
        assert column is not None
        type_, _ = logical_type(column[0].type_code, column[0]._fmod, lookup)
        value = load(type_, text)
        printed = to_sql_text(type_, value)
        equal = (
            "true"
            if native in ("json", "point", "point[]", "box[]")
            else f"($2::{native} IS NOT DISTINCT FROM $1::{native})"
        )
        again = select_text(connection, f"SELECT $1::{native}, $2::{native}, {equal}", literal, printed)
        assert again[1] == text, (native, literal)
        assert again[2] == b"t", (native, literal)


def test_native_names_are_the_databases_own(connection: psycopg.Connection[Any]) -> None:
    for native in EDGES:
        column = connection.execute(f"SELECT NULL::{native}".encode()).description
        assert column is not None
        oid, modifier = column[0].type_code, column[0]._fmod
        (expected,) = select_text(connection, f"SELECT format_type({oid}, {modifier})")
        _, name = logical_type(oid, modifier, lookup_in(connection))
        assert name.encode() == expected or native in ("box[]",), native


def create_everything(connection: psycopg.Connection[Any], identity: str) -> list[str]:
    """A table with one column per type, and a row per edge; returns the column types."""
    natives = list(EDGES)
    columns = ", ".join(f"c{place} {native}" for place, native in enumerate(natives))
    connection.execute(f"CREATE TABLE everything (id int PRIMARY KEY, {columns})".encode())
    connection.execute(f"ALTER TABLE everything REPLICA IDENTITY {identity}".encode())
    connection.execute("CREATE PUBLICATION everything FOR TABLE everything")
    return natives


def fill_everything(connection: psycopg.Connection[Any], natives: list[str]) -> None:
    for number in range(max(map(len, EDGES.values()))):
        literals = [str(number)]
        for native in natives:
            edges = EDGES[native]
            literals.append(edges[number % len(edges)])
        marks = ", ".join(f"${place + 2}::{native}" for place, native in enumerate(natives))
        result = connection.pgconn.exec_params(
            f"INSERT INTO everything VALUES ($1::int, {marks})".encode(), [literal.encode() for literal in literals]
        )
        assert result.status == pq.ExecStatus.COMMAND_OK, result.error_message.decode()
    connection.execute("INSERT INTO everything (id) VALUES (100)")


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
@pytest.mark.parametrize("profile", ["readable", "debezium"])
def test_stream_and_copy_of_every_type(connection: psycopg.Connection[Any], profile: str, identity: str) -> None:
    natives = create_everything(connection, identity)
    slot = f"s_{connection.info.dbname}"
    connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    fill_everything(connection, natives)
    connection.execute("UPDATE everything SET c0 = NOT c0 WHERE id < 5")
    connection.execute("UPDATE everything SET id = -id WHERE id BETWEEN 1 AND 3")
    connection.execute("DELETE FROM everything WHERE id = 100")
    messages = connection.execute(
        "SELECT lsn - '0/0', data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL,"
        " 'proto_version', '1', 'publication_names', 'everything')",
        [slot],
    ).fetchall()
    lookup = lookup_in(connection)
    envelope = Envelope("postgresql", "shop", "db")
    transaction = envelope.transaction(7, 1_700_000_000_000_001, 5, 1_700_000_000_000_000_999)
    version = 1 << 48
    keys, operations = [], []
    for lsn, body in messages:
        message = decode(body)
        if isinstance(message, Relation):
            relation = message
            types = [logical_type(c.type_oid, c.type_modifier, lookup) for c in relation.columns]
            columns = tuple(Column(c.name, *type_) for c, type_ in zip(relation.columns, types, strict=True))
            schema = TableSchema("shop.public.everything", "public", "everything", columns, ("id",), profile)
            compiled = compile_relation(relation, schema, ["id"])
        if not isinstance(message, Insert | Update | Delete):
            continue
        frame = b"w" + int(lsn).to_bytes(8, "big") + bytes(16) + body
        function = {Insert: compiled.insert, Update: compiled.update, Delete: compiled.delete}[type(message)]
        records: list[Any] = []
        used = function(records.append, frame, 30, transaction, version, 3)
        operation, before, after = row_values(relation, schema, message)
        plain = plain_records(schema, operation, before, after, transaction, int(lsn), version, 3, ["id"])
        assert records == plain
        assert used == 1 + (len(plain) == 3)
        version += used
        if after is not None:
            header = unpack_header(records[-1].header)
            row = records[-1].value[header.after_start :][: header.after_length]
            decoded = decode_row(schema, row)
            assert list(decoded) == [column.name for column in schema.columns]
            if profile == "readable":
                assert list(decoded.values()) == after
            else:
                assert_equal_but_for_known_losses(connection, schema, decoded, after)
        keys.append(records[-1].key)
        operations.append(records[-1].header[1:2])
    rows = max(map(len, EDGES.values()))
    assert operations == [b"c"] * (rows + 1) + [b"u"] * 5 + [b"c"] * 3 + [b"d"]
    # What a snapshot reads is what the stream said, byte for byte.
    lines = []
    with connection.cursor().copy("COPY (SELECT * FROM everything ORDER BY id) TO STDOUT") as copy:
        lines = [bytes(line).removesuffix(b"\n") for line in copy]
    read: list[Any] = []
    reading = envelope.reading(1_700_000_000_000_001, 1_700_000_000_000_000_999)
    following = compile_copy(schema).read(read.append, lines, reading, version, {b'{"id":0}'})
    assert following == version + len(lines) - 1
    for line, record in zip([line for line in lines if not line.startswith(b"0\t")], read, strict=True):
        number = line.split(b"\t")[0].decode()
        texts = select_text(connection, f"SELECT * FROM everything WHERE id = {number}")
        values = [
            None if text is None else load(column.type, text)
            for column, text in zip(schema.columns, texts, strict=True)
        ]
        (expected,) = plain_records(
            schema,
            "r",
            None,
            values,
            reading,
            None,
            unpack_header(record.header).version,
            0,  # type: ignore[arg-type]
        )
        assert record == expected
        assert record.key in keys


def assert_equal_but_for_known_losses(
    connection: psycopg.Connection[Any], schema: TableSchema, decoded: dict[str, Any], after: list[Any]
) -> None:
    """The debezium profile loses a time's zone and the trailing zeros of a number without a scale."""
    for column, value in zip(schema.columns, after, strict=True):
        found = decoded[column.name]
        if value is None or found == value:
            assert found == value
            continue
        kind = (column.type.element or column.type).kind
        assert kind in (Kind.TIMETZ, Kind.DECIMAL), column
        if kind is Kind.TIMETZ:
            statement = "SELECT $1::timetz AT TIME ZONE 'UTC' = $2::timetz"
        else:
            statement = f"SELECT $1::{column.native} = $2::{column.native}"
        texts = to_sql_text(column.type, value), to_sql_text(column.type, found)
        assert select_text(connection, statement, *texts) == [b"t"], column


@pytest.mark.parametrize("type_", ["geometry", "geography"])
def test_arrays_of_geometries_are_delimited_by_colons(type_: str) -> None:
    kinds = {1: CatalogType("array", f"{type_}[]", 2), 2: CatalogType("base", f"gis.{type_}")}
    logical, native = logical_type(1, -1, kinds.get)
    assert (logical, native) == (LogicalType(Kind.ARRAY, element=LogicalType(Kind.EWKB)), f"gis.{type_}[]")
    assert load(logical, b"{010700000000000000:NULL:010700000000000000}") == [
        "010700000000000000",
        None,
        "010700000000000000",
    ]
    assert load(logical, b"{{010700000000000000:NULL}:{NULL:NULL}}") == [["010700000000000000", None], [None, None]]
    assert load(logical, b'{"(a:b,c)",NULL}') == ["(a:b,c)", None]  # another type of that name


def test_a_citext_column_is_a_string(postgres15: Server) -> None:
    database = create_database(postgres15)
    with database.connect() as connection:
        connection.execute("CREATE EXTENSION citext")  # the 18 of the tests comes without it
        row = connection.execute("SELECT 'citext'::regtype::oid").fetchone()
        assert row is not None
        assert logical_type(row[0], -1, lookup_in(connection)) == (LogicalType(Kind.STRING), "citext")
    drop_database(database)
