"""What the OpenSearch sink promises beyond the contract of all sinks, on a real node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import urllib3

from cdc.errors import FencedError, GapError, PermanentError, TransientError
from cdc.findings import Severity
from cdc.sink import Batch, Rejected, Row
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType
from sinks import _bulk
from sinks.opensearch import OpenSearchConfig, OpenSearchSink
from tests.contract.sinks._tables import write as claim_and_write
from tests.servers.opensearch import OpenSearchServer, opensearch_classes

pytestmark = pytest.mark.xdist_group("opensearch")

INDEX = "shop.public.customer"


def table(name: str = "customer", **more: Kind) -> TableSchema:
    kinds = {"id": Kind.INT64, "name": Kind.STRING, "paid": Kind.BOOLEAN, **more}
    columns = tuple(Column(column, LogicalType(kind), "x") for column, kind in kinds.items())
    return TableSchema(f"shop.public.{name}", "public", name, columns, ("id",))


def row(number: int, version: int, name: str | None = "a", *, schema: TableSchema | None = None) -> Row:
    """A row, or without a name its delete."""
    after = None if name is None else msgspec.json.encode({"id": number, "name": name})
    return Row(b'{"id":%d}' % number, version, after, schema or table(), False, version)


def write(
    sink: OpenSearchSink, *rows: Row, floor: int = 0, superseded: list[bytes] | None = None, topic: str = INDEX
) -> list[Rejected]:
    return claim_and_write(sink, Batch(topic, 0, floor, rows, superseded or [], 0))


class Search:
    """The node as an application sees it."""

    def __init__(self, server: OpenSearchServer) -> None:
        self.server = server
        self.reset()

    def reset(self) -> None:
        for index in self("GET", "/_cat/indices?format=json&expand_wildcards=all"):
            self("DELETE", f"/{index['index']}")

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"content-type": "application/json"}
        answer = urllib3.request(method, self.server.url + path, body=content, headers=headers, retries=False)
        return msgspec.json.decode(answer.data)

    def found(self, query: dict[str, Any] | None = None) -> set[str]:
        """Ids of the documents that a search finds."""
        self("POST", f"/{INDEX}/_refresh")
        answer = self("POST", f"/{INDEX}/_search", {"size": 10_000, "query": query or {"match_all": {}}})
        return {hit["_id"] for hit in answer["hits"]["hits"]}

    def sink(self, name: str = "search", **fields: Any) -> OpenSearchSink:
        config = {"type": "opensearch", "url": self.server.url, "replicas": 0, **fields}
        sink = OpenSearchSink(name, OpenSearchConfig.model_validate(config), "shop")
        sink.open()
        return sink


@pytest.fixture
def search(opensearch: OpenSearchServer) -> Search:
    return Search(opensearch)


def test_rows_are_found_by_their_columns(search: Search) -> None:
    schema = table(price=Kind.DECIMAL, day=Kind.DATE, **{"a.b": Kind.STRING})
    after = b'{"id":1,"name":"Ann Lee","paid":true,"price":"12.50","day":"2026-01-31","a.b":"dotted"}'
    write(search.sink(), Row(b'{"id":1}', 1, after, schema, False, 0))
    for query in (
        {"match": {"name": "lee"}},
        {"term": {"name.keyword": "Ann Lee"}},
        {"term": {"paid": True}},
        {"term": {"price": "12.50"}},
        {"range": {"price.number": {"gt": 12.4, "lt": 12.6}}},
        {"range": {"day": {"gte": "2026-01-01"}}},
        {"match": {"a=2eb": "dotted"}},
    ):
        assert search.found(query) == {"1"}, query
    assert search.found({"match": {"name": "nobody"}}) == set()


def test_late_writes_lose_against_a_marker_even_without_the_floors_document(search: Search) -> None:
    """The floor is looked at before the write; what decides in the write itself is each id's delete version."""
    sink = search.sink()
    write(sink, row(1, 1), row(2, 2))
    write(sink, floor=10, superseded=[b'{"id":3}'])
    assert search.found() == set()
    for number in (1, 2, 3):
        path = f"/{INDEX}/_doc/{number}?version={number + 3}&version_type=external"
        assert search("PUT", path, {"name": "late"})["error"]["type"] == "version_conflict_engine_exception"
    write(sink, row(4, 9), row(5, 11))
    assert search.found() == {"5"}
    late = f"/{INDEX}/_doc/4?version=9&version_type=external"
    assert search("PUT", late, {"name": "late"})["error"]["type"] == "version_conflict_engine_exception"


