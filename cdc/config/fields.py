"""Field types that every plugin's configuration model is built from."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from cdc.config.secrets import Referenced, inline_password, redact, remember

_DURATION: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_NUMBER_WITH_UNIT: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def _with_unit(value: object, units: dict[str, float] | dict[str, int], example: str) -> float:
    known = ", ".join(units)
    if isinstance(value, str) and (match := _NUMBER_WITH_UNIT.fullmatch(value)) and match[2] in units:
        return float(match[1]) * units[match[2]]
    raise ValueError(f"needs a number with a unit ({known}), for example {example}")


def _written(value: float, units: dict[str, float] | dict[str, int]) -> str:
    """The reverse, in the largest unit of which it is a whole number."""
    for unit, size in reversed(units.items()):
        count = round(value / size, 9)
        if count >= 1 and count.is_integer():
            return f"{count:.0f}{unit}"
    smallest = next(iter(units))
    return f"{value / units[smallest]:g}{smallest}"


def _duration(value: object) -> float:
    return _with_unit(value, _DURATION, "30s")


def _byte_size(value: object) -> int:
    return int(_with_unit(value, _BYTES, "16MiB"))


def _schema(title: str, units: dict[str, float] | dict[str, int]) -> WithJsonSchema:
    pattern = rf"^\s*\d+(\.\d+)?\s*({'|'.join(units)})\s*$"
    return WithJsonSchema({"type": "string", "title": title, "pattern": pattern})


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    PlainSerializer(lambda seconds: _written(seconds, _DURATION), return_type=str, when_used="json"),
    _schema("duration", _DURATION),
]
"""Seconds; written with a unit: ``500ms``, ``30s``, ``24h``, ``7d``. A bare number is an error."""

ByteSize = Annotated[
    int,
    BeforeValidator(_byte_size),
    PlainSerializer(lambda count: _written(count, _BYTES), return_type=str, when_used="json"),
    _schema("size", _BYTES),
]
"""Bytes; written with a unit: ``16MiB``, ``20GiB``. A bare number is an error."""


class FromFile:
    """Validation context of values that were read from a configuration file: literal secrets are errors there."""


def _secret(value: object, validation: ValidationInfo) -> object:
    if isinstance(value, str):
        remember(value)
        if isinstance(validation.context, FromFile) and not isinstance(value, Referenced):
            raise PydanticCustomError("literal_secret", "a secret must not stand in this file")
    return value


Secret = Annotated[
    SecretStr,
    BeforeValidator(_secret),
    WithJsonSchema({"type": "string", "title": "secret", "pattern": r"^\$\{[^{}]+\}$"}),
]
"""A value that is never shown. In YAML it must be a reference, ``${VAR}`` or ``${file:/path}``."""


def is_secret(annotation: Any) -> bool:
    """Whether a field's type is :data:`Secret`, alone or among others."""
    return annotation is SecretStr or any(map(is_secret, get_args(annotation)))


class _Url(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return repr(redact(self))


def _url(value: str) -> str:
    if (password := inline_password(value)) is not None:
        remember(password)
    return _Url(value)


Url = Annotated[str, AfterValidator(_url)]
"""A URL, with a password in it only if the whole of it came from a reference; its repr hides that password."""


class Model(BaseModel):
    """Base of all configuration models: frozen, unknown keys are errors, inputs never appear in messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class BatchConfig(Model):
    """How much a sink is given at once: whichever limit is reached first."""

    rows: int = Field(default=10_000, gt=0)
    """Most rows of one write."""
    bytes: Annotated[ByteSize, Field(gt=0)] = 32 << 20
    """Most bytes of their values, as they are on the log."""
    every: Duration = 0.2
    """Longest time that a record waits for others."""


class SinkConfig(Model):
    """What every sink's configuration has; a sink's own model adds its fields."""

    type: str
    tables: list[str] = Field(default=["*"])
    """Patterns of ``schema.table`` that this sink receives; ``!pattern`` leaves out."""
    workers: int = Field(default=1, gt=0, le=64)
    """Processes that feed this sink on this machine; they share the partitions of the log. Machines that run the same
    sink share them too."""
    batch: BatchConfig = BatchConfig()
