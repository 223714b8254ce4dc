"""Sinks: one file per kind of store. A new file here is a new sink type; nothing else changes."""
