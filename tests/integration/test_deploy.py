"""Dockerfile, docker-compose.yml, systemd unit and the example pipeline agree with each other and with the service.

No container engine runs here. What can be run without one is: the healthcheck's command, the example on real servers,
Kafka's settings by its own storage tool, the unit by systemd-analyze.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3
from dockerfile_parse import DockerfileParser
from ruamel.yaml import YAML

from cdc.config.load import load
from cdc.errors import ConfigurationError, GapError
from cdc.worker import LAST_REPORT_SECONDS
from connectors.mysql.client import Server as MySql
from connectors.mysql.config import MysqlConfig
from connectors.mysql.settings import check_settings
from sinks._http import ANSWER_SECONDS
from tests.integration.scripted import Scripted, scripted
from tests.servers.kafka import kafka_jars
from tests.servers.mariadb import MariaDbServer
from tests.servers.mysql import MySqlServer, mysql_root
from tests.servers.opensearch import OpenSearchServer
from tests.servers.postgres import Database, Server, create_database, debian_binaries, drop_database
from tests.servers.redis import RedisServer

__all__ = ["scripted"]

ROOT = Path(__file__).parents[2]
COMPOSE = YAML(typ="safe", pure=True).load(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ENVIRONMENT_FILE = (ROOT / ".env.example").read_text()
VARIABLES = dict(re.findall(r"^(\w+)=(.*)$", ENVIRONMENT_FILE, re.MULTILINE))
CHOSEN = {name: value or f"chosen-{name.lower()}" for name, value in VARIABLES.items()}
EXAMPLE = ROOT / "examples" / "shop.yaml"
BILLING_ROLE = "cdc_billing"
"""In place of cdc, whom the tests' server knows already."""
UNIT = ROOT / "deploy" / "cdc.service"
DRAIN_SECONDS = ANSWER_SECONDS + LAST_REPORT_SECONDS
"""The longest that a worker takes to stop: a store's answer is waited for, then its last report is written."""

_REFERENCE = re.compile(r"\$\{(?P<name>\w+)(?::[-?](?P<rest>[^}]*))?\}")


def interpolated(text: object) -> str:
    """A value of the compose file as docker compose reads it, with the variables of .env.example filled in."""
    return _REFERENCE.sub(lambda match: CHOSEN[match["name"]], str(text))


def environment(service: str) -> dict[str, str]:
    return {name: interpolated(value) for name, value in SERVICES[service].get("environment", {}).items()}


def instructions(name: str) -> list[str]:
    """The values of an instruction of the Dockerfile's last stage, in order."""
    parsed = DockerfileParser(str(ROOT / "Dockerfile")).structure
    last = max(i for i, each in enumerate(parsed) if each["instruction"] == "FROM")
    return [each["value"] for each in parsed[last:] if each["instruction"] == name]


