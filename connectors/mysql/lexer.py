"""The tokens of a statement, as MySQL's and MariaDB's servers find them in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

ANSI_QUOTES: Final = 1 << 2
"""Bit of the SQL mode: what stands in double quotes is a name."""
NO_BACKSLASH_ESCAPES: Final = 1 << 20
"""Bit of the SQL mode: a backslash in a string is one."""
MAXIMUM_TOKENS: Final = 500_000
"""A statement with more, of which a server's limits allow hardly any, is not understood: it is a matter of seconds."""


class Kind(Enum):
    """What a token is."""

    WORD = "word"
    """A keyword, a name without quotes, or digits."""
    NAME = "name"
    """A name in quotes."""
    STRING = "string"
    SYMBOL = "symbol"
    END = "end"
    """There is no more."""
    BAD = "bad"
    """This and what follows can't be understood."""


class Token(NamedTuple):
    """`text`: a name without its quotes, a string as it is written within them.

    `key` tells keywords and symbols: a word in upper case, a name too but in backquotes and without blanks, ``'`` for a
    string, nothing at the end.
    """

    kind: Kind
    key: str
    text: str


END: Final = Token(Kind.END, "", "")
BAD: Final = Token(Kind.BAD, "?", "")


@lru_cache
def _pattern(ansi_quotes: bool, no_backslash_escapes: bool, mariadb: bool) -> re.Pattern[str]:
    """No alternative gives back what it has taken: the time is in proportion to the text's length."""

    def quoted(quote: str, escapes: bool) -> str:
        inner = rf"[^{quote}\\]++|\\." if escapes else rf"[^{quote}]++"
        return rf"{quote}(?:{inner}|{quote}{quote})*+{quote}"

    escapes = not no_backslash_escapes
    names, strings = [quoted("`", False)], [quoted("'", escapes)]
    (names if ansi_quotes else strings).append(quoted('"', escapes and not ansi_quotes))
    executable = rf"/\*{'M?' if mariadb else ''}!"
    return re.compile(
        rf"""
          (?P<blank> [\t-\r\ ]++ | \#[^\n]*+ | --(?=[\0-\ \x7f]|\Z)[^\n]*+ | (?!{executable})/\*.*?\*/ )
        | (?P<opened> {executable}(?:\d{{5,6}})?+ )
        | (?P<closed> \*/ )
        | (?P<word> [0-9A-Za-z_$\xa1-\U0010ffff]++ )
        | (?P<name> {"|".join(names)} )
        | (?P<string> {"|".join(strings)} )
        | (?P<stop> ; )
        | (?P<symbol> (?!/\*)[!$%&()*+,\-./:<=>?@\[\\\]^{{|}}~] )
        """,
        re.DOTALL | re.VERBOSE,
    )


def tokens(sql: str, sql_mode: int, *, mariadb: bool) -> Iterator[Token]:
    """The tokens of `sql`, and END or BAD.

    Comments are left out. Of those that are executed (``/*!50100 … */``, with MariaDB ``/*M! … */``) only the marks
    are: a server writes into the binlog what is none for itself as an ordinary comment.
    """
    match = _pattern(bool(sql_mode & ANSI_QUOTES), bool(sql_mode & NO_BACKSLASH_ESCAPES), mariadb).match
    place, size, count, executable, stopped = 0, len(sql), 0, False, False
    while place < size:
        found = match(sql, place)
        if found is None:
            break
        kind, place = found.lastgroup, found.end()
        if kind == "blank":
            continue
        if kind == "opened":
            executable = True
            continue
        if kind == "closed":
            if executable:
                executable = False
                continue
            kind, place = "symbol", place - 1
        if kind == "stop":
            stopped = True
            continue
        count += 1
        if stopped or count > MAXIMUM_TOKENS:
            break
        text = found[0]
        if kind == "word":
            yield Token(Kind.WORD, _upper(text), text)
        elif kind == "symbol":
            yield Token(Kind.SYMBOL, text[0], "")
        elif kind == "name":
            text = text[1:-1].replace(text[0] * 2, text[0])
            yield Token(Kind.NAME, f"`{''.join(_upper(text).split())}`", text)
        else:
            yield Token(Kind.STRING, "'", text[1:-1])
    else:
        yield END
        return
    yield BAD


def _upper(text: str) -> str:
    """Keywords have no other letters; ``ı`` is not to become an I."""
    return text.upper() if text.isascii() else text
