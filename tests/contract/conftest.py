"""The logs that the contract suite runs over."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.log import Log
from tests.contract.logs import Place


@pytest.fixture(params=["embedded", "kafka"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    pipeline = f"t{uuid.uuid4().hex[:8]}"
    if request.param == "embedded":
        return Place({"type": "embedded", "path": str(tmp_path)}, pipeline)
    return Place({"type": "kafka", "bootstrap": request.getfixturevalue("kafka")}, pipeline)


@pytest.fixture
def log(place: Place) -> Iterator[Log]:
    log = place.open()
    log.create_topics([place.topic])
    yield log
    log.close()
