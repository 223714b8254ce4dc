"""Logical types: what a column means, whatever the database calls it.

A logical type decides how a value is rendered on the log and which type a store gives its column. The form in which a
value travels inside the process (its *canonical value*) is fixed per kind:

========================================================  =====================================================
kind                                                      canonical value
========================================================  =====================================================
``boolean``                                               ``bool``
``int16 int32 int64 uint64``                              ``int``
``decimal float32 float64``                               ``str``, the digits as the database prints them
                                                          (``NaN``, ``Infinity``, ``-Infinity`` included)
``string json enum uuid other``                           ``str``
``bits``                                                  ``str``, zeros and ones
``bytes``                                                 ``bytes``
``geometry point``                                        ``bytes`` as MySQL stores them: the SRID (4 bytes,
                                                          little-endian), then WKB
``coordinates``                                           ``str``, a point as PostgreSQL prints it: ``(1,2.5)``
``ewkb``                                                  ``str``, extended WKB as PostGIS prints it: hexadecimal
``date time timetz timestamp timestamptz``                ``str``, ISO 8601 (``2026-01-31``, ``12:00:00.5``,
                                                          ``2026-01-31T12:00:00.5``, ``…Z``); ``infinity``,
                                                          ``-infinity`` and a trailing `` BC`` as PostgreSQL has them,
                                                          ``0000-00-00``, ``2024-00-00``, ``-838:59:59`` as MySQL has
``array``                                                 ``list`` of canonical values or ``None``, nested per dimension
========================================================  =====================================================

SQL NULL is ``None``; a column that the source did not send is :data:`cdc.event.UNCHANGED`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """The closed list of logical type kinds."""

    BOOLEAN = "boolean"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT64 = "uint64"
    DECIMAL = "decimal"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    STRING = "string"
    BYTES = "bytes"
    BITS = "bits"
    GEOMETRY = "geometry"
    POINT = "point"
    COORDINATES = "coordinates"
    EWKB = "ewkb"
    JSON = "json"
    UUID = "uuid"
    DATE = "date"
    TIME = "time"
    TIMETZ = "timetz"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    ENUM = "enum"
    ARRAY = "array"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class LogicalType:
    """A kind with its parameters.

    ``precision`` is decimal digits for ``decimal`` and fractional-second digits (0-6) for temporal kinds; None means
    the database's widest. For ``bits`` it is their number; for ``bytes`` it tells that they are
    a number of so many bits, big-endian. ``scale`` belongs to ``decimal`` only. ``element`` is set for ``array`` only.
    """

    kind: Kind
    precision: int | None = None
    scale: int | None = None
    element: LogicalType | None = None

    def to_json(self) -> dict[str, Any]:
        """The type as it stands in a schema record; parameters that are None are left out."""
        document: dict[str, Any] = {"kind": self.kind.value}
        if self.precision is not None:
            document["precision"] = self.precision
        if self.scale is not None:
            document["scale"] = self.scale
        if self.element is not None:
            document["element"] = self.element.to_json()
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> LogicalType:
        """The reverse of :meth:`to_json`. Raises ValueError or KeyError on an unknown kind or a missing field."""
        element = document.get("element")
        return cls(
            Kind(document["kind"]),
            document.get("precision"),
            document.get("scale"),
            cls.from_json(element) if element is not None else None,
        )
