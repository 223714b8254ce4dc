"""One pipeline in several files, and several pipelines in one: ``include`` and ``profiles``."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.config.load import load
from cdc.config.pipeline import Pipeline
from cdc.config.problems import InvalidConfiguration
from cdc.errors import ConfigurationError

PLUGIN = Path(__file__).parents[1] / "integration" / "plugin"
MAIN = "version: 1\npipeline: shop\nsources: {db: {type: script, folder: /tmp, tables: [public.*]}}\n"
SINK = "sinks:\n  %s: {type: folder, folder: /tmp}\n"


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))


def read(folder: Path, files: dict[str, str], profile: str | None = None, **environment: str) -> Pipeline:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return load(folder / next(iter(files)), environment, profile)


def found(folder: Path, files: dict[str, str], profile: str | None = None) -> list[str]:
    """Each problem's first line."""
    with pytest.raises(InvalidConfiguration) as caught:
        read(folder, files, profile)
    assert [one["file"] for one in caught.value.to_json()] == [one.place.file for one in caught.value.problems]
    shown = [caught.value.render(problem).splitlines()[0] for problem in caught.value.problems]
    return [line.replace(f"{folder}/", "") for line in shown]


def test_files_are_found_beside_the_one_that_includes_them(tmp_path: Path) -> None:
    files = {
        "cdc.yaml": MAIN + "include: [sinks.d/*.yaml, '${MORE}']\n",
        "sinks.d/a.yaml": SINK % "a",
        "sinks.d/b.yaml": SINK % "b" + "include: [deeper/c.yaml]\n",
        "sinks.d/deeper/c.yaml": SINK % "c",
        "sinks.d/not-me.yml": SINK % "d",
        "more.yaml": "log: {type: embedded, path: x}\ndefaults: {sink: {batch: {rows: 7}}}\n",
    }
    pipeline = read(tmp_path, files, MORE="more.yaml")
    assert pipeline.roles == ["source/db", "sink/a", "sink/b", "sink/c"]
    assert {sink.batch.rows for sink in pipeline.sinks.values()} == {7}
    assert str(pipeline.log.path) == "x"  # type: ignore[attr-defined]  # the embedded log's own


def test_maps_are_merged_at_every_depth(tmp_path: Path) -> None:
    source = "sources: {db: {type: postgres, url: postgresql://h/d, tables: {a.one: {}}}}\n"
    more = "sources: {db: {tables: {a.two: {snapshot: never}}, snapshot: {mode: initial}}}\n"
    pipeline = read(tmp_path, {"cdc.yaml": f"version: 1\ninclude: [t.yaml]\n{source}", "t.yaml": more})
    assert list(pipeline.sources["db"].tables) == ["a.one", "a.two"]


def test_an_error_names_the_file_that_it_is_in(tmp_path: Path) -> None:
    files = {
        "cdc.yaml": MAIN + "include: [a.yaml, b.yaml]\nsinks:\n  x: {type: foldr}\n",
        "a.yaml": "# nothing here\nsinks:\n  a: {type: folder, foldr: /tmp}\n",
        "b.yaml": "sinks:\n\n  b: {type: folder, folder: '${NOPE}', token: literal-secret}\n",
    }
    assert found(tmp_path, files) == [
        "cdc.yaml:6:13: error[unknown_type] sinks.x.type: unknown type, did you mean 'folder'?",
        "a.yaml:3:3: error[missing_key] sinks.a.folder: `folder` is missing",
        "a.yaml:3:21: error[unknown_key] sinks.a.foldr: unknown key, did you mean 'folder'?",
        "b.yaml:3:29: error[undefined_variable] sinks.b.folder: the environment variable NOPE is not set",
        "b.yaml:3:47: error[literal_secret] sinks.b.token: a secret must not stand in this file",
    ]
    with pytest.raises(InvalidConfiguration) as caught:
        read(tmp_path, files)
    assert "  3 |   a: {type: folder, foldr: /tmp}\n    |                     ^^^^^" in str(caught.value)
    assert "literal-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("included", "error"),
    [
        (SINK % "x", "a.yaml:2:7: error[duplicate_key] sinks.x.type: the key is in two files, first in cdc.yaml:5"),
        ("version: 1", "a.yaml:1:1: error[duplicate_key] version: the key is in two files, first in cdc.yaml:1"),
        ("sources: 3", "a.yaml:1:1: error[duplicate_key] sources: the key is in two files, first in cdc.yaml:3"),
        ("[1]", "a.yaml:1:1: error[bad_value] needs a map"),
        ("a: [", "a.yaml:1:5: error[syntax] not YAML: "),
        ("sinks: {y: {type: folder, folder: 1, folder: 2}}", "a.yaml:1:38: error[duplicate_key] sinks.y.folder: "),
        ("include: [a.yaml]", "a.yaml:1:11: error[bad_include] include: this never ends: cdc.yaml includes a.yaml inc"),
        ("include: [cdc.yaml]", "a.yaml:1:11: error[bad_include] include: this never ends: cdc.yaml includes a.yaml"),
        ("include: ['*']", "a.yaml:1:11: error[bad_include] include: this never ends: cdc.yaml includes a.yaml inclu"),
        ("include: [c.yaml]", "a.yaml:1:11: error[bad_include] include: there is no file c.yaml"),
        ("include: ['c/*.yaml']", "a.yaml:1:11: error[bad_include] include: there is no file c/*.yaml"),
        ("include: [.]", "a.yaml:1:11: error[bad_include] include: cannot read .: Is a directory"),
        ("include: a.yaml", "a.yaml:1:10: error[bad_value] include: needs a list of files"),
        ("include: ['${NOPE}']", "a.yaml:1:11: error[undefined_variable] include.0: the environment variable NOPE is"),
        ("nonsense: 1", "a.yaml:1:1: error[unknown_key] nonsense: unknown key"),
    ],
)
def test_what_an_included_file_may_not_be(tmp_path: Path, included: str, error: str) -> None:
    main = MAIN + "sinks:\n  x: {type: folder, folder: /tmp}\ninclude: [a.yaml]\n"
    shown = found(tmp_path, {"cdc.yaml": main, "a.yaml": included})
    assert any(line.replace(str(tmp_path), ".").startswith(error) for line in shown), shown


