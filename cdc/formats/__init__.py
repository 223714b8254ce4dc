"""Formats: how an envelope and its values are rendered on the log."""
