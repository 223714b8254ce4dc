"""MariaDB's ``binlog_row_image`` FULL_NODUP: old images are whole, new ones have what changed (11.4 and later).

A generated column is in neither image, except those of a new row: such rows are not completed here.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdc.errors import DecodeError
from connectors.mysql.events import Rows
from connectors.mysql.tablemap import MapColumn
from connectors.mysql.values import layout


def sizes(columns: Sequence[MapColumn]) -> list[tuple[int, int]]:
    """For each column, how many bytes a value has, or (not 0) how many its length before it. Raises DecodeError."""
    # What the server declares besides lies as binary strings do.
    return [(found.size, found.prefix) for found in map(layout, columns)]


def completed(rows: Rows, columns: Sequence[tuple[int, int]]) -> Rows:
    """An update with whole new images, of one that has only old ones: byte for byte as FULL has it.

    `columns` as from :func:`sizes`. Raises DecodeError when the bytes end within a row.
    """
    assert rows.after is not None
    body, i, count = rows.body, 0, len(columns)
    old = [(1 << number, number, *column) for number, column in enumerate(columns)]
    sent = [number for number in range(count) if rows.after >> number & 1]
    new = [(1 << place, number, *columns[number]) for place, number in enumerate(sent)]
    size, new_size = (count + 7) // 8, (len(sent) + 7) // 8
    found: list[bytes] = []
    values = [b""] * count

    while i < len(body):
        begin = i
        nulls = int.from_bytes(body[i : i + size], "little")
        i += size
        for bit, number, fixed, prefix in old:
            end = i
            if not nulls & bit:
                end += prefix + int.from_bytes(body[i : i + prefix], "little") if prefix else fixed
            values[number] = body[i:end]
            i = end
        found.append(body[begin:i])
        changed = int.from_bytes(body[i : i + new_size], "little")
        i += new_size
        for bit, number, fixed, prefix in new:
            end = i
            if changed & bit:
                nulls |= 1 << number
            else:
                nulls &= ~(1 << number)
                end += prefix + int.from_bytes(body[i : i + prefix], "little") if prefix else fixed
            values[number] = body[i:end]
            i = end
        found.append(nulls.to_bytes(size, "little"))
        found += values
    if i > len(body):
        raise DecodeError("an update with new images in part ends within a row")
    return rows._replace(after=(1 << count) - 1, body=b"".join(found))
