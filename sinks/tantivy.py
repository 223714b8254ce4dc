"""Tantivy: a search index in a folder, without a server. All tables are in it, each row a document.

One process holds the index, by its lock file, from `open` to `close`; others may read and search it meanwhile. Rows,
tombstones, floors, offsets and the sink's generation are documents of one commit. What a late write loses against: the
version of the row's document; of a deleted row's, that of its tombstone, a document that queries leave out (kept for
`tombstone_ttl`); the floor of its partition.

What the documents look like, and how to search them: :mod:`sinks._tantivy_index`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
import tantivy
from pydantic import Field

from cdc import faults
from cdc.config.fields import ByteSize, Duration, SinkConfig
from cdc.errors import CdcError, FencedError, GapError, PermanentError, TransientError, UnreachableError
from cdc.findings import Finding, Severity
from cdc.log import TopicPartition
from cdc.sink import ANEW, Batch, Rejected, Row, Sink, StoredOffset, accepted
from sinks import _tantivy_index as documents
from sinks._rounds import rounds
from sinks._rows import merged
from sinks._tantivy_index import Held

PURGE_EVERY_SECONDS: Final = 3600.0
CLAIM: Final = "claim"
"""Name of our own document that says whose the index is, and the generation."""


_IO_SIGNS: Final = ("IoError", "IOError", "os error", "DoesNotExist", "writer was killed")
"""Parts of the texts of errors that come from files; the last is the writer's when its thread met one."""


class TantivyConfig(SinkConfig):
    """Configuration of a Tantivy sink."""

    path: Path = Field(examples=["search"])
    """Folder of the index; it is made if it does not exist."""
    memory: Annotated[ByteSize, Field(ge=15 << 20)] = 64 << 20
    """What the writer may hold before it writes a segment."""
    tombstone_ttl: Annotated[Duration, Field(gt=0)] = 8 * 86400.0
    """How long the version of a deleted row is kept: longer than any replay of older rows can take."""


class _Claim(msgspec.Struct):
    """Whose the index is."""

    owner: str
    generation: int


class _Partition(msgspec.Struct):
    """What is kept per partition. A topic id of "" means: not started."""

    topic: str
    partition: int
    topic_id: str = ""
    offset: int = 0
    floor: int = 0

    @property
    def name(self) -> str:
        return f"partition {self.partition} {self.topic}"


def lands(version: int, held: int, floor: int) -> bool:
    """Whether a write with `version` counts, given what the index holds for its key and partition."""
    return version > held and version >= floor


