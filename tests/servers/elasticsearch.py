"""A real Elasticsearch node, from the jars on Maven Central: the core, without the modules that are not there.

What it lacks: ``GET /``, painless, reindex and update by query, further analyzers, security. The sink needs none of
them but the first, which only ``validate --connect`` asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.opensearch import OpenSearchServer, fetch

_DESCRIPTOR = """\
name=transport-netty4
description=HTTP and transport
version=8.19.0
elasticsearch.version=8.19.0
java.version=17
classname=org.elasticsearch.transport.netty4.Netty4Plugin
extended.plugins=
has.native.controller=false
"""


class ElasticsearchServer(OpenSearchServer):
    """A node on 127.0.0.1, as :class:`OpenSearchServer`."""

    product = "Elasticsearch"


def _arrange(jars: Path) -> None:
    """Make netty's jars a module, for the node finds its HTTP server only there."""
    module = jars / "modules" / "transport-netty4"
    module.mkdir(parents=True)
    for pattern in ("netty-*.jar", "transport-netty4-*.jar"):
        for jar in jars.glob(pattern):
            jar.rename(module / jar.name)
    (module / "plugin-descriptor.properties").write_text(_DESCRIPTOR)


@pytest.fixture(scope="session")
def elasticsearch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticsearchServer]:
    """An Elasticsearch node: the one of ``CDC_TEST_ELASTICSEARCH``, or one of our own."""
    url = os.environ.get("CDC_TEST_ELASTICSEARCH", "")
    if not url:
        fetch(ElasticsearchServer, _arrange)
    server = ElasticsearchServer(tmp_path_factory.mktemp("elasticsearch"), url=url).start()
    yield server
    server.stop()
