"""The text of a :class:`connectors.mysql.events.Query`, read: :func:`read_statement`.

Neither server's grammar is known here in full. What is known to leave a table's rows alone is listed; any other change
of a table may have changed them; and a statement that is not understood is ``Unknown``. A text raises no error, and
takes time in proportion to its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from connectors.mysql.events import XaId
from connectors.mysql.lexer import BAD, END, Kind, Token, tokens
from connectors.mysql.statement import (
    Begin,
    Changed,
    Commit,
    Created,
    Ddl,
    Dropped,
    Effect,
    Harmless,
    Renamed,
    Rollback,
    RollbackTo,
    RowsWithoutEvents,
    Savepoint,
    SchemaDropped,
    Statement,
    TableName,
    Truncated,
    Unknown,
    Xa,
)

_FREQUENT: Final[dict[str, Statement]] = {"BEGIN": Begin(), "COMMIT": Commit()}


def read_statement(sql: str, schema: str, sql_mode: int, *, mariadb: bool) -> Statement:
    """What `sql` means where `schema` is the default one, `mariadb` tells whose statement it is. Raises nothing."""
    if sql in _FREQUENT:
        return _FREQUENT[sql]
    c = _Cursor(tokens(sql, sql_mode, mariadb=mariadb), schema)
    if c.next.kind is Kind.END:
        return Harmless()  # a comment only, such as MariaDB has instead of events that a reader doesn't know
    c.skip("(")
    while c.take("SET"):
        if not c.take("STATEMENT"):
            return Harmless()
        c.until("FOR")
    if c.take("ANALYZE"):
        if c.next.key in ("TABLE", "TABLES", "LOCAL", "NO_WRITE_TO_BINLOG"):
            return Harmless()
        if c.take("FORMAT"):  # MariaDB: the statement is executed
            c.advance()
            c.advance()
    verb = c.advance()
    if verb.kind is not Kind.WORD:
        return Unknown()
    if verb.key in _HARMLESS:
        return Harmless()
    if verb.key in _ROWS:
        return Harmless() if verb.key == "LOAD" and c.take("INDEX") else RowsWithoutEvents(verb.key)
    if verb.key not in _READERS:
        return Unknown()
    try:
        return _READERS[verb.key](c)
    except _NotUnderstood:
        return Unknown()


_HARMLESS: Final = frozenset(
    {
        "BACKUP",
        "CHECK",
        "CHECKSUM",
        "DEALLOCATE",
        "FLUSH",
        "GRANT",
        "INSTALL",
        "OPTIMIZE",
        "PURGE",
        "RESET",
        "REVOKE",
        "UNINSTALL",
    }
)
_ROWS: Final = frozenset({"CALL", "DELETE", "DO", "INSERT", "LOAD", "REPLACE", "SELECT", "UPDATE", "VALUES", "WITH"})
"""SELECT and DO are in the binlog for what the functions in them do."""
_OBJECTS: Final = frozenset(
    {
        "EVENT",
        "FUNCTION",
        "INSTANCE",
        "JSON",
        "LIBRARY",
        "LOGFILE",
        "PACKAGE",
        "PREPARE",
        "PROCEDURE",
        "RESOURCE",
        "ROLE",
        "SEQUENCE",
        "SERVER",
        "TABLESPACE",
        "TRIGGER",
        "USER",
        "VIEW",
    }
)
"""What is created, altered and dropped without a table's being touched."""


class _NotUnderstood(Exception):
    pass


class _Cursor:
    """A statement's tokens; `next` is the one that comes."""

    def __init__(self, source: Iterable[Token], schema: str) -> None:
        self._source = iter(source)
        self._schema = schema
        self.next = next(self._source, END)

    def advance(self) -> Token:
        token = self.next
        self.next = next(self._source, token if token is BAD else END)
        return token

    def take(self, *keys: str) -> bool:
        """Go past one of `keys` if it comes."""
        if self.next.key in keys:
            self.advance()
            return True
        return False

    def skip(self, *keys: str) -> None:
        """Go past `keys`, in whatever order and number."""
        while self.take(*keys):
            pass

    def until(self, key: str) -> None:
        """Go past the next `key` that is not in parentheses, or to the end."""
        depth = 0
        while self.next.kind not in (Kind.END, Kind.BAD):
            found = self.advance().key
            depth += (found == "(") - (found == ")")
            if found == key and not depth:
                return

    def name(self) -> str:
        token = self.advance()
        if token.kind not in (Kind.WORD, Kind.NAME):
            raise _NotUnderstood
        return token.text

    def table(self) -> TableName:
        name = self.name()
        return TableName(name, self.name()) if self.take(".") else TableName(self._schema, name)

    def within(self, source: Iterable[Token]) -> _Cursor:
        """Of some tokens of the same statement."""
        return _Cursor(source, self._schema)

    def wait(self) -> None:
        """MariaDB: how long to wait for a lock."""
        if not self.take("NOWAIT") and self.take("WAIT"):
            self.advance()

    def finish(self) -> None:
        if self.next.kind is not Kind.END:
            raise _NotUnderstood


