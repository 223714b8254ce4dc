"""Geometries as Debezium's JSON has them: well-known binary (WKB) and its SRID, to and from canonical values.

A ``point`` has its coordinates beside them, as numbers; those that are none are strings (``"NaN"``, ``"Infinity"``). A
SRID of 0, which says nothing, is null. Coordinates stand in the order in which the server stores them, which for
MySQL is longitude first, whatever ``ST_AsBinary`` says. Debezium 3.7 adds ``extensions``, null for all of these: we do
not.

What is no such geometry is rendered as in the ``readable`` profile, as a string: MariaDB has empty bytes where a NOT
NULL column was added to rows, other types may be named as those of PostGIS, and Debezium stops, or makes it null.
"""

from __future__ import annotations

import re
from binascii import a2b_base64, a2b_hex, b2a_base64
from struct import Struct
from typing import Any, Final, Literal

import msgspec

_POINT: Final = {byte_order: Struct(f"{byte_order}BIdd") for byte_order in "<>"}
_SRID_SIZE: Final = 4
_HEADER_SIZE: Final = 5
"""Of WKB: the byte order and the type."""
_POINT_TYPE: Final = 1
_HAS_SRID: Final = 0x20000000
"""In the type of PostGIS's extended WKB (EWKB): the SRID follows."""
EMPTY: Final = b'{"wkb":"AQcAAAAAAAAAAA==","srid":null}'
"""``GEOMETRYCOLLECTION EMPTY``."""
_NOT_FINITE: Final = {"nan": b'"NaN"', "inf": b'"Infinity"', "-inf": b'"-Infinity"'}
_EWKB: Final = re.compile(rb"0[01](?:[0-9A-F]{2}){8,}")


def geometry(v: bytes) -> bytes:
    """A geometry as MySQL stores it: ``{"wkb":"…","srid":…}``."""
    if len(v) < _SRID_SIZE + _HEADER_SIZE:
        return _string(v)
    return b"{%b}" % _members(v[_SRID_SIZE:], int.from_bytes(v[:_SRID_SIZE], "little", signed=True))


def point(v: bytes) -> bytes:
    """A point as MySQL stores it: ``{"x":…,"y":…,"wkb":"…","srid":…}``."""
    wkb = v[_SRID_SIZE:]
    struct = _POINT["<" if wkb[:1] != b"\0" else ">"]
    if len(wkb) != struct.size:
        return _string(v)
    _, type_, x, y = struct.unpack(wkb)
    if type_ != _POINT_TYPE:
        return _string(v)
    members = _members(wkb, int.from_bytes(v[:_SRID_SIZE], "little", signed=True))
    return b'{"x":%b,"y":%b,%b}' % (_double(x), _double(y), members)


def load_geometry(rendered: Any) -> bytes:
    """The reverse of :func:`geometry` and :func:`point`."""
    if isinstance(rendered, str):
        return a2b_base64(rendered)
    srid: int = rendered["srid"] or 0
    return srid.to_bytes(_SRID_SIZE, "little", signed=True) + a2b_base64(rendered["wkb"])


def coordinates(v: bytes) -> bytes:
    """A point as PostgreSQL prints it, ``(x,y)``, with the digits that are printed. Raises ValueError."""
    x, y = v[1:-1].split(b",")
    members = _members(_POINT["<"].pack(1, _POINT_TYPE, float(x), float(y)), 0)
    return b'{"x":%b,"y":%b,%b}' % (_number(x), _number(y), members)


def load_coordinates(rendered: Any) -> str:
    """The reverse of :func:`coordinates`."""
    x, y = (str(rendered[axis]).removesuffix(".0") for axis in "xy")
    return f"({x},{y})"


def ewkb(v: bytes) -> bytes:
    """A geometry as PostGIS prints it, EWKB in hexadecimal digits: ``{"wkb":"…","srid":…}``, the WKB being the EWKB."""
    if not _EWKB.fullmatch(v):
        return msgspec.json.encode(v.decode())
    extended = a2b_hex(v)
    order: Literal["big", "little"] = "little" if extended[0] else "big"
    has_srid = int.from_bytes(extended[1:5], order) & _HAS_SRID
    srid = int.from_bytes(extended[5:9], order, signed=True) if has_srid else 0
    return b"{%b}" % _members(extended, srid)


def load_ewkb(rendered: Any) -> str:
    """The reverse of :func:`ewkb`."""
    return rendered if isinstance(rendered, str) else a2b_base64(rendered["wkb"]).hex().upper()


def _members(wkb: bytes, srid: int) -> bytes:
    return b'"wkb":"%b","srid":%b' % (b2a_base64(wkb, newline=False), b"%d" % srid if srid else b"null")


def _string(v: bytes) -> bytes:
    return b'"%b"' % b2a_base64(v, newline=False)


def _double(number: float) -> bytes:
    text = repr(number)
    return _NOT_FINITE.get(text) or text.encode()


def _number(text: bytes) -> bytes:
    """A printed number as JSON that no reader takes for an integer."""
    if text[-1] > ord("9"):
        return b'"%b"' % text
    return text if b"." in text or b"e" in text else text + b".0"
