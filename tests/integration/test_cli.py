"""The commands, as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from cdc import __version__
from tests.integration.scripted import Scripted, scripted

__all__ = ["scripted"]


def delivered(scripted: Scripted, rows: int) -> None:
    scripted.insert(rows)
    scripted.run_to_the_end()


def test_version_needs_no_configuration_and_no_driver(scripted: Scripted) -> None:
    scripted.file.unlink()
    result = scripted.cdc("--version")
    assert (result.exit_code, result.stdout) == (0, f"cdc {__version__}\n")
    code = "import sys, cdc.cli.main; print(sorted({'pydantic', 'psycopg', 'ruamel', 'structlog'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_missing_file_says_what_to_do(scripted: Scripted) -> None:
    scripted.file.unlink()
    result = scripted.cdc("status")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no cdc.yaml and no pipeline.yaml here" in result.stderr
    assert "-> name the file: cdc -c PATH" in result.stderr


@pytest.mark.parametrize("arguments", [("-c", "other.yaml", "validate"), ("validate", "-c", "other.yaml")])
def test_shared_options_stand_before_or_after_the_command(scripted: Scripted, arguments: tuple[str, ...]) -> None:
    scripted.file.rename(scripted.folder / "other.yaml")
    result = scripted.cdc(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "other.yaml is valid: pipeline shop, log embedded, 1 source(s), 2 sink(s)" in result.stdout


def test_pipeline_yaml_is_the_second_default(scripted: Scripted) -> None:
    scripted.file.rename(scripted.folder / "pipeline.yaml")
    assert scripted.cdc("validate").exit_code == 0


def test_validate_shows_every_error_and_ends_with_2(scripted: Scripted) -> None:
    scripted.file.write_text(scripted.file.read_text().replace("folder:", "foldr:").replace("version: 1", "version: 3"))
    result = scripted.cdc("validate")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("did you mean 'folder'?") == 3
    assert result.stderr.endswith("errors in cdc.yaml\n")
    document = scripted.json("validate")
    assert (document["command"], document["ok"], document["error"]["exit_code"]) == ("validate", False, 2)
    assert {
        "code": "unknown_key",
        "message": "unknown key",
        "pointer": "/sources/db/foldr",
        "file": "cdc.yaml",
        "line": 5,
        "column": 46,
        "suggestion": "folder",
        "help": None,
    } in document["error"]["problems"]


PROFILE = """\
profiles:
  other:
    sinks: {one: {folder: "${FOLDER}/elsewhere"}}
