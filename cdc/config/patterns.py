"""Patterns of names: ``public.*``, ``!public.outbox``. Case matters; ``*``, ``?`` and ``[…]`` as in a shell."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from typing import Final

_WILD: Final = set("*?[")


def is_literal(pattern: str) -> bool:
    """Whether the pattern names exactly one table."""
    return not _WILD & set(pattern)


def included(patterns: Iterable[str]) -> list[str]:
    """The patterns that let names in; all names, where there are only patterns that keep names out."""
    patterns = list(patterns)
    return [pattern for pattern in patterns if not pattern.startswith("!")] or (["*"] if patterns else [])


def excluded(patterns: Iterable[str]) -> list[str]:
    """The patterns that keep names out, without their ``!``."""
    return [pattern[1:] for pattern in patterns if pattern.startswith("!")]


def selects(patterns: Iterable[str], name: str) -> bool:
    """Whether some pattern lets `name` in and none keeps it out. The order of patterns does not matter."""
    patterns = list(patterns)
    return any(fnmatchcase(name, pattern) for pattern in included(patterns)) and not any(
        fnmatchcase(name, pattern) for pattern in excluded(patterns)
    )


def meet(one: str, other: str) -> bool:
    """Whether some name could match both patterns."""

    @cache
    def rest(i: int, j: int) -> bool:
        if i == len(left) and j == len(right):
            return True
        if i < len(left) and left[i] == "*":
            return rest(i + 1, j) or (j < len(right) and rest(i, j + 1))
        if j < len(right) and right[j] == "*":
            return rest(i, j + 1) or (i < len(left) and rest(i + 1, j))
        if i == len(left) or j == len(right):
            return False
        return _share(left[i], right[j]) and rest(i + 1, j + 1)

    left, right = _parts(one), _parts(other)
    return rest(0, 0)


def _parts(pattern: str) -> list[str]:
    """One element per character, ``*``, ``?`` or ``[…]``."""
    parts: list[str] = []
    while pattern:
        end = pattern.find("]", 2) + 1 if pattern.startswith("[") else 0
        length = end or 1
        parts.append(pattern[:length])
        pattern = pattern[length:]
    return parts


def _share(one: str, other: str) -> bool:
    """Whether a character could match both elements; two classes are taken to share one."""
    if len(one) == 1 and one != "?":
        return fnmatchcase(one, other)
    if len(other) == 1 and other != "?":
        return fnmatchcase(other, one)
    return True
