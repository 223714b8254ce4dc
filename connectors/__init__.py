"""Connectors: the bytes of one source database's log, turned into change events."""
