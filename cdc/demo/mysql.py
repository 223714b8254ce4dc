"""A MySQL or MariaDB server for the demo: one that is installed, since pip has none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from signal import SIGTERM
from typing import Final

import pymysql

from cdc.demo.database import connect
from cdc.demo.servers import Processes, free_port, nobody, wait
from cdc.errors import ConfigurationError, UnreachableError

PLACES: Final = (*os.get_exec_path(), "/usr/sbin", "/usr/libexec")
"""Where servers are looked for; not every user's PATH has those of an administrator."""


def start_mysql(processes: Processes, folder: Path) -> str:
    """An empty MariaDB or MySQL with a binlog; its URL. Raises ConfigurationError where none is installed."""
    server = _found("mariadbd") or _found("mysqld")
    if server is None:
        raise ConfigurationError(
            "the demo needs MariaDB or MySQL on this machine, and finds neither mariadbd nor mysqld",
            hint="apt-get install mariadb-server; or without SOURCE=mysql: PostgreSQL comes with pip",
        )
    version = subprocess.run([server, "--no-defaults", "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    mariadb = "mariadb" in version.stdout.lower()
    cluster = folder / "mysql"
    cluster.mkdir()
    if user := nobody():
        os.chown(cluster, user["user"], user["group"])
    common = ["--no-defaults", f"--datadir={cluster}", f"--tmpdir={cluster}"]
    if mariadb:
        initialise = [_found("mariadb-install-db") or "mariadb-install-db", *common]
        initialise += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        options = []
    else:
        initialise = [server, *common, "--initialize-insecure"]
        options = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--mysqlx=OFF"]
    if processes.start(initialise, "mysql-init", as_nobody=True).wait() != 0:
        raise UnreachableError("the database was not made", hint=(folder / "mysql-init.log").read_text()[-500:])
    port = free_port()
    options += [
        "--server-id=1",
        "--log-bin=bin",
        "--binlog-format=ROW",
        "--binlog-row-metadata=FULL",
        "--sync-binlog=0",
    ]
    options += [f"--port={port}", "--bind-address=127.0.0.1", "--socket=socket", "--innodb-flush-log-at-trx-commit=0"]
    processes.start([server, *common, *options], "mysql", as_nobody=True, ended_by=SIGTERM)
    url = f"mysql://root@127.0.0.1:{port}"

    def answers() -> bool:
        try:
            connect(url).close()
        except pymysql.OperationalError:
            return False
        return True

    wait(answers, "MariaDB" if mariadb else "MySQL", folder / "mysql.log")
    return url


def _found(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join(PLACES))
