"""A file to a pipeline, or to everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.config.load import find, load
from cdc.config.pipeline import Pipeline
from cdc.config.problems import InvalidConfiguration, Problem
from cdc.errors import ConfigurationError

PLUGIN = Path(__file__).parents[1] / "integration" / "plugin"
ENVIRONMENT = {"SECRET": "s3cret-value", "URL": "postgresql://u:s3cret-value@h/d"}


@pytest.fixture(autouse=True)
def _plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))


def read(folder: Path, text: str, name: str = "cdc.yaml") -> Pipeline:
    file = folder / name
    file.write_text(text)
    return load(file, ENVIRONMENT)


def errors(folder: Path, text: str) -> list[Problem]:
    with pytest.raises(InvalidConfiguration) as caught:
        read(folder, text)
    return caught.value.problems


def found(folder: Path, text: str) -> list[tuple[str, str, int, int]]:
    """Code, path, line and column of each problem."""
    return [(one.code, ".".join(map(str, one.path)), one.place.line, one.place.column) for one in errors(folder, text)]


SOURCE = "{type: script, folder: /tmp, tables: [public.*]}"
SMALL = f"version: 1\nsources: {{db: {SOURCE}}}\n"


def test_the_smallest_file(tmp_path: Path) -> None:
    pipeline = read(tmp_path, SMALL, "my-shop.yaml")
    assert (pipeline.name, pipeline.log.type, pipeline.roles) == ("my_shop", "embedded", ["source/db"])
    assert pipeline.log.topics.partitions == 6
    assert str(pipeline.log.path) == ".cdc"  # type: ignore[attr-defined]  # the embedded log's own


def test_secrets_come_from_references(tmp_path: Path) -> None:
    text = SMALL.replace("tables:", 'url: "${URL}", password: "${SECRET}", tables:')
    source = read(tmp_path, text).sources["db"]
    assert source.url == ENVIRONMENT["URL"]  # type: ignore[attr-defined]  # the plugin's own
    assert source.password.get_secret_value() == ENVIRONMENT["SECRET"]  # type: ignore[attr-defined]  # the plugin's own
    assert "s3cret" not in repr(source)


def test_values_from_references_are_coerced(tmp_path: Path) -> None:
    text = SMALL + 'sinks: {s: {type: folder, folder: /tmp, batch: {rows: "${ROWS:-7}", every: "${EVERY:-2s}"}}}'
    batch = read(tmp_path, text).sinks["s"].batch
    assert (batch.rows, batch.every) == (7, 2.0)


def test_defaults_lie_beneath(tmp_path: Path) -> None:
    text = SMALL + "defaults: {sink: {batch: {rows: 5, every: 1s}, folder: /tmp}}\nsinks:\n"
    text += "  a: {type: folder}\n  b: {type: folder, batch: {rows: 6}}\n"
    sinks = read(tmp_path, text).sinks
    assert [(sink.batch.rows, sink.batch.every) for sink in sinks.values()] == [(5, 1.0), (6, 1.0)]


def test_all_errors_at_once_each_with_its_place(tmp_path: Path) -> None:
    text = f"""\
version: 2
pipelne: shop
log: {{type: embeded}}
sources:
  db: {SOURCE}
  Db: {SOURCE}
  b: {{type: script, tables: [], folder: /tmp, password: literal, url: "${{NOPE}}"}}
  b: {{}}
  c:
    folder: /tmp
sinks:
  s: {{type: folder, foldr: /tmp, batch: {{rows: none, every: 5}}}}
  t: folder
