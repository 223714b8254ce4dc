"""The engine: source to log, log to stores. Knows no database and no store by name."""

__version__ = "0.1.0"
