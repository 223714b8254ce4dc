"""MySQL and MariaDB: how fast a backlog goes to the log, beside mysql-replication that merely decodes the same binlog,
beside PostgreSQL's capture of the same rows, and for the record beside ``mariadb-binlog``, which merely copies it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from tests.bench import check, drain, orders, reference, workload
from tests.bench.measure import Measure
from tests.bench.reference import Cost
from tests.bench.stage import ROOT, Spent, Stage
from tests.servers.mariadb import MariaDbServer

SERVERS = ("mariadb", "mysql")
LOGS = ("kafka", "embedded")
AGAINST_DECODING = (4.0, 6.0)
AGAINST_POSTGRES = (0.8, 1.0)

Write = Callable[[MariaDbServer, int], Mapping[str, int]]


def drained(stage: Stage, kind: str, logs: Collection[str], write: Write, changes: int) -> dict[str, list[Spent]]:
    """Ours, by log, with a backlog that `write` makes; what is on the log is compared with the table each time."""
    server = stage.binlog_server(kind)
    orders.create(server)
    repeats = stage.sizes.repeats
    files = {log: [stage.binlog_pipeline(server, log) for _ in range(repeats)] for log in logs}
    for file in (file for of_log in files.values() for file in of_log):
        stage.capture(file)
    counts = write(server, changes)
    runs: dict[str, list[Spent]] = {log: [] for log in logs}
    for number in range(repeats):
        for log in logs:
            file = files[log][number]
            spent = stage.capture(file)
            stage.say(f"{kind}, {log}: {changes / spent.seconds:,.0f} changes/s, {spent.peak_mb:.0f} MB")
            check.log_holds(stage.load(file), server, counts, orders)
            stage.remove(file)
            runs[log].append(spent)
    return runs


def _decoded(stage: Stage, server: MariaDbServer, place: tuple[str, int], changes: int) -> float:
    """Seconds that mysql-replication takes for the backlog that begins at `place`."""
    command = [sys.executable, "-m", "tests.bench.replication", server.url, place[0], str(place[1])]
    done = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout)
    assert done["rows"] == changes, f"mysql-replication decoded {done['rows']} of {changes} rows"
    stage.say(f"{server.name}: mysql-replication decodes {changes / done['seconds']:,.0f} rows/s")
    return float(done["seconds"])


def _copied(stage: Stage, server: MariaDbServer, file: str) -> Cost:
    """What ``mariadb-binlog`` takes to write the binlog from `file` on to files of its own, as it comes."""
    program = shutil.which("mariadb-binlog") or "mariadb-binlog"
    url = urlsplit(server.url)
    with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
        cost = reference.run(
            [
                program, "--no-defaults", "--read-from-remote-server", "--raw", "--to-last-log",
                f"--result-file={folder}/", f"--host={url.hostname}", f"--port={url.port}", f"--user={url.username}",
                "--protocol=TCP", "--skip-ssl", file,
            ]
        )  # fmt: skip
        copied = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
    name, size = _end(server)
    assert file in copied
    assert copied[name] == size, f"mariadb-binlog copied {copied[name]} of {size} bytes of {name}"
    return cost


def _of_copying(
    name: str, ours: float, raw: Mapping[str, object], copies: list[Cost], changes: int
) -> Iterator[Measure]:
    """Our rate by that of ``mariadb-binlog``, where it ran."""
    if copies:
        copying = median(cost.seconds for cost in copies)
        theirs = {"changes/s": [changes / cost.seconds for cost in copies]}
        yield Measure(f"{name}_raw", copying / ours, "of mariadb-binlog --raw", None, None, False, raw, theirs)


def _end(server: MariaDbServer) -> tuple[str, int]:
    row = server.execute("SHOW BINARY LOG STATUS" if server.name == "MySQL" else "SHOW MASTER STATUS")[0]
    return str(row[0]), int(row[1])


def measures(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """The drain of a mixed backlog, on each server into each log."""
    changes = stage.sizes.changes
    pairs = [(kind, log) for kind in SERVERS for log in LOGS if f"{kind}_drain_{log}" in wanted]
    logs = list(dict.fromkeys(log for _, log in pairs))
    made = drain.backlog(stage, logs, stage.sizes.repeats, lambda db: workload.mixed(db, changes))
    postgres = drain.drain(stage, "mixed, PostgreSQL", made)
    found = []
    for kind in dict.fromkeys(kind for kind, _ in pairs):
        server = stage.binlog_server(kind)
        began: list[tuple[str, int]] = []

        def write(server: MariaDbServer, changes: int, began: list[tuple[str, int]] = began) -> Mapping[str, int]:
            began.append(_end(server))
            return orders.mixed(server, changes)

        runs = drained(stage, kind, [log for one, log in pairs if one == kind], write, changes)
        decoding = _decoded(stage, server, began[0], changes)
        copying = range(stage.sizes.repeats if kind == "mariadb" else 0)
        copies = [_copied(stage, server, began[0][0]) for _ in copying]
        for log, spent in runs.items():
            ours = median(run.seconds for run in spent)
            theirs = median(run.seconds for run in postgres.ours[log])
            raw = {
                "changes/s": [changes / run.seconds for run in spent],
                "CPU s per million": [run.cpu / changes * 1e6 for run in spent],
                "peak MB": [run.peak_mb for run in spent],
            }
            decoded, captured = {"rows/s": changes / decoding}, {"changes/s": changes / theirs}
            name = f"{kind}_drain_{log}"
            found += [
                Measure(name, decoding / ours, "x mysql-replication", *AGAINST_DECODING, False, raw, decoded),
                Measure(f"{name}_pg", theirs / ours, "of PostgreSQL's", *AGAINST_POSTGRES, False, raw, captured),
                *_of_copying(name, ours, raw, copies, changes),
                Measure(f"{kind}_memory_{log}", max(raw["peak MB"]), "MB", *drain.MEMORY_MB, True, raw),
            ]
    return found


def shapes(stage: Stage, wanted: Collection[str]) -> list[Measure]:
    """A million rows in one transaction, plain and compressed: memory; one-row transactions, for the record."""
    found = []
    for name in (name for name in SHAPES if name in wanted):
        kind, write, changes = SHAPES[name]
        many = changes(stage)
        [spent, *_] = drained(stage, kind, ["embedded"], write, many)["embedded"]
        raw = {"changes/s": many / spent.seconds, "peak MB": spent.peak_mb}
        found.append(Measure(f"{name}_memory", spent.peak_mb, "MB", *drain.MEMORY_MB, True, raw))
    return found


SHAPES: dict[str, tuple[str, Write, Callable[[Stage], int]]] = {
    "mariadb_bulk": ("mariadb", orders.bulk, lambda stage: stage.sizes.changes),
    "mysql_bulk": ("mysql", orders.bulk, lambda stage: stage.sizes.changes),
    "mysql_compressed": ("mysql", orders.compressed, lambda stage: stage.sizes.changes),
    "mariadb_one_by_one": ("mariadb", orders.one_by_one, lambda stage: stage.sizes.one_by_one),
    "mysql_one_by_one": ("mysql", orders.one_by_one, lambda stage: stage.sizes.one_by_one),
}
