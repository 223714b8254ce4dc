"""The configuration as it is understood, and where each value comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cdc.config.load import load
from tests.integration.scripted import invoke

FILE = """\
version: 1
include: [sinks.yaml]
log: {type: kafka, bootstrap: "${KAFKA:-localhost:9092}", options: {linger.ms: 20}}
sources:
  db:
    type: postgres
    url: "${DATABASE}"
    tables: {a.b: {snapshot: never}, "a/c.d": }
defaults: {sink: {batch: {every: 1500ms}}}
profiles:
  dev:
    log: {type: embedded, path: "log"}
"""
SINKS = """\
sinks:
  cache: {type: redis, url: "redis://${HOST:-h}:1", password: "${SECRET}", ttl: 90m}
  warehouse:
    type: duckdb
    path: "${FILE:-w.duckdb}"
    tables: [a.b, "!x.y"]
  history: {type: duckdb, path: h.duckdb, mode: append}
"""
ENVIRONMENT = {"DATABASE": "postgresql://u:s3cret@h/d", "SECRET": "hush-hush", "FILE": "s3cret.duckdb"}


@pytest.fixture
def show(tmp_path: Path) -> Callable[..., str]:
    (tmp_path / "cdc.yaml").write_text(FILE)
    (tmp_path / "sinks.yaml").write_text(SINKS)

    def call(*options: str) -> str:
        result = invoke(tmp_path, ENVIRONMENT, "config", "show", *options)
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_as_written_with_what_is_included(show: Callable[..., str]) -> None:
    shown = lines(show("--origin"))
    assert "bootstrap: ${KAFKA:-localhost:9092} # cdc.yaml:3" in shown
    assert "url: redis://${HOST:-h}:1 # sinks.yaml:2" in shown
    assert shown.count("every: 1500ms # cdc.yaml:9") == 3, "once for each sink"
    assert "- a.b # sinks.yaml:6" in shown
    assert not any(line.startswith(("include", "profiles", "defaults", "toast")) for line in shown)


def test_resolved_has_defaults_and_no_secret(show: Callable[..., str]) -> None:
    shown = lines(show("--resolved", "--origin"))
    for line in (
        "pipeline: cdc # default",
        "bootstrap: localhost:9092 # cdc.yaml:3",
        "url: ${DATABASE} # cdc.yaml:7",
        "chunk_bytes: 4MiB # default",
        "password: ${SECRET} # sinks.yaml:2",
        "url: redis://h:1 # sinks.yaml:2",
        "path: ${FILE:-w.duckdb} # sinks.yaml:5",  # it contains what is known to be secret
        "every: 1500ms # cdc.yaml:9",
        "rows: 10000 # default",
        "tombstone_ttl: 8d # default",
    ):
        assert line in shown
    assert "s3cret" not in " ".join(shown)


@pytest.mark.parametrize("profile", [None, "dev"])
def test_what_is_shown_means_the_same_pipeline(show: Callable[..., str], tmp_path: Path, profile: str | None) -> None:
    before = load(tmp_path / "cdc.yaml", ENVIRONMENT, profile)
    (tmp_path / "shown.yaml").write_text(show("--resolved", *(["--profile", profile] if profile else [])))
    after = load(tmp_path / "shown.yaml", ENVIRONMENT)
    for part in ("name", "log", "sources", "sinks"):
        assert getattr(after, part) == getattr(before, part)


@pytest.mark.parametrize("path", ["a$${b}", "a:key:b"])
def test_a_literal_stays_what_it_is(show: Callable[..., str], tmp_path: Path, path: str) -> None:
    (tmp_path / "sinks.yaml").write_text(f"sinks: {{warehouse: {{type: duckdb, path: '{path}'}}}}")
    assert YAML(typ="safe").load(show("--resolved"))["sinks"]["warehouse"]["path"] == path