def _begin(c: _Cursor) -> Statement:
    c.take("WORK")
    c.finish()
    return Begin()


def _start(c: _Cursor) -> Statement:
    return Begin() if c.take("TRANSACTION") else Unknown()


def _commit(c: _Cursor) -> Statement:
    c.skip("WORK", "AND", "NO", "CHAIN", "RELEASE")
    c.finish()
    return Commit()


def _rollback(c: _Cursor) -> Statement:
    c.skip("WORK", "AND", "NO", "CHAIN", "RELEASE")
    if c.take("TO"):
        c.take("SAVEPOINT")
        return RollbackTo(c.name())
    c.finish()
    return Rollback()


def _savepoint(c: _Cursor) -> Statement:
    return Savepoint(c.name())


def _release(c: _Cursor) -> Statement:
    return Harmless() if c.take("SAVEPOINT") else Unknown()


def _xa(c: _Cursor) -> Statement:
    command = c.advance().key
    if command not in ("START", "BEGIN", "END", "PREPARE", "COMMIT", "ROLLBACK"):
        return Unknown()
    global_id = _xa_part(c)
    branch = _xa_part(c) if c.take(",") else b""
    format_id = c.name() if c.take(",") else "1"
    if not re.fullmatch("[0-9]{1,20}", format_id):
        return Unknown()
    signed = (int(format_id) & 0xFFFFFFFF ^ 0x80000000) - 0x80000000  # as events have it
    return Xa("START" if command == "BEGIN" else command, XaId(signed, global_id, branch))


def _xa_part(c: _Cursor) -> bytes:
    token = c.advance()
    digits = None
    if token.key == "X" and c.next.kind is Kind.STRING:
        digits = c.advance().text
    elif token.kind is Kind.WORD and token.text.startswith("0x"):
        digits = token.text[2:]
    elif token.kind is Kind.STRING and not re.search(r"['\"\\]", token.text):
        return token.text.encode()
    if digits is None or not re.fullmatch("(?:[0-9A-Fa-f]{2})*", digits):
        raise _NotUnderstood
    return bytes.fromhex(digits)


def _truncate(c: _Cursor) -> Statement:
    c.take("TABLE")
    table = c.table()
    c.wait()
    c.finish()
    return Ddl((Truncated(table),))


def _rename(c: _Cursor) -> Statement:
    if c.take("USER"):
        return Harmless()
    if not c.take("TABLE", "TABLES"):
        return Unknown()
    c.skip("IF", "EXISTS")
    effects: list[Effect] = []
    while not effects or c.take(","):
        table = c.table()
        c.wait()
        if not c.take("TO"):
            return Unknown()
        effects.append(Renamed(table, c.table()))
    c.finish()
    return Ddl(tuple(effects))


def _repair(c: _Cursor) -> Statement:
    """Rows that can't be repaired are gone."""
    c.take("LOCAL", "NO_WRITE_TO_BINLOG")
    if c.take("VIEW"):
        return Harmless()
    if not c.take("TABLE", "TABLES"):
        return Unknown()
    effects: list[Effect] = []
    while not effects or c.take(","):
        effects.append(Changed(c.table(), rows=True, definition=False))
    return Ddl(tuple(effects))


