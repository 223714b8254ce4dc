"""What must never be shown, and the one function that keeps it from being shown.

Every secret that a configuration brings is remembered here, for the life of the process; everything that leaves the
process as text (messages, logs, tracebacks, worker states, not rows) goes through :func:`redact`. Values that are not
known are recognised by their place: a URL's password, ``password=…``.
"""

from __future__ import annotations

import json
import re
from typing import Final
from urllib.parse import quote, unquote, urlsplit

MASK: Final = "***"
SHORTEST: Final = 4
"""Shorter values are not searched for: masking every "a" would hide the message and not the secret."""

REFERENCE_HELP: Final = "write a reference: ${VAR} or ${file:/path}"
SECRET_NAME: Final = re.compile(r"(?i)(^|[._-])(password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key)$")
"""Names of settings whose value is a secret, wherever they stand, pass-through options included."""

_URL_PASSWORD: Final = re.compile(r"(?P<before>://[^\s/:@?#'\"]*:)(?P<password>[^\s/@'\"][^\s'\"]*)(?=@)")
_PARAMETER: Final = re.compile(
    r"(?i)(?P<before>\b(?:ssl)?password\s*=\s*)(?P<password>'(?:[^'\\]|\\.)*'|[^\s&'\"]+)",
)
_SETTING: Final = re.compile(
    r"(?i)(?P<before>[\w.-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key)[\"']?\s*:\s+)"
    r"(?P<password>\$\{[^{}]*\}|\"(?:[^\"\\]|\\.)*\"?|'[^']*'?|[^\s,}\]#][^,}\]#]*)"
)

_PURE_REFERENCE: Final = re.compile(r"\$\{(?:file:[^{}]*|\w+(?::\?[^{}]*)?)\}")

_known: set[str] = set()


class Referenced(str):
    """A string that was written as a reference and nothing else: the only form in which a file may give a secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{MASK}'"


def remember(secret: str) -> None:
    """Mask `secret` from now on, also as it stands in URLs and in JSON, and each of its lines."""
    for line in {secret, *secret.splitlines()}:
        for form in (line, quote(line, safe=""), unquote(line), json.dumps(line)[1:-1], repr(line)[1:-1]):
            if len(form) >= SHORTEST:
                _known.add(form)


def redact(text: str) -> str:
    """`text` without any secret that is known, or recognised as the password of a URL or connection string."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for pattern in (_URL_PASSWORD, _PARAMETER):
        text = pattern.sub(_mask, text)
    return text


def redact_line(line: str) -> str:
    """A line of a configuration file, without what its key says to be a secret even if the file cannot be parsed."""
    return _SETTING.sub(_mask, redact(line))


def inline_password(text: str) -> str | None:
    """The password that stands inside a URL or connection string, None if there is none."""
    if match := _PARAMETER.search(text):
        return match["password"].strip("'")
    if "://" not in text:
        return None
    try:
        return urlsplit(text).password or None
    except ValueError:
        match = _URL_PASSWORD.search(text)
        return match["password"] if match else None


def _mask(match: re.Match[str]) -> str:
    if _PURE_REFERENCE.fullmatch(match["password"].strip("\"' ")):
        return match[0]
    return match["before"] + MASK
