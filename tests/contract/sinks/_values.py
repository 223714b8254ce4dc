"""Values of every logical type, the ordinary and the awkward, in canonical form."""

from __future__ import annotations

import math
import struct

from cdc.event import Value
from schemas.types import Kind, LogicalType


def _array(kind: Kind, precision: int | None = None, scale: int | None = None) -> LogicalType:
    return LogicalType(Kind.ARRAY, element=LogicalType(kind, precision, scale))


VALUES: dict[str, tuple[LogicalType, list[Value]]] = {
    "boolean": (LogicalType(Kind.BOOLEAN), [True, False]),
    "int16": (LogicalType(Kind.INT16), [1, -32768, 32767]),
    "int32": (LogicalType(Kind.INT32), [1, -(2**31), 2**31 - 1]),
    "int64": (LogicalType(Kind.INT64), [1, -(2**63), 2**63 - 1, 2**53 + 1]),
    "uint64": (LogicalType(Kind.UINT64), [1, 2**64 - 1, 2**63]),
    "decimal(5,2)": (LogicalType(Kind.DECIMAL, 5, 2), ["1.50", "-999.99", "0.00", "NaN"]),
    "decimal(38,10)": (LogicalType(Kind.DECIMAL, 38, 10), ["9999999999999999999999999999.0123456789", "-0.0000000001"]),
    "decimal(60,3)": (LogicalType(Kind.DECIMAL, 60, 3), ["9" * 57 + ".999", "0.000"]),
    "decimal(3,-2)": (LogicalType(Kind.DECIMAL, 3, -2), ["12300", "-100", "0"]),
    "decimal(2,5)": (LogicalType(Kind.DECIMAL, 2, 5), ["0.00012", "-0.00099"]),
    "decimal": (
        LogicalType(Kind.DECIMAL),
        ["1.5", "12345678901234567890123.000000001", "Infinity", "-Infinity", "NaN"],
    ),
    "float32": (LogicalType(Kind.FLOAT32), ["1.5", "0.1", "3.4028235e+38", "1e-45", "-0", "NaN", "Infinity"]),
    "float64": (
        LogicalType(Kind.FLOAT64),
        ["0.1", "1.7976931348623157e+308", "5e-324", "0.30000000000000004", "-0", "NaN", "-Infinity"],
    ),
    "string": (
        LogicalType(Kind.STRING),
        ["text", "", " two  spaces ", "quotes \" ' ` \\ / \b\f\n\r\t", "é 漢 🔑", "null"],
    ),
    "bytes": (LogicalType(Kind.BYTES), [b"bytes", b"", bytes(range(256)), b"\0" * 3]),
    "bytes(9)": (LogicalType(Kind.BYTES, 9), [b"\1\0", b"\0\x80"]),
    "bits(4)": (LogicalType(Kind.BITS, 4), ["0010", "0000"]),
    "bits(1)": (LogicalType(Kind.BITS, 1), ["1", "0"]),
    "geometry": (LogicalType(Kind.GEOMETRY), [bytes(4) + b"\1\7" + bytes(7), b"\xe6\x10\0\0\1\2" + bytes(7), b""]),
    "point": (
        LogicalType(Kind.POINT),
        [struct.pack("<iBIdd", 4326, 1, 1, 1.5, -0.0), struct.pack("<iBIdd", 0, 1, 1, math.nan, math.inf), b""],
    ),
    "coordinates": (LogicalType(Kind.COORDINATES), ["(1,2.5)", "(-0,1e+20)", "(NaN,-Infinity)"]),
    "ewkb": (
        LogicalType(Kind.EWKB),
        ["0101000020E6100000000000000000F03F0000000000000040", "010700000000000000", "(not,PostGIS)"],
    ),
    "json": (
        LogicalType(Kind.JSON),
        ['{"b": 1, "a": [1.0, null, "x\\u0000"]}', "null", '"text"', "1e400", '{"a":1,"a":2}', "[ ]"],
    ),
    "uuid": (LogicalType(Kind.UUID), ["0b7f3e3e-0000-4000-8000-0123456789ab", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    "date": (
        LogicalType(Kind.DATE),
        [
            "2026-01-31",
            "1970-01-01",
            "0001-01-01",
            "9999-12-31",
            "99999-01-01",
            "0044-03-15 BC",
            "infinity",
            "-infinity",
        ],
    ),
    "time": (LogicalType(Kind.TIME), ["12:34:56.789012", "00:00:00", "23:59:59.999999", "24:00:00", "01:02:03.5"]),
    "time(3)": (LogicalType(Kind.TIME, 3), ["12:34:56.789", "00:00:00"]),
    "timetz": (LogicalType(Kind.TIMETZ), ["12:34:56+00", "12:34:56.5+05:30", "23:59:59.999999-08", "00:00:00+00"]),
    "timestamp": (
        LogicalType(Kind.TIMESTAMP),
        [
            "2026-01-31T12:34:56.789012",
            "1969-12-31T23:59:59.999999",
            "0001-01-01T00:00:00",
            "99999-01-01T00:00:00",
            "0044-03-15T01:02:03.5 BC",
            "infinity",
            "-infinity",
        ],
    ),
    "timestamp(3)": (LogicalType(Kind.TIMESTAMP, 3), ["2026-01-31T12:34:56.789", "infinity"]),
    "timestamptz": (
        LogicalType(Kind.TIMESTAMPTZ),
        [
            "2026-01-31T12:34:56.789012Z",
            "1969-12-31T23:59:59.999999Z",
            "2026-01-31T12:34:56.5Z",
            "9999-12-31T23:59:59.999999Z",
            "0001-01-01T00:00:00Z",
            "99999-01-01T00:00:00Z",
            "294276-12-31T23:59:59.999999Z",
            "0044-03-15T01:02:03.5Z BC",
            "infinity",
            "-infinity",
        ],
    ),
    "enum": (LogicalType(Kind.ENUM), ["happy", 'it\'s "ok"']),
    "other": (LogicalType(Kind.OTHER), ["1 year 2 mons 03:04:05", "(1,2)", "[1,10)", "192.168.0.1/24"]),
    "boolean[]": (_array(Kind.BOOLEAN), [[True, None, False], []]),
    "int32[]": (_array(Kind.INT32), [[1, None, -3], [], [None], [[1, 2], [3, None]]]),
    "int64[]": (_array(Kind.INT64), [[2**63 - 1, -(2**63)], []]),
    "decimal(5,2)[]": (_array(Kind.DECIMAL, 5, 2), [["1.50", None, "-2.25"], []]),
    "decimal[]": (_array(Kind.DECIMAL), [["1.50", "NaN", None], []]),
    "float64[]": (_array(Kind.FLOAT64), [["1.5", "NaN", None, "-Infinity"], []]),
    "string[]": (_array(Kind.STRING), [["a", "", None, 'q"\\,{}', "NULL"], [], [["a", "b"], ["c", None]]]),
    "bytes[]": (_array(Kind.BYTES), [[b"a", b"", None, b"\0\xff"], []]),
    "coordinates[]": (_array(Kind.COORDINATES), [["(1,2.5)", None], []]),
    "json[]": (_array(Kind.JSON), [['{"a": 1}', None, "[1]"], []]),
    "uuid[]": (_array(Kind.UUID), [["0b7f3e3e-0000-4000-8000-0123456789ab", None], []]),
    "date[]": (_array(Kind.DATE), [["2026-01-31", "0044-03-15 BC", "infinity", None], []]),
    "time[]": (_array(Kind.TIME), [["12:34:56.5", None], []]),
    "timestamp[]": (
        _array(Kind.TIMESTAMP),
        [["2026-01-31T12:34:56.5", "0044-03-15T01:02:03 BC", "infinity", None], []],
    ),
    "timestamptz[]": (_array(Kind.TIMESTAMPTZ), [["2026-01-31T12:34:56.5Z", "0044-03-15T01:02:03Z BC", None], []]),
    "enum[]": (_array(Kind.ENUM), [["happy", None], []]),
    "other[]": (_array(Kind.OTHER), [["1 day", None], []]),
}
