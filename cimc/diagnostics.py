"""Errors a user meets: one clear message each, with location, rule, given value and remedy.

Every error the compiler raises on purpose is a :class:`CimError`. The command line prints
``error: <message>`` and leaves with :attr:`CimError.exit_code`; anything else is an internal
error (70). Exit codes are part of the interface and documented in ``docs/errors.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes of ``cimc``."""

    OK = 0
    UNSUPPORTED = 1
    """The model cannot be compiled, or a comparison failed."""
    USAGE = 2
    """Bad arguments, bad YAML, a bad or mismatching artifact."""
    DOES_NOT_FIT = 3
    """The model needs more of a resource than the machine has."""
    INTERNAL = 70
    INTERRUPTED = 130


class CimError(Exception):
    """A problem the user can act on."""

    exit_code: ExitCode = ExitCode.UNSUPPORTED

    def __init__(self, message: str, *, where: str = ""):
        self.where = where
        self.message = message
        super().__init__(f"{where}: {message}" if where else message)


class UnsupportedError(CimError):
    """The model is malformed or asks for something that cannot be done (exit 1)."""


class MismatchError(CimError):
    """Two levels, or a level and onnxruntime, disagree (exit 1)."""


class UsageError(CimError):
    """Bad arguments, configuration or files (exit 2)."""

    exit_code = ExitCode.USAGE


class DoesNotFitError(CimError):
    """A resource of the machine is too small (exit 3): names resource, need and supply."""

    exit_code = ExitCode.DOES_NOT_FIT


class ErrorList(CimError):
    """Several problems reported together; the exit code is that of the first."""

    def __init__(self, errors: Sequence[CimError]):
        self.errors = tuple(errors)
        self.exit_code = self.errors[0].exit_code
        super().__init__("\n".join(str(e) for e in self.errors))


def raise_all(errors: Sequence[CimError]) -> None:
    """Raise ``errors`` together; return quietly if there are none."""
    if not errors:
        return
    raise errors[0] if len(errors) == 1 else ErrorList(errors)
