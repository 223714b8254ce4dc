"""Bulk requests of OpenSearch and Elasticsearch: how rows become entries, and what the answers mean."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from cdc.errors import GapError, PermanentError, TransientError
from cdc.sink import ANEW, Batch, Rejected, Row
from sinks._http import OVERLOADED, HttpServer
from sinks._rows import columns_of

BULK_BYTES: Final = 8 << 20
MAX_ID_BYTES: Final = 512
PATH: Final = "/_bulk?require_alias=true&filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason"
"""A write never makes an index: without its alias there is none."""


class Operation(NamedTuple):
    """One entry of a bulk request; `row` is what to reject if the index refuses it, None for a delete by a marker."""

    entry: bytes
    batch: Batch
    row: Row | None


def document_id(key: bytes) -> bytes:
    """A document's id, as JSON: the key's only value as text, several as a JSON array; a hash where it is too long."""
    values = [bytes(value) for value in columns_of(key).values()]
    if len(values) > 1:
        name = msgspec.json.encode((b"[%b]" % b",".join(values)).decode())
    else:
        name = values[0] if values[0].startswith(b'"') else b'"%b"' % values[0]
    if len(name) > MAX_ID_BYTES or name == b'""':
        text = str(msgspec.json.decode(name)).encode()
        if not 0 < len(text) <= MAX_ID_BYTES:
            return b'"sha256:%b"' % hashlib.sha256(text).hexdigest().encode()
    return name


def deletion(index: bytes, name: bytes, version: int) -> bytes:
    """The entry that deletes a document; `index` and `name` are JSON strings."""
    return b'{"delete":{"_index":%b,"version_type":"external","version":%d,"_id":%b}}\n' % (index, version, name)


def insertion(index: bytes, partition: int, row: Row, after: bytes) -> bytes:
    """The entry that writes a row: its own bytes with our fields in front; `index` is a JSON string."""
    if b"\n" in after:  # it would end the entry; within JSON it can only be a space between tokens
        after = after.replace(b"\n", b" ")
    return (
        b'{"index":{"_index":%b,"version_type":"external","version":%d,"_id":%b}}\n'
        b'{"_cdc_partition":%d,"_cdc_version":%d,%b\n'
    ) % (index, row.version, document_id(row.key), partition, row.version, after[1:])


def lost(where: str, what: str) -> GapError:
    """The server lost what was written."""
    return GapError(
        f"{where} no longer holds what was written: {what}",
        hint=ANEW,
    )


class _Failure(msgspec.Struct):
    type: str = ""
    reason: str = ""


class _Outcome(msgspec.Struct):
    status: int
    error: _Failure | None = None


class _Answer(msgspec.Struct):
    errors: bool
    items: list[dict[str, _Outcome]] = []


class Bulk:
    """Sends operations to one server. Versions are external: a conflict says that something newer is there, and is
    success."""

    def __init__(self, server: HttpServer, where: str) -> None:
        self._server = server
        self._where = where

    def send(self, operations: Iterable[Operation]) -> list[Rejected]:
        """Apply `operations` in requests of bounded size; returns what the index refuses for good.

        All of them are tried before TransientError is raised for some. Raises GapError when an index is gone.
        """
        rejected: list[Rejected] = []
        later: list[str] = []
        part: list[Operation] = []
        size = 0
        for operation in operations:
            part.append(operation)
            size += len(operation.entry)
            if size >= BULK_BYTES:
                self._request(part, rejected, later)
                part, size = [], 0
        if part:
            self._request(part, rejected, later)
        if later:
            raise TransientError(f"{self._where} did not take {len(later)} operations now ({later[0]})")
        return rejected

    def _request(self, part: Sequence[Operation], rejected: list[Rejected], later: list[str]) -> None:
        """One request, halved if it is too large for the server; adds to `rejected` and `later`."""
        body = b"".join([operation.entry for operation in part])
        answer = self._server.request("POST", PATH, body, expect=(413,))
        if answer.status == 413:
            if len(part) > 1:
                middle = len(part) // 2
                self._request(part[:middle], rejected, later)
                self._request(part[middle:], rejected, later)
            else:
                rejected.append(self._rejected(part[0], f"its {len(body)} bytes are more than the server takes"))
            return
        outcomes = msgspec.json.decode(answer.body, type=_Answer)
        if not outcomes.errors:
            return
        for operation, item in zip(part, outcomes.items, strict=True):
            for outcome in item.values():
                if outcome.error is not None and outcome.status != 409:
                    self._failed(operation, outcome.status, outcome.error, rejected, later)

    def _failed(
        self, operation: Operation, status: int, error: _Failure, rejected: list[Rejected], later: list[str]
    ) -> None:
        if status in OVERLOADED or error.type == "cluster_block_exception":
            later.append(f"{status} {error.type}")
        elif error.type == "index_not_found_exception":
            raise lost(self._where, f"the index of topic {operation.batch.topic} is gone")
        elif status == 400:
            # The reason quotes the value; which field it is about is all that may be told.
            field = re.search(r"field \[([^\]]*)\] of type \[(\w+)\]", error.reason)
            what = f"column {field[1]}, indexed as {field[2]}, cannot hold its value" if field else error.type
            rejected.append(self._rejected(operation, f"the index refuses it: {what}"))
        else:
            raise PermanentError(f"{self._where} refuses an operation ({status} {error.type})")

    def _rejected(self, operation: Operation, reason: str) -> Rejected:
        batch, row = operation.batch, operation.row
        if row is None:
            raise PermanentError(f"{self._where} does not delete what a truncate or sweep deletes: {reason}")
        return Rejected(batch.topic, batch.partition, row.offset, row.key, reason)
