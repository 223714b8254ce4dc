"""Every error that leaves a part of the service, and what the rest does about it.

Three classes decide what happens next (design, "Delivery" 5): *transient* errors are retried for ever with backoff,
*permanent* ones stop the worker as ``failed``, a *gap* stops it as ``needs_snapshot`` because going on would lose rows
silently. Each error says what happened and, in `hint`, what to do next: the SQL or the command. Messages never
contain secrets or row values.
"""

from __future__ import annotations


class CdcError(Exception):
    """What happened (first line) and what to do next (`hint`).

    Base of everything that is raised on purpose; an exception that is not a CdcError is a bug and stops the worker.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message}\n  -> {self.hint}" if self.hint else message


class TransientError(CdcError):
    """May succeed unchanged later: a server restarts, a network is down. Retried with backoff."""


class UnreachableError(TransientError):
    """A server does not answer or refuses the connection. Transient for a worker; exit code 3 for a command."""

    exit_code = 3


class RebalancingError(TransientError):
    """A consumer group is sharing out its partitions anew: what is still assigned after a poll can be committed."""


class PermanentError(CdcError):
    """Will not succeed however often it is tried: something must be changed first."""


class ConfigurationError(PermanentError):
    """The configuration cannot work; the message has file:line:column where one is known."""

    exit_code = 2


class GapError(CdcError):
    """History is missing or may have forked between the stored position and what the server can still send.

    The worker stops as ``needs_snapshot``; `hint` names the command that mends it.
    """

    exit_code = 6


class FencedError(CdcError):
    """Another process owns this role now; this one must stop writing at once."""


class DecodeError(PermanentError):
    """Bytes that are not what the protocol allows. The only error that a decoder raises, whatever the bytes."""
