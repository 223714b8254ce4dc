"""What the sink contract suite needs to know of a store: one module here per file in ``sinks/``, found by its name.

A module has a subclass of :class:`Store` and, as its last line, ``STORE = MyStore``. That is all it takes for a new
store to be held to ``tests/contract/test_sinks.py``.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cdc import registry
from cdc.event import Value
from cdc.sink import Row, Sink
from schemas.table import TableSchema
from schemas.types import LogicalType

PIPELINE = "shop"
SINK = "copy"

_GROUPS = {"sql_mysql": "mysql"}
"""The xdist groups of stores whose server is another group's, too; each other store has one named as itself."""


def known() -> list[str]:
    """Names of the stores that have a module here."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def parameters(*names: str) -> list[Any]:
    """The stores named `names` as parameters, the tests of each in one worker: it starts one server."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(_GROUPS.get(name, name))) for name in names]


def load(name: str) -> type[Store]:
    """The class of the store named `name`."""
    store: type[Store] = importlib.import_module(f"{__name__}.{name}").STORE
    return store


class Store(ABC):
    """One empty store, for one test. `request` gives the server's fixture, `folder` is empty and the test's own."""

    type: ClassVar[str]
    """Name of the file in ``sinks/``."""

    @abstractmethod
    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        """Start or reach the server, and empty it."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The sink's configuration, without ``type``."""

    @abstractmethod
    def rows(self, schema: TableSchema) -> dict[bytes, dict[str, Value]]:
        """The live rows of a table as they can be read now, by record key: each column of `schema` as a canonical
        value (:mod:`schemas.types`), None where the store has no value. Makes searchable first what is not yet.
        """

    @abstractmethod
    def cut(self) -> None:
        """Make the store unreachable in the hardest way: kill -9 the server, take the file away."""

    @abstractmethod
    def mend(self) -> None:
        """Make it reachable again, with what it had promised to keep."""

    @abstractmethod
    def empty(self) -> None:
        """Take away all that it holds, as an operator does who does not know of us."""

    def drop(self, schema: TableSchema) -> bool:
        """Take away what holds the rows of a table, and nothing else. False: rows of all tables lie in one place."""
        return False

    @abstractmethod
    def without_guard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Break the sink: from now on a write lands whatever version the store holds for the key or its tombstone."""

    def holds(self, type_: LogicalType, value: Value) -> bool:
        """Whether a column of `type_` can hold `value`; a row with one that it cannot hold must be rejected."""
        return True

    def held_as(self, type_: LogicalType, value: Value) -> Value:
        """The value that `rows` gives for `value`: another, equal one where the store cannot tell them apart."""
        return value

    def refused(self) -> Callable[[int], Row] | None:
        """Makes a row that the store never takes, out of a version; its table is the suite's ``items``.

        None: there is no such row (the test is skipped).
        """
        return None

    def stop(self) -> None:  # noqa: B027 - most stores have nothing to stop
        """The test is over."""

    def sink(self, **config: Any) -> Sink:
        """A sink on this store, not yet open, with `config` on top of :meth:`config`."""
        kind = registry.load("sinks", self.type)
        model = kind.Config.model_validate({"type": self.type, **self.config(), **config})
        sink: Sink = kind(SINK, model, PIPELINE)
        return sink
