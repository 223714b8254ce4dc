"""OpenSearch and Elasticsearch: each table as an index, each row as a document under its key.

The store compares versions itself (external versioning): what is not newer is answered with a conflict, which is
success to us. What a late write loses against:

- the document's version, and a deleted document's for `gc_deletes`. A node that restarts forgets the latter, as far as
  it had flushed them; then the generation is what an old process loses against.
- the floor of its partition, kept as a document of ours. A search index cannot check it in the same step, therefore a
  marker also deletes every older document *by its id with the marker's version*, never by query, and a row that turns
  up below the floor is written as such a delete. Whatever an old process still holds has come to the index, or comes
  in the marker's own batch, and so has a version to lose against.
- the generation of its partition, claimed by whoever feeds it from now on, and looked at before each write.

Where reading goes on is a document of ours too, written once the rows are there and looked at before each write: a
server that lost documents, or an index, is so noticed.

Applications search the index under its name, which is an alias; the index behind it carries a generation, so that
a rebuilt one can take its place in one step. It never has dynamic fields, and is never made by a mere write.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
from pydantic import AfterValidator, Field, model_validator

from cdc import faults
from cdc.config.fields import Duration, Secret, SinkConfig
from cdc.errors import FencedError, PermanentError, TransientError
from cdc.findings import Finding, Severity
from cdc.log import TopicPartition
from cdc.sink import Batch, Rejected, Row, Sink, StoredOffset, accepted
from schemas.table import TableSchema
from sinks._bulk import Bulk, Operation, deletion, document_id, insertion, lost
from sinks._http import HttpServer, error_type
from sinks._key_template import fields_of
from sinks._rows import merged, renamed
from sinks._search_index import OWN_FIELDS, field_names, index_name, mapping
from sinks._url import server_url

STATE_INDEX: Final = "cdc_sinks"
"""Holds three documents per partition of a sink (generation, floor, offset) and one per topic (its index)."""
PAGE_ROWS: Final = 5_000
PARTIAL_ROWS: Final = 500
TOTAL_FIELDS: Final = 10_000
"""PostgreSQL allows 1600 columns, some of which are indexed in two ways."""

_encode: Final = msgspec.json.encode


def _index_template(text: str) -> str:
    if unknown := {field for _, field in fields_of(text) if field} - {"pipeline", "schema", "table"}:
        raise ValueError(f"may name {{pipeline}}, {{schema}} and {{table}}, not {', '.join(sorted(unknown))}")
    return text


class OpenSearchConfig(SinkConfig):
    """Configuration of an OpenSearch or Elasticsearch sink."""

    url: Annotated[str, server_url("http", "https")] = Field(examples=["https://localhost:9200"])
    """``https://host:9200``."""
    username: str | None = None
    """The user, with ``password``."""
    password: Secret | None = None
    """The user's password."""
    api_key: Secret | None = None
    """In place of user name and password."""
    ca: Path | None = None
    """Certificates to trust besides the system's, PEM."""
    index: Annotated[str, Field(min_length=1), AfterValidator(_index_template)] = "{pipeline}.{schema}.{table}"
    """Name of a table's index: ``{pipeline}``, ``{schema}``, ``{table}``."""
    shards: Annotated[int, Field(gt=0)] = 1
    """Shards of an index that is made."""
    replicas: Annotated[int, Field(ge=0)] = 1
    """Copies of each shard of an index that is made."""
    gc_deletes: Annotated[Duration, Field(gt=0)] = 86400.0
    """How long the index remembers versions of deleted documents: longer than a process can hang and wake again."""

    @model_validator(mode="after")
    def _one_way_in(self) -> OpenSearchConfig:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password belong together")
        if self.api_key is not None and self.password is not None:
            raise ValueError("either api_key or username and password, not both")
        return self


class _Unread(msgspec.Struct):
    type: str = ""


class _Found(msgspec.Struct):
    """A document as ``_mget`` answers it."""

    found: bool = False
    version: int = msgspec.field(default=0, name="_version")
    source: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw, name="_source")
    error: _Unread | None = None


class _Documents(msgspec.Struct):
    docs: list[_Found] = []


