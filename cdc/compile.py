"""The one generator of hot-path functions: from a source's wire bytes to finished records, per table.

A connector says how rows lie in its bytes (:class:`Wire`) and how a value's bytes become its native form, the format
says how that is rendered; what is static is put into templates here, once, so that nothing is interpreted per column
when rows stream. The generated source is readable; see :attr:`CompiledTable.source`.

Generated functions append records to a list and return how many versions they used. They take the common way only: a
value that was not sent, a null key, bytes that do not fit, anything odd makes them return 0 with nothing appended, and
the caller decodes the message plainly, which either yields the records or says what is wrong.
"""

from __future__ import annotations

import re
import struct
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

from cdc.errors import DecodeError
from cdc.event import Operation
from cdc.formats import Fragment
from cdc.formats.envelope import (
    AFTER,
    BEFORE,
    POSTGRESQL,
    SourceBlock,
    TransactionParts,
    absent,
    operation_part,
    table_part,
)
from cdc.formats.json import dumps, has_nulls, key_form, rendering
from cdc.log import Produced
from cdc.record import KEY_CHANGE, LAYOUT, TOMBSTONE, pack_header
from schemas.table import TableSchema
from schemas.types import LogicalType

Append = Callable[[Produced], None]
RowFunction = Callable[[Append, bytes, int, TransactionParts, int, int], int]
"""``function(append, message, offset, transaction, version, ordinal) -> versions used``, 0: take the plain way."""
RowsFunction = Callable[[Append, bytes, int, TransactionParts, bytes, int, int, int], tuple[int, int, int]]
"""``function(append, message, offset, transaction, place, version, ordinal, first) -> (offset, version, ordinal)``.

Takes the rows from `offset` on as long as it can: what it returns is where it stopped, which is the message's end or a
row that is to be taken the plain way, and the version and ordinal of the next row. `place` begins each row's place,
`first` is the ordinal of the message's first row.
"""
ReadFunction = Callable[[Append, Iterable[bytes], TransactionParts, int, Set[bytes]], int]
"""``function(append, lines, transaction, version, skip) -> next version``; rows whose key is in `skip` are dropped.

Raises DecodeError for a line that does not fit; records of the lines before it have been appended.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """Columns side by side whose bytes can be read by themselves."""

    columns: Sequence[int]
    """Their numbers."""
    same_nulls: str
    """The expression that tells whether the same of them are null in both images; empty where none can be."""


@dataclass(frozen=True, slots=True)
class Wire:
    """How rows lie in a connector's bytes: code for the generator.

    The code reads ``m`` at ``i`` and moves ``i``; where bytes do not fit, or a value was not sent, it raises
    ValueError.
    """

    fragment: Callable[[LogicalType, str], Fragment]
    """The code that turns a column's bytes ``v`` into its native form; the text is unique to the column."""
    open: str
    """Begins a new row image."""
    value: Callable[[int], str]
    """Reads the column of this number: a line ``{value}`` where ``v`` holds its bytes, ``{null}`` where it is null."""
    close: str = ""
    """Ends a message."""
    open_old: str = ""
    """Begins an old row image."""
    skip: str = ""
    """Passes over a column of an old image that is not part of the replica identity."""
    has_old: str = ""
    """The expression that tells whether an update has an old image."""
    parts: Sequence[Part] = ()
    """Where every update has an old image with all columns: the row in parts. Most columns of a changed row are what
    they were, and a part whose bytes are those of the old image is neither decoded nor rendered again."""
    lsn: str = ""
    """Sets ``lsn``."""
    block: SourceBlock = POSTGRESQL
    """The envelope's ``source`` block."""
    place: Sequence[str] = ("lsn",)
    """The expressions that fill the block's template of a row's place."""
    names: Mapping[str, object] = field(default_factory=dict)
    """What the names in the code stand for."""


@dataclass(frozen=True, slots=True)
class CompiledTable:
    """The functions of one table, and their source for those who want to look."""

    insert: RowFunction
    update: RowFunction
    delete: RowFunction
    source: str


@dataclass(frozen=True, slots=True)
class CompiledRows:
    """The same of a source that sends several rows in a message."""

    insert: RowsFunction
    update: RowsFunction
    delete: RowsFunction
    source: str


