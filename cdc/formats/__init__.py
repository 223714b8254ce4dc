"""How rows and envelopes are rendered on the log, and what a format hands to the generator of hot-path functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of generated code: a Python expression over the variable ``v``, and the objects its names stand for.

    A connector's fragment turns wire bytes into the native form of a logical type, a format's fragment turns that into
    rendered bytes:

    =====================================================  =======================================
    kind                                                   native form
    =====================================================  =======================================
    ``boolean``                                            ``bool``
    integers, decimal, floats, uuid, temporal              ASCII bytes of the canonical text
    ``string json enum other bits coordinates ewkb``       UTF-8 bytes
    ``bytes geometry point``                               the raw bytes
    ``array``                                              list of canonical values
    =====================================================  =======================================
    """

    expression: str
    names: Mapping[str, object] = field(default_factory=dict)
    number: bool = False
    """The result is an ``int``, not its text: where nothing else is made of it, the row's template prints it."""
    quoted: bool = False
    """The result lacks the quotes around it: where a column is never null, they are part of the row's template."""