"""


def test_a_profile_reaches_the_workers(scripted: Scripted) -> None:
    scripted.file.write_text(scripted.file.read_text() + PROFILE)
    (scripted.folder / "elsewhere").mkdir()
    scripted.insert(3)
    result = scripted.spawn("run", "--until-caught-up", "--profile", "other")
    assert result.returncode == 0, result.stderr
    assert [scripted.stored(sink) for sink in ("one", "two", "elsewhere")] == [0, 3, 3]


def test_a_profile_is_chosen_by_option_before_environment(scripted: Scripted) -> None:
    scripted.file.write_text(scripted.file.read_text() + PROFILE)
    assert "cdc.yaml is valid" in scripted.cdc("validate").stdout
    scripted.environment["CDC_PROFILE"] = "another"
    assert "there is no profile another in cdc.yaml, did you mean other?" in scripted.cdc("validate").stderr
    for arguments in (("--profile", "other", "validate"), ("validate", "--profile", "other")):
        assert "cdc.yaml with profile other is valid" in scripted.cdc(*arguments).stdout


def test_the_schema_for_editors_has_all_plugins(scripted: Scripted) -> None:
    schema = json.loads(scripted.cdc("schema", "export", "config").stdout)
    assert {"sources.script", "sinks.folder", "sinks.redis"} <= schema["definitions"].keys()
    page = scripted.cdc("schema", "export", "config", "--format", "markdown").stdout
    assert "## sinks: `type: folder`" in page
    assert scripted.cdc("schema", "export", "config", "--format", "html").exit_code == 2


def test_validate_says_that_a_history_wants_a_log_that_keeps_everything(scripted: Scripted) -> None:
    text = scripted.file.read_text()
    warehouse = f"  warehouse: {{type: duckdb, path: {scripted.folder / 'w.duckdb'}, mode: append}}\n"
    scripted.file.write_text(text.replace("sinks:\n", f"sinks:\n{warehouse}", 1))
    (finding,) = scripted.json("validate")["result"]["findings"]
    assert (finding["part"], finding["severity"], finding["fix"]) == (
        "sink/warehouse",
        "warning",
        "log: {topics: {cleanup: keep}}",
    )
    scripted.file.write_text(scripted.file.read_text().replace("mode: append", "mode: merge"))
    assert scripted.json("validate")["result"]["findings"] == []


def test_validate_does_not_connect_unless_asked(scripted: Scripted) -> None:
    scripted.fail("db", "unreachable")
    assert scripted.cdc("validate").exit_code == 0
    assert scripted.cdc("validate", "--connect").exit_code == 3


def test_validate_connect_looks_at_everything_although_one_part_fails(scripted: Scripted) -> None:
    scripted.fail("one", "permanent")
    result = scripted.cdc("validate", "--connect")
    assert result.exit_code == 5
    for line in ("✓ log.reachable", "✓ script.file", "⚠ script.size", "→ write more", "✗ usable", "✓ folder.exists"):
        assert line in result.stdout
    findings = scripted.json("validate", "--connect")["result"]["findings"]
    assert [(one["part"], one["severity"]) for one in findings if one["severity"] != "ok"] == [
        ("source/db", "warning"),
        ("sink/one", "error"),
    ]
    scripted.fail("one", None)
    assert scripted.cdc("validate", "--connect").exit_code == 0


def test_status_before_the_first_run(scripted: Scripted) -> None:
    document = scripted.json("status")["result"]
    assert document["sources"]["db"]["state"] == "never_ran"
    assert document["sinks"]["one"] == {
        "state": "never_ran",
        "running": False,
        "error": "",
        "reported_at": None,
        "workers": 1,
        "workers_running": 0,
        "lag_records": 0,
        "lag_seconds": 0.0,
        "partitions": 0,
    }


def test_status_shows_lag_in_records_and_seconds_while_nothing_runs(scripted: Scripted) -> None:
    delivered(scripted, 3)
    scripted.insert(7)
    began = time.time()
    scripted.run_to_the_end("source/db", "sink/two")
    result = scripted.json("status")["result"]
    assert (result["sinks"]["one"]["lag_records"], result["sinks"]["two"]["lag_records"]) == (7, 0)
    assert 0 < result["sinks"]["one"]["lag_seconds"] < time.time() - began
    assert result["sinks"]["two"]["lag_seconds"] == 0
    source = result["sources"]["db"]
    assert (source["position"], source["retained_bytes"], source["warning"]) == ("10", 5 << 30, "much WAL")
    text = scripted.cdc("status").stdout
    for expected in ("7 rec", "5.0 GiB", "source db: much WAL"):
        assert expected in text


def test_status_does_not_believe_a_worker_that_fell_silent(scripted: Scripted) -> None:
    delivered(scripted, 1)
    scripted.report("sink/one", {"state": "streaming", "error": "", "at": time.time()})
    assert scripted.json("status")["result"]["sinks"]["one"]["state"] == "streaming"
    scripted.report("sink/one", {"state": "streaming", "error": "", "at": time.time() - 60})
    assert scripted.json("status")["result"]["sinks"]["one"]["state"] == "not_running"


def test_status_fails_on_a_worker_that_does_not_work(scripted: Scripted) -> None:
    result = scripted.cdc("status", "--fail-on", "failed")
    assert result.exit_code == 5
    assert "source db is never_ran; sink one is never_ran; sink two is never_ran" in result.stderr
    for role in ("source/db", "sink/one", "sink/two"):
        scripted.report(role, {"state": "streaming", "error": "", "at": time.time()})
    assert scripted.cdc("status", "--fail-on", "failed").exit_code == 0
    for state, seconds_ago, expected in (
        ("retrying", 0, 0),
        ("snapshot", 0, 0),
        ("snapshot", 60, 5),
        ("failed", 0, 5),
        ("needs_rebuild", 60, 5),
        ("stopped", 0, 5),
    ):
        scripted.report("sink/one", {"state": state, "error": "", "at": time.time() - seconds_ago})
        assert scripted.cdc("status", "--fail-on", "failed").exit_code == expected, state
        assert scripted.cdc("status").exit_code == 0


def test_status_fails_on_a_warning_if_asked(scripted: Scripted) -> None:
    for role, state in (("source/db", "streaming"), ("sink/one", "streaming"), ("sink/two", "retrying")):
        scripted.report(role, {"state": state, "error": "", "at": time.time()})
    document = scripted.json("status", "--fail-on", "warning")
    assert (document["ok"], document["summary"]) == (False, "source db has a warning; sink two is retrying")
    assert document["result"]["sinks"]["one"]["state"] == "streaming"
    assert scripted.cdc("status", "--fail-on", "warning").exit_code == 5
    assert scripted.cdc("status", "--fail-on", "everything").exit_code == 2


def test_snapshot_leaves_word_for_the_next_run(scripted: Scripted) -> None:
    result = scripted.cdc("snapshot", "public.items")
    assert "the next `cdc run` begins with it" in result.stdout
    request = scripted.json("status")["result"]["sources"]["db"]["snapshot_request"]
    assert request["tables"] == ["public.items"]
    assert scripted.json("snapshot")["result"]["requests"]["db"]["tables"] is None  # all includes the first
    delivered(scripted, 1)
    carried_out = json.loads((scripted.folder / "db" / "snapshot").read_text())
    assert (carried_out["tables"], carried_out["id"] == request["id"]) == (None, False)
    assert "snapshot_request" not in scripted.json("status")["result"]["sources"]["db"]


def test_snapshot_of_listed_keys_leaves_them_for_the_next_run(scripted: Scripted) -> None:
    early = scripted.cdc("snapshot", "public.items", "--key", '{"id": 1}')
    assert (early.exit_code, "db has not captured any row of public.items yet" in early.stderr) == (2, True)
    delivered(scripted, 1)
    listed = scripted.folder / "keys.jsonl"
    listed.write_text('{"id": 1}\n{"id": 2}\n{"ID": 3}\n')
    refused = scripted.cdc("snapshot", "public.items", "--keys", str(listed))
    assert refused.exit_code == 2
    assert "line 3: the columns are not those of the key (id); nothing was requested" in refused.stderr
    assert '-> expected {"id": bigint}' in refused.stderr
    for tables in ((), ("public.items", "public.items")):
        assert scripted.cdc("snapshot", *tables, "--keys", str(listed)).exit_code == 2
    assert scripted.requests() == {}

    listed.write_text("".join(f'{{"id": {number}}}\n' for number in range(1, 1501)))
    result = scripted.json("snapshot", "public.items", "--keys", str(listed), "--key", '{"id": 7000}')["result"]
    assert (result["requests"]["db"]["tables"], result["requests"]["db"]["keys"]) == (["public.items"], 1501)
    first, second = (request for _, request in sorted(scripted.requests().items()))
    assert (first["keys"][:2], len(first["keys"])) == (['{"id":7000}', '{"id":1}'], 1000)
    assert (second["keys"][-1], len(second["keys"]), second["id"] != first["id"]) == ('{"id":1500}', 501, True)
    assert scripted.json("status")["result"]["sources"]["db"]["requested_keys"] == 1501
    assert "source db: 1,501 keys are requested and not begun" in scripted.cdc("status").stdout
    said = "source db: snapshot of 1 key of public.items requested; the next `cdc run` begins with it"
    assert said in scripted.cdc("snapshot", "public.items", "--key", '{"id": 2}').stdout


def test_snapshot_of_a_table_that_nobody_captures(scripted: Scripted) -> None:
    result = scripted.cdc("snapshot", "public.item")
    assert result.exit_code == 2
    assert "no source captures public.item, did you mean public.items?" in result.stderr


def test_cleanup_lists_asks_and_drops(scripted: Scripted) -> None:
    delivered(scripted, 2)
    result = scripted.cdc("cleanup")
    assert result.exit_code == 2
    assert "db: slot script" in result.stderr
    assert "topic shop.public.items" in result.stderr
    assert not (scripted.folder / "db" / "cleaned").exists()
    assert scripted.cdc("cleanup", "--yes").exit_code == 0
    assert (scripted.folder / "db" / "cleaned").exists()
    assert scripted.json("status")["result"]["sources"]["db"]["position"] == "0"
    assert scripted.stored("one") == 2


def test_cleanup_refuses_while_the_pipeline_runs(scripted: Scripted) -> None:
    scripted.insert(1)
    scripted.start("run")
    scripted.delivered("one", "two")
    result = scripted.cdc("cleanup", "--yes")
    assert result.exit_code == 1
    assert "the pipeline is running: " in result.stderr


def test_logs_are_json_where_nobody_watches(scripted: Scripted) -> None:
    scripted.fail("one", "permanent")
    scripted.start("run")
    scripted.reaches("sink/one", "failed")
    lines = [json.loads(line) for line in scripted.stderr.splitlines() if line.startswith("{")]
    assert ("worker.failed", "sink/one") in {(line["event"], line.get("worker")) for line in lines}
