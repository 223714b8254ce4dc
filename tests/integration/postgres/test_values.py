"""Everyday values: the same bytes from the stream and from a snapshot, whatever the database's settings."""

from __future__ import annotations

import json
import re

import pytest

from cdc.formats.json import decode
from tests.integration.postgres.conftest import MakeSource
from tests.servers.postgres import Database, drop_database

pytestmark = pytest.mark.xdist_group("postgres-ddl")

TYPES = {
    "c_smallint": ("smallint", "-32768"),
    "c_bigint": ("bigint", "9223372036854775807"),
    "c_numeric": ("numeric", "123456789012345678901234567890.1234567890"),
    "c_scaled": ("numeric(12,2)", "1.50"),
    "c_nan": ("numeric", "'NaN'"),
    "c_real": ("real", "1e-30"),
    "c_double": ("double precision", "0.1"),
    "c_inf": ("double precision", "'-Infinity'"),
    "c_text": ("text", "E'tab\\t newline\\n quote\" back\\\\slash ☃ \\x01'"),
    "c_varchar": ("varchar(20)", "''"),
    "c_char": ("char(5)", "'ab'"),
    "c_boolean": ("boolean", "false"),
    "c_bytea": ("bytea", "'\\x00ff5c0a'"),
    "c_json": ("json", "'{\"a\" : [1,  null]}'"),
    "c_jsonb": ("jsonb", '\'{"b": "\\u2603", "a": 1.50}\''),
    "c_uuid": ("uuid", "'00112233-4455-6677-8899-aabbccddeeff'"),
    "c_date": ("date", "'2026-02-28'"),
    "c_bc": ("date", "'0044-03-15 BC'"),
    "c_infinity": ("date", "'infinity'"),
    "c_time": ("time", "'23:59:59.999999'"),
    "c_time3": ("time(3)", "'12:00:00.5'"),
    "c_timetz": ("timetz", "'12:00:00+05:30'"),
    "c_timestamp": ("timestamp", "'2026-01-31 12:00:00.000001'"),
    "c_timestamp0": ("timestamp(0)", "'2026-01-31 12:00:00'"),
    "c_timestamptz": ("timestamptz", "'2026-01-31 12:00:00.5+02'"),
    "c_mood": ("mood", "'so ''lala'''"),
    "c_ints": ("int[]", "'{1,NULL,3}'"),
    "c_texts": ("text[]", "ARRAY['a,b', '', NULL, 'NULL', E'q\"\\\\']"),
    "c_matrix": ("int[]", "'{{1,2},{3,4}}'"),
    "c_moods": ("mood[]", "ARRAY['fine']::mood[]"),
    "c_stamps": ("timestamptz[]", "ARRAY['2026-01-31 12:00:00+00']::timestamptz[]"),
    "c_domain": ("amount", "7.25"),
    "c_interval": ("interval", "'1 year 2 mons 3 days 04:05:06.789'"),
    "c_inet": ("inet", "'10.0.0.1/8'"),
    "c_point": ("point", "'(1,2.50)'"),
    "c_odd": ("point", "'(Infinity,NaN)'"),
    "c_points": ("point[]", "ARRAY['(1,2)'::point, NULL]"),
    "c_range": ("int4range", "'[1,10)'"),
    "c_tsvector": ("tsvector", "'a:1 b:2'"),
    "c_pair": ("pair", "ROW(1, 'x y')::pair"),
    "c_bit": ("bit varying(8)", "B'1010'"),
    "c_flag": ("bit", "B'1'"),
    "c_bits": ("bit(10)", "B'0100000001'"),
    "c_money": ("money", "12.34"),
    "c_null": ("text", "NULL"),
}
SETTINGS = {
    "extra_float_digits": "0",
    "intervalstyle": "iso_8601",
    "datestyle": "German",
    "timezone": "Asia/Tokyo",
    "bytea_output": "escape",
}


@pytest.mark.parametrize("profile", ["readable", "debezium"])
def test_values_are_the_same_from_stream_and_snapshot(database: Database, source: MakeSource, profile: str) -> None:
    database.execute("CREATE TYPE mood AS ENUM ('fine', 'so ''lala''')")
    database.execute("CREATE DOMAIN amount AS numeric(8, 2); CREATE TYPE pair AS (a int, b text)")
    columns = ", ".join(f"{name} {type_}" for name, (type_, _) in TYPES.items())
    values = ", ".join(value for _, value in TYPES.values())
    database.execute(f"CREATE TABLE item (id int PRIMARY KEY, {columns})")
    shop = source(["public.item"], profile=profile)
    database.execute(f"INSERT INTO item VALUES (1, {values})")
    shop.capture()
    for name, value in SETTINGS.items():
        database.execute(f"ALTER DATABASE {database.name} SET {name} = '{value}'")
    database.execute(f"DELETE FROM item; INSERT INTO item VALUES (1, {values})")
    shop.capture()
    shop.request_snapshot("public.item")
    shop.capture()

    read, _, created, again = shop.events()
    assert [read.operation, created.operation, again.operation] == ["r", "c", "r"]
    assert read.header.schema_id == created.header.schema_id == again.header.schema_id
    images = {after(event.record.value or b"") for event in (read, created, again)}
    assert len(images) == 1, images
    row = decode(shop.log.schemas()[read.header.schema_id], min(images))
    assert row["c_interval"] == "1 year 2 mons 3 days 04:05:06.789"
    assert row["c_inet"] == "10.0.0.1/8"
    assert row["c_pair"] == '(1,"x y")'
    assert (row["c_bit"], row["c_flag"], row["c_bits"]) == ("1010", "1", "0100000001")
    printed = json.loads(images.pop())
    bits = ("1010", "1", "0100000001") if profile == "readable" else ("1010", True, "AQE=")
    assert (printed["c_bit"], printed["c_flag"], printed["c_bits"]) == bits
    assert (row["c_point"], row["c_odd"], printed["c_points"]) == ("(1,2.5)", "(Infinity,NaN)", ["(1,2)", None])
    if profile == "readable":
        assert (printed["c_point"], printed["c_odd"]) == (row["c_point"], row["c_odd"])
    else:
        wkb = "AQEAAAAAAAAAAADwPwAAAAAAAARA"
        assert printed["c_point"] == {"x": 1.0, "y": 2.5, "wkb": wkb, "srid": None}
        wkb = "AQEAAAAAAAAAAADwfwAAAAAAAPh/"
        assert printed["c_odd"] == {"x": "Infinity", "y": "NaN", "wkb": wkb, "srid": None}
    if profile == "readable":
        assert row["c_numeric"] == "123456789012345678901234567890.1234567890"
    assert row["c_matrix"] == [[1, 2], [3, 4]]
    assert row["c_null"] is None


def after(value: bytes) -> bytes:
    found = re.search(rb'"after":(.*),"source":', value, re.DOTALL)
    assert found is not None
    return found[1]


def test_a_database_in_another_encoding(database18: Database, source18: MakeSource) -> None:
    name = f"{database18.name}_latin1"
    database18.server.execute(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    latin = Database(database18.server, name)
    try:
        latin.execute("CREATE TABLE item (id text PRIMARY KEY, name text)")
        client = latin.connect(client_encoding="UTF8")
        client.execute("INSERT INTO item VALUES ('clé', 'é')")
        shop = source18(["public.item"]).changed(dsn=latin.dsn)
        shop.capture()
        client.execute("INSERT INTO item VALUES ('ñ', 'ü')")
        client.close()
        shop.capture()
        assert sorted(row["name"] for row in shop.rows("public.item").values()) == ["é", "ü"]
    finally:
        drop_database(latin)
