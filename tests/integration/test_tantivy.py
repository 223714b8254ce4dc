"""What only Tantivy does: searching, one holder at a time, all in one commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tantivy

from cdc import faults
from cdc.errors import FencedError, GapError, PermanentError, TransientError, UnreachableError
from cdc.findings import Severity
from cdc.sink import Sink
from sinks._tantivy_index import live_rows, search
from sinks.tantivy import TantivyConfig, TantivySink
from tests.contract.sinks._tables import table, write

ITEMS = table()
MakeSink = Callable[..., Sink]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "search"


@pytest.fixture
def make(path: Path) -> Iterator[MakeSink]:
    opened: list[Sink] = []

    def made(name: str = "search", **config: Any) -> Sink:
        sink = TantivySink(name, TantivyConfig.model_validate({"type": "tantivy", "path": path, **config}), "shop")
        opened.append(sink)
        sink.open()
        return sink

    yield made
    for sink in opened:
        sink.close()


def ids(found: list[bytes]) -> set[int]:
    return {msgspec.json.decode(row)["id"] for row in found}


def test_search_by_column_and_in_all(path: Path, make: MakeSink) -> None:
    other = table("others")
    write(
        make(),
        ITEMS.batch(
            ITEMS.row(1, id=1, name="Blue teapot", note="holds a litre", price="12.50"),
            ITEMS.row(2, id=2, name="Cup", note="goes with the teapot", price="3.00"),
            ITEMS.row(3, id=3, name="red teapot"),
        ),
        other.batch(other.row(4, id=4, name="teapot of another table")),
    )
    assert search(path, "saucer") == []
    assert ids(search(path, "teapot")) == {1, 2, 3, 4}
    assert ids(search(path, "name:teapot")) == {1, 3, 4}
    assert ids(search(path, 'row.name:"blue teapot"')) == {1}
    assert ids(search(path, f'name:teapot AND _topic:"{ITEMS.schema.topic}"')) == {1, 3}
    assert ids(search(path, "id:2")) == {2}
    assert len(search(path, "teapot", limit=2)) == 2
    with pytest.raises(ValueError, match="Syntax Error"):
        search(path, "(((")


def test_deleted_and_own_documents_are_never_found(path: Path, make: MakeSink) -> None:
    sink = make()
    write(sink, ITEMS.batch(ITEMS.row(1, id=1, name="teapot"), ITEMS.row(2, id=2, name="teapot")))
    write(sink, ITEMS.batch(ITEMS.deleted(3, id=1)))
    assert ids(search(path, "*", limit=100)) == {2}
    assert ids(search(path, "teapot")) == {2}
    assert [key for key, _ in live_rows(path, ITEMS.schema.topic)] == [ITEMS.key(id=2)]


def test_only_one_process_holds_it(make: MakeSink) -> None:
    first = make()
    with pytest.raises(UnreachableError, match="held by another process"):
        make()
    write(first, ITEMS.batch(ITEMS.row(1, id=1)))
    first.close()
    make()
    with pytest.raises(FencedError):
        write(first, ITEMS.batch(ITEMS.row(2, id=1)))


def test_rows_and_offsets_are_one_commit(path: Path, make: MakeSink, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = make()
    write(sink, ITEMS.batch(ITEMS.row(1, id=1), ITEMS.row(2, id=2)))
    before = dict(sink.offsets())
    monkeypatch.setitem(faults._armed, "sink.between_rows_and_offsets", ("raise", 1))
    batch = ITEMS.batch(ITEMS.row(3, id=3), ITEMS.deleted(4, id=2), floor=2)
    with pytest.raises(TransientError):
        write(sink, batch)
    assert {key for key, _ in live_rows(path, ITEMS.schema.topic)} == {ITEMS.key(id=1), ITEMS.key(id=2)}
    write(sink, ITEMS.batch(ITEMS.row(1, id=5), partition=1, next_offset=9))  # nothing of what failed comes with it
    assert {place: sink.offsets()[place] for place in before} == before
    write(sink, batch)
    assert {key for key, _ in live_rows(path, ITEMS.schema.topic)} == {ITEMS.key(id=3), ITEMS.key(id=5)}


def test_old_tombstones_are_forgotten(path: Path, make: MakeSink, monkeypatch: pytest.MonkeyPatch) -> None:
    def deleted_with(sink: Sink, version: int) -> int:
        """Delete a row and return how many documents there are then."""
        write(sink, ITEMS.batch(ITEMS.deleted(version, id=version)))
        sink.close()
        documents: int = tantivy.Index.open(str(path)).searcher().num_docs
        return documents

    first = deleted_with(make(), 1)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 3600)
    assert deleted_with(make(tombstone_ttl="2h"), 2) == first + 1
    assert deleted_with(make(tombstone_ttl="30m"), 3) == first + 1


def test_a_folder_of_something_else_is_refused(path: Path, make: MakeSink) -> None:
    path.mkdir()
    (path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(PermanentError, match="is no index"):
        make()
    assert [file.name for file in path.iterdir()] == ["holiday.jpg"]


def test_an_index_of_another_sink_is_refused(make: MakeSink) -> None:
    make().close()
    with pytest.raises(PermanentError, match="belongs to shop:search"):
        make("second")


def test_an_index_of_another_layout_is_refused(path: Path, make: MakeSink) -> None:
    path.mkdir()
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("title")
    tantivy.Index(builder.build(), str(path))
    with pytest.raises(PermanentError, match="another layout"):
        make()


def test_an_index_that_was_replaced_is_a_gap(path: Path, make: MakeSink, tmp_path: Path) -> None:
    sink = make()
    write(sink, ITEMS.batch(ITEMS.row(1, id=1)))
    path.rename(tmp_path / "old")
    with pytest.raises(TransientError):
        write(sink, ITEMS.batch(ITEMS.row(2, id=2)))
    path.mkdir()
    tantivy.Index(tantivy.Index.open(str(tmp_path / "old")).schema, str(path))
    with pytest.raises(GapError):
        write(sink, ITEMS.batch(ITEMS.row(2, id=2)))


def test_check(tmp_path: Path, path: Path, make: MakeSink) -> None:
    def findings(at: Path) -> list[Severity]:
        return [one.severity for one in TantivySink("s", TantivyConfig(type="tantivy", path=at), "shop").check()]

    assert findings(path) == [Severity.OK]
    assert not path.exists()
    make()
    assert findings(path) == [Severity.OK]
    assert findings(tmp_path / "missing" / "search") == [Severity.ERROR]
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "x").touch()
    assert findings(tmp_path / "file") == [Severity.ERROR]
