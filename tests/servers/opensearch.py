"""A real OpenSearch node, from the jars on Maven Central."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import pytest
import urllib3

from tests.servers import CACHE, apt, free_port, start, stop, unavailable, wait_until

HERE = Path(__file__).parent
HEAP = "512m"
ARCHIVE = "node.jsa"


def node_jars(product: str) -> Path:
    """The folder in the cache for the product's jars, its launcher's among them."""
    sources = HERE / f"{product.lower()}-pom.xml", HERE / f"{product}Node.java"
    content = b"".join(path.read_bytes() for path in sources)
    return CACHE / f"{product.lower()}-node-{sha256(content).hexdigest()[:12]}"


class OpenSearchServer:
    """A node on 127.0.0.1 whose indices lie in `folder`: what it acknowledged survives `kill`.

    `settings` are the node's own, for example ``http.max_content_length=1mb``. With `url` it is somebody else's, which
    is neither started nor ended: a test that wants that is skipped. Its code is hardly compiled, since most tests end
    before that pays; `fast` is for measurements.
    """

    product: ClassVar[str] = "OpenSearch"

    def __init__(self, folder: Path, *settings: str, url: str = "", fast: bool = False) -> None:
        self._folder = folder
        self._settings = settings
        self._port = free_port()
        self.url = url or f"http://127.0.0.1:{self._port}"
        self._theirs = bool(url)
        self._fast = fast
        self._sharing = [f"-XX:SharedArchiveFile={node_jars(self.product) / ARCHIVE}"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> OpenSearchServer:
        """Start it if it does not run, on the same port and files as before, and wait until it takes writes."""
        if not self._theirs and (self._process is None or self._process.poll() is not None):
            java = ["java", f"-Xms{HEAP}", f"-Xmx{HEAP}", *([] if self._fast else ["-XX:TieredStopAtLevel=1"])]
            java += [*self._sharing, "-cp", f"{node_jars(self.product)}/*", f"{self.product}Node"]
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

    @classmethod
    def archive(cls) -> None:
        """Have the classes that a node loads kept in a file, from which it starts at half the cost."""
        archive = node_jars(cls.product) / ARCHIVE
        draft = archive.with_name(f"{ARCHIVE}.{os.getpid()}")
        with tempfile.TemporaryDirectory() as folder:
            server = cls(Path(folder))
            server._sharing = [f"-XX:ArchiveClassesAtExit={draft}", "-Xlog:cds=off"]
            server.start()
            assert server._process is not None
            stop(server._process, seconds=120)  # it writes the file at its end
        draft.rename(archive)

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            pytest.fail(f"{self.product} ended at once: {(self._folder / 'server.log').read_text()[-2000:]}")
        health = f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s"
        try:
            return urllib3.request("GET", health, retries=False, timeout=5).status == 200
        except urllib3.exceptions.HTTPError:
            return False


def opensearch_classes() -> None:
    """See to it that the node's jars are in the cache."""
    fetch(OpenSearchServer)


def fetch(kind: type[OpenSearchServer], arrange: Callable[[Path], None] | None = None) -> None:
    """Fetch the jars and compile the launcher, unless they are there; `arrange` is done to the jars' folder.

    Needs Maven and a JDK (17 or later), which are installed if need be and possible; otherwise the test is skipped.
    """
    product = kind.product
    if node_jars(product).exists():
        return
    why = "" if shutil.which("mvn") and shutil.which("javac") else apt.install("maven", "default-jdk-headless")
    if not (shutil.which("mvn") and shutil.which("javac")):
        unavailable(product, f"needs Maven and a JDK (17 or later), or set CDC_TEST_{product.upper()}{why}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        jars, classes = Path(folder, "jars"), Path(folder, "classes")
        pom = HERE / f"{product.lower()}-pom.xml"
        copy = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        compile_launcher = ["javac", "-cp", f"{jars}/*", "-d", str(classes), str(HERE / f"{product}Node.java")]
        for command in (copy, compile_launcher):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                unavailable(product, (done.stdout + done.stderr).strip()[-500:])
        with zipfile.ZipFile(jars / "node.jar", "w") as jar:
            for path in classes.iterdir():
                jar.write(path, path.name)
        if arrange is not None:
            arrange(jars)
        with suppress(OSError):  # another test run was quicker
            jars.rename(node_jars(product))
            kind.archive()


@pytest.fixture(scope="session")
def opensearch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSearchServer]:
    """An OpenSearch node: the one of ``CDC_TEST_OPENSEARCH``, or one of our own."""
    url = os.environ.get("CDC_TEST_OPENSEARCH", "")
    if not url:
        opensearch_classes()
    server = OpenSearchServer(tmp_path_factory.mktemp("opensearch"), url=url).start()
    yield server
    server.stop()