def _drop(c: _Cursor) -> Statement:
    if c.take("TEMPORARY"):
        return Harmless()
    kind = c.advance().key
    c.skip("IF", "EXISTS")
    if kind in ("TABLE", "TABLES"):
        effects: list[Effect] = []
        while not effects or c.take(","):
            effects.append(Dropped(c.table()))
        c.wait()
        c.skip("RESTRICT", "CASCADE")
        c.finish()
        return Ddl(tuple(effects))
    if kind in ("DATABASE", "SCHEMA"):
        return Ddl((SchemaDropped(c.name()),))
    if kind == "INDEX":
        primary = c.name().upper() == "PRIMARY"
        return Ddl((Changed(c.table(), rows=primary, definition=True),)) if c.take("ON") else Unknown()
    if kind in _OBJECTS or (kind == "UNDO" and c.take("TABLESPACE")) or (kind == "SPATIAL" and c.take("REFERENCE")):
        return Harmless()
    return Unknown()


def _create(c: _Cursor) -> Statement:
    if replaced := c.take("OR"):
        c.take("REPLACE")
    if c.take("TEMPORARY"):
        return Harmless()
    _attributes(c)
    kind = c.advance().key
    if kind == "TABLE":
        return _create_table(c, replaced)
    if kind in ("DATABASE", "SCHEMA"):
        return Ddl((SchemaDropped(c.name()),)) if replaced else Harmless()
    unique = kind == "UNIQUE"
    if kind in ("UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR", "UNDO"):
        kind = c.advance().key
    if kind == "INDEX":
        c.until("ON")
        table = c.table()
        return Ddl((Changed(table, rows=False, definition=True),)) if unique or replaced else Harmless()
    return Harmless() if kind in _OBJECTS or kind == "REFERENCE" else Unknown()


def _attributes(c: _Cursor) -> None:
    """Go past what may stand before VIEW, TRIGGER, FUNCTION …"""
    while True:
        if c.take("ALGORITHM", "DEFINER"):
            c.take("=")
            c.advance()
            if c.take("@"):
                c.advance()
            c.skip("(", ")")
        elif c.take("SQL"):
            c.take("SECURITY")
            c.advance()
        elif not c.take("AGGREGATE"):
            return


def _create_table(c: _Cursor, replaced: bool) -> Statement:
    c.skip("IF", "NOT", "EXISTS")
    table = c.table()
    filled, last = False, ""
    while c.next.kind is not Kind.END:
        token = c.advance()
        if token is BAD:
            return Unknown()
        # In ROW format a server writes no SELECT: CREATE TABLE … START TRANSACTION (MySQL), and the rows as events.
        filled |= token.key in ("SELECT", "TABLE") or (last == "VALUES" and token.key not in ("LESS", "IN"))
        last = token.key
    effects: list[Effect] = [Dropped(table)] if replaced else []
    effects.append(Created(table))
    if filled:
        effects.append(Changed(table, rows=True, definition=False))
    return Ddl(tuple(effects))


def _alter(c: _Cursor) -> Statement:
    ignore = False
    while c.next.key in ("ONLINE", "OFFLINE", "IGNORE"):
        ignore |= c.advance().key == "IGNORE"
    _attributes(c)
    kind = c.advance().key
    if kind == "TABLE":
        return _alter_table(c, ignore)
    if kind in ("DATABASE", "SCHEMA"):
        c.until("UPGRADE")
        return Harmless() if c.next.kind is Kind.END else Unknown()
    return Harmless() if kind in _OBJECTS or (kind == "UNDO" and c.take("TABLESPACE")) else Unknown()


_TYPE: Final = (
    r"(?:BIT|BOOL|BOOLEAN|(?:TINY|SMALL|MEDIUM|MIDDLE|BIG)?INT|INTEGER|INT[12348]|DEC|DECIMAL|NUMERIC|FIXED|NUMBER"
    r"|FLOAT[48]?|DOUBLE(?: PRECISION)?|REAL|DATE|DATETIME|TIME|TIMESTAMP(?: \(\))? NULL|YEAR|JSON|VECTOR|UUID|INET[46]"
    r"|(?:NATIONAL )?(?:CHAR|CHARACTER|VARCHAR)(?: VARYING)?|NCHAR|NVARCHAR|VARCHAR2|CLOB|RAW|BINARY|VARBINARY|ENUM|SET"
    r"|(?:TINY|MEDIUM|LONG)?(?:BLOB|TEXT)|GEOMETRY|GEOMETRYCOLLECTION|GEOMCOLLECTION|(?:MULTI)?(?:POINT|LINESTRING"
    r"|POLYGON))(?: \(\))?"
)
"""Not SERIAL, nor TIMESTAMP without NULL: it may be NOT NULL unsaid."""

