"""For how long MySQL and MariaDB keep their binlogs."""

from __future__ import annotations

import pytest

from connectors.mysql.settings import retention

MIB = 1 << 20


@pytest.mark.parametrize(
    ("variables", "rate", "seconds"),
    [
        ({"binlog_expire_logs_seconds": "2592000"}, 0, 2_592_000),
        ({"binlog_expire_logs_seconds": "0"}, 5, None),
        ({"binlog_expire_logs_seconds": "0", "expire_logs_days": "7"}, 0, 604_800),
        ({"binlog_expire_logs_seconds": "86400", "expire_logs_days": "1.000000"}, 0, 86_400),
        ({"binlog_expire_logs_seconds": "86400", "binlog_expire_logs_auto_purge": "OFF"}, 0, None),
        ({"binlog_expire_logs_seconds": "0", "max_binlog_total_size": str(11 * MIB)}, MIB, 10),
        ({"binlog_expire_logs_seconds": "0", "max_binlog_total_size": str(11 * MIB)}, 0, None),
        ({"binlog_expire_logs_seconds": "4", "max_binlog_total_size": str(11 * MIB)}, MIB, 4),
        ({"binlog_expire_logs_seconds": "400", "max_binlog_total_size": str(11 * MIB)}, MIB, 10),
        ({"binlog_expire_logs_seconds": "400", "max_binlog_total_size": "1"}, MIB, 0),
    ],
)
def test_retention(variables: dict[str, str], rate: float, seconds: float | None) -> None:
    assert retention({"max_binlog_size": str(MIB), **variables}, rate) == seconds