"""
    assert found(tmp_path, text) == [
        ("bad_value", "version", 1, 10),
        ("unknown_key", "pipelne", 2, 1),
        ("unknown_type", "log.type", 3, 13),
        ("bad_value", "sources.Db", 6, 3),
        ("literal_secret", "sources.b.password", 7, 57),
        ("undefined_variable", "sources.b.url", 7, 71),
        ("duplicate_key", "sources.b", 8, 3),
        ("missing_key", "sources.c.type", 9, 3),
        ("missing_key", "sinks.s.folder", 12, 3),
        ("unknown_key", "sinks.s.foldr", 12, 21),
        ("bad_value", "sinks.s.batch.rows", 12, 48),
        ("bad_value", "sinks.s.batch.every", 12, 61),
        ("bad_value", "sinks.t", 13, 6),
    ]


def test_how_an_error_looks(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        read(tmp_path, SMALL + "sinks:\n  s: {type: foldr}\n  t: {type: folder, folder: /tmp, tabels: [x]}\n")
    assert str(caught.value).replace(str(tmp_path), "DIR").splitlines()[:8] == [
        "DIR/cdc.yaml:4:13: error[unknown_type] sinks.s.type: unknown type, did you mean 'folder'?",
        "  4 |   s: {type: foldr}",
        "    |             ^^^^^",
        caught.value.problems[0].help and f"  help: {caught.value.problems[0].help}",
        "DIR/cdc.yaml:5:35: error[unknown_key] sinks.t.tabels: unknown key, did you mean 'tables'?",
        "  5 |   t: {type: folder, folder: /tmp, tabels: [x]}",
        "    |                                   ^^^^^^",
    ]
    assert caught.value.exit_code == 2
    assert caught.value.to_json()[1] == {
        "code": "unknown_key",
        "message": "unknown key",
        "pointer": "/sinks/t/tabels",
        "file": str(tmp_path / "cdc.yaml"),
        "line": 5,
        "column": 35,
        "suggestion": "tables",
        "help": None,
    }


def test_the_caret_stays_right_where_a_secret_was_masked(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        read(tmp_path, "version: 1\nsources: {db: {password: 'a-long-literal-secret', type: scrpt}}\n")
    line, caret = str(caught.value).splitlines()[1:3]
    assert line == "  2 | sources: {db: {password: ***, type: scrpt}}"
    assert caret.index("^") == line.index("scrpt")


@pytest.mark.parametrize(
    ("tables", "message"),
    [("3", "needs a list"), ("[a.b, 3]", "needs text"), ("{a.b: 1}", "needs a list")],
)
def test_wrong_forms(tmp_path: Path, tables: str, message: str) -> None:
    (problem,) = errors(tmp_path, SMALL.replace("[public.*]", tables))
    assert problem.message == message


@pytest.mark.parametrize(
    ("cleanup", "message", "suggestion"),
    [
        ("compct", "should be 'compact' or 'keep'", "compact"),
        ("{expire: 7}", "needs a number with a unit (ms, s, m, h, d), for example 30s", ""),
        ("{expre: 7d}", "unknown key", "expire"),
        ("[x]", "should be 'compact' or 'keep'", ""),
    ],
)
def test_alternatives_are_judged_by_the_form_that_was_meant(
    tmp_path: Path, cleanup: str, message: str, suggestion: str
) -> None:
    problems = errors(tmp_path, SMALL + f"log: {{type: embedded, path: x, topics: {{cleanup: {cleanup}}}}}")
    assert (message, suggestion) in {(one.message, one.suggestion) for one in problems}
    assert {one.path[:3] for one in problems} == {("log", "topics", "cleanup")}
    assert not any(one.message == "needs a map" for one in problems)


def two_sources(one: str, other: str, template: str = "{pipeline}.{schema}.{table}") -> str:
    parts = f"{{type: script, folder: /tmp, tables: {one}}}, two: {{type: script, folder: /tmp, tables: {other}}}"
    log = f'log: {{type: embedded, path: x, topics: {{name: "{template}"}}}}\n'
    return f"version: 1\n{log}sources: {{one: {parts}}}\n"


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("[public.*]", "[public.orders]", True),
        ("[public.a*]", "['*.*b']", True),
        ("['*']", "[x.y]", True),
        ("[public.orders]", "[sales.orders]", False),
        ("[public.*, '!public.orders']", "[public.orders]", False),
        ("[public.orders]", "[public.*, '!public.orders']", False),
        ("[public.*, '!public.o*']", "[public.orders]", False),
    ],
)
def test_two_sources_may_not_write_one_topic(tmp_path: Path, one: str, other: str, shared: bool) -> None:
    if shared:
        (problem,) = errors(tmp_path, two_sources(one, other))
        assert (problem.code, problem.path) == ("shared_topic", ("sources", "two", "tables"))
    else:
        read(tmp_path, two_sources(one, other))
    read(tmp_path, two_sources(one, other, "{pipeline}.{source}.{schema}.{table}"))


@pytest.mark.parametrize(
    ("pattern", "suggestion"),
    [("public.*", None), ("'*'", None), ("public.order?", None), ("public.odrers", "public.orders"), ("'x.*'", "")],
)
def test_a_pattern_that_no_source_can_match(tmp_path: Path, pattern: str, suggestion: str | None) -> None:
    text = SMALL.replace("[public.*]", "[public.orders, public.items, '!public.secret']")
    text += f"sinks: {{s: {{type: folder, folder: /tmp, tables: [public.items, {pattern}, '!x.y']}}}}"
    if suggestion is None:
        read(tmp_path, text)
        return
    (problem,) = errors(tmp_path, text)
    assert (problem.code, problem.suggestion, problem.place.line) == ("unmatched_pattern", suggestion, 3)


@pytest.mark.parametrize(
    ("type_", "url", "setting"), [("postgres", "postgresql://h/d", "toast"), ("mysql", "mysql://u@h", "missing")]
)
def test_values_left_out_need_a_log_that_keeps_everything(tmp_path: Path, type_: str, url: str, setting: str) -> None:
    source = f"sources: {{db: {{type: {type_}, url: {url}, tables: [a.b], {setting}: absent}}}}"
    (problem,) = errors(tmp_path, f"version: 1\n{source}\n")
    assert (problem.code, problem.path, problem.place.line) == ("disagreement", ("sources", "db", setting), 2)
    read(tmp_path, f"version: 1\nlog: {{type: embedded, path: x, topics: {{cleanup: keep}}}}\n{source}\n")


def test_a_plugin_whose_driver_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_(package: str, name: str) -> None:
        raise ConfigurationError("type 'folder' needs the Python package 'x'", hint="pip install 'cdc-service[folder]'")

    monkeypatch.setattr("cdc.registry.load", load_)
    problem = next(one for one in errors(tmp_path, SMALL) if one.path == ("sources", "db", "type"))
    assert (problem.code, problem.help) == ("missing_package", "pip install 'cdc-service[folder]'")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"no cdc\.yaml and no pipeline\.yaml"):
        find(None)
    with pytest.raises(ConfigurationError, match="No such file"):
        load(find(Path("other.yaml")))
    (tmp_path / "cdc.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        load(find(None))


def test_a_reference_without_quotes_inside_braces_is_explained(tmp_path: Path) -> None:
    (problem,) = errors(tmp_path, "version: 1\nsources: {db: {url: ${URL}}}\n")
    assert (problem.code, problem.help.endswith('a reference needs quotes: "${VAR}"')) == ("syntax", True)


@pytest.mark.parametrize("text", ["", "[]", "text", "version: 1", "version: 1\nsources: {}", "version: 1\nsources: 3"])
def test_files_without_a_pipeline(tmp_path: Path, text: str) -> None:
    assert errors(tmp_path, text)
