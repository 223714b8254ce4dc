"""What a snapshot's lines are rendered by."""

from __future__ import annotations

from dataclasses import replace

from cdc.formats.envelope import TransactionParts
from cdc.log import Produced
from cdc.source.schemas import Schemas
from connectors.mysql.catalogue import CatalogTable, schema_columns
from connectors.mysql.select import compile_select
from connectors.mysql.tablemap import ColumnType, MapColumn
from schemas.table import TableSchema


def test_a_column_that_may_be_null_by_now() -> None:
    """The schema on the log does not tell, so it is the same one."""
    id_ = MapColumn("id", ColumnType.LONG, 4, 0, nullable=False)
    table = CatalogTable("shop", "item", (id_, replace(id_, name="n")), ("id",))
    schema = TableSchema("p.shop.item", "shop", "item", schema_columns(table), table.key)
    schemas = Schemas({}, {}, compile_select)
    strict = schemas.read(schema, table)
    assert schemas.read(schema, replace(table)) is strict
    nullable = replace(table, columns=(id_, replace(id_, name="n", nullable=True)))
    records: list[Produced] = []
    schemas.read(schema, nullable).read(records.append, [b"\x011\xfb"], TransactionParts(b"", b"", b"", b""), 1, set())
    assert b'"after":{"id":1,"n":null}' in (records[0].value or b"")