@dataclass(frozen=True, slots=True)
class CompiledRead:
    """The function that turns a snapshot's lines into records, and its source."""

    read: ReadFunction
    source: str


_ODD: Final = (ValueError, LookupError, struct.error, DecodeError)
"""What generated code may meet in bytes that do not fit."""


_ROW: Final = """
def NAME(append, m, i, transaction, version, ordinal):
    head, middle, ids, tail = transaction
    try:
        {make}
    except ODD:
        return 0
    {append}
    return USED
"""

_ROWS: Final = """
def NAME(append, m, i, transaction, place, version, ordinal, first):
    end = len(m)
    row = i
    head, _, ids, tail = transaction
    while row < end:
        try:
            {make}
        except ODD:
            break
        {append}
        row = i
        version += 1
        ordinal += 1
    return row, version, ordinal
"""

_INSERT: Final = """
{open}
{read}
{close}
{lsn}
key = KEY
after = IMAGE
value = VALUE
"""
_INSERTED: Final = """
append(new(Produced, (TOPIC, key, value, HEADER)))
"""

_OLD_IF_SENT: Final = """
old_key = None
before = b"null"
if HAS_OLD:
    {open_old}
    {read_old}
    old_key = OLD_KEY
    before = OLD_IMAGE
"""
_OLD: Final = """
{open_old}
{read_old}
old_key = OLD_KEY
before = OLD_IMAGE
"""
_UPDATE: Final = """
{open}
{read}
{close}
{lsn}
key = KEY
after = IMAGE
if old_key is None or old_key == key:
    value = VALUE
    deleted = None
else:
    deleted = DELETED
    value = CREATED
"""
_UPDATED: Final = """
if deleted is None:
    append(new(Produced, (TOPIC, key, value, HEADER)))
else:
    append(new(Produced, (TOPIC, old_key, deleted, DELETE_HEADER)))
    append(new(Produced, (TOPIC, old_key, None, TOMBSTONE_HEADER)))
    version += 1
    append(new(Produced, (TOPIC, key, value, CREATE_HEADER)))
"""

_OLD_PART: Final = """
start = i
{read}
RAW = m[start:i]
OLD = MEMBERS
"""
_NEW_PART: Final = """
e = i + len(RAW)
if SAME:
    i = e
    NEW = OLD
    {keys}
else:
    {read}
    NEW = MEMBERS
"""

_DELETE: Final = """
{open_old}
{read_old}
{close}
{lsn}
key = OLD_KEY
before = OLD_IMAGE
value = VALUE
"""
_DELETED: Final = """
append(new(Produced, (TOPIC, key, value, HEADER)))
append(new(Produced, (TOPIC, key, None, TOMBSTONE_HEADER)))
"""

_READ: Final = """
def read(append, lines, transaction, version, skip):
    ordinal = 0
    head, _, ids, tail = transaction
    source = SOURCE
    for m in lines:
        try:
            {open}
            {read}
            {close}
            key = KEY
            if key in skip:
                continue
            after = IMAGE
            value = VALUE
        except ODD as error:
            raise DecodeError(f"a row of {TOPIC} read by a snapshot does not fit its columns") from error
        append(new(Produced, (TOPIC, key, value, HEADER)))
        version += 1
    return version
"""


def compile_table(
    schema: TableSchema, wire: Wire, old_columns: Collection[str], not_null: Collection[str] = ()
) -> CompiledTable:
    """The functions that turn a table's streamed rows into records.

    `old_columns` names the columns that an old image has under the table's replica identity; the key must be among
    them. `not_null` names the NOT NULL columns: the debezium profile fabricates defaults for them, and a null in one,
    allowed a moment ago, takes the plain way.
    """
    code = _Code(schema, wire, not_null)
    source = code.functions(_ROW, old_columns)
    compiled = code.compile(source)
    return CompiledTable(compiled["insert"], compiled["update"], compiled["delete"], source)


def compile_rows(schema: TableSchema, wire: Wire, not_null: Collection[str] = ()) -> CompiledRows:
    """The functions that turn a table's rows into records where a message has many of them, with complete images."""
    code = _Code(schema, wire, not_null)
    source = code.functions(_ROWS, [column.name for column in schema.columns])
    compiled = code.compile(source)
    return CompiledRows(compiled["insert"], compiled["update"], compiled["delete"], source)


