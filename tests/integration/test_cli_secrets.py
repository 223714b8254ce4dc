"""Canary: no secret leaves the process as text, whatever goes wrong and however carelessly it is worded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdc.log.embedded import EmbeddedConfig, EmbeddedLog
from tests.integration.scripted import Scripted, scripted

__all__ = ["scripted"]

CANARIES = {
    "CANARY_URL": "canary-1 with/odd@letters%",
    "CANARY_PASSWORD": 'canary-2 "quoted"\\n',
    "CANARY_FILE": "canary-3-in-a-file",
    "CANARY_SINK_URL": "canary-4",
}
FILE = """\
version: 1
pipeline: shop
log: {type: embedded, path: "${FOLDER}/log"}
sources:
  db:
    type: script
    tables: [public.items]
    folder: "${FOLDER}/db"
    url: "${DB_URL}"
    password: "${CANARY_PASSWORD}"
sinks:
  one: {type: folder, folder: "${FOLDER}/one", url: "${SINK_URL}", token: "${file:%s/secret}"}
"""


@pytest.fixture
def canaries(scripted: Scripted) -> Scripted:
    (scripted.folder / "secret").write_text(CANARIES["CANARY_FILE"] + "\n")
    scripted.file.write_text(FILE % scripted.folder)
    scripted.environment |= {
        **CANARIES,
        "DB_URL": "postgresql://app:canary-1%20with%2Fodd%40letters%25@db.example/shop?sslmode=require",
        "SINK_URL": f"https://app:{CANARIES['CANARY_SINK_URL']}@search.example:9200",
    }
    scripted.insert(1)
    return scripted


def said(scripted: Scripted, *arguments: str) -> str:
    result = scripted.cdc(*arguments)
    return result.stdout + result.stderr


def seen_on_the_log(scripted: Scripted) -> str:
    log = EmbeddedLog(EmbeddedConfig(path=scripted.folder / "log"), "shop")
    return json.dumps(log.states("worker"))


def assert_silent(text: str) -> None:
    assert "canary" not in text, text


@pytest.mark.parametrize("options", [(), ("--resolved",), ("--resolved", "--origin", "--json")])
def test_the_configuration_shows_references_in_place_of_secrets(canaries: Scripted, options: tuple[str, ...]) -> None:
    text = said(canaries, "config", "show", *options)
    for written in ("${DB_URL}", "${CANARY_PASSWORD}", "${SINK_URL}", "/secret}"):
        assert written in text
    assert_silent(text)


@pytest.mark.parametrize("word", ["unreachable", "permanent", "gap", "bug"])
@pytest.mark.parametrize("part", ["db", "one"])
def test_failing_parts_keep_their_secrets(canaries: Scripted, part: str, word: str) -> None:
    canaries.fail(part, word)
    texts = [said(canaries, "validate", "--connect"), said(canaries, "validate", "--connect", "--json")]
    if word != "unreachable":  # which would be tried for ever
        role = "source/db" if part == "db" else "sink/one"
        texts += [said(canaries, "run", "--only", role, "--until-caught-up")]
        texts += [said(canaries, "status"), said(canaries, "status", "--json"), seen_on_the_log(canaries)]
    for text in texts:
        assert "told to fail" in text
        assert_silent(text)


def test_all_workers_of_run_keep_their_secrets(canaries: Scripted) -> None:
    canaries.fail("db", "bug")
    canaries.fail("one", "permanent")
    result = canaries.spawn("run", "--until-caught-up")
    assert result.stderr.count("told to fail") >= 2
    assert "Traceback" in result.stderr
    assert_silent(result.stdout + result.stderr)


def test_retried_errors_keep_their_secrets(canaries: Scripted) -> None:
    canaries.fail("one", "transient")
    canaries.start("run")
    canaries.reaches("sink/one", "retrying")
    for text in (canaries.stderr, seen_on_the_log(canaries), said(canaries, "status")):
        assert "told to fail" in text
        assert_silent(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"${CANARY_PASSWORD}"', "canary-literal"),
        ('"${CANARY_PASSWORD}"', '"canary literal, quoted"'),
        ('"${CANARY_PASSWORD}"', '"canary unclosed'),
        ('"${CANARY_PASSWORD}"', '"${CANARY_PASSWORD:-canary-default}"'),
        ('"${CANARY_PASSWORD}"', '"x${CANARY_PASSWORD}"'),
        ('"${CANARY_PASSWORD}"', "[canary-in-a-list]"),
        ('"${CANARY_PASSWORD}"', "|\n      canary-line-1\n      canary-line-2"),
        ('"${DB_URL}"', '"postgresql://app:canary-literal@db/shop"'),
        ('"${DB_URL}"', '"postgresql://app:${CANARY_URL}@db/shop"'),
        ('"${DB_URL}"', '"host=db password=canary-literal"'),
        ('"${DB_URL}"', '"${NOT_SET:-postgresql://app:canary-literal@db/shop}"'),
        ('"${SINK_URL}"', '"https://search/?password=canary-literal"'),
        ("type: script", "type: scrpt"),
        ("type: folder", "type: foldr"),
        ("tables: [public.items]", "tables: 3"),
        ('url: "${DB_URL}"', 'urll: "${DB_URL}"'),
        ("password:", "pasword:"),
        ("version: 1", "version: [1"),
    ],
)
def test_broken_files_keep_their_secrets(canaries: Scripted, old: str, new: str) -> None:
    text = canaries.file.read_text()
    assert old in text
    canaries.file.write_text(text.replace(old, new))
    for arguments in (("validate",), ("validate", "--json"), ("run", "--json"), ("status",)):
        result = canaries.cdc(*arguments)
        assert result.exit_code == 2, result.stdout + result.stderr
        assert_silent(result.stdout + result.stderr)


def test_the_workers_of_run_keep_a_broken_file_to_themselves(canaries: Scripted, tmp_path: Path) -> None:
    """A worker reads the file anew: what it meets there is said without secrets as well."""
    canaries.start("run")
    canaries.delivered("one")
    canaries.file.write_text(canaries.file.read_text().replace('"${CANARY_PASSWORD}"', "canary-literal"))
    canaries.kill("db")
    canaries.says("worker.misconfigured")
    assert_silent(canaries.stderr)