_ATTRIBUTE: Final = (
    r"(?:UNSIGNED|SIGNED|ZEROFILL|NULL|DEFAULT NULL|ON UPDATE (?:CURRENT_TIMESTAMP|NOW)(?: \(\))?|COMMENT '"
    r"|(?:CHARACTER SET|CHARSET|COLLATE) \S+|ASCII|UNICODE|BINARY|VISIBLE|INVISIBLE|COMPRESSED|UNIQUE(?: KEY)?"
    r"|CHECK \(\)|COLUMN_FORMAT \S+|STORAGE \S+|SRID \S+|FIRST|AFTER \S+)"
)

_OPTION: Final = (
    r"(?:(?:DEFAULT )?(?:CHARACTER SET|CHARSET|COLLATE)(?: =)?+ \S+|ENGINE(?: =)?+ `?(?:INNODB|MYISAM|ARIA|ROCKSDB)`?"
    r"|(?:ALGORITHM|LOCK|AUTO_INCREMENT|COMMENT|ROW_FORMAT|KEY_BLOCK_SIZE|STATS_PERSISTENT|STATS_AUTO_RECALC"
    r"|STATS_SAMPLE_PAGES|AVG_ROW_LENGTH|CHECKSUM|PAGE_CHECKSUM|TABLE_CHECKSUM|DELAY_KEY_WRITE|MAX_ROWS|MIN_ROWS"
    r"|PACK_KEYS|COMPRESSION|PAGE_COMPRESSED|PAGE_COMPRESSION_LEVEL|ENCRYPTION|ENCRYPTED|ENCRYPTION_KEY_ID"
    r"|TRANSACTIONAL|TABLESPACE|AUTOEXTEND_SIZE|SECONDARY_ENGINE|(?:DATA|INDEX) DIRECTORY)(?: =)?+ \S+"
    r"|FORCE|NOWAIT|WAIT \S+|(?:ENABLE|DISABLE) KEYS|(?:WITH|WITHOUT) VALIDATION|SECONDARY_(?:LOAD|UNLOAD))"
)

_CLAUSES: Final = (
    # Columns: a new one is NULL in every row; of the others no value is touched. Of a new default generated columns
    # may be made: ``AS (DEFAULT (x))``.
    (True, rf"ADD (?:COLUMN )?(?:IF NOT EXISTS )?(?P<column>\S+) {_TYPE}(?: {_ATTRIBUTE})*+"),
    (True, r"DROP (?:COLUMN )?(?:IF EXISTS )?(?P<column>\S+)(?: RESTRICT| CASCADE)?"),
    (True, r"ALTER (?:COLUMN )?(?:IF EXISTS )?\S+ SET (?:IN)?VISIBLE"),
    # Keys and constraints.
    (True, r"ADD (?:CONSTRAINT (?:\S+ )?)?UNIQUE .*"),
    (True, r"DROP (?:INDEX|KEY|CONSTRAINT) (?:IF EXISTS )?(?!`?PRIMARY`?$)\S+"),
    (False, r"ADD (?:INDEX|KEY|FULLTEXT|SPATIAL|VECTOR (?:INDEX|KEY)) .*"),
    (False, r"ADD (?:CONSTRAINT (?:\S+ )?)?(?:FOREIGN KEY|CHECK) .*"),
    (False, r"DROP (?:FOREIGN KEY|CHECK) .*"),
    (False, r"(?:ALTER|RENAME) (?:INDEX|KEY) .*"),
    (False, r"ALTER (?:CHECK|CONSTRAINT) .*"),
    # Where the rows are kept.
    (False, r"(?:ADD|REORGANIZE|COALESCE|REBUILD|OPTIMIZE|ANALYZE|CHECK) PARTITION .*|REORGANIZE PARTITION"),
    (False, r"PARTITION BY .*|REMOVE PARTITIONING"),
    (False, rf"{_OPTION}(?: {_OPTION})*+"),
)
"""Clauses of ALTER TABLE that leave all rows alone, with whether the definition is another then."""
_LEAVES_ROWS: Final = [(definition, re.compile(pattern)) for definition, pattern in _CLAUSES]