def compile_read(schema: TableSchema, wire: Wire) -> CompiledRead:
    """The function that turns the rows that a snapshot read into records."""
    code = _Code(schema, wire)  # a null where there should be none has no plain way here
    source = _fill(
        _READ,
        {"open": wire.open, "read": code.read("c"), "close": wire.close},
        KEY=code.key("c"),
        IMAGE=code.image("c"),
        SOURCE=code.source(Operation.READ),
        VALUE=_format(BEFORE + b"null" + AFTER + b"%b,%b", ["after", "source"]),
        HEADER=code.header(Operation.READ, 0, len(BEFORE + b"null" + AFTER)),
    )
    return CompiledRead(code.compile(source)["read"], source)


class _Code:
    """Generates the pieces of one table's functions, and collects what the names in them stand for."""

    def __init__(self, schema: TableSchema, wire: Wire, not_null: Collection[str] = ()) -> None:
        self._schema = schema
        self._wire = wire
        self._key = {name: schema.columns.index(schema.by_name[name]) for name in schema.key}
        self._not_null = not_null
        self._native = [wire.fragment(column.type, f"c{i}") for i, column in enumerate(schema.columns)]
        self._rendering = [rendering(column.type, schema.profile, f"c{i}") for i, column in enumerate(schema.columns)]
        self._numbers = [
            native.number and rendered.expression == "v"
            for native, rendered in zip(self._native, self._rendering, strict=True)
        ]
        never_null = {*schema.key, *not_null}
        self._bare = [
            (fragment.quoted or number) and column.name in never_null
            for column, fragment, number in zip(schema.columns, self._rendering, self._numbers, strict=True)
        ]
        self._names: dict[str, object] = {
            **wire.names,
            "new": tuple.__new__,
            "Produced": Produced,
            "pack": pack_header,
            "DecodeError": DecodeError,
            "ODD": _ODD,
            "TOPIC": schema.topic,
            "SCHEMA": schema.id,
        }

    def functions(self, frame: str, old_columns: Collection[str]) -> str:
        """The source of ``insert``, ``update`` and ``delete``."""
        if not set(self._schema.key) <= set(old_columns):
            raise ValueError(f"the key of {self._schema.topic} is not part of the old image")
        wire = self._wire
        lines = {"open": wire.open, "open_old": wire.open_old, "close": wire.close, "lsn": wire.lsn}
        lines |= {"read": self.read("c"), "read_old": self.read("o", old_columns)}
        new = {"KEY": self.key("c"), "IMAGE": self.image("c")}
        old = {"OLD_KEY": self.key("o"), "OLD_IMAGE": self.image("o", old_columns, self._not_null)}
        deleted = self.envelope(Operation.DELETE, before=True, after=False)
        created = self.envelope(Operation.CREATE, before=False, after=True)
        created_at = len(BEFORE + b"null" + AFTER)
        insert = self._function(
            frame,
            "insert",
            _fill(_INSERT, lines, **new, VALUE=created),
            _fill(_INSERTED, {}, HEADER=self.header(Operation.CREATE, 0, created_at)),
            "1",
        )
        update = self._function(
            frame,
            "update",
            _fill(
                (_OLD if wire.parts else _OLD_IF_SENT) + _UPDATE,
                lines | self.parts() if wire.parts else lines,
                **(new | old | self.images() if wire.parts else new | old),
                HAS_OLD=wire.has_old,
                VALUE=self.envelope(Operation.UPDATE, before=True, after=True),
                DELETED=deleted,
                CREATED=created,
            ),
            _fill(
                _UPDATED,
                {},
                HEADER=self.header(Operation.UPDATE, 0, f"{len(BEFORE + AFTER)} + len(before)"),
                DELETE_HEADER=self.header(Operation.DELETE, KEY_CHANGE, None),
                TOMBSTONE_HEADER=self.header(Operation.DELETE, KEY_CHANGE | TOMBSTONE, None),
                CREATE_HEADER=self.header(Operation.CREATE, KEY_CHANGE, created_at),
            ),
            "1 if deleted is None else 2",
        )
        delete = self._function(
            frame,
            "delete",
            _fill(_DELETE, lines, **old, VALUE=deleted),
            _fill(
                _DELETED,
                {},
                HEADER=self.header(Operation.DELETE, 0, None),
                TOMBSTONE_HEADER=self.header(Operation.DELETE, TOMBSTONE, None),
            ),
            "1",
        )
        return f"{insert}\n\n\n{update}\n\n\n{delete}\n"

    def _function(self, frame: str, name: str, make: str, append: str, used: str) -> str:
        return _fill(frame, {"make": make, "append": append}, NAME=name, USED=used)

    def read(self, prefix: str, sent: Collection[str] | None = None) -> str:
        """Statements that read a row image into ``{prefix}0``, ``{prefix}1``…; `sent` None: it has all columns."""
        return "\n".join(
            self._column(index, prefix) if sent is None or column.name in sent else self._wire.skip.strip("\n")
            for index, column in enumerate(self._schema.columns)
        )

    def _column(self, index: int, prefix: str) -> str:
        """Statements that read a column."""
        code = {"value": self._value(index, prefix), "null": self._null(index, prefix)}
        return _fill(self._wire.value(index), code)

    def parts(self) -> dict[str, str]:
        """Statements that read both images of an update in parts, rendered: ``old0``…, ``new0``…"""
        old: list[str] = []
        new: list[str] = []
        for number, part in enumerate(self._wire.parts):
            same = " and ".join(filter(None, [f"m[i:e] == raw{number}", part.same_nulls]))
            names = {"RAW": f"raw{number}", "OLD": f"old{number}", "NEW": f"new{number}", "SAME": same}
            keys = [f"c{form} = o{form}" for index in part.columns for form in self._in_key(index)]
            for template, prefix, found in ((_OLD_PART, "o", old), (_NEW_PART, "c", new)):
                read = "\n".join(self._column(index, prefix) for index in part.columns)
                members = [self._member(index) for index in part.columns]
                names["MEMBERS"] = _format(b",".join(members), [f"{prefix}{index}" for index in part.columns])
                found.append(_fill(template, {"read": read, "keys": "\n".join(keys)}, **names))
        return {"read_old": "\n".join(old), "read": "\n".join(new)}

    def images(self) -> dict[str, str]:
        """The expressions of both images of an update, from their parts."""
        count = len(self._wire.parts)
        template = b"{" + b",".join([b"%b"] * count) + b"}"
        return {
            f"{name}IMAGE": _format(template, [f"{part}{number}" for number in range(count)])
            for name, part in (("OLD_", "old"), ("", "new"))
        }

    def _value(self, index: int, prefix: str) -> str:
        """Statements that render ``v``, and once more as it stands in the key where that differs (``{prefix}k0``)."""
        native = self._use(self._native[index])
        rendered = self._use(self._rendering[index])
        lines = [] if native == "v" else [f"v = {native}"]
        if self._numbers[index]:
            rendered = "v" if self._bare[index] else 'b"%d" % v'
        elif self._native[index].number:
            lines.append('v = b"%d" % v')
        elif self._rendering[index].quoted and not self._bare[index]:
            rendered = f"b'\"%b\"' % {rendered}"
        lines.append(f"{prefix}{index} = {rendered}")
        if index in self._key.values():
            form = key_form(self._schema.columns[index])
            if form is not None:
                lines += [f"v = {self._use(form)}", f"{prefix}k{index} = {rendered}"]
            elif self._has_nulls(index):  # as cdc.formats.json.render_key
                value = f"{prefix}{index}"
                lines.append(f"""{prefix}k{index} = {value} if {value} != b"null" else b'"%b"' % v""")
        return "\n".join(lines)

    def _has_nulls(self, index: int) -> bool:
        return has_nulls(self._schema.columns[index].type, self._schema.profile)

    def _in_key(self, index: int) -> list[str]:
        """What follows the prefix in the names of a column's value where it is part of the key."""
        if index not in self._key.values():
            return []
        if key_form(self._schema.columns[index]) is None and not self._has_nulls(index):
            return [f"{index}"]
        return [f"{index}", f"k{index}"]

    def _null(self, index: int, prefix: str) -> str:
        if index in self._key.values() or self._bare[index]:
            return "raise ValueError"
        return f'{prefix}{index} = b"null"'

    def _member(self, index: int) -> bytes:
        """A column's part of a template."""
        name = _escape(dumps(self._schema.columns[index].name))
        if not self._bare[index]:
            return name + b":%b"
        return name + (b":%d" if self._numbers[index] else b':"%b"')

    def _use(self, fragment: Fragment) -> str:
        self._names.update(fragment.names)
        return fragment.expression

    def key(self, prefix: str) -> str:
        """The expression of the record key."""
        members, values = [], []
        for index in self._key.values():
            members.append(self._member(index))
            values.append(f"{prefix}{self._in_key(index)[-1]}")
        return _format(b"{" + b",".join(members) + b"}", values)

    def image(self, prefix: str, sent: Collection[str] | None = None, not_null: Collection[str] = ()) -> str:
        """The expression of a row image; `sent` (None: all) names the columns that an old image has."""
        members, values = [], []
        for index, column in enumerate(self._schema.columns):
            if sent is None or column.name in sent:
                members.append(self._member(index))
                values.append(f"{prefix}{index}")
            elif (stand_in := absent(column, self._schema.profile, not_null, old=True)) is not None:
                members.append(_escape(dumps(column.name) + b":" + stand_in))
        return _format(b"{" + b",".join(members) + b"}", values)

    def envelope(self, operation: Operation, *, before: bool, after: bool) -> str:
        """The expression of a record's value, from ``before``, ``after``, ``lsn`` and the transaction's parts."""
        block = self._wire.block
        images = BEFORE + (b"%b" if before else b"null") + AFTER + (b"%b" if after else b"null") + b","
        sequence = b"%b%b%b" if block.sequence else b"%b"
        table = _escape(table_part(self._schema, block))
        end = _escape(operation_part(operation, block))
        values = ["before"] * before + ["after"] * after + ["head"] + ["lsn", "middle"] * block.sequence
        values += ["ids", *self._wire.place, "tail"]
        return _format(images + sequence + table + b"%b" + block.place + end + b"%b", values)

    def source(self, operation: Operation) -> str:
        """The expression of what follows the images where it is the same for all rows: they have no LSN."""
        block = self._wire.block
        table, end = _escape(table_part(self._schema, block)), _escape(operation_part(operation, block))
        template = b"%b" + table + b"%b" + end + b"%b"
        return _format(template, ["head", "ids", "tail"])

    def header(self, operation: Operation, flags: int, start: int | str | None) -> str:
        """The expression of a record's header; `start` is where ``after`` begins, None when there is none."""
        place = "0, 0" if start is None else f"{start}, len(after)"
        return f"pack({LAYOUT}, {operation.encode()!r}, {flags}, ordinal, version, SCHEMA, {place})"

    def compile(self, source: str) -> dict[str, Any]:
        """The names that `source` defines."""
        namespace = dict(self._names)
        exec(compile(source, f"<generated for {self._schema.topic}>", "exec"), namespace)  # noqa: S102 - our own text
        return namespace


def _escape(static: bytes) -> bytes:
    """Static bytes as part of a ``%`` template."""
    return static.replace(b"%", b"%%")


def _format(template: bytes, values: Sequence[str]) -> str:
    """The expression that fills `template`."""
    return f"{template!r} % ({', '.join(values)},)" if values else repr(template % ())


_WORD: Final = re.compile(r"\b[A-Z_]+\b")


def _fill(template: str, lines: Mapping[str, str], **expressions: str) -> str:
    """Put code in place of the lines ``{name}`` of a template, at their indentation, and expressions for NAMES."""
    filled = []
    for line in template.strip("\n").split("\n"):
        code = line.strip()
        if code[:1] == "{" and code[1:-1] in lines:
            filled.append(textwrap.indent(lines[code[1:-1]].strip("\n"), line[: line.index("{")]))
        else:
            filled.append(_WORD.sub(lambda word: expressions.get(word.group(), word.group()), line))
    return "\n".join(line for line in filled if line.strip())
