"""What is built is what a user gets: the wheel from the sdist, in an environment that has nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cdc import __version__
from cdc.registry import known

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
PARTS = [*known("connectors"), *known("sinks"), *known("cdc.log")]
DRIVERS = set(PARTS) - {"embedded"}
EVERY_PART = "\n".join(
    [
        "version: 1",
        "sources:",
        *(f"  s_{name}: {{type: {name}}}" for name in known("connectors")),
        "sinks:",
        *(f"  s_{name}: {{type: {name}}}" for name in known("sinks")),
        "log: {type: kafka}",
    ]
)

pytestmark = pytest.mark.xdist_group("package")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist as a package index would have it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    assert sdist.name == f"cdc_service-{__version__}.tar.gz"
    (wheel,) = folder.glob("*.whl")
    return wheel


class Environment:
    """A virtual environment with the wheel and what the wheel itself requires, linked from the tests' environment."""

    def __init__(self, folder: Path, wheel: Path, extras: set[str]) -> None:
        self.folder = folder
        venv.create(folder / "venv", symlinks=True)
        self._bin = folder / "venv" / "bin"
        (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        for name in required(wheels_metadata(wheel).get_all("Requires-Dist", []), extras):
            for top in {Path(file).parts[0] for file in metadata.files(name) or () if file.parts[0] != ".."}:
                if not (site / top).exists() and top != "__pycache__":
                    (site / top).symlink_to(Path(str(metadata.distribution(name).locate_file(top))))
        pip = [sys.executable, "-m", "pip", "--python", str(self._bin / "python"), "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--no-index", "--no-compile", str(wheel)], check=True, capture_output=True)

    def cdc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the console script."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(self._bin / "cdc"), *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60)

    def missing_packages(self) -> set[str]:
        """What ``cdc validate`` wants to have installed for a pipeline with one part of each type."""
        (self.folder / "cdc.yaml").write_text(EVERY_PART)
        problems = json.loads(self.cdc("validate", "--json").stdout)["error"]["problems"]
        assert {"missing_key", "missing_package"} & {problem["code"] for problem in problems}
        return {problem["help"] for problem in problems if problem["code"] == "missing_package"}


def wheels_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"cdc_service-{__version__}.dist-info/METADATA"))


def required(requirements: Iterable[str], extras: set[str]) -> set[str]:
    """The distributions that `requirements` with `extras` mean, directly or not."""
    found = set()
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            found |= {requirement.name, *required(metadata.requires(requirement.name) or (), requirement.extras)}
    return found


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment without any extra."""
    return Environment(tmp_path_factory.mktemp("bare"), wheel, set())


def test_wheel_has_the_packages_of_pyproject_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {*PACKAGES, f"cdc_service-{__version__}.dist-info"}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if tracked.returncode == 0:  # a clone, not an unpacked sdist
        assert {name for name in names if ".dist-info/" not in name} == set(tracked.stdout.splitlines())
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_every_part_has_an_extra_of_its_name(wheel: Path) -> None:
    assert set(wheels_metadata(wheel).get_all("Provides-Extra", [])) >= DRIVERS
    (everything,) = map(Requirement, PROJECT["project"]["optional-dependencies"]["all"])
    assert everything.extras == DRIVERS


def test_console_script_runs_without_any_extra(bare: Environment) -> None:
    result = bare.cdc("--version")
    assert (result.returncode, result.stdout) == (0, f"cdc {__version__}\n"), result.stderr


def test_missing_driver_is_told_by_the_command_that_installs_it(bare: Environment) -> None:
    assert bare.missing_packages() == {f"pip install 'cdc-service[{name}]'" for name in DRIVERS}


def test_driver_that_cannot_be_loaded_is_told_too(tmp_path: Path) -> None:
    """psycopg is there, the library that it needs is not."""
    (tmp_path / "cdc.yaml").write_text("version: 1\nsources: {db: {type: postgres}}")
    command, environment = [sys.executable, "-m", "cdc", "validate"], {**os.environ, "PSYCOPG_IMPL": "c"}
    result = subprocess.run(
        command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert result.returncode == 2, result.stderr
    assert "a package that type 'postgres' needs cannot be loaded: " in result.stderr
    assert "pip install 'cdc-service[postgres]'" in result.stderr


def test_missing_demo_is_told_by_the_command_that_installs_it(bare: Environment) -> None:
    result = bare.cdc("demo")
    assert result.returncode == 2
    assert "-> pip install 'cdc-service[demo]'" in result.stderr


def test_extras_bring_what_their_parts_need(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path, wheel, DRIVERS)
    assert environment.missing_packages() == set()
