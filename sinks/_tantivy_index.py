"""The documents of a Tantivy index, and how they are read.

=============  ======================================================================================================
field          what it holds
=============  ======================================================================================================
``row``        the row as JSON, searchable by column: ``row.name:shoe``, or ``name:shoe`` by :func:`search`
``_text``      all texts of the row, for a search in every column
``_row``       the row's JSON exactly as it stands on the log; a tombstone has none
``_key``       topic, line feed, record key
``_topic``     topic of the row; empty in the documents of our own
``_partition`` ``_version``     as on the log
``_deleted``   true in tombstones and in our own: a query of one's own must ask for ``_deleted:false``
``_gone_at``   of tombstones only, seconds since 1970
=============  ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import tantivy

MAX_KEY_BYTES: Final = 65_000
"""Tantivy leaves longer terms out of the index in silence."""
SEARCHED: Final = ["_text", "row"]

_columns: Final = msgspec.json.Decoder(dict[str, Any]).decode


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_json_field("row")
    builder.add_text_field("_text")
    builder.add_bytes_field("_row", stored=True)
    builder.add_text_field("_key", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("_topic", tokenizer_name="raw", index_option="basic")
    builder.add_unsigned_field("_partition", indexed=True)
    builder.add_unsigned_field("_version", indexed=True, fast=True)
    builder.add_boolean_field("_deleted", indexed=True)
    builder.add_unsigned_field("_gone_at", indexed=True)
    return builder.build()


SCHEMA: Final = _schema()


class Held(NamedTuple):
    """What the index holds under a key: its version, and where."""

    version: int
    address: tantivy.DocAddress


def term(topic: str, key: bytes) -> str:
    """The value of ``_key``. Raises ValueError when it is too long, or not UTF-8."""
    if len(topic) + len(key) > MAX_KEY_BYTES:
        raise ValueError(f"its key is longer than {MAX_KEY_BYTES} bytes")
    return f"{topic}\n{key.decode()}"


def document(topic: str, partition: int, term: str, version: int) -> tantivy.Document:
    """What all documents of rows have. Add :func:`add_row`, or for a tombstone `_deleted` and ``_gone_at``."""
    made = tantivy.Document()
    made.add_text("_key", term)
    made.add_text("_topic", topic)
    made.add_unsigned("_partition", partition)
    made.add_unsigned("_version", version)
    return made


def add_row(made: tantivy.Document, after: bytes) -> None:
    """Make `made` the document of a row. Raises ValueError when `after` is no JSON object."""
    made.add_text("_text", "\n".join([value for value in _columns(after).values() if isinstance(value, str)]))
    made.add_json("row", after.decode())
    made.add_bytes("_row", after)
    made.add_boolean("_deleted", False)


def own(name: str, document: object) -> tantivy.Document:
    """A document of our own, found by :func:`own_documents`."""
    made = tantivy.Document()
    made.add_text("_key", own_term(name))
    made.add_text("_topic", "")
    made.add_boolean("_deleted", True)
    made.add_bytes("_row", msgspec.json.encode(document))
    return made


def own_term(name: str) -> str:
    """The value of ``_key`` of a document of our own."""
    return f"\n{name}"


def own_documents(searcher: tantivy.Searcher) -> dict[str, Any]:
    """The documents of our own by name."""
    query = tantivy.Query.term_query(SCHEMA, "_topic", "")
    return {key[1:].decode(): msgspec.json.decode(row) for key, row in _found(searcher, query)}


def held(searcher: tantivy.Searcher, terms: Collection[str]) -> dict[str, Held]:
    """What the index holds under those of `terms` that it knows."""
    query = tantivy.Query.term_set_query(SCHEMA, "_key", list(terms))
    addresses = [address for _, address in searcher.search(query, limit=len(terms) + 1, count=False).hits]
    versions = searcher.fast_field_values("_version", addresses)
    return {
        searcher.doc(address)["_key"][0]: Held(int(version or 0), address)
        for address, version in zip(addresses, versions, strict=True)
    }


def older(topic: str, partition: int, version: int) -> tantivy.Query:
    """Query for everything of a partition below `version`."""
    return tantivy.Query.boolean_query(
        [
            (tantivy.Occur.Must, tantivy.Query.term_query(SCHEMA, "_topic", topic)),
            (tantivy.Occur.Must, tantivy.Query.term_query(SCHEMA, "_partition", partition)),
            (tantivy.Occur.Must, _below("_version", version)),
        ]
    )


def gone_before(seconds: int) -> tantivy.Query:
    """Query for the tombstones of before `seconds` since 1970."""
    return _below("_gone_at", seconds)


def _below(field: str, bound: int) -> tantivy.Query:
    return tantivy.Query.range_query(SCHEMA, field, tantivy.FieldType.Unsigned, 0, bound, include_upper=False)


def live_rows(path: Path, topic: str) -> Iterator[tuple[bytes, bytes]]:
    """Record key and row (JSON, as on the log) of every row of `topic` that exists."""
    query = tantivy.Query.boolean_query(
        [
            (tantivy.Occur.Must, tantivy.Query.term_query(SCHEMA, "_topic", topic)),
            (tantivy.Occur.Must, tantivy.Query.term_query(SCHEMA, "_deleted", False)),
        ]
    )
    start = len(topic.encode()) + 1
    for key, row in _found(tantivy.Index.open(str(path)).searcher(), query):
        yield key[start:], row


def search(path: Path, query: str, limit: int = 10) -> list[bytes]:
    """The rows that fit `query` best, as JSON: ``teapot``, ``name:teapot``, ``name:"blue teapot" AND _topic:…``.

    Raises ValueError when `query` cannot be understood.
    """
    index = tantivy.Index.open(str(path))
    asked = tantivy.Query.boolean_query(
        [
            (tantivy.Occur.Must, index.parse_query(query, SEARCHED)),
            (tantivy.Occur.Must, tantivy.Query.term_query(SCHEMA, "_deleted", False)),
        ]
    )
    searcher = index.searcher()
    return [searcher.doc(address)["_row"][0] for _, address in searcher.search(asked, limit=limit).hits]


def _found(searcher: tantivy.Searcher, query: tantivy.Query) -> Iterator[tuple[bytes, bytes]]:
    for _, address in searcher.search(query, limit=searcher.num_docs + 1, count=False).hits:
        found = searcher.doc(address)
        yield found["_key"][0].encode(), found["_row"][0]