def test_truncate_of_more_rows_than_a_page(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.opensearch.PAGE_ROWS", 7)
    sink = search.sink()
    write(sink, *(row(number, number) for number in range(1, 31)))
    claim_and_write(sink, Batch(INDEX, 1, 0, [row(100, 1), row(101, 50)], [], 0))
    write(sink, row(31, 26), floor=25)
    assert search.found() == {*map(str, range(25, 32)), "100", "101"}


def test_sweep_says_so_when_somebody_else_changed_versions(search: Search) -> None:
    sink = search.sink()
    write(sink, row(1, 1))
    document = search("GET", f"/{INDEX}/_doc/1")["_source"]
    search("PUT", f"/{INDEX}/_doc/1?version=99&version_type=external", document)
    with pytest.raises(PermanentError, match="changed by somebody else"):
        write(sink, floor=10)


def test_older_process_is_refused_before_it_writes(search: Search) -> None:
    zombie = search.sink()
    write(zombie, row(1, 1))
    write(search.sink(), row(1, 2, "b"))
    for rows, floor in (([row(1, 3)], 0), ([row(2, 3)], 0), ([row(1, 3, None)], 0), ([], 9)):
        with pytest.raises(FencedError):
            write(zombie, *rows, floor=floor)
    assert search.found() == {"1"}
    write(search.sink("another"), row(7, 7, schema=table("orders")), topic="shop.public.orders")


def test_deleted_index_is_a_gap_and_never_made_by_a_write(search: Search) -> None:
    for index in ("shop.public.customer_g1", "cdc_sinks"):
        search.reset()
        sink = search.sink()
        write(sink, row(1, 1), row(2, 2))
        search("DELETE", f"/{index}")
        for rows, floor in (
            ([row(3, 3)], 0),
            ([row(1, 3, None)], 0),
            ([row(1, 3)._replace(partial=True)], 0),
            ([], 9),
        ):
            with pytest.raises(GapError, match="no longer holds") as caught:
                write(sink, *rows, floor=floor)
            assert "another name" in caught.value.hint
        assert index not in {each["index"] for each in search("GET", "/_cat/indices?format=json&expand_wildcards=all")}


def test_two_tables_or_sinks_never_share_an_index(search: Search) -> None:
    write(search.sink(), row(1, 1))
    upper = table("Customer")
    with pytest.raises(PermanentError, match=r"belongs to shop:search:shop\.public\.customer"):
        write(search.sink(), row(1, 2, schema=upper), topic=upper.topic)
    with pytest.raises(PermanentError, match="belongs to"):
        write(search.sink("second"), row(1, 2))
    search("PUT", "/theirs", {})
    theirs = search.sink("third", index="theirs")
    with pytest.raises(PermanentError, match="somebody else"):
        write(theirs, row(1, 2))


def test_refused_row_is_told_by_its_column_and_not_by_its_value(search: Search) -> None:
    bad = row(2, 2)._replace(after=b'{"id":2,"name":"a","paid":"canary"}')
    rejected = write(search.sink(), row(1, 1), bad, row(3, 3))
    assert [one.offset for one in rejected] == [2]
    assert "column paid, indexed as boolean" in rejected[0].reason
    assert "canary" not in rejected[0].reason
    assert search.found() == {"1", "3"}


def test_index_that_takes_no_writes_now_is_transient_and_the_others_go_on(search: Search) -> None:
    sink = search.sink()
    orders = table("orders")
    batches = [Batch(INDEX, 0, 0, [row(1, 1)], [], 0), Batch(orders.topic, 0, 0, [row(1, 1, schema=orders)], [], 0)]
    claim_and_write(sink, *batches)
    search("PUT", "/shop.public.orders/_settings", {"index.blocks.write": True})
    later = [Batch(orders.topic, 0, 0, [row(2, 2, schema=orders)], [], 0), Batch(INDEX, 0, 0, [row(2, 2)], [], 0)]
    with pytest.raises(TransientError, match="cluster_block"):
        claim_and_write(sink, *later)
    assert search.found() == {"1", "2"}
    search("PUT", "/shop.public.orders/_settings", {"index.blocks.write": False})
    assert claim_and_write(sink, *later) == []


def test_added_column_is_indexed(search: Search) -> None:
    sink = search.sink()
    write(sink, row(1, 1))
    wider = table(city=Kind.STRING)
    write(sink, row(2, 2, schema=wider)._replace(after=b'{"id":2,"name":"b","city":"Oslo"}'))
    assert search.found({"match": {"city": "oslo"}}) == {"2"}
    mappings = search("GET", f"/{INDEX}/_mapping")["shop.public.customer_g1"]["mappings"]
    assert mappings["dynamic"] == "false"
    write(sink, row(3, 3)._replace(after=b'{"id":3,"name":"c","unheard":{"of":"x"}}'))
    assert search("GET", f"/{INDEX}/_mapping")["shop.public.customer_g1"]["mappings"] == mappings


def test_check_names_the_server(search: Search) -> None:
    (finding,) = OpenSearchSink("search", OpenSearchConfig(type="opensearch", url=search.server.url), "shop").check()
    assert finding.severity is Severity.OK
    assert "opensearch" in finding.message


@pytest.fixture(scope="module")
def small_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSearchServer]:
    """A node that refuses what is over 300 KB (413), and what is over 200 KB because it has no memory for it (429)."""
    opensearch_classes()
    limits = ("http.max_content_length=300kb", "indexing_pressure.memory.limit=200kb")
    server = OpenSearchServer(tmp_path_factory.mktemp("small"), *limits).start()
    yield server
    server.stop()


def test_what_is_too_much_at_once_is_halved(small_node: OpenSearchServer) -> None:
    search = Search(small_node)
    rejected = write(search.sink(), *(row(n, n, "x" * 1000) for n in range(1, 331)), row(331, 331, "x" * 400_000))
    assert [one.offset for one in rejected] == [331]
    assert "more than the server takes" in rejected[0].reason
    assert len(search.found()) == 330


def test_overloaded_node_is_transient(small_node: OpenSearchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(small_node)
    sink = search.sink()
    rows = [row(n, n, "x" * 1000) for n in range(1, 251)]
    with pytest.raises(TransientError, match="overloaded"):
        write(sink, *rows)
    monkeypatch.setattr(_bulk, "BULK_BYTES", 50_000)
    assert write(sink, *rows) == []
    assert len(search.found()) == 250


def test_path_in_the_url_and_secrets_stay_where_they_belong(search: Search) -> None:
    sink = OpenSearchSink(
        "search",
        OpenSearchConfig.model_validate(
            {"type": "opensearch", "url": search.server.url + "/no/such/", "api_key": "canary"}
        ),
        "shop",
    )
    with pytest.raises(PermanentError) as caught:
        sink.open()
    assert "canary" not in str(caught.value) + repr(vars(sink))
