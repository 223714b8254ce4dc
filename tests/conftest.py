"""Fixtures live beside what they start: one module per server."""

pytest_plugins = [
    "tests.servers.postgres",
    "tests.servers.kafka",
    "tests.servers.mariadb",
    "tests.servers.mysql",
    "tests.servers.mysql56",
    "tests.servers.opensearch",
    "tests.servers.elasticsearch",
    "tests.servers.redis",
]
