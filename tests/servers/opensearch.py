"""A real OpenSearch node, from the jars on Maven Central."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
import urllib3

from tests.servers import CACHE, free_port, start, stop, unavailable, wait_until

HERE = Path(__file__).parent
_SOURCES = HERE / "opensearch-pom.xml", HERE / "OpenSearchNode.java"
CLASSES = CACHE / f"opensearch-{sha256(b''.join(path.read_bytes() for path in _SOURCES)).hexdigest()[:12]}"
HEAP = "512m"


class OpenSearchServer:
    """A node on 127.0.0.1 whose indices lie in `folder`: what it acknowledged survives `kill`.

    `settings` are the node's own, for example ``http.max_content_length=1mb``. With `url` it is somebody else's, which
    is neither started nor ended: a test that wants that is skipped. Its code is hardly compiled, since most tests end
    before that pays; `fast` is for measurements.
    """

    def __init__(self, folder: Path, *settings: str, url: str = "", fast: bool = False) -> None:
        self._folder = folder
        self._settings = settings
        self._port = free_port()
        self.url = url or f"http://127.0.0.1:{self._port}"
        self._theirs = bool(url)
        self._fast = fast
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> OpenSearchServer:
        """Start it if it does not run, on the same port and files as before, and wait until it takes writes."""
        if not self._theirs and (self._process is None or self._process.poll() is not None):
            java = ["java", f"-Xms{HEAP}", f"-Xmx{HEAP}", *([] if self._fast else ["-XX:TieredStopAtLevel=1"])]
            java += ["-cp", f"{CLASSES}:{CLASSES}/*", "OpenSearchNode"]
            command = [*java, str(self._folder / "home"), str(self._port), str(free_port()), *self._settings]
            self._process = start(command, self._folder / "server.log")
        wait_until(self._answers, seconds=120, what=f"an answer of {self.url}")
        return self

    def stop(self) -> None:
        """End it as an operator does."""
        if self._process is not None:
            stop(self._process)

    def kill(self) -> None:
        """End it as a power switch does, as far as a process can tell."""
        if self._theirs:
            pytest.skip(f"{self.url} is not ours to kill")
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            pytest.fail(f"OpenSearch ended at once: {(self._folder / 'server.log').read_text()[-2000:]}")
        health = f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s"
        try:
            return urllib3.request("GET", health, retries=False, timeout=5).status == 200
        except urllib3.exceptions.HTTPError:
            return False


def opensearch_classes() -> None:
    """See to it that the node's jars are in the cache and its launcher is compiled; skips the test if neither can be.

    Needs Maven and a JDK (17 or later), which are installed if need be and possible.
    """
    if CLASSES.exists():
        return
    if not (shutil.which("mvn") and shutil.which("javac")) and shutil.which("apt-get") and os.geteuid() == 0:
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", "maven", "default-jdk-headless"]):
            command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *arguments]
            subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True)
    if not (shutil.which("mvn") and shutil.which("javac")):
        unavailable("OpenSearch", "needs Maven and a JDK (17 or later), or set CDC_TEST_OPENSEARCH")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        fetch = ["mvn", "-q", "-B", "-f", str(HERE / "opensearch-pom.xml"), "dependency:copy-dependencies"]
        compile_launcher = [
            "javac",
            "-cp",
            f"{folder}/jars/*",
            "-d",
            f"{folder}/jars",
            str(HERE / "OpenSearchNode.java"),
        ]
        for command in ([*fetch, f"-DoutputDirectory={folder}/jars"], compile_launcher):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                unavailable("OpenSearch", (done.stdout + done.stderr).strip()[-500:])
        with suppress(OSError):  # another test run was quicker
            Path(folder, "jars").rename(CLASSES)


@pytest.fixture(scope="session")
def opensearch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSearchServer]:
    """An OpenSearch node: the one of ``CDC_TEST_OPENSEARCH``, or one of our own."""
    url = os.environ.get("CDC_TEST_OPENSEARCH", "")
    if not url:
        opensearch_classes()
    server = OpenSearchServer(tmp_path_factory.mktemp("opensearch"), url=url).start()
    yield server
    server.stop()
