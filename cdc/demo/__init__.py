"""``cdc demo``: database, log, search index, cache and warehouse in one temporary folder, and a look at them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import redis
from rich.console import Console
from rich.markup import escape

from cdc.demo import compare
from cdc.demo.mysql import start_mysql
from cdc.demo.servers import Processes, remove, start_postgres, start_valkey
from cdc.demo.shop import Shop
from cdc.errors import CdcError

TRANSACTIONS_PER_SECOND: Final = 40
LOOK_EVERY_SECONDS: Final = 3.0
SHOWN_EVENTS_PER_SECOND: Final = 4
CATCH_UP_SECONDS: Final = 120.0
DIFFERENCE: Final = 4
"""Exit code when a store differs from the database."""

DATABASES: Final = {"postgres": ("PostgreSQL", start_postgres), "mysql": ("MySQL or MariaDB", start_mysql)}
"""What each type of source is called, and what starts one; its profile in ``pipeline.yaml`` has the same name."""

_COLOURS: Final = {"c": "green", "u": "yellow", "d": "red", "r": "cyan", "t": "magenta", "s": "magenta"}


def run(duration: float | None = None, source: str = "postgres") -> int:
    """Run with a database of the type `source` for `duration` seconds from the first event on, or until Ctrl-C.

    Returns 0 when every store equals the database, 4 when one does not.

    Leaves no process and no file behind. Raises CdcError when a server can't be started.
    """
    return _Demo(duration, source).run()


class _Demo:
    def __init__(self, duration: float | None, source: str) -> None:
        self._duration = duration
        self._source = source
        self._folder = Path(tempfile.mkdtemp(prefix="cdc-demo-"))
        self._folder.chmod(0o711)  # the database runs as another user when we are root
        self._processes = Processes(self._folder)
        self._console = Console(highlight=False)
        self._first_event = threading.Event()

    def run(self) -> int:
        try:
            # 1. The servers, and a shop with some rows that exist before anybody looks.
            database, start = DATABASES[self._source]
            self._say("starting", f"{database} and Valkey in {self._folder}")
            self._database = start(self._processes, self._folder)
            self._cache = start_valkey(self._processes, self._folder)
            shop = Shop(self._database, TRANSACTIONS_PER_SECOND)
            shop.prepare()
            # 2. The pipeline: `cdc run`, and `cdc tap` to see what passes.
            pipeline = self._cdc("run")
            self._show_events()
            # 3. The shop goes on; look at the stores meanwhile.
            shop.start()
            with _interrupted() as interrupted:
                self._watch(shop, pipeline, interrupted)
                # 4. Stop, let everything drain, catch up with what is left.
                shop.stop()
                self._say("closing", f"the shop, after {shop.transactions} transactions; the stores catch up")
                self._processes.stop(pipeline)
                rest = self._cdc("run", "--until-caught-up")
                if rest.wait(CATCH_UP_SECONDS) != 0:
                    raise CdcError("the pipeline did not catch up", hint=self._last_words("run"))
                # 5. Is each store equal to the database?
                return self._verdict()
        finally:
            self._processes.stop_all()
            remove(self._folder)

    def _cdc(self, command: str, *options: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        environment = {
            "DEMO_FOLDER": str(self._folder),
            "DEMO_DATABASE": self._database,
            "DEMO_CACHE": self._cache,
            "CDC_PROFILE": self._source,  # whatever the user has it for, it is none of the demo's
        }
        config = Path(__file__).with_name("pipeline.yaml")
        line = [sys.executable, "-m", "cdc", "-c", str(config), command, *options]
        return self._processes.start(line, command, environment=environment, stdout=stdout)

    def _show_events(self) -> None:
        tap = self._cdc("tap", "--from", "beginning", "--format", "json", stdout=subprocess.PIPE)
        threading.Thread(target=self._print_events, args=(tap,), name="tap", daemon=True).start()

    def _print_events(self, tap: subprocess.Popen[bytes]) -> None:
        """A few events per second, the rest counted."""
        assert tap.stdout is not None
        passed, second = 0, 0.0
        for line in tap.stdout:
            self._first_event.set()
            now = time.monotonic()
            if now - second > 1.0:
                if passed > SHOWN_EVENTS_PER_SECOND:
                    self._print(f"[dim]      … and {passed - SHOWN_EVENTS_PER_SECOND} more[/]")
                passed, second = 0, now
            passed += 1
            if passed <= SHOWN_EVENTS_PER_SECOND:
                self._print_event(json.loads(line))

    def _print_event(self, event: dict[str, Any]) -> None:
        operation = event.get("op", "?")
        row = (event.get("value") or {}).get("after") or event.get("key")
        text = escape(json.dumps(row, ensure_ascii=False))
        colour = _COLOURS.get(operation, "white")
        self._print(f"[{colour}]  {operation}[/] [bold]{event.get('table', '')}[/] {text}")

    def _watch(self, shop: Shop, pipeline: subprocess.Popen[bytes], interrupted: threading.Event) -> None:
        self._first_event.wait(CATCH_UP_SECONDS)
        until = None if self._duration is None else time.monotonic() + self._duration
        while until is None or time.monotonic() < until:
            left = LOOK_EVERY_SECONDS if until is None else min(LOOK_EVERY_SECONDS, max(0.0, until - time.monotonic()))
            if interrupted.wait(left):
                return
            if pipeline.poll() is not None:
                raise CdcError("the pipeline ended by itself", hint=self._last_words("run"))
            if shop.error is not None:
                raise CdcError("the shop lost its database", hint=type(shop.error).__name__)
            self._print_lag()
            self._print_queries()

    def _print_lag(self) -> None:
        status = self._cdc("status", "--json", stdout=subprocess.PIPE)
        output, _ = status.communicate()
        sinks = json.loads(output).get("result", {}).get("sinks", {}) if output else {}
        lags = (f"{name} {sink.get('lag_records', '?')} records" for name, sink in sinks.items())
        self._say("lag", " · ".join(lags))

    def _print_queries(self) -> None:
        """What a user asks each store."""
        found = compare.search(self._folder / "search", "teapot")
        self._say("search", f"products named teapot: {', '.join(found) or 'none yet'}")
        with redis.Redis.from_url(self._cache, decode_responses=True) as client:
            self._say("cache", f"GET customers:1 = {client.get('customers:1')}")
        try:
            answer = compare.orders_by_status(self._folder / "warehouse.duckdb")
        except duckdb.Error:
            answer = "not there yet"
        self._say("warehouse", f"orders by status = {answer}")

    def _verdict(self) -> int:
        expected = compare.database_rows(self._database)
        worst = 0
        for store in ("search", "cache", "warehouse"):
            total, missing, stale, extra = 0, 0, 0, 0
            for table, rows in expected.items():
                counts = compare.differences(rows, self._stored(store, table))
                total += len(rows)
                missing, stale, extra = missing + counts[0], stale + counts[1], extra + counts[2]
            if missing or stale or extra:
                worst = DIFFERENCE
                text = f"[bold red]differs from the database[/]: missing {missing}, stale {stale}, extra {extra}"
            else:
                text = f"[bold green]equal to the database[/], {total} rows compared value by value"
            self._print(f"[bold]{store:>10}[/]  {text}")
        return worst

    def _stored(self, store: str, table: str) -> compare.Rows:
        if store == "search":
            return compare.search_rows(self._folder / "search", table)
        if store == "cache":
            return compare.cache_rows(self._cache, table)
        return compare.warehouse_rows(self._folder / "warehouse.duckdb", table)

    def _last_words(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def _say(self, what: str, text: str) -> None:
        self._print(f"[bold blue]{what:>10}[/]  {escape(text)}")

    def _print(self, line: str) -> None:
        self._console.print(line, no_wrap=True, overflow="ellipsis")


@contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """Set on the first Ctrl-C or SIGTERM: the shop is closed and the stores compared; the second ends it at once."""
    event = threading.Event()

    def on_signal(*_: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