class TantivySink(Sink):
    """Rows as documents of a Tantivy index; the module's description says what is promised, and how."""

    Config = TantivyConfig
    owns_offsets = True
    single_worker = True

    def __init__(self, name: str, config: SinkConfig, pipeline: str) -> None:
        assert isinstance(config, TantivyConfig)
        self._config = config
        self._path = config.path.absolute()
        self._where = f"sink {name}: {self._path}"
        self._owner = f"{pipeline}:{name}"
        self._generation = 0
        self._index: tantivy.Index | None = None
        self._writer: tantivy.IndexWriter | None = None
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._purge_at = 0.0

    def check(self) -> list[Finding]:
        """Whether the folder is an index of ours, or can be made one."""
        if not self._path.parent.is_dir():
            fix = f"mkdir -p {self._path.parent}"
            return [Finding("folder", Severity.ERROR, f"the folder of {self._path} does not exist", fix)]
        if self._is_strange():
            return [Finding("folder", Severity.ERROR, f"{self._path} has files in it and is no index", "another path")]
        return [Finding("folder", Severity.OK, f"{self._path} can be used")]

    def open(self) -> None:
        """Make the index if it is missing, and claim it. Raises UnreachableError while another process holds it."""
        self.close()
        if self._is_strange():
            raise PermanentError(f"{self._where} has files in it and is no index", hint="give the sink another path")
        try:
            self._path.mkdir(exist_ok=True)
        except OSError as error:
            raise PermanentError(
                f"{self._where} cannot be made ({error.strerror})", hint=f"mkdir -p {self._path}"
            ) from error
        with self._border(UnreachableError):
            self._acquire(tantivy.Index(documents.SCHEMA, str(self._path)))
            claim = self._read_state()
            if claim is not None and claim.owner != self._owner:
                raise PermanentError(
                    f"{self._where} belongs to {claim.owner} (pipeline:sink)", hint="give this sink another path"
                )
            self._generation = 1 if claim is None else claim.generation + 1
            self._put(CLAIM, _Claim(self._owner, self._generation))
            self._commit()

    def offsets(self) -> Mapping[TopicPartition, StoredOffset]:
        """Where reading goes on, per partition that was ever started."""
        return {
            place: StoredOffset(kept.offset, kept.topic_id) for place, kept in self._partitions.items() if kept.topic_id
        }

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        """Apply `batches` and their offsets; one commit, unless a partition comes twice."""
        rejected: list[Rejected] = []
        for together in rounds(batches):
            with self._border(TransientError):
                self._resume()
                rejected += self._apply(together, topic_ids)
                self._commit()
        return rejected

    def close(self) -> None:
        """Let merges end and release the lock. What is not committed is gone."""
        writer, self._writer, self._index = self._writer, None, None
        if writer is not None:
            with suppress(ValueError):  # it may have been killed by what went wrong
                writer.wait_merging_threads()

    def _apply(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> list[Rejected]:
        assert self._index is not None
        assert self._writer is not None
        rejected: list[Rejected] = []
        taken: list[tuple[Batch, int, Row, str]] = []
        for batch in batches:
            floor = self._sweep(batch)
            for row in batch.rows:
                try:
                    taken.append((batch, floor, row, documents.term(batch.topic, row.key)))
                except ValueError as error:
                    rejected.append(_rejected(batch, row, str(error)))
        searcher = self._index.searcher()
        held = documents.held(searcher, [term for *_, term in taken])
        for batch, floor, row, term in taken:
            found = held.get(term)
            if not lands(row.version, found.version if found else -1, floor):
                continue
            base = found if found and found.version >= floor else None
            try:
                made = _document(searcher, batch, row, term, base)
            except ValueError:
                rejected.append(_rejected(batch, row, "its row is not JSON"))
                continue
            if found:
                self._writer.delete_documents_by_term("_key", term)
            self._writer.add_document(made)
        faults.reach("sink.between_rows_and_offsets")
        for batch in accepted(batches, rejected):
            kept = self._partition(batch)
            kept.topic_id, kept.offset = topic_ids[batch.topic], batch.next_offset
        for batch in batches:
            kept = self._partition(batch)
            self._put(kept.name, kept)
        self._purge()
        return rejected

    def _sweep(self, batch: Batch) -> int:
        """Raise the partition's floor if the batch does, and delete what lies below; returns the floor."""
        assert self._writer is not None
        kept = self._partition(batch)
        if batch.floor > kept.floor:
            kept.floor = batch.floor
            self._writer.delete_documents_by_query(documents.older(batch.topic, batch.partition, batch.floor))
        return kept.floor

    def _partition(self, batch: Batch) -> _Partition:
        place = TopicPartition(batch.topic, batch.partition)
        return self._partitions.setdefault(place, _Partition(*place))

    def _put(self, name: str, document: object) -> None:
        assert self._writer is not None
        self._writer.delete_documents_by_term("_key", documents.own_term(name))
        self._writer.add_document(documents.own(name, document))

    def _commit(self) -> None:
        assert self._index is not None
        assert self._writer is not None
        self._writer.commit()
        self._index.reload()

    def _purge(self) -> None:
        """Forget deletes that nothing can be older than any more."""
        assert self._writer is not None
        if time.monotonic() >= self._purge_at:
            before = int(time.time() - self._config.tombstone_ttl)
            self._writer.delete_documents_by_query(documents.gone_before(before))
            self._purge_at = time.monotonic() + PURGE_EVERY_SECONDS

    def _acquire(self, index: tantivy.Index) -> None:
        self._writer = index.writer(self._config.memory, num_threads=1)
        self._index = index

    def _read_state(self) -> _Claim | None:
        """Read what our own documents say; the claim is None in an index that nobody has claimed yet."""
        assert self._index is not None
        self._index.reload()
        own = documents.own_documents(self._index.searcher())
        claim = own.pop(CLAIM, None)
        kept = [msgspec.convert(document, _Partition) for document in own.values()]
        self._partitions = {TopicPartition(one.topic, one.partition): one for one in kept}
        return msgspec.convert(claim, _Claim) if claim is not None else None

    def _resume(self) -> None:
        """Take the index again after a failure, which dropped it, provided that nobody claimed it since."""
        if self._writer is not None:
            return
        try:
            self._acquire(tantivy.Index.open(str(self._path)))
        except ValueError as error:
            if "LockBusy" in str(error):
                raise FencedError(f"{self._where}: another process of this sink took over") from error
            raise
        claim = self._read_state()
        if claim is None:
            raise GapError(
                f"{self._where} no longer holds what was written: it was replaced",
                hint=ANEW,
            )
        if claim.generation != self._generation:
            raise FencedError(f"{self._where}: another process of this sink took over")

    def _is_strange(self) -> bool:
        """Whether the folder has files in it and is no index."""
        if not self._path.is_dir() or tantivy.Index.exists(str(self._path)):
            return False
        return any(not file.name.startswith(".") for file in self._path.iterdir())

    @contextmanager
    def _border(self, unreachable: type[TransientError]) -> Iterator[None]:
        """Turn Tantivy's errors, which have one type, into ours; after any, the index is taken anew."""
        try:
            yield
        except CdcError:
            self.close()
            raise
        except ValueError as error:
            self.close()
            raise self._wrapped(str(error), unreachable) from error

    def _wrapped(self, text: str, unreachable: type[TransientError]) -> CdcError:
        if "LockBusy" in text:
            return unreachable(
                f"{self._where} is held by another process", hint="it is tried again by itself; only one can write it"
            )
        if any(sign in text for sign in _IO_SIGNS):
            return unreachable(
                f"{self._where} cannot be read or written",
                hint="is its disk full, or its volume gone? It is tried again by itself",
            )
        if "schema does not match" in text:
            return PermanentError(
                f"{self._where} is an index of another layout",
                hint=ANEW,
            )
        return PermanentError(f"{self._where} cannot be used", hint=ANEW)


def _document(searcher: tantivy.Searcher, batch: Batch, row: Row, term: str, base: Held | None) -> tantivy.Document:
    """The document of a row or a tombstone; a partial row is completed from `base`. Raises ValueError."""
    made = documents.document(batch.topic, batch.partition, term, row.version)
    if row.after is None:
        made.add_boolean("_deleted", True)
        made.add_unsigned("_gone_at", int(time.time()))
        return made
    after = row.after
    if row.partial and base is not None and row.schema is not None:
        after = merged(searcher.doc(base.address).get_first("_row"), after, row.schema.by_name)
    documents.add_row(made, after)
    return made


def _rejected(batch: Batch, row: Row, reason: str) -> Rejected:
    return Rejected(batch.topic, batch.partition, row.offset, row.key, reason)


SINK = TantivySink
