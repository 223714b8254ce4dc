"""Plugins are found by file name: ``sinks/redis.py`` is ``type: redis``. Nothing is registered at import time."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from importlib.metadata import entry_points
from typing import Any

from cdc.errors import ConfigurationError

_ATTRIBUTES = {"sinks": "SINK", "connectors": "CONNECTOR", "cdc.log": "LOG"}


def known(package: str) -> list[str]:
    """The type names found in `package` (``sinks``, ``connectors``, ``cdc.log``) and among installed entry points.

    A plugin that is a folder is found once it has its ``__init__.py``: one that is being written has none.
    """
    paths = importlib.import_module(package).__path__
    names = {module.name for module in pkgutil.iter_modules(paths) if not module.name.startswith("_")}
    return sorted(names | {point.name for point in entry_points(group=_group(package))})


def load(package: str, name: str) -> Any:
    """The plugin class of `package` named `name`; its driver is imported now, and only now.

    Raises ConfigurationError for an unknown name (with the nearest known one) or a driver that is not installed (with
    the ``pip install`` that brings it).
    """
    names = known(package)
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise ConfigurationError(
            f"unknown type {name!r}" + (f", did you mean {near[0]!r}?" if near else ""),
            hint="known: " + ", ".join(names),
        )
    for point in entry_points(group=_group(package)):
        if point.name == name:
            return point.load()
    try:
        module = importlib.import_module(f"{package}.{name}")
    except ImportError as error:
        what = f"a package that type {name!r} needs cannot be loaded: {error}"
        if isinstance(error, ModuleNotFoundError):
            what = f"type {name!r} needs the Python package {error.name!r}, which is not installed"
        raise ConfigurationError(what, hint=f"pip install 'cdc-service[{name}]'") from error
    return getattr(module, _ATTRIBUTES[package])


def _group(package: str) -> str:
    return "cdc." + package.rpartition(".")[2]
