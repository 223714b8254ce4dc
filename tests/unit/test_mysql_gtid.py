"""GTID sets: the server's texts and binary forms, from the manual and from servers."""

from __future__ import annotations

from uuid import UUID

import pytest

from cdc.errors import DecodeError
from connectors.mysql.gtid import Gtid, GtidSet, MariadbGtid, MariadbPosition, Source

A = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
B = "ff4afe30-eaa3-11f1-bc7c-02fc00000001"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", ""),
        (f"{A}:1", f"{A}:1"),
        (f"{A}:1-3:4:11-12", f"{A}:1-4:11-12"),
        (f"{A}:7, \n{A.upper()}:1-2", f"{A}:1-2:7"),
        (f"{B}:1,{A}:5", f"{A}:5,{B}:1"),
        (f"{A}:1-3:Tag_b:4-5:tag_a:1", f"{A}:1-3:tag_a:1:tag_b:4-5"),
        (f"{A}:tag:1,{A}:2", f"{A}:2:tag:1"),
    ],
)
def test_texts(text: str, printed: str) -> None:
    parsed = GtidSet.parse(text)
    assert str(parsed) == printed
    assert GtidSet.parse(printed) == parsed
    assert bool(parsed) == bool(printed)


@pytest.mark.parametrize(
    "text", ["x", A, f"{A}:", f"{A}:0", f"{A}:3-2", f"{A}:1-", f"{A}:-1", f"{A}:9999999999999999999", f"{A}:1:ta-g"]
)
def test_what_is_no_set_is_said(text: str) -> None:
    with pytest.raises(DecodeError):
        GtidSet.parse(text)


@pytest.mark.parametrize(
    ("content", "printed"),
    [
        ("0000000000000000", ""),
        (
            "0100000000000000ff4afe30eaa311f1bc7c02fc0000000101000000000000000100000000000000a300000000000000",
            f"{B}:1-162",
        ),
        (
            "0102000000000001ff4afe30eaa311f1bc7c02fc000000010001000000000000000100000000000000a500000000000000"
            "ff4afe30eaa311f1bc7c02fc000000010c6d795f7461670100000000000000010000000000000002"
            "00000000000000",
            f"{B}:1-164:my_tag:1",
        ),
    ],
)
def test_the_binary_form_is_the_servers(content: str, printed: str) -> None:
    decoded = GtidSet.decode(bytes.fromhex(content))
    assert str(decoded) == printed
    assert decoded.encode().hex() == content
    for end in range(len(content) // 2):
        with pytest.raises(DecodeError):
            GtidSet.decode(bytes.fromhex(content)[:end])


def test_one_more() -> None:
    source = Source(UUID(A))
    gtids = GtidSet({})
    for number in (1, 2, 5, 4, 3, 3):
        gtids = gtids.add(Gtid(source, number))
        assert Gtid(source, number) in gtids
    assert str(gtids) == f"{A}:1-5"
    assert Gtid(source, 6) not in gtids
    assert str(Gtid(Source(UUID(A), "tag"), 6)) == f"{A}:tag:6"


@pytest.mark.parametrize(
    ("text", "printed"),
    [("", ""), ("0-1-100", "0-1-100"), ("5-2-7, 0-1-100", "0-1-100,5-2-7"), ("0-1-5,0-2-6", "0-2-6")],
)
def test_mariadb_positions(text: str, printed: str) -> None:
    assert str(MariadbPosition.parse(text)) == printed


@pytest.mark.parametrize("text", ["1", "0-1", "0-1-x", "0-1--1", "4294967296-1-1", "0-1-1-1", "0-1-²"])
def test_what_is_no_mariadb_position_is_said(text: str) -> None:
    with pytest.raises(DecodeError):
        MariadbPosition.parse(text)


def test_a_mariadb_position_follows_the_stream() -> None:
    position = MariadbPosition.parse("0-1-100")
    assert MariadbGtid(0, 7, 100) in position
    assert MariadbGtid(0, 1, 101) not in position
    assert MariadbGtid(1, 1, 1) not in position
    assert str(position.add(MariadbGtid(0, 2, 101)).add(MariadbGtid(3, 1, 1))) == "0-2-101,3-1-1"
    assert str(position.add(MariadbGtid(0, 2, 3))) == "0-2-3"
