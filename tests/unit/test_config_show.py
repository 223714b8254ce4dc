"""The configuration as it is understood, and where each value comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cdc.cli.config import show
from cdc.cli.session import Session
from cdc.config.load import load

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
"""
ENVIRONMENT = {"DATABASE": "postgresql://u:s3cret@h/d", "SECRET": "hush-hush", "FILE": "s3cret.duckdb"}


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    Path("cdc.yaml").write_text(FILE)
    Path("sinks.yaml").write_text(SINKS)
    return Session("config show", None, None, False, False)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_as_written_with_what_is_included(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    show(session, False, True)
    shown = lines(capsys.readouterr().out)
    assert "bootstrap: ${KAFKA:-localhost:9092} # cdc.yaml:3" in shown
    assert "url: redis://${HOST:-h}:1 # sinks.yaml:2" in shown
    assert shown.count("every: 1500ms # cdc.yaml:9") == 2
    assert "- a.b # sinks.yaml:6" in shown
    assert not any(line.startswith(("include", "profiles", "defaults", "toast")) for line in shown)


def test_resolved_has_defaults_and_no_secret(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    show(session, True, True)
    shown = lines(capsys.readouterr().out)
    for line in (
        "pipeline: cdc # default",
        "bootstrap: localhost:9092 # cdc.yaml:3",
        "url: ${DATABASE} # cdc.yaml:7",
        "chunk_bytes: 4MiB # default",
        "password: ${SECRET} # sinks.yaml:2",
        "url: redis://h:1 # sinks.yaml:2",
        "path: ${FILE:-w.duckdb} # sinks.yaml:5",  # it contains what is known to be secret
        "every: 1500ms # cdc.yaml:9",
        "rows: 100000 # default",
        "tombstone_ttl: 8d # default",
    ):
        assert line in shown
    assert "s3cret" not in " ".join(shown)


@pytest.mark.parametrize("profile", [None, "dev"])
def test_what_is_shown_means_the_same_pipeline(
    session: Session, capsys: pytest.CaptureFixture[str], profile: str | None
) -> None:
    before = load(Path("cdc.yaml"), profile=profile)
    show(Session("config show", None, profile, False, False), True, False)
    Path("shown.yaml").write_text(capsys.readouterr().out)
    after = load(Path("shown.yaml"))
    assert (after.name, after.log, after.sources, after.sinks) == (
        before.name,
        before.log,
        before.sources,
        before.sinks,
    )


def test_a_literal_that_looks_like_a_reference_stays_one(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    Path("sinks.yaml").write_text("sinks: {warehouse: {type: duckdb, path: 'a$${b}'}}")
    show(session, True, False)
    assert YAML(typ="safe").load(capsys.readouterr().out)["sinks"]["warehouse"]["path"] == "a$${b}"
