"""A real Kafka broker (KRaft, one node): its jars come through Maven, it needs Java 17 or newer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.servers import CACHE, apt, free_port, start, stop, unavailable, wait_until

HERE = Path(__file__).parent


def kafka_jars() -> Path:
    """The folder with the broker's jars; fetched once."""
    why = "" if shutil.which("java") and shutil.which("mvn") else apt.install("maven", "default-jdk-headless")
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            unavailable("Kafka", f"{tool} is not installed; or set CDC_TEST_KAFKA=host:port{why}")
    pom = HERE / "kafka.pom.xml"
    jars = CACHE / f"kafka-{uuid.uuid5(uuid.NAMESPACE_OID, pom.read_text()).hex[:8]}"
    if not jars.exists():
        draft = jars.with_name(f"{jars.name}.{os.getpid()}")
        command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={draft}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            unavailable("Kafka", f"Maven could not fetch its jars: {done.stdout[-500:]}")
        try:
            draft.rename(jars)
        except OSError:  # another test process was faster
            shutil.rmtree(draft)
    return jars


class Broker:
    """A broker in `folder`, stopped at the end of the ``with`` block; its data outlive `kill` and `stop`."""

    def __init__(self, folder: Path, *, long_lived: bool = False) -> None:
        """`long_lived`: Java compiles what runs often once more, which costs a core for a minute and then pays."""
        self._folder = folder
        self._compiler = [] if long_lived else ["-XX:TieredStopAtLevel=1"]
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.bootstrap = f"127.0.0.1:{self._port}"

    def __enter__(self) -> Broker:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._properties = self._folder / "server.properties"
        template = Template((HERE / "kafka.properties").read_text())
        settings = {"port": self._port, "controller": free_port(), "folder": self._folder / "data"}
        self._properties.write_text(template.substitute(settings))
        self._java = ["java", "-Xmx384m", "-cp", f"{kafka_jars()}/*"]
        format_storage = [*self._java, "kafka.tools.StorageTool", "format", "-t", "3kGMbMAKRhGKdM7wAGUa2Q"]
        try:
            subprocess.run([*format_storage, "-c", str(self._properties)], check=True, capture_output=True)
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The broker's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start on the data that are there; returns when clients are answered."""
        options = ["-Xlog:disable", f"-Dlog4j2.configurationFile={HERE / 'kafka.log4j2.properties'}"]
        command = [*self._java, *self._compiler, *options, "kafka.Kafka", str(self._properties)]
        self._process = start(command, self._folder / "broker.log")
        wait_until(self._answers, what="Kafka's start")

    def stop(self) -> None:
        """Clean shutdown."""
        if self._process is not None:
            stop(self._process)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def pause(self) -> None:
        """Stop answering without closing a connection (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"Kafka did not start: {(self._folder / 'broker.log').read_text()[-2000:]}")
        try:
            client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            return bool(client.list_topics(timeout=1).brokers)
        except KafkaException:
            return False


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of a broker. Mark the module with ``xdist_group("kafka")``, so that one is started only."""
    if address := os.environ.get("CDC_TEST_KAFKA"):
        yield address
        return
    with Broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.bootstrap
