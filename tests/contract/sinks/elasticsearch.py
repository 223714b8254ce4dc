"""Elasticsearch, held to the sink contract: another server behind the sink for OpenSearch."""

from __future__ import annotations

from tests.contract.sinks.opensearch import OpenSearchStore


class ElasticsearchStore(OpenSearchStore):
    """One node for all tests; the pipeline's indices are deleted for each."""

    fixture = "elasticsearch"


STORE = ElasticsearchStore
