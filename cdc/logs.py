"""Logging: events with fields, to stderr; ``key=value`` on a terminal, JSON elsewhere. Nothing secret gets through."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from cdc.config.secrets import redact

SCREEN: Final = "CDC_SCREEN"
"""Environment variable by which ``cdc run`` tells its workers that it shows their lines on a terminal itself."""


def on_screen() -> bool:
    """Whether what is logged here goes through the screen of ``cdc run``."""
    return SCREEN in os.environ


def configure(*, colours: bool = True) -> None:
    """Set up logging for this process; the standard library's loggers (drivers use them) join in from warnings on."""
    terminal = sys.stderr.isatty()
    renderer: Any = terminal_renderer(colours) if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
            structlog.processors.format_exc_info,
            _redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward()], force=True)


def terminal_renderer(colours: bool) -> structlog.dev.ConsoleRenderer:
    """Turns an event into a line for people."""
    return structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)


def _redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Every field as text that has passed :func:`redact`; numbers and the like stay what they are."""
    for key, value in event.items():
        if not isinstance(value, (int, float, type(None))):
            event[key] = redact(value if isinstance(value, str) else str(value))
    return event


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)