def _alter_table(c: _Cursor, ignore: bool) -> Statement:
    """`ignore`: rows that a new key or partition has no room for are dropped (MariaDB)."""
    c.skip("IF", "EXISTS")
    table = c.table()
    c.wait()
    rows = definition = False
    columns: set[str] = set()
    others: list[Effect] = []
    renamed: list[Effect] = []
    for clause in _clauses(c):
        keys = [token.key for token in clause]
        if keys[0] == "RENAME" and (to := _new_name(c.within(clause))):
            renamed = [Renamed(table, to)]
            continue
        changes = _changes(" ".join(keys))
        rows |= changes.rows or ignore or changes.column in columns  # dropped and added: its values are gone
        definition |= changes.definition
        if changes.column:
            columns.add(changes.column)
        if keys[:2] == ["EXCHANGE", "PARTITION"]:
            others.append(Changed(_table_after(c, clause, "TABLE"), rows=True, definition=False))
        elif keys[:2] == ["CONVERT", "PARTITION"]:  # MariaDB, as the next
            made = _table_after(c, clause, "TABLE")
            others += [Created(made), Changed(made, rows=True, definition=False)]
        elif keys[:2] == ["CONVERT", "TABLE"]:
            others.append(Dropped(_table_after(c, clause, "TABLE")))
    changed: list[Effect] = [Changed(table, rows, definition)] if rows or definition else []
    effects = (*changed, *others, *renamed)
    return Ddl(effects) if effects else Harmless()


class _Changes(NamedTuple):
    """Whether rows and definition may be others after a clause, and which column it adds or drops."""

    rows: bool
    definition: bool
    column: str


def _changes(clause: str) -> _Changes:
    for definition, pattern in _LEAVES_ROWS:
        if found := pattern.fullmatch(clause):
            return _Changes(False, definition, found.groupdict().get("column", "").strip("`").upper())
    return _Changes(True, True, "")


def _new_name(c: _Cursor) -> TableName | None:
    """Of the table, where the clause doesn't rename anything else."""
    c.advance()
    if c.next.key in ("COLUMN", "INDEX", "KEY"):
        return None
    c.take("TO", "AS", "=")
    name = c.table()
    c.finish()
    return name


def _table_after(c: _Cursor, clause: list[Token], key: str) -> TableName:
    inner = c.within(clause)
    inner.until(key)
    return inner.table()


def _clauses(c: _Cursor) -> Iterator[list[Token]]:
    """The clauses of an ALTER TABLE, none of them empty; what is in parentheses is left out, save the columns of
    ``ADD (a int, b int)``, which are clauses each."""
    clause: list[Token] = []
    prefix: list[Token] = []
    depth = 0
    while c.next.kind is not Kind.END:
        token = c.advance()
        if token is BAD:
            raise _NotUnderstood
        inner = depth - bool(prefix)
        if token.key == "(":
            depth += 1
            if inner == 0 and " ".join(t.key for t in clause[:6]) in _SEVERAL:
                prefix = list(clause)
            elif inner == 0:
                clause.append(_PARENTHESES)
        elif token.key == ")":
            depth -= 1
            if depth < 0:
                raise _NotUnderstood
            if inner == 0:
                yield clause
                clause, prefix = [], []
        elif inner == 0 and token.key == "," and not (len(clause) > 1 and clause[1].key == "PARTITION"):
            if clause:
                yield clause
            clause = list(prefix)
        elif inner == 0:
            clause.append(token)
    if depth:
        raise _NotUnderstood
    if clause:
        yield clause


_SEVERAL: Final = frozenset(
    f"ADD{column}{condition}" for column in ("", " COLUMN") for condition in ("", " IF NOT EXISTS")
)
_PARENTHESES: Final = Token(Kind.SYMBOL, "()", "")

_READERS: Final[dict[str, Callable[[_Cursor], Statement]]] = {
    "ALTER": _alter,
    "BEGIN": _begin,
    "COMMIT": _commit,
    "CREATE": _create,
    "DROP": _drop,
    "RELEASE": _release,
    "RENAME": _rename,
    "REPAIR": _repair,
    "ROLLBACK": _rollback,
    "SAVEPOINT": _savepoint,
    "START": _start,
    "TRUNCATE": _truncate,
    "XA": _xa,
}
