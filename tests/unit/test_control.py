"""What a worker says and is asked goes through the log, without holding the worker up."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

import pytest

from cdc.errors import PermanentError, TransientError
from cdc.log import Log
from cdc.worker import REQUEST, Control, State
from tests.servers import wait_until

ROLE = "source/shop"


class States:
    """The part of a log that a control uses; `failure` is what it raises, `open` lets calls pass."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Mapping[str, Any]] = {}
        self.failure: Exception | None = None
        self.refused = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def put_state(self, kind: str, name: str, state: Mapping[str, Any] | None) -> None:
        self.open.wait(10)
        failure = self.failure
        if failure is not None:
            self.refused.set()
            raise failure
        if state is None:
            self.held.pop((kind, name), None)
        else:
            self.held[kind, name] = state

    def states(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        return {name: state for (found, name), state in self.held.items() if found == kind}

    def said(self) -> str | None:
        state = self.held.get(("worker", ROLE))
        return None if state is None else str(state["state"])


def control(states: States) -> Control:
    return Control(ROLE, cast(Log, states))


def test_a_change_of_state_is_stored_at_once_and_the_last_report_before_the_end() -> None:
    states = States()
    with control(states) as worker:
        worker.report(State.STREAMING, progress={"records": 1})
        wait_until(lambda: states.said() == "streaming", what="the report")
        worker.report(State.STREAMING, progress={"records": 2})
    assert states.held["worker", ROLE]["records"] == 2


def test_who_tries_again_says_what_failed_until_it_works() -> None:
    states = States()
    with control(states) as worker:
        worker.report(State.RETRYING, "the database is away")
        worker.report(State.STARTING)
    assert (states.said(), states.held["worker", ROLE]["error"]) == ("retrying", "the database is away")
    with control(states) as worker:
        worker.report(State.RETRYING, "the database is away")
        worker.report(State.STARTING)
        worker.report(State.STREAMING)
    assert (states.said(), states.held["worker", ROLE]["error"]) == ("streaming", "")


def test_a_log_that_does_not_answer_does_not_hold_up_the_worker() -> None:
    states = States()
    with control(states) as worker:
        states.open.clear()
        worker.report(State.STARTING)
        worker.report(State.STREAMING)  # returns although nothing can be stored
        assert states.said() is None
        states.open.set()
    assert states.said() == "streaming"


def test_what_could_not_be_stored_is_stored_later() -> None:
    states = States()
    with control(states) as worker:
        states.failure = TransientError("away")
        worker.report(State.STREAMING)
        wait_until(states.refused.is_set, what="the failed attempt")
        states.failure = None
    assert states.said() == "streaming"


def test_what_is_refused_for_good_reaches_the_worker() -> None:
    states = States()
    states.failure = PermanentError("no right to write")
    with control(states) as worker:
        worker.report(State.STREAMING)
        wait_until(lambda: worker._failure is not None, what="the failed attempt")
        with pytest.raises(PermanentError, match="no right to write"):
            worker.report(State.STREAMING)


def test_a_request_is_seen_and_goes_when_it_was_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc.worker.LOOK_SECONDS", 0.01)
    states = States()
    states.put_state(REQUEST, "shop", {"id": "a", "tables": None})
    states.put_state(REQUEST, "other", {"id": "b", "tables": None})
    with control(states) as worker:
        wait_until(lambda: worker.looked, what="the first look")
        assert worker.request == {"id": "a", "tables": None}
        worker.done = "a"
        wait_until(lambda: worker.request is None, what="the request to go")
        assert set(states.states(REQUEST)) == {"other"}
        states.put_state(REQUEST, "shop", {"id": "c", "tables": ["public.t"]})
        wait_until(lambda: worker.request is not None, what="the next request")
        assert worker.request["id"] == "c"


def test_lists_of_keys_are_seen_in_order_after_whole_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc.worker.LOOK_SECONDS", 60.0)
    states = States()
    for name, id_ in (("shop/2", "c"), ("shop/1", "b"), ("shop", "a"), ("shop_b", "x"), ("shop_b/1", "y")):
        states.put_state(REQUEST, name, {"id": id_})
    with control(states) as worker:
        for id_ in "abc":
            wait_until(lambda id_=id_: worker.request == {"id": id_}, what=f"request {id_}, at once", seconds=5)
            worker.done = id_
        wait_until(lambda: worker.looked and worker.request is None, what="the last one to go")
    assert set(states.states(REQUEST)) == {"shop_b", "shop_b/1"}
