"""The log contract: an ordered, partitioned, replayable record of what happened, with atomic append.

Two implementations keep it, ``kafka`` and ``embedded``, and one suite of tests (``tests/contract/test_log.py``) holds
them to it. Capture writes through a :class:`LogWriter`, delivery reads through a :class:`LogReader`; ``cdc status``
and the rest ask the :class:`Log`.

Vocabulary: a *position* is a place in the source's log (opaque bytes here), an *offset* is a place in a partition of
ours. Offsets of a partition rise but need not be dense (Kafka's transaction markers take some).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import AfterValidator, Field

from cdc.config.fields import Duration, Model
from cdc.errors import ConfigurationError
from cdc.findings import Finding
from schemas.table import TableSchema

DELETE_RETENTION_SECONDS: Final = 7 * 86400
"""How long deletes stay on a log that is compacted, where we say it: so long may a reader be away and miss none."""


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that exists: its partition count and its identity.

    `id` is made anew when a topic is deleted and created again under the same name, so that stored offsets of the old
    one are recognised as a gap.
    """

    name: str
    id: str
    partitions: int


class Produced(NamedTuple):
    """A record to append. The partition follows from the key: equal key bytes, equal partition."""

    topic: str
    key: bytes
    value: bytes | None
    header: bytes


class Record(NamedTuple):
    """A record as read. `header` is the ``cdc`` header, `timestamp` the append time in ms since 1970."""

    offset: int
    key: bytes
    value: bytes | None
    header: bytes
    timestamp: int


class Fetched(NamedTuple):
    """Consecutive records of one partition; `next_offset` is the offset to commit once all of them are applied.

    `records` may be empty while `next_offset` moved: Kafka's commit markers and aborted records were passed.
    """

    topic: str
    partition: int
    records: list[Record]
    next_offset: int


class Committed(NamedTuple):
    """A consumer group's offset in one partition, with the id of the topic that it belongs to."""

    offset: int
    topic_id: str


class LogWriter(ABC):
    """Appends for one source, atomically with the source's position. One writer per source can be alive: see `fence`.

    Life: ``fence`` once; then any number of ``append… → commit``. A failure leaves the writer unusable: close it,
    open a new one, fence, read the position again (TransientError), or give up the role (FencedError).

    Every call that may wait takes `timeout` (seconds, keep it ≤ 1) and says by its result whether it got done, so that
    the caller can talk to its database in between and call again: a log that does not answer never holds up feedback.
    The overall patience with a log that does not answer is the caller's.
    """

    @abstractmethod
    def fence(self) -> bytes | None:
        """Take over: an older writer of this source can no longer commit, what it left open is aborted.

        Returns the position of the last committed append, None if there never was one. May block up to 30 s.
        Raises UnreachableError when the log does not answer.
        """

    @abstractmethod
    def append(self, records: Sequence[Produced], timeout: float) -> int:
        """Add `records` to the open append, beginning one if none is open; returns how many were taken.

        Fewer than all means that buffers are full: call again with the rest. Raises TransientError, FencedError.
        """

    @abstractmethod
    def append_marker(self, topic: str, key: bytes, header: bytes) -> None:
        """Add a marker (value: empty, not null) to every partition of `topic`, after everything appended so far."""

    @abstractmethod
    def append_schema(self, schema: TableSchema) -> None:
        """Add a schema record to the internal topic, in the same append as its first use."""

    @abstractmethod
    def append_prepared(self, transaction: str, part: bytes, timeout: float) -> bool:
        """Keep `part`, opaque to the log, as the next one of this source's prepared transaction `transaction`.

        The parts of a transaction may come over several appends; each is kept with the commit of its own. False:
        buffers are full and nothing of it was taken, call again. Raises TransientError, FencedError.
        """

    @abstractmethod
    def forget_prepared(self, transaction: str) -> None:
        """Let go of all parts that `transaction` has so far, with the commit of the open append. Its name may then be
        used again, in the same append too. Without effect when there are none."""

    @abstractmethod
    def commit(self, position: bytes, timeout: float) -> bool:
        """Make the open append and `position` durable and readable, all or nothing (an append may be position only).
        Readers, and `Log.positions` and `Log.schemas`, may see it some milliseconds after the return.

        False: not done yet, call again with the same position. After True it survives kill -9 and power loss as far
        as the log promises that. Raises TransientError when the outcome is unknown or the append was lost: `fence` of
        a new writer tells which. Raises FencedError when another writer took over.
        """

    @abstractmethod
    def close(self) -> None:
        """Abort what is open and release everything. Safe to call twice."""


