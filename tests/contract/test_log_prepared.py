"""What both logs promise about the parts of prepared transactions."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest

from cdc.errors import FencedError, TransientError
from cdc.log import Log, LogWriter
from tests.contract.logs import Place, append, append_prepared, commit, keys, read_all
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("kafka")


def _writer(log: Log, source: str = "shop") -> LogWriter:
    writer = log.writer(source)
    writer.fence()
    return writer


def _kept(log: Log, source: str = "shop") -> dict[str, list[bytes]]:
    """All that is kept, and the counts are true."""
    kept = {transaction: list(log.prepared_parts(source, transaction)) for transaction in log.prepared(source)}
    assert log.prepared(source) == {transaction: len(parts) for transaction, parts in kept.items()}
    return kept


def test_parts_appear_with_the_commit_in_the_order_of_the_calls(log: Log, place: Place) -> None:
    writer = _writer(log)
    append_prepared(writer, "a", b"1", b"")
    append_prepared(writer, "b", b"x")
    append_prepared(writer, "a", b"\0\xff")
    append(writer, [place.record(1)])
    assert log.prepared("shop") == {}
    assert list(log.prepared_parts("shop", "a")) == []
    commit(writer, b"p")
    assert _kept(log) == {"a": [b"1", b"", b"\0\xff"], "b": [b"x"]}
    wait_until(lambda: _kept(place.open()) == _kept(log), what="another process seeing them")
    assert keys(read_all(log)) == [b'{"id":1}']


def test_a_transaction_grows_over_several_appends_and_writers(log: Log) -> None:
    writer = _writer(log)
    for number in range(12):
        append_prepared(writer, "a", b"%d" % number)
        append_prepared(writer, "b", b"-%d" % number)
        commit(writer, b"p")
        assert log.prepared("shop") == {"a": number + 1, "b": number + 1}
        if number % 5 == 4:
            writer.close()
            writer = _writer(log)
    assert _kept(log) == {"a": [b"%d" % n for n in range(12)], "b": [b"-%d" % n for n in range(12)]}


def test_what_is_forgotten_goes_with_the_commit_and_its_name_may_be_used_again(log: Log, place: Place) -> None:
    writer = _writer(log)
    append_prepared(writer, "a", b"1", b"2")
    append_prepared(writer, "b", b"x")
    commit(writer, b"p")
    writer.forget_prepared("a")
    assert _kept(log) == {"a": [b"1", b"2"], "b": [b"x"]}
    commit(writer, b"q")
    assert _kept(log) == {"b": [b"x"]}
    writer.forget_prepared("b")
    append_prepared(writer, "b", b"y")
    append_prepared(writer, "c", b"never seen")
    writer.forget_prepared("c")
    writer.forget_prepared("of which nobody knows")
    commit(writer, b"r")
    assert _kept(log) == {"b": [b"y"]}
    writer.close()
    writer = _writer(log)
    append_prepared(writer, "a", b"3")
    writer.forget_prepared("b")
    commit(writer, b"s")
    assert _kept(log) == {"a": [b"3"]}
    wait_until(lambda: _kept(place.open()) == {"a": [b"3"]}, what="another process seeing it")


def test_parts_of_any_size(log: Log) -> None:
    writer = _writer(log)
    parts = [os.urandom(size) for size in (1, 3 << 20, 9, 1 << 19, (1 << 19) + 1, 20 << 20)]
    append_prepared(writer, "a", *parts)
    commit(writer, b"p")
    assert list(log.prepared_parts("shop", "a")) == parts
    writer.forget_prepared("a")
    commit(writer, b"q")
    assert _kept(log) == {}


def test_a_writer_closed_without_commit_leaves_neither_parts_nor_gaps(log: Log) -> None:
    writer = _writer(log)
    append_prepared(writer, "a", b"1")
    append_prepared(writer, "b", b"x")
    commit(writer, b"p")
    append_prepared(writer, "a", *[b"lost" * 250_000] * 9)  # more than the embedded log keeps in memory
    writer.forget_prepared("b")
    writer.close()
    with pytest.raises(TransientError):
        writer.append_prepared("a", b"", 1.0)
    with pytest.raises(TransientError):
        writer.forget_prepared("a")
    writer = log.writer("shop")
    assert writer.fence() == b"p"
    assert _kept(log) == {"a": [b"1"], "b": [b"x"]}
    append_prepared(writer, "a", b"2")
    commit(writer, b"q")
    assert _kept(log) == {"a": [b"1", b"2"], "b": [b"x"]}


def _keep_and_die(place: Place, *, committed: bool) -> None:
    writer = _writer(place.open())
    append_prepared(writer, "a", *[b"x" * 1_000_000] * 9)
    if committed:
        commit(writer, b"second")
    else:
        threading.Event().wait(1.0)  # what a client holds in its queues gets out
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("committed", [False, True])
def test_kill_in_mid_append_leaves_no_part_and_after_the_commit_all(log: Log, place: Place, committed: bool) -> None:
    writer = _writer(log)
    append_prepared(writer, "a", b"1")
    commit(writer, b"first")
    writer.close()
    process = multiprocessing.get_context("spawn").Process(
        target=_keep_and_die, args=(place,), kwargs={"committed": committed}
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    writer = log.writer("shop")
    assert writer.fence() == (b"second" if committed else b"first")
    assert log.prepared("shop") == {"a": 10 if committed else 1}
    append_prepared(writer, "a", b"last")
    commit(writer, b"third")
    assert list(log.prepared_parts("shop", "a"))[-1] == b"last"
    assert log.prepared("shop") == {"a": 11 if committed else 2}


def test_a_fenced_writer_changes_no_part(log: Log) -> None:
    old = _writer(log)
    append_prepared(old, "a", b"1")
    commit(old, b"old")
    append_prepared(old, "a", b"2")
    old.forget_prepared("a")
    append_prepared(old, "b", b"x")
    new = log.writer("shop")
    assert new.fence() == b"old"
    with pytest.raises(FencedError):
        commit(old, b"zombie")
    assert _kept(log) == {"a": [b"1"]}
    append_prepared(new, "b", b"y")
    commit(new, b"new")
    assert _kept(log) == {"a": [b"1"], "b": [b"y"]}


def test_two_sources_do_not_meet(log: Log) -> None:
    first, second = _writer(log, "first"), _writer(log, "second")
    append_prepared(first, "a", b"1")
    append_prepared(second, "a", b"2")
    commit(first, b"p")
    append_prepared(first, "a", b"not yet")
    commit(second, b"q")
    assert _kept(log, "second") == {"a": [b"2"]}
    assert _kept(log, "first") == {"a": [b"1"]}
    first.forget_prepared("a")
    commit(first, b"r")
    assert _kept(log, "first") == {}
    assert _kept(log, "second") == {"a": [b"2"]}
    assert _kept(log, "third") == {}


def test_parts_are_gone_once_the_log_is_deleted(log: Log, place: Place) -> None:
    writer = _writer(log)
    append_prepared(writer, "a", b"1")
    commit(writer, b"p")
    writer.close()
    log.delete()
    wait_until(lambda: place.open().prepared("shop") == {}, what="the parts' end")


def test_a_part_that_is_read_in_between_waits_for_no_open_append(log: Log) -> None:
    writer = _writer(log)
    append_prepared(writer, "a", b"1", b"2")
    commit(writer, b"p")
    append_prepared(writer, "b", b"x")
    began = time.monotonic()
    parts = log.prepared_parts("shop", "a")
    assert next(parts) == b"1"
    append_prepared(writer, "a", b"3")
    assert list(parts) == [b"2"]
    assert time.monotonic() - began < 10
    commit(writer, b"q")
    assert _kept(log) == {"a": [b"1", b"2", b"3"], "b": [b"x"]}
