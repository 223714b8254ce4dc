"""The Kafka log's writer: one transaction per append, in it the records and the position."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from cdc.errors import CdcError, TransientError
from cdc.log import LogWriter, Produced
from cdc.log._kafka_client import KafkaConfig, error_of, explained, producer_settings
from cdc.record import HEADER
from schemas.table import TableSchema

FENCE_SECONDS: Final = 30.0
FULL_QUEUE_SECONDS: Final = 0.005


class _Marker(NamedTuple):
    """Goes to every partition of `topic`, after everything before it."""

    topic: str
    key: bytes
    header: bytes


class KafkaWriter(LogWriter):
    """Appends for one source, whose name is part of the transactional id: Kafka lets one producer of an id live.

    librdkafka's transactions are those of before KIP-890: an end of transaction that was delayed on its way may end
    the *next* one. So whatever goes wrong between begin and commit, even if the commit then succeeds, makes this
    writer unusable (TransientError): the next one's `fence` puts an epoch between.
    """

    def __init__(
        self,
        config: KafkaConfig,
        transactional_id: str,
        source: str,
        positions: str,
        schemas: str,
        read_position: Callable[[], bytes | None],
    ) -> None:
        self._settings = producer_settings(config) | {
            "transactional.id": transactional_id,
            "transaction.timeout.ms": config.options.get("transaction.timeout.ms", 30_000),
            "error_cb": self._noticed,
        }
        self._key = source.encode()
        self._positions = positions
        self._schemas = schemas
        self._read_position = read_position
        self._producer: Producer | None = None
        self._open = False
        self._committing = False
        self._waiting: deque[_Marker | Produced] = deque()
        self._trouble: KafkaError | None = None

    def fence(self) -> bytes | None:
        producer = self._producer = Producer(self._settings)
        try:
            producer.init_transactions(FENCE_SECONDS)
        except KafkaException as raised:
            error = error_of(raised)
            if error.retriable() and self._trouble is not None:
                error = self._trouble
            raise self._lost(
                explained(error, "taking over the source's transactions", otherwise=TransientError)
            ) from raised
        return self._read_position()

    def append(self, records: Sequence[Produced], timeout: float) -> int:
        producer = self._begun()
        if not self._append_waiting(producer, timeout):
            return 0
        produce = producer.produce
        taken = 0
        try:
            for topic, key, value, header in records:
                produce(topic, value, key, headers=[(HEADER, header)])
                taken += 1
        except BufferError:
            # What the queue lacks room for now is the caller's again; leave it a moment to drain.
            producer.poll(min(FULL_QUEUE_SECONDS, timeout))
        except KafkaException as raised:
            raise self._failed(error_of(raised), "appending") from raised
        producer.poll(0)
        return taken

    def append_marker(self, topic: str, key: bytes, header: bytes) -> None:
        self._begun()
        self._waiting.append(_Marker(topic, key, header))

    def append_schema(self, schema: TableSchema) -> None:
        self._begun()
        self._waiting.append(Produced(self._schemas, schema.id, schema.to_json(), b""))

    def commit(self, position: bytes, timeout: float) -> bool:
        producer = self._begun()
        if not self._append_waiting(producer, timeout):
            return False
        try:
            if not self._committing:
                producer.produce(self._positions, position, self._key)
                self._committing = True
            producer.commit_transaction(timeout)
        except BufferError:
            producer.poll(min(FULL_QUEUE_SECONDS, timeout))
            return False
        except KafkaException as raised:
            error = error_of(raised)
            if error.retriable() and not error.txn_requires_abort():
                return False
            raise self._failed(error, "committing") from raised
        self._open = self._committing = False
        if self._trouble is not None:
            raise self._failed(self._trouble, "committing, which went through in the end,")
        return True

    def close(self) -> None:
        producer, self._producer = self._producer, None
        self._waiting.clear()
        if producer is None:
            return
        if self._open:
            with contextlib.suppress(KafkaException):
                producer.purge()
                producer.abort_transaction(1.0)
        self._open = self._committing = False

    def _begun(self) -> Producer:
        """The producer, in a transaction."""
        producer = self._producer
        if producer is None:
            raise TransientError("Kafka: this writer is closed", hint="open a new one")
        if not self._open:
            producer.poll(0)  # what happened between transactions, an idle connection closed say, is of no account
            self._trouble = None
            try:
                producer.begin_transaction()
            except KafkaException as raised:
                raise self._failed(error_of(raised), "beginning") from raised
            self._open = True
        return producer

    def _append_waiting(self, producer: Producer, timeout: float) -> bool:
        """Append the markers and schemas that wait. False: not all of them yet.

        A record with an explicit partition can overtake one whose partition the client still has to find out. So the
        queue is empty before a marker, and again after it.
        """
        try:
            while self._waiting:
                first = self._waiting[0]
                if isinstance(first, Produced):
                    producer.produce(first.topic, first.value, first.key)
                else:
                    if producer.flush(timeout):
                        return False
                    for partition in producer.list_topics(first.topic, timeout).topics[first.topic].partitions:
                        producer.produce(first.topic, b"", first.key, partition, headers=[(HEADER, first.header)])
                    if producer.flush(timeout):
                        raise self._lost(
                            TransientError("Kafka: markers were not taken in time", hint="it is tried again")
                        )
                self._waiting.popleft()
        except BufferError:
            producer.poll(min(FULL_QUEUE_SECONDS, timeout))
            return False
        except KafkaException as raised:
            raise self._failed(error_of(raised), "appending a marker") from raised
        return True

    def _noticed(self, error: KafkaError) -> None:
        self._trouble = error

    def _failed(self, error: KafkaError, doing: str) -> CdcError:
        """The writer is unusable from here on; what became of the append, the next writer's `fence` tells."""
        explanation = explained(error, doing, otherwise=TransientError)
        return self._lost(explanation)

    def _lost(self, error: CdcError) -> CdcError:
        self.close()
        return error