class LogReader(ABC):
    """Reads committed records, partition by partition, as a member of a consumer group or alone.

    A reader of a group shares the matching topics' partitions with its fellow members. Topics that come into being
    later and match are found within seconds. One thread only.
    """

    @abstractmethod
    def poll(self, timeout: float) -> list[Fetched]:
        """The next records, at most about `max_bytes` of them, waiting up to `timeout` seconds for the first.

        Runs the assignment callbacks. Raises GapError when an offset no longer exists or a topic was re-created,
        TransientError when the log does not answer for good.
        """

    @abstractmethod
    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Record the group's next offsets durably, with each topic's id.

        Raises RebalancingError (`poll`, then commit what is still assigned), TransientError, FencedError.
        """

    @abstractmethod
    def position(self) -> Mapping[TopicPartition, int]:
        """The next offset that `poll` will look at, for each assigned partition."""

    @abstractmethod
    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Stop delivering these while staying in the group; `poll` must still be called."""

    @abstractmethod
    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Deliver these again, from where `poll` had come to."""

    @abstractmethod
    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on reading an assigned partition at `offset`."""

    @abstractmethod
    def close(self) -> None:
        """Leave the group. Safe to call twice."""


Assigned = Callable[[Sequence[TopicPartition]], Mapping[TopicPartition, int]]
"""Called in `poll` when partitions were assigned; returns the offset to start each at."""
Revoked = Callable[[Sequence[TopicPartition]], None]
"""Called in `poll` or `close` before partitions go to another member; last chance to commit."""


class FormatConfig(Model):
    """How values are rendered: ``log.format``."""

    type: str = "json"
    """The format of record keys and values."""
    profile: Literal["readable", "debezium"] = "readable"
    """``readable``: decimals and times as the text that the database prints; ``debezium``: as Debezium has them."""


class Expire(Model):
    """Cleanup by age: ``cleanup: {expire: 7d}``."""

    expire: Duration = Field(gt=0)
    """Records older than this go. The log then no longer holds every row, so ``rebuild --from log`` refuses."""


Cleanup = Literal["compact", "keep"] | Expire
"""``compact``: only superseded records ever go; ``keep``: nothing goes; ``{expire: 7d}``: age goes."""


_FIELDS: Final = {"pipeline", "source", "schema", "table"}


_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME: Final = 249


def topic_name(template: str, **fields: str) -> str:
    """The topic of a table: `template` filled in, and every character that Kafka does not allow replaced by ``_``.

    Two tables can so come to share a name: who captures them must refuse that. Raises ConfigurationError when the
    name is too long.
    """
    name = _ILLEGAL.sub("_", template.format(**fields))
    if len(name) > _LONGEST_NAME:
        raise ConfigurationError(
            f"the topic of {fields['schema']}.{fields['table']} would have a name of {len(name)} characters, "
            f"{_LONGEST_NAME} are allowed",
            hint="shorten log.topics.name or the pipeline's name",
        )
    return name


def _template(value: str) -> str:
    try:
        fields = {field for _, field, _, _ in Formatter().parse(value) if field is not None}
    except ValueError as error:
        raise ValueError(f"is no template: {error}") from error
    if unknown := fields - _FIELDS:
        raise ValueError(f"unknown field {{{min(unknown)}}}, known: {{pipeline}} {{source}} {{schema}} {{table}}")
    if "table" not in fields:
        raise ValueError("needs {table}: otherwise the rows of several tables share one topic")
    if not fields & {"pipeline", "source"} and value.startswith("{"):
        raise ValueError("needs {pipeline}, {source} or a text of its own in front, to tell its topics from others'")
    return value


class TopicsConfig(Model):
    """What topics are called and how they are made: ``log.topics``. A log's own model may add fields."""

    name: Annotated[str, AfterValidator(_template)] = "{pipeline}.{schema}.{table}"
    """Template of the topic names: ``{pipeline}``, ``{source}``, ``{schema}``, ``{table}``."""
    partitions: int = Field(default=6, gt=0, le=1024)
    """Partitions of a new topic. Topics that exist keep theirs: keys would move."""
    cleanup: Cleanup = "compact"
    """``compact``: only superseded records ever go; ``keep``: nothing goes; ``{expire: 7d}``: age goes."""