def test_one_file_is_not_included_from_two_places(tmp_path: Path) -> None:
    files = {"cdc.yaml": MAIN + "include: [a.yaml, '*/../b.yaml', b.yaml]\n", "a.yaml": "include: [b.yaml]\n"}
    files |= {"b.yaml": SINK % "b", "x/y": ""}
    assert found(tmp_path, files) == [
        "cdc.yaml:4:19: error[bad_include] include: x/../b.yaml is included twice",
        "cdc.yaml:4:34: error[bad_include] include: b.yaml is included twice",
    ]


PROFILES = """\
sinks:
  search: {type: folder, folder: /live, token: "${TOKEN}", batch: {rows: 5}}
  other: {type: folder, folder: /other}
profiles:
  dev:
    log: {type: embedded, path: dev}
    sinks:
      search: {folder: /dev, token: "${DEV_TOKEN:-}"}
      warehouse: {type: duckdb, path: dev.duckdb}
  stage:
    sinks: {search: {type: duckdb, path: stage.duckdb}}
"""


def test_a_profile_lies_over_the_rest_key_by_key(tmp_path: Path) -> None:
    files = {"cdc.yaml": MAIN + PROFILES}
    dev = read(tmp_path, files, "dev", DEV_TOKEN="t0ken")
    assert (dev.profile, dev.roles) == ("dev", ["source/db", "sink/search", "sink/other", "sink/warehouse"])
    search = dev.sinks["search"]
    assert (str(search.folder), search.batch.rows) == ("/dev", 5)  # type: ignore[attr-defined]  # the plugin's own
    assert str(dev.log.path) == "dev"  # type: ignore[attr-defined]  # the embedded log's own
    live = read(tmp_path, files, TOKEN="t0ken")
    assert (live.profile, live.roles, str(live.log.path)) == (  # type: ignore[attr-defined]  # the embedded log's own
        None,
        ["source/db", "sink/search", "sink/other"],
        ".cdc",
    )


def test_another_type_replaces_the_whole_entry(tmp_path: Path) -> None:
    search = read(tmp_path, {"cdc.yaml": MAIN + PROFILES}, "stage").sinks["search"]
    assert (search.type, search.batch.rows) == ("duckdb", 100_000)


def test_a_profile_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    profile = "profiles:\n  dev:\n    sinks:\n      a: {type: folder, foldr: /tmp}\n"
    files = {"cdc.yaml": MAIN + "include: [dev.yaml]\n", "dev.yaml": profile}
    assert read(tmp_path, files).roles == ["source/db"]
    assert found(tmp_path, files, "dev") == [
        "dev.yaml:4:7: error[missing_key] sinks.a.folder: `folder` is missing",
        "dev.yaml:4:25: error[unknown_key] sinks.a.foldr: unknown key, did you mean 'folder'?",
    ]


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no profile dve in .*cdc\.yaml, did you mean dev\?"):
        read(tmp_path, {"cdc.yaml": MAIN + PROFILES}, "dve")
    with pytest.raises(ConfigurationError, match="profiles here: none"):
        read(tmp_path, {"cdc.yaml": MAIN}, "dev")


def test_the_form_of_all_profiles_is_checked(tmp_path: Path) -> None:
    profiles = "profiles:\n  dev: {snks: {}}\n  prod: {sinks: [a]}\n  x: 3\n  Big: {}\n"
    assert [line.split(": ")[0:2] for line in found(tmp_path, {"cdc.yaml": MAIN + profiles})] == [
        ["cdc.yaml:5:9", "error[unknown_key] profiles.dev.snks"],
        ["cdc.yaml:6:17", "error[bad_value] profiles.prod.sinks"],
        ["cdc.yaml:7:6", "error[bad_value] profiles.x"],
        ["cdc.yaml:8:3", "error[bad_value] profiles.Big"],
    ]
