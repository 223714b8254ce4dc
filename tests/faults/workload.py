"""Random transactions on a real database, each of which leaves a line in a ledger."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

SCHEMA = """
CREATE SCHEMA bank;
CREATE SCHEMA "Odd Names";
CREATE TABLE bank.accounts (id int PRIMARY KEY, balance bigint NOT NULL, note text);
CREATE TABLE bank.items (
    kind text, number int, price numeric(12,3), made timestamptz DEFAULT clock_timestamp(), flags boolean[],
    PRIMARY KEY (kind, number));
CREATE TABLE "Odd Names"."Döcs" (id uuid PRIMARY KEY, "Title" text, body text, extra jsonb);
ALTER TABLE "Odd Names"."Döcs" ALTER body SET STORAGE EXTERNAL;
CREATE TABLE bank.scratch (id int PRIMARY KEY, value double precision);
CREATE TABLE bank.ledger (number bigint PRIMARY KEY, changes int NOT NULL, what text NOT NULL);
"""
TABLES = ("bank.accounts", "bank.items", "Odd Names.Döcs", "bank.scratch", "bank.ledger")
ACCOUNTS = 50
TOTAL = ACCOUNTS * 1000
"""What all balances together come to at any moment."""


class Workload:
    """One writer. The same seed does the same."""

    floats: ClassVar = (0.1, -0.0, 1e300, float("nan"), float("inf"))

    def __init__(self, connection: Any, seed: int) -> None:
        """`connection`: psycopg's, in autocommit."""
        self._sql = connection
        self._random = random.Random(seed)
        self._number = 0
        self._docs: list[uuid.UUID] = []
        self._next_item = 0
        self._scratch = 0
        self._rows = 0

    def prepare(self) -> None:
        """Tables, and rows that only a snapshot can find."""
        self._sql.execute(SCHEMA)
        self._sql.execute(f"INSERT INTO bank.accounts SELECT i, 1000 FROM generate_series(1, {ACCOUNTS}) i")
        self._sql.execute(
            "INSERT INTO bank.items SELECT 'old', i, i / 7.0, now(), '{t,null}' FROM generate_series(1, 3000) i"
        )

    def step(self) -> None:
        """One transaction."""
        actions: list[tuple[Callable[[], None], int]] = [
            (self._transfer, 10),
            (self._change_keys, 4),
            (self._savepoint, 3),
            (self._copy, 2),
            (self._truncate, 1),
            (self._new_doc, 4),
            (self._touch_doc, 8),
            (self._delete, 3),
            (self._scribble, 4),
        ]
        action = self._random.choices([a for a, _ in actions], [weight for _, weight in actions])[0]
        self._transaction(action)

    def big(self, rows: int) -> None:
        """One transaction of many rows."""

        def insert() -> None:
            first, self._next_item = self._next_item, self._next_item + rows
            self._run(
                "INSERT INTO bank.items SELECT 'big', i, i, now(), NULL FROM generate_series(%s::int, %s) i",
                first,
                first + rows - 1,
            )
            self._run("UPDATE bank.items SET price = price + 1 WHERE kind = 'big' AND number %% 3 = 0")

        self._transaction(insert)

    def _transaction(self, action: Callable[[], None]) -> None:
        self._rows = 0
        self._number += 1
        with self._sql.transaction():
            action()
            self._note(action.__name__)

    def _note(self, what: str) -> None:
        """The transaction's line in the ledger, which itself is one of its rows."""
        self._run("INSERT INTO bank.ledger VALUES (%s, %s, %s)", self._number, self._rows + 1, what)

    def _run(self, statement: str, *parameters: object) -> None:
        self._rows += self._sql.execute(statement, parameters).rowcount

    def _transfer(self) -> None:
        source, target = self._random.sample(range(1, ACCOUNTS + 1), 2)
        amount = self._random.randrange(1, 100)
        self._run("UPDATE bank.accounts SET balance = balance - %s WHERE id = %s", amount, source)
        note = "é'\"\\\n"
        self._run("UPDATE bank.accounts SET balance = balance + %s, note = %s WHERE id = %s", amount, note, target)

    def _change_keys(self) -> None:
        """Keys move up by one, from the top so that the server accepts it; then one kind is renamed."""
        kind = f"k{self._random.randrange(5)}"
        first = self._random.randrange(1, 2900)
        for number in range(first + 10, first - 1, -1):
            self._run("DELETE FROM bank.items WHERE kind = 'old' AND number = %s", number + 1)
            self._run("UPDATE bank.items SET number = number + 1 WHERE kind = 'old' AND number = %s", number)
        self._run("DELETE FROM bank.items WHERE kind = %s AND number = %s", kind, first)
        self._run("UPDATE bank.items SET kind = %s WHERE kind = 'old' AND number = %s", kind, first)

    def _savepoint(self) -> None:
        self._run("UPDATE bank.accounts SET note = 'kept' WHERE id = %s", self._random.randrange(1, ACCOUNTS + 1))
        kept = self._rows
        self._run("SAVEPOINT s")
        self._run("UPDATE bank.accounts SET balance = -1, note = 'never'")
        self._run("DELETE FROM bank.items WHERE kind = 'old'")
        self._run("ROLLBACK TO SAVEPOINT s")
        self._rows = kept

    def _copy(self) -> None:
        count = self._random.randrange(5, 200)
        first, self._next_item = self._next_item, self._next_item + count
        with self._sql.cursor().copy("COPY bank.items (kind, number, price) FROM STDIN") as copy:
            for number in range(first, first + count):
                copy.write_row((f"k{number % 7}", number + 10_000, number / 8))
        self._rows += count

    def _truncate(self) -> None:
        self._sql.execute("TRUNCATE bank.scratch")
        self._scratch = 0
        self._scribble()

    def _scribble(self) -> None:
        for _ in range(self._random.randrange(1, 6)):
            self._scratch += 1
            value = self._random.choice(self.floats)
            self._run("INSERT INTO bank.scratch VALUES (%s, %s)", self._scratch, value)

    def _new_doc(self) -> None:
        doc = uuid.UUID(int=self._random.getrandbits(128))
        self._docs.append(doc)
        body = chr(self._random.randrange(97, 123)) * self._random.randrange(2500, 9000)
        self._run('INSERT INTO "Odd Names"."Döcs" VALUES (%s, %s, %s, %s)', doc, "new", body, '{"a": [1, 2.50]}')

    def _touch_doc(self) -> None:
        """An update that leaves the large value alone, so that the server does not send it; at times of the key too."""
        if not self._docs:
            return self._new_doc()
        place = self._random.randrange(len(self._docs))
        doc = self._docs[place]
        self._run('UPDATE "Odd Names"."Döcs" SET "Title" = %s WHERE id = %s', f"t{self._number}", doc)
        if self._random.random() < 0.3:
            self._docs[place] = uuid.UUID(int=self._random.getrandbits(128))
            self._run('UPDATE "Odd Names"."Döcs" SET id = %s WHERE id = %s', self._docs[place], doc)
        return None

    def _delete(self) -> None:
        self._run("DELETE FROM bank.items WHERE number %% 97 = %s", self._random.randrange(97))
        if len(self._docs) > 5:
            doc = self._docs.pop(self._random.randrange(len(self._docs)))
            self._run('DELETE FROM "Odd Names"."Döcs" WHERE id = %s', doc)