def setting(name: str) -> str:
    """The last value of a setting of the systemd unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)[-1]


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s?", text)[1])  # type: ignore[index]  # that is what it must look like


# docker-compose.yml


def test_compose_file_fits_its_schema() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, str(ROOT / "docker-compose.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_images_are_pinned_to_what_the_tests_run_against() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if "image" in service}
    assert images.keys() == SERVICES.keys() - {"cdc"}
    for image in images.values():
        full = r"\d+\.\d+" if image.startswith("postgres:") else r"\d+\.\d+\.\d+"
        assert re.fullmatch(rf"[\w/]+:{full}(-\w+)?", image), image
    for name, pom in (("kafka", "kafka.pom.xml"), ("opensearch", "opensearch-pom.xml")):
        tested = (ROOT / "tests" / "servers" / pom).read_text()
        assert f"version>{images[name].split(':')[1]}</" in tested


def test_everything_listens_on_this_machine_only() -> None:
    published = [interpolated(port) for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == len(SERVICES) - 1
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_variables_are_those_of_the_example_file_and_hold_no_secret() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert {match["name"] for match in _REFERENCE.finditer(text)} == VARIABLES.keys()
    for match in _REFERENCE.finditer(text):
        name, rest = match["name"], match["rest"]
        assert rest == VARIABLES[name] or (VARIABLES[name] == "" and rest.startswith("copy .env.example")), name
    assert {name for name, value in VARIABLES.items() if not value} == {
        name for name in VARIABLES if name.endswith("PASSWORD")
    }
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_example_pipeline_finds_its_servers() -> None:
    pipeline = load(EXAMPLE, environment("cdc"))
    urls = [each.url for each in (*pipeline.sources.values(), *pipeline.sinks.values())]  # type: ignore[attr-defined]
    addresses = {(parts.hostname or "", parts.port or 0) for parts in map(urlsplit, urls)}
    broker = pipeline.log.bootstrap  # type: ignore[attr-defined]
    assert broker in re.findall(r"INSIDE://([\w.:]+)", environment("kafka")["KAFKA_ADVERTISED_LISTENERS"])
    assert f"INSIDE://:{broker.split(':')[1]}," in environment("kafka")["KAFKA_LISTENERS"]
    for host, port in addresses:
        assert SERVICES[host]["ports"][0].endswith(f":{port}")
        assert str(port) in " ".join(SERVICES[host]["healthcheck"]["test"])
    assert broker in f"kafka:{' '.join(SERVICES['kafka']['healthcheck']['test']).rpartition(':')[2]}"
    hosts = {host for host, _ in addresses} | {broker.split(":")[0]}
    assert SERVICES["cdc"]["depends_on"] == {host: {"condition": "service_healthy"} for host in hosts}


def test_mysql_is_set_up_to_be_captured(tmp_path: Path) -> None:
    program, *options = SERVICES["mysql"]["command"]
    assert program == "mysqld"
    variables = MySqlServer(mysql_root(), tmp_path).variables(*options)
    variables["log_bin"] = "ON" if variables["log_bin"] else "OFF"
    server = MySql(False, (8, 4, 11), "", int(variables["server_id"]), None, None, variables["gtid_mode"])
    assert list(check_settings(server, variables)) == []
    billing = load(EXAMPLE, environment("cdc")).sources["billing_db"]
    assert isinstance(billing, MysqlConfig)
    assert billing.password is not None
    role = environment("mysql")["MYSQL_USER"], environment("mysql")["MYSQL_PASSWORD"]
    assert role == (urlsplit(billing.url).username, billing.password.get_secret_value())


def test_kafka_is_reached_from_this_machine_where_it_says() -> None:
    settings = environment("kafka")
    _, outside, inside = interpolated(SERVICES["kafka"]["ports"][0]).split(":")
    assert f"HOST://localhost:{outside}" in settings["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"HOST://:{inside}" in settings["KAFKA_LISTENERS"].split(",")


@pytest.mark.xdist_group("kafka")
def test_kafka_takes_the_settings(tmp_path: Path) -> None:
    settings = {name.removeprefix("KAFKA_"): value for name, value in environment("kafka").items()}
    settings["LOG_DIRS"] = str(tmp_path / "logs")
    properties = tmp_path / "server.properties"
    properties.write_text("".join(f"{name.lower().replace('_', '.')}={value}\n" for name, value in settings.items()))
    tool = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{kafka_jars()}/*", "kafka.tools.StorageTool", "format"]
    command = [*tool, "-t", "5L6g3nShT-eMCtK--X86sw", "-c", str(properties)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "node.id=1" in (tmp_path / "logs" / "meta.properties").read_text()


def test_mounts_are_there_and_where_the_image_looks() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source, _, *options = mount.split(":")
            if source.startswith("."):
                assert (ROOT / source).is_file()
                assert options == ["ro"]
            else:
                assert source in COMPOSE["volumes"]
                assert options == []
    mounts = dict(reversed(mount.split(":")[:2]) for mount in SERVICES["cdc"]["volumes"])
    (entrypoint,) = map(json.loads, instructions("ENTRYPOINT"))
    assert mounts[entrypoint[-1]] == f"./{EXAMPLE.relative_to(ROOT)}"
    assert [mounts["/var/lib/cdc"]] == ["cdc"]
    assert instructions("VOLUME") == instructions("WORKDIR") == ["/var/lib/cdc"]


def test_service_has_no_more_rights_than_it_needs_and_time_to_drain() -> None:
    service = SERVICES["cdc"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert seconds(service["stop_grace_period"]) > DRAIN_SECONDS
    assert "ports" not in service


# Dockerfile


def test_image_is_slim_pinned_and_not_run_by_root() -> None:
    bases = DockerfileParser(str(ROOT / "Dockerfile")).parent_images
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0])
    (user,) = instructions("USER")
    assert re.fullmatch(r"([1-9]\d+):\1", user)
    (user_added,) = [line for line in instructions("RUN") if "useradd" in line]
    assert f"--uid {user.split(':')[0]} --user-group" in user_added


def test_image_is_built_of_what_the_wheel_is_built_of() -> None:
    parsed = DockerfileParser(str(ROOT / "Dockerfile")).structure
    copied = [each["value"].split()[:-1] for each in parsed if each["instruction"] == "COPY"]
    sources = {source for each in copied for source in each if not source.startswith(("-", "/"))}
    assert all((ROOT / source).exists() for source in sources)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == sources
    project = (ROOT / "pyproject.toml").read_text()
    packages = json.loads(re.findall(r"^packages = (\[.*\])$", project, re.MULTILINE)[0])
    assert sources == {*packages, "pyproject.toml", "README.md", "LICENSE"}


def test_healthcheck_is_unhealthy_until_every_worker_works(scripted: Scripted) -> None:
    (line,) = instructions("HEALTHCHECK")
    options, command = line.split(" CMD ")
    assert options.split() == ["--interval=30s", "--timeout=30s", "--start-period=60s", "--retries=3"]
    (entrypoint,) = map(json.loads, instructions("ENTRYPOINT"))
    assert command.startswith(f"{shlex.join(entrypoint)} status ")
    command = command.replace(entrypoint[-1], str(scripted.file))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def health() -> int:
        return subprocess.run(command, shell=True, env={**scripted.environment, "PATH": path}).returncode

    assert health() == 1
    for role in ("source/db", "sink/one", "sink/two"):
        scripted.report(role, {"state": "streaming", "error": "", "at": time.time() + 60})
    assert health() == 0
    scripted.file.unlink()
    assert health() == 1  # and not cdc's own 2, which Docker reserves


# systemd


def test_unit_runs_what_the_image_runs_and_lets_it_drain() -> None:
    (entrypoint,), (arguments,) = (map(json.loads, instructions(name)) for name in ("ENTRYPOINT", "CMD"))
    command, *rest = setting("ExecStart").split()
    assert [Path(command).name, *rest] == [*entrypoint, *arguments]
    assert setting("KillMode") == "mixed"  # a worker that is sent SIGTERM twice gives up what it holds
    assert seconds(setting("TimeoutStopSec")) > DRAIN_SECONDS
    assert setting("Restart") == "on-failure"
    never = {ConfigurationError.exit_code, GapError.exit_code}
    assert {int(code) for code in setting("RestartPreventExitStatus").split()} == never
    assert setting("StateDirectory") == Path(setting("WorkingDirectory")).name == "cdc"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    unit = tmp_path / "cdc.service"
    unit.write_text(UNIT.read_text().replace("/opt/cdc/bin/cdc", str(Path(sys.executable).with_name("cdc"))))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "cdc.service" in line]) == (0, [])
    exposure = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)]
    done = subprocess.run(exposure, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# The example on real servers


@pytest.fixture
def shop(postgres18: Server) -> Iterator[Database]:
    """The database that examples/shop.sql makes, by psql as the image's entry point runs it."""
    made = create_database(postgres18)
    command = [str(debian_binaries() / "psql"), "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "-q", "-d", made.dsn]
    made_by = {**os.environ, "CDC_PASSWORD": "it's"}
    subprocess.run([*command, "-f", str(ROOT / "examples" / "shop.sql")], env=made_by, check=True)
    yield made
    made.execute("DROP OWNED BY cdc")
    made.execute("DROP ROLE cdc")
    drop_database(made)


@pytest.fixture
def billing(mariadb_source: MariaDbServer) -> Iterator[MariaDbServer]:
    """What examples/billing.sql makes, where the role is there already: so it is in MySQL's image."""
    mariadb_source.execute(f"CREATE USER {BILLING_ROLE} IDENTIFIED BY 'it''s'")
    yield from made_billing(mariadb_source)


def made_billing(server: MariaDbServer) -> Iterator[MariaDbServer]:
    """`server` with what examples/billing.sql makes."""
    script = (EXAMPLE.parent / "billing.sql").read_text().replace(" cdc", f" {BILLING_ROLE}")
    statements = [statement for statement in script.partition("\n")[2].split(";\n") if statement.strip()]
    server.execute(*statements)
    yield server
    server.execute("DROP DATABASE billing", f"DROP USER {BILLING_ROLE}")


@pytest.mark.xdist_group("kafka")
def test_service_writes_to_its_volume_only(shop: Database, tmp_path: Path) -> None:
    """Everything but the volume is read-only here, as in a container with ``--read-only``."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces of one's own")
    volume = tmp_path / "volume"
    volume.mkdir()
    file = tmp_path / "cdc.yaml"
    file.write_text(
        "version: 1\n"
        "log: {type: embedded, path: log}\n"
        'sources: {shop_db: {type: postgres, url: "${DATABASE_URL}", publication: {name: cdc_shop, manage: none},\n'
        "  tables: [public.*]}}\n"
        "sinks: {search: {type: tantivy, path: search}, warehouse: {type: duckdb, path: warehouse.duckdb}}\n"
    )
    cdc = f"{sys.executable} -m cdc -c {file}"
    script = f"""
        mount -o remount,bind,ro /
        if touch /written 2>/dev/null; then exit 1; fi
        mount -t tmpfs tmpfs {volume} && cd {volume} && {cdc} run --until-caught-up 1>&2 && {cdc} status --json
        ls -A {volume}
        {cdc} cleanup --yes 1>&2
    """
    done = subprocess.run(
        [*unshare, "sh", "-euc", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "DATABASE_URL": shop.dsn},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    status, *written = done.stdout.splitlines()
    assert {name: sink["lag_records"] for name, sink in json.loads(status)["result"]["sinks"].items()} == {
        "search": 0,
        "warehouse": 0,
    }
    assert sorted(written) == ["log", "search", "warehouse.duckdb"]


@pytest.fixture
def valkey(valkey_server: RedisServer) -> Iterator[RedisServer]:
    """The server with nothing in it, and nothing left in it: keys belong to a pipeline for good."""
    with valkey_server.client() as client:
        client.flushdb()
        yield valkey_server
        client.flushdb()


@pytest.mark.xdist_group("kafka")
def test_example_on_real_servers(
    shop: Database,
    billing: MariaDbServer,
    kafka: str,
    opensearch: OpenSearchServer,
    valkey: RedisServer,
    tmp_path: Path,
) -> None:
    pipeline = f"shop{uuid.uuid4().hex[:8]}"
    (tmp_path / "cdc.yaml").write_text(EXAMPLE.read_text().replace("pipeline: shop\n", f"pipeline: {pipeline}\n"))
    addresses = {
        "DATABASE_URL": shop.dsn.replace("postgres@", "cdc@"),
        "BILLING_URL": f"mysql://{BILLING_ROLE}@127.0.0.1:{billing.port}",
        "CDC_PASSWORD": "it's",
        "KAFKA": kafka,
        "SEARCH_URL": opensearch.url,
        "CACHE_URL": valkey.url,
    }

    def cdc(*arguments: str) -> str:
        command = [sys.executable, "-m", "cdc", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **addresses}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    cdc("validate", "--connect")
    cdc("run", "--until-caught-up")
    with valkey.client() as client:
        names = [json.loads(client.get(f"{schema}:customers:1"))["name"] for schema in ("public", "billing")]
    assert names == ["Ada", "Ada Ltd"]
    for table, count in (("public.orders", 3), ("billing.invoices", 2)):
        index = f"{opensearch.url}/{pipeline}.{table}"
        urllib3.request("POST", f"{index}/_refresh", retries=False)
        assert urllib3.request("GET", f"{index}/_count", retries=False).json()["count"] == count
    cdc("cleanup", "--yes")