class _Prepared(NamedTuple):
    """An index that is ready for rows of a schema; `fields` by column if some have other names than their column."""

    name: str
    fields: dict[str, str] | None


class _Partial(NamedTuple):
    """Partial rows of a batch that wait to be completed from what the index holds."""

    batch: Batch
    name: str
    rows: list[Row]


class OpenSearchSink(Sink):
    """Rows as documents in OpenSearch or Elasticsearch; the module's description says what is promised, and how."""

    Config = OpenSearchConfig
    owns_offsets = True

    def __init__(self, name: str, config: SinkConfig, pipeline: str) -> None:
        assert isinstance(config, OpenSearchConfig)
        self._config = config
        self._pipeline = pipeline
        url = urlsplit(config.url)
        self._where = f"sink {name}: the server at {url.hostname}:{url.port or ''}".rstrip(":")
        self._owner = f"{pipeline}:{name}"
        self._generations: dict[TopicPartition, int] = {}
        self._stored: dict[TopicPartition, int] = {}
        self._indices: dict[str, str] = {}
        self._prepared: dict[tuple[str, bytes], _Prepared] = {}
        self._server = HttpServer(config.url, self._where, _authorization(config), config.ca)
        self._bulk = Bulk(self._server, self._where)

    def check(self) -> list[Finding]:
        """Look whether the server can be reached. Raises UnreachableError, PermanentError."""
        version = self._server.request("GET", "/").json().get("version", {})
        name = f"{version.get('distribution', 'elasticsearch')} {version.get('number')}"
        return [Finding("server", Severity.OK, f"{self._where} answers ({name})")]

    def open(self) -> None:
        """Connect and make the index of our own if it is missing. Raises UnreachableError, PermanentError."""
        settings = {"number_of_shards": 1, "number_of_replicas": self._config.replicas, "hidden": True}
        mappings = {"dynamic": False, "properties": {}}
        answer = self._server.request(
            "PUT", f"/{STATE_INDEX}", _encode({"settings": settings, "mappings": mappings}), expect=(400,)
        )
        if answer.status == 400 and error_type(answer.body) != "resource_already_exists_exception":
            raise PermanentError(
                f"{self._where} does not take the index {STATE_INDEX} ({error_type(answer.body)})",
                hint="is url the address of OpenSearch itself?",
            )

    def claim(self, partitions: Collection[TopicPartition]) -> None:
        """Raise the generation of each partition: the version that its document gets by being written again.

        Raises GapError when the server lost what it held since `open`, or the index of a topic at any time.
        """
        if not partitions:
            return
        if self._server.request("HEAD", f"/{STATE_INDEX}", expect=(404,)).status == 404:
            raise lost(self._where, "the index of the sink's own is gone")
        named = [_encode({"index": {"_id": self._generation_id(partition)}}) + b"\n{}\n" for partition in partitions]
        answer = self._server.request("POST", f"/{STATE_INDEX}/_bulk", b"".join(named)).json()
        if answer["errors"]:
            raise TransientError(f"{self._where} does not take the documents of the sink's own now")
        versions = [int(item["index"]["_version"]) for item in answer["items"]]
        self._generations.update(zip(partitions, versions, strict=True))
        self._stored.update(dict.fromkeys(partitions, 0))
        topics = list({partition.topic: None for partition in partitions})
        self._learn(topics, self._fetch(STATE_INDEX, [{"_id": self._topic_id(topic)} for topic in topics]))
        if places := self._places(topics):
            self._fetch(STATE_INDEX, places)

    def offsets(self) -> Mapping[TopicPartition, StoredOffset]:
        """Where reading goes on, per claimed partition that was ever started."""
        partitions = list(self._generations)
        if not partitions:
            return {}
        found = self._fetch(STATE_INDEX, [{"_id": self._offset_id(partition)} for partition in partitions])
        return {
            partition: msgspec.json.decode(stored.source, type=StoredOffset)
            for partition, stored in zip(partitions, found, strict=True)
            if stored.found
        }

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        """Apply `batches`, as the contract says. Raises GapError when the server lost what it held."""
        if not batches:
            return []
        floors = self._look(batches)
        for batch in batches:
            if batch.floor:
                partition = TopicPartition(batch.topic, batch.partition)
                floors[partition] = max(batch.floor, floors[partition])
                self._sweep(batch)
        partial: list[_Partial] = []
        operations = (
            operation
            for batch in batches
            for operation in self._operations(batch, floors[TopicPartition(batch.topic, batch.partition)], partial)
        )
        rejected = self._bulk.send(operations)
        for rows in partial:
            rejected += self._bulk.send(self._completed(rows))
        faults.reach("sink.between_rows_and_offsets")
        self._store_offsets(accepted(batches, rejected), topic_ids)
        return rejected

    def close(self) -> None:
        """Close the connection."""
        self._server.close()

    def _store_offsets(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> None:
        """Store where reading goes on: the rows before it are there. An older process sets nothing back."""
        if not batches:
            return
        body = bytearray()
        for batch in batches:
            partition = TopicPartition(batch.topic, batch.partition)
            version = {"version": batch.next_offset, "version_type": "external_gte"}
            body += _encode({"index": {"_id": self._offset_id(partition), **version}}) + b"\n"
            body += _encode(StoredOffset(batch.next_offset, topic_ids[batch.topic])) + b"\n"
        answer = self._server.request("POST", f"/{STATE_INDEX}/_bulk", bytes(body)).json()
        if any(item["index"]["status"] not in (200, 201, 409) for item in answer["items"]):
            raise TransientError(f"{self._where} does not take the documents of the sink's own now")
        self._stored.update({TopicPartition(batch.topic, batch.partition): batch.next_offset for batch in batches})

    def _look(self, batches: Sequence[Batch]) -> dict[TopicPartition, int]:
        """Look whether the store is still ours and whole; returns the floors, and learns the topics' indices.

        The indices themselves are looked at too: a versioned delete would make one that is gone.
        """
        partitions = list({TopicPartition(batch.topic, batch.partition): None for batch in batches})
        topics = list({batch.topic: None for batch in batches if batch.topic not in self._indices})
        three = self._generation_id, self._offset_id, self._floor_id
        names = [*(name(partition) for partition in partitions for name in three), *map(self._topic_id, topics)]
        places = self._places({batch.topic for batch in batches})
        found = iter(self._fetch(STATE_INDEX, [*({"_id": name} for name in names), *places]))
        floors: dict[TopicPartition, int] = {}
        for partition, generation, offset, floor in zip(partitions, found, found, found, strict=False):
            if generation.version > self._generations[partition]:
                raise FencedError(f"{self._where}: another process of this sink took a partition over")
            # The version of an offset's document is the offset.
            if generation.version < self._generations[partition] or offset.version < self._stored[partition]:
                raise lost(self._where, "the index of the sink's own is gone or older than it was")
            floors[partition] = floor.version
        self._learn(topics, found)
        return floors

    def _learn(self, topics: Sequence[str], found: Iterable[_Found]) -> None:
        """Remember the indices of `topics`, as far as their documents were found."""
        for topic, stored in zip(topics, found, strict=False):
            if stored.found:
                self._indices[topic] = msgspec.json.decode(stored.source)["index"]

    def _places(self, topics: Collection[str]) -> list[dict[str, Any]]:
        """What to fetch to see that the known indices of `topics` are there."""
        return [{"_index": self._indices[topic], "_id": "-"} for topic in topics if topic in self._indices]

    def _generation_id(self, partition: TopicPartition) -> str:
        return f"generation:{self._owner}:{partition.topic}:{partition.partition}"

    def _floor_id(self, partition: TopicPartition) -> str:
        return f"floor:{self._owner}:{partition.topic}:{partition.partition}"

    def _offset_id(self, partition: TopicPartition) -> str:
        return f"offset:{self._owner}:{partition.topic}:{partition.partition}"

    def _topic_id(self, topic: str) -> str:
        return f"topic:{self._owner}:{topic}"

    def _fetch(self, index: str, documents: Sequence[dict[str, Any]]) -> list[_Found]:
        """The documents of these ids, as they are now and not as of the last refresh.

        The answer is not narrowed by ``filter_path``: with that the server prints the numbers in a row anew.
        """
        path = f"/{_quoted(index)}/_mget"
        answer = self._server.request("POST", path, _encode({"docs": documents}), expect=(404,))
        found = msgspec.json.decode(answer.body, type=_Documents).docs
        for document in found:
            if document.error is not None and document.error.type == "index_not_found_exception":
                raise lost(self._where, "an index is gone")
            if document.error is not None:
                raise TransientError(f"{self._where} cannot read index {index} now ({document.error.type})")
        if len(found) != len(documents):
            raise lost(self._where, f"index {index} is gone")
        return found

    # Markers

    def _sweep(self, batch: Batch) -> None:
        """Store the floor, then delete by id, with the floor as version, what is older; see the module's text."""
        name = self._floor_id(TopicPartition(batch.topic, batch.partition))
        path = f"/{STATE_INDEX}/_doc/{_quoted(name)}?version={batch.floor}&version_type=external"
        self._server.request("PUT", path, b"{}", expect=(409,))
        index = self._index_of(batch)
        if index is None:
            return  # nothing of this topic was ever written
        target = _encode(index)
        ids = [document_id(key) for key in batch.superseded]
        while True:
            self._bulk.send(Operation(deletion(target, each, batch.floor), batch, None) for each in ids)
            former, ids = ids, self._below(index, batch)
            if not ids:
                return
            if ids == former:
                raise PermanentError(
                    f"{self._where}: documents of index {index} were changed by somebody else, and keep a truncate or "
                    "sweep from deleting them",
                    hint=f"delete index {index}, then cdc snapshot",
                )

    def _below(self, index: str, batch: Batch) -> list[bytes]:
        """Ids of some documents of the batch's partition that are older than its floor; none: there are none left."""
        if self._server.request("POST", f"/{_quoted(index)}/_refresh", expect=(404,)).status == 404:
            raise lost(self._where, f"index {index} is gone")
        older = [{"term": {"_cdc_partition": batch.partition}}, {"range": {"_cdc_version": {"lt": batch.floor}}}]
        query = {
            "size": PAGE_ROWS,
            "sort": ["_doc"],
            "_source": False,
            "track_total_hits": False,
            "query": {"bool": {"filter": older}},
        }
        path = f"/{_quoted(index)}/_search?allow_partial_search_results=false&filter_path=hits.hits._id"
        hits = self._server.request("POST", path, _encode(query)).json().get("hits", {}).get("hits", [])
        return [_encode(hit["_id"]) for hit in hits]

    # Rows

    def _operations(self, batch: Batch, floor: int, partial: list[_Partial]) -> Iterator[Operation]:
        """The batch's rows as entries of a bulk request, whose documents are the rows' own bytes.

        Partial rows are put into `partial`: they need what the index holds once everything else is in it.
        """
        name = self._index_of(batch)
        target, fields = _encode(name), None
        schema: TableSchema | None = None
        incomplete: list[Row] = []
        for row in batch.rows:
            if row.schema is not None and row.schema is not schema:
                schema = row.schema
                name, fields = self._prepare(batch.topic, schema)
                target = _encode(name)
            if name is None:
                continue  # a delete, in a topic of which nothing was ever written
            if row.after is None or row.version < floor:
                yield Operation(deletion(target, document_id(row.key), max(row.version, floor)), batch, row)
            elif row.partial:
                incomplete.append(row)
            else:
                after = row.after if fields is None else renamed(row.after, fields)
                yield Operation(insertion(target, batch.partition, row, after), batch, row)
        if name is not None and incomplete:
            partial.append(_Partial(batch, name, incomplete))

    def _completed(self, partial: _Partial) -> Iterator[Operation]:
        """Partial rows completed from what the index holds.

        Nobody else can put a row in between: of the rows older than ours, this partition's one living writer has
        written the last before, and what is newer wins anyway.
        """
        batch, name, rows = partial
        for start in range(0, len(rows), PARTIAL_ROWS):
            part = rows[start : start + PARTIAL_ROWS]
            held = self._fetch(name, [{"_id": msgspec.json.decode(document_id(row.key))} for row in part])
            for row, former in zip(part, held, strict=True):
                assert row.schema is not None
                assert row.after is not None
                fields = field_names(row.schema)
                source = bytes(former.source) if former.found else None
                after = merged(source, renamed(row.after, fields), fields.values())
                yield Operation(insertion(_encode(name), batch.partition, row, after), batch, row)

    # Indices

    def _index_of(self, batch: Batch) -> str | None:
        """The index of the batch's topic, None when nothing of it was ever written."""
        for row in batch.rows:
            if row.schema is not None and batch.topic not in self._indices:
                self._prepare(batch.topic, row.schema)
        return self._indices.get(batch.topic)

    def _prepare(self, topic: str, schema: TableSchema) -> _Prepared:
        """The index for rows of this schema: made if it does not exist, its mapping widened by new columns."""
        if prepared := self._prepared.get((topic, schema.id)):
            return prepared
        template = self._config.index
        name = index_name(template.format(pipeline=self._pipeline, schema=schema.schema, table=schema.table))
        current = self._indices.get(topic, name)
        if current != name:
            raise PermanentError(
                f"{self._where}: the rows of {topic} are in index {current}, and are to go to {name} now",
                hint="give the sink another name as well: that one is filled from the log's beginning",
            )
        exists = self._server.request("GET", f"/{_quoted(name)}/_mapping", expect=(404,))
        if exists.status == 404 and topic in self._indices:
            raise lost(self._where, f"index {name} is gone")
        if exists.status == 404:
            self._create(name, topic, schema)
        else:
            (mappings,) = (index["mappings"] for index in exists.json().values())
            owner = mappings.get("_meta", {}).get("owner")
            if owner != f"{self._owner}:{topic}":
                raise PermanentError(
                    f"{self._where}: index {name} belongs to {owner or 'somebody else'}, not to {self._owner}:{topic}",
                    hint="make the sink's index template tell them apart, or delete the index if it is not needed",
                )
            wanted, held = mapping(schema), mappings.get("properties", {})
            if new := {field: kind for field, kind in wanted.items() if field not in held}:
                self._server.request("PUT", f"/{_quoted(name)}/_mapping", _encode({"properties": new}))
        document = f"/{STATE_INDEX}/_doc/{_quoted(self._topic_id(topic))}"
        self._server.request("PUT", document, _encode({"index": name}))
        self._indices[topic] = name
        fields = field_names(schema)
        prepared = _Prepared(name, fields if any(column != field for column, field in fields.items()) else None)
        self._prepared[topic, schema.id] = prepared
        return prepared

    def _create(self, name: str, topic: str, schema: TableSchema) -> None:
        """Make the first generation of an index, under its alias."""
        settings = {
            "number_of_shards": self._config.shards,
            "number_of_replicas": self._config.replicas,
            "gc_deletes": f"{round(self._config.gc_deletes * 1000)}ms",
            "mapping.total_fields.limit": TOTAL_FIELDS,
        }
        mappings = {
            "dynamic": False,
            "_meta": {"owner": f"{self._owner}:{topic}"},
            "properties": {**mapping(schema), **OWN_FIELDS},
        }
        body = {"settings": {"index": settings}, "mappings": mappings, "aliases": {name: {}}}
        answer = self._server.request("PUT", f"/{_quoted(name)}_g1", _encode(body), expect=(400,))
        if answer.status == 400:
            kind = error_type(answer.body)
            if kind == "resource_already_exists_exception":
                raise TransientError(f"{self._where}: index {name} was made by another worker at this moment")
            raise PermanentError(
                f"{self._where} does not take an index for table {schema.table} ({kind})",
                hint="leave the table out under tables",
            )


def _authorization(config: OpenSearchConfig) -> dict[str, str]:
    if config.api_key is not None:
        return {"authorization": f"ApiKey {config.api_key.get_secret_value()}"}
    if config.password is not None:
        both = f"{config.username}:{config.password.get_secret_value()}"
        return {"authorization": f"Basic {base64.b64encode(both.encode()).decode()}"}
    return {}


def _quoted(text: str) -> str:
    return quote(text, safe="")


SINK = OpenSearchSink