class LogConfig(Model):
    """What every log's configuration has; an implementation's model adds its fields."""

    type: str
    topics: TopicsConfig = TopicsConfig()
    format: FormatConfig = FormatConfig()


class Log(ABC):
    """One log of one pipeline. Cheap to create; connects on first use."""

    Config: ClassVar[type[LogConfig]]

    @abstractmethod
    def __init__(self, config: LogConfig, pipeline: str) -> None:
        """Take the configuration; connect to nothing. Raises ConfigurationError."""

    @abstractmethod
    def topics(self) -> Mapping[str, Topic]:
        """The pipeline's data topics by name (internal ones left out)."""

    @abstractmethod
    def create_topics(self, names: Collection[str]) -> None:
        """Create those of `names` that do not exist, and the internal topics, as configured.

        Raises PermanentError when one that exists is set so that it loses what `cleanup` promises to keep.
        """

    def check(self) -> list[Finding]:
        """Look whether what exists is as configured, changing nothing: for ``validate --connect``.

        Raises UnreachableError. By default nothing is looked at.
        """
        return []

    @abstractmethod
    def delete_retention(self, topics: Collection[str]) -> Mapping[str, float]:
        """For how many seconds a delete stays readable at least, by topic; infinite where compaction takes none."""

    @abstractmethod
    def delete(self) -> None:
        """Delete all topics, groups and states of this pipeline. For ``cdc cleanup``."""

    @abstractmethod
    def writer(self, source: str) -> LogWriter:
        """A writer for `source`; not yet fenced."""

    @abstractmethod
    def reader(
        self,
        group: str | None,
        topics: Callable[[str], bool],
        on_assigned: Assigned,
        on_revoked: Revoked,
        max_bytes: int = 8 << 20,
        *,
        alone: bool = False,
    ) -> LogReader:
        """A reader of the topics whose name passes `topics`.

        Without a group it has all partitions for itself, in a group a share of them. `alone`: the group has room for
        one member; TransientError while another lives, where the log can tell.
        """

    @abstractmethod
    def committed(self, group: str) -> Mapping[TopicPartition, Committed]:
        """The group's committed offsets."""

    @abstractmethod
    def start_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The first offset that can still be read, per partition."""

    @abstractmethod
    def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The high watermark per partition: the offset that the next record would get."""

    @abstractmethod
    def offsets_for_time(self, partitions: Collection[TopicPartition], time: int) -> Mapping[TopicPartition, int]:
        """Where to begin, per partition, to read all that was appended at `time` (ms since 1970) or later; the high
        watermark where there is nothing of the kind. As far as the appending clock only rose. Nothing older comes
        first, but on Kafka: the end of a transaction has a time too, and may be later than that of the next records.
        """

    @abstractmethod
    def schemas(self) -> Mapping[bytes, TableSchema]:
        """All schema records that are committed now, by schema id."""

    @abstractmethod
    def positions(self) -> Mapping[str, bytes]:
        """The committed position of each source, without taking over from its writer."""

    @abstractmethod
    def prepared(self, source: str) -> Mapping[str, int]:
        """The prepared transactions of `source` that are kept, by name, with the number of their parts.

        Complete as of the last commit of a writer that this very object made; what others commit may be seen some
        milliseconds later. May block while another source's append is open. Raises TransientError.
        """

    @abstractmethod
    def prepared_parts(self, source: str, transaction: str) -> Iterator[bytes]:
        """The parts of a prepared transaction in their order, read as the caller goes on; none when it is not kept.

        Sees what `prepared` sees. Raises TransientError, also when the transaction is forgotten meanwhile.
        """

    @abstractmethod
    def next_epoch(self, at_least: int = 1) -> int:
        """Draw the pipeline's next epoch: greater than any drawn before, and ≥ `at_least`. Durable on return."""

    @abstractmethod
    def put_states(self, kind: str, states: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Store small JSON documents under (`kind`, name): the last one of a name wins, None removes it. Durable on
        return."""

    def put_state(self, kind: str, name: str, state: Mapping[str, Any] | None) -> None:
        """Store one of them."""
        self.put_states(kind, {name: state})

    @abstractmethod
    def states(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        """All states of a kind by name."""

    @abstractmethod
    def close(self) -> None:
        """Release everything. Safe to call twice."""
