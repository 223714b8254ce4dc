"""The JSON Schema for editors says what loading the file says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from cdc.config.load import load
from cdc.config.problems import InvalidConfiguration
from cdc.config.reference import page
from cdc.config.schema import definitions, file_schema

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "integration" / "plugin"
ENVIRONMENT = {
    "DATABASE_URL": "postgresql://h/d",
    "REDIS_URL": "redis://h:1",
    "SECRET": "hush-hush",
    "KIND": "redis",
    "N": "7",
    "YES": "true",
    "WORD": "keep",
    "TIME": "3s",
    "NAME": "x",
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLUGIN))
        made: dict[str, Any] = json.loads(json.dumps(file_schema()))
    jsonschema.Draft7Validator.check_schema(made)
    return made


def errors(schema: dict[str, Any], text: str) -> list[str]:
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(YAML(typ="safe").load(text))]


def documents() -> list[str]:
    readme = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return [*readme, *(path.read_text() for path in [*ROOT.glob("cdc/demo/*.yaml"), *ROOT.glob("examples/*.yaml")])]


@pytest.mark.parametrize("text", documents())
def test_what_we_publish_is_valid(schema: dict[str, Any], text: str) -> None:
    assert errors(schema, text) == []


FILE = "version: 1\nsources: {db: {type: postgres, url: '${DATABASE_URL}', tables: [a.b]}}\n"

GOOD = [
    FILE,
    "version: 1\nsources: {db: {type: script, folder: /tmp, tables: [a.*]}}",  # somebody else's plugin
    FILE + "log: {type: kafka, bootstrap: h, topics: {partitions: '${N}', create: '${YES}', cleanup: '${WORD}'}}",
    FILE + "log: {type: kafka, bootstrap: h, topics: {cleanup: {expire: '${TIME}'}}, options: {linger.ms: '${N}'}}",
    FILE + "sinks: {a: {type: '${KIND}', url: '${REDIS_URL}', password: '${SECRET}', ttl: '${TIME}'}}",
    FILE + "sinks: {a: {type: redis, url: '${REDIS_URL}', batch: {rows: 3, every: 200ms}}}",
    FILE + "sinks: {a: {type: redis}}\ndefaults: {sink: {url: '${REDIS_URL}', batch: {rows: '${N}'}}}",
    FILE.replace("tables: [a.b]", "tables: {a.b: , a.c: {snapshot: never}}, slot: {name: '${NAME}'}"),
    FILE + "profiles: {dev: {log: {type: embedded, path: x}, sources: {db: {snapshot: {chunk_bytes: 1MiB}}}}}",
]
BAD = [
    "version: 1",
    FILE.replace("version: 1", "version: 2"),
    FILE + "snks: {}",
    FILE + "sinks: {Big: {type: duckdb, path: x}}",
    FILE + "sinks: {a: {type: dukdb, path: x}}",
    FILE + "sinks: {a: {type: duckdb, pth: x}}",
    FILE + "sinks: {a: {type: duckdb}}",
    FILE + "sinks: {a: {type: duckdb, path: x, batch: {row: 3}}}",
    FILE + "sinks: {a: {type: duckdb, path: x, batch: {rows: 0}}}",
    FILE + "sinks: {a: {type: duckdb, path: x, batch: {every: 3}}}",
    FILE + "sinks: {a: {type: duckdb, path: x, batch: {every: 3 weeks}}}",
    FILE + "sinks: {a: {type: redis, url: '${REDIS_URL}', password: literal}}",
    FILE + "sinks: {a: {url: '${REDIS_URL}'}}",
    FILE + "log: {type: kafka, bootstrap: h, topics: {cleanup: compct}}",
    FILE + "log: {type: kafka, bootstrap: h, topics: {partitions: many}}",
    FILE + "sinks: {a: {type: duckdb, path: x}}\ndefaults: {sink: {btch: {rows: 3}}}",
    FILE + "defaults: {sinks: {}}",
    FILE + "profiles: {dev: {snks: {}}}",
    FILE + "include: x.yaml",
    FILE.replace("a.b", "3"),
    FILE.replace("postgres,", "postgre,"),
]


@pytest.mark.parametrize("text", GOOD)
def test_both_accept(schema: dict[str, Any], tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    (tmp_path / "cdc.yaml").write_text(text)
    load(tmp_path / "cdc.yaml", ENVIRONMENT)
    assert errors(schema, text) == []


@pytest.mark.parametrize("text", BAD)
def test_both_refuse(schema: dict[str, Any], tmp_path: Path, text: str) -> None:
    (tmp_path / "cdc.yaml").write_text(text)
    with pytest.raises(InvalidConfiguration):
        load(tmp_path / "cdc.yaml", ENVIRONMENT)
    assert errors(schema, text)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("version: 1\ninclude: [rest/*.yaml]", True),
        ("sinks: {a: {type: redis, url: x}}", True),
        ("sources: {db: {tables: {a.b: {snapshot: never}}}}", True),
        ("sources: {db: {tabels: [a.b]}}", False),
        ("sinks: {a: {type: redis, path: x}}", False),
    ],
)
def test_a_file_that_is_not_whole(schema: dict[str, Any], text: str, valid: bool) -> None:
    assert (errors(schema, text) == []) is valid


def test_every_setting_says_what_it_means() -> None:
    known = definitions()
    silent = [
        f"{name}.{setting}"
        for name, model in known.items()
        for setting, one in model.get("properties", {}).items()
        if "description" not in one and "$ref" not in json.dumps(one) and setting != "type"
    ]
    assert silent == []


def test_the_page_of_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == page(), "run `make docs`"
