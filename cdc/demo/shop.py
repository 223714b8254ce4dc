"""A small shop that never rests: the database that the demo captures, and the one who keeps changing it."""

from __future__ import annotations

import json
import random
import threading
from typing import Final

from cdc.demo.database import connect

TABLES: Final = {
    "customers": ("id",),
    "products": ("sku",),
    "orders": ("id",),
    "order_items": ("order_id", "line_no"),
    "carts": ("customer_id",),
}
"""The key columns of each table."""
_CREATE: Final = (
    "CREATE TABLE shop.customers (id bigint PRIMARY KEY, name text NOT NULL, email text, created_at {now})",
    "CREATE TABLE shop.products (sku varchar(20) PRIMARY KEY, name text NOT NULL, price numeric(10,2) NOT NULL, "
    "tags {list}, in_stock boolean NOT NULL)",
    "CREATE TABLE shop.orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL, status {status} NOT NULL, "
    "total numeric(12,2) NOT NULL, placed_at {now})",
    "CREATE TABLE shop.order_items (order_id bigint, line_no int, sku varchar(20) NOT NULL, quantity int NOT NULL, "
    "PRIMARY KEY (order_id, line_no))",
    "CREATE TABLE shop.carts (customer_id bigint PRIMARY KEY, contents {json} NOT NULL)",
)

_FIRST: Final = ("Ada", "Grace", "Edsger", "Barbara", "Donald", "Frances", "Tony", "Margaret", "Alan", "Katherine")
_LAST: Final = ("Lovelace", "Hopper", "Dijkstra", "Liskov", "Knuth", "Allen", "Hoare", "Hamilton", "Turing", "Johnson")
_THINGS: Final = ("lamp", "chair", "teapot", "notebook", "umbrella", "clock", "kettle", "blanket")
_COLOURS: Final = ("red", "green", "blue", "black", "white")


class Shop(threading.Thread):
    """Writes about `rate` transactions per second until `stop`. Deterministic for a seed, but for the time."""

    def __init__(self, url: str, rate: float, seed: int = 1) -> None:
        super().__init__(name="shop", daemon=True)
        self._database = connect(url)
        self._pause = 1 / rate
        self._random = random.Random(seed)  # noqa: S311 - a shop, not a secret
        self._halt = threading.Event()
        self._next = {"customers": 1, "orders": 1, "products": 1}
        self.transactions = 0
        self.error: Exception | None = None

    def prepare(self) -> None:
        """Make the tables and the first rows, which the snapshot will find."""
        self._database.execute("CREATE SCHEMA shop")
        if self._database.prepare:
            self._database.execute(self._database.prepare)
        for statement in _CREATE:
            self._database.execute(statement.format(**self._database.types))
        with self._database.transaction():
            for _ in range(50):
                self._add_customer()
                self._add_product()
            for _ in range(100):
                self._order()

    def run(self) -> None:
        """Write until told to stop."""
        choices = {
            self._order: 8,
            self._advance_order: 8,
            self._add_customer: 2,
            self._correct_customer: 3,
            self._reprice: 2,
            self._rename_product: 1,
            self._cancel: 2,
            self._fill_cart: 4,
        }
        try:
            while not self._halt.wait(self._pause):
                action = self._random.choices(list(choices), list(choices.values()))[0]
                with self._database.transaction():
                    action()
                self.transactions += 1
                if self.transactions == 100:
                    self._database.execute("ALTER TABLE shop.customers ADD COLUMN phone text")
                if self.transactions % 150 == 0:
                    self._database.execute("TRUNCATE shop.carts")
        except self._database.Error as error:
            self.error = error

    def stop(self) -> None:
        """Finish the transaction under way and end."""
        self._halt.set()
        if self.is_alive():
            self.join()
        self._database.close()

    def _draw(self, table: str) -> int:
        number = self._next[table]
        self._next[table] = number + 1
        return number

    def _any(self, table: str) -> int:
        return self._random.randrange(1, self._next[table])

    def _add_customer(self) -> None:
        name = f"{self._random.choice(_FIRST)} {self._random.choice(_LAST)}"
        number = self._draw("customers")
        email = f"{name.split()[0].lower()}{number}@example.org"
        self._database.execute("INSERT INTO shop.customers (id, name, email) VALUES (%s, %s, %s)", number, name, email)

    def _correct_customer(self) -> None:
        name = f"{self._random.choice(_FIRST)} {self._random.choice(_LAST)}"
        self._database.execute("UPDATE shop.customers SET name = %s WHERE id = %s", name, self._any("customers"))

    def _add_product(self) -> None:
        number = self._draw("products")
        colour, thing = self._random.choice(_COLOURS), self._random.choice(_THINGS)
        price = self._random.randrange(100, 20000) / 100
        self._database.execute(
            "INSERT INTO shop.products VALUES (%s, %s, %s, %s, %s)",
            *(f"P-{number:04}", f"{colour} {thing}", price, [colour, thing], self._random.random() < 0.9),
        )

    def _reprice(self) -> None:
        self._database.execute(
            "UPDATE shop.products SET price = round(price * 1.01, 2), in_stock = NOT in_stock WHERE sku = %s",
            f"P-{self._any('products'):04}",
        )

    def _rename_product(self) -> None:
        """A new key for an old row, by way of a third one."""
        old, new = f"P-{self._any('products'):04}", "P-TEMP"
        self._database.execute("UPDATE shop.products SET sku = %s WHERE sku = %s", new, old)
        self._database.execute("UPDATE shop.products SET sku = %s WHERE sku = %s", old + "-B", new)

    def _order(self) -> None:
        """One transaction over two tables."""
        number = self._draw("orders")
        lines = self._random.randrange(1, 5)
        for line in range(1, lines + 1):
            sku, quantity = f"P-{self._any('products'):04}", self._random.randrange(1, 4)
            self._database.execute("INSERT INTO shop.order_items VALUES (%s, %s, %s, %s)", number, line, sku, quantity)
        self._database.execute(
            "INSERT INTO shop.orders (id, customer_id, status, total) VALUES (%s, %s, 'new', %s)",
            *(number, self._any("customers"), lines * 9.99),
        )

    def _advance_order(self) -> None:
        status = self._random.choice(("paid", "shipped", "returned"))
        self._database.execute("UPDATE shop.orders SET status = %s WHERE id = %s", status, self._any("orders"))

    def _cancel(self) -> None:
        number = self._any("orders")
        self._database.execute("DELETE FROM shop.order_items WHERE order_id = %s", number)
        self._database.execute("DELETE FROM shop.orders WHERE id = %s", number)

    def _fill_cart(self) -> None:
        self._database.execute(
            f"INSERT INTO shop.carts VALUES (%s, %s) {self._database.upsert}",  # noqa: S608 - its own text
            self._any("customers"),
            json.dumps({"sku": f"P-{self._any('products'):04}", "quantity": 1}),
        )
