"""``cimc``: the commands, and what becomes of every error (``docs/errors.md``)."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from errno import (
    EACCES,
    EDQUOT,
    EEXIST,
    EFBIG,
    EISDIR,
    ELOOP,
    ENAMETOOLONG,
    ENOSPC,
    ENOTDIR,
    EPERM,
    EROFS,
)
from typing import NoReturn

import click

from cimc import __version__
from cimc.cli.arch import arch
from cimc.cli.backends import backends
from cimc.cli.check import check
from cimc.cli.compile import compile
from cimc.cli.device import device
from cimc.cli.diff import diff
from cimc.cli.disasm import disasm
from cimc.cli.eval import evaluate
from cimc.cli.models import models
from cimc.cli.output import Names, error, print_warning
from cimc.cli.report import report
from cimc.cli.reproducer import write_reproducer
from cimc.cli.run import run
from cimc.cli.simulate import simulate
from cimc.cli.verify import verify
from cimc.diagnostics import CimError, ErrorList, ExitCode
from cimc.garbage import no_collection_at_exit

_BROKEN_PIPE = 128 + signal.SIGPIPE
"""What a shell reports for a program that the signal ended: the reader of our output went away."""

_ENVIRONMENT = frozenset(
    {EACCES, EPERM, EROFS, ENOSPC, EDQUOT, EFBIG, EEXIST, ENOTDIR, EISDIR, ENAMETOOLONG, ELOOP}
)
"""What a file system refuses for reasons of its owner: not a fault of the program."""

HELP = """Compile neural networks for computing-in-memory accelerators, run and time the result.

Exit codes: 0 ok, 1 unsupported model or mismatch, 2 usage or configuration, 3 does not fit the machine,
70 internal error, 130 interrupted.
"""


@click.group(cls=Names, help=HELP, invoke_without_command=True)
@click.version_option(__version__, prog_name="cimc", message="%(prog)s %(version)s")
@click.pass_context
def cimc(ctx: click.Context) -> None:
    """Print the help and leave with 2 when no command is given."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(ExitCode.USAGE)


for _command in (
    compile,
    check,
    run,
    verify,
    simulate,
    evaluate,
    report,
    diff,
    disasm,
    arch,
    device,
    backends,
    models,
):
    cimc.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``cimc`` with ``arguments`` (default: those of the process) and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    no_collection_at_exit()
    with _warnings_on_stderr(), _interrupts() as interrupts:
        code = _run(given, interrupts)
    sys.exit(int(code))


_AGAIN_S = 0.01
"""Until an interrupt that Python had to drop is raised again."""


class _Interrupts:
    """Handler of Ctrl-C that remembers it: a library may turn the exception into an error of its own."""

    came = False

    def __call__(self, number: int, frame: object) -> None:
        self.came = True
        raise KeyboardInterrupt

    def dropped(self, problem: sys.UnraisableHookArgs) -> None:
        """What is raised in a destructor or a callback of native code goes nowhere: interrupt again, outside of it."""
        if problem.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(problem)
            return
        main = threading.main_thread().ident
        assert main is not None
        again = threading.Timer(_AGAIN_S, signal.pthread_kill, (main, signal.SIGINT))
        again.daemon = True
        again.start()


@contextmanager
def _interrupts() -> Generator[_Interrupts]:
    """Our handler in the place of Python's; none where there is another, or outside the main thread."""
    interrupts = _Interrupts()
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupts)
    hook, sys.unraisablehook = sys.unraisablehook, interrupts.dropped
    try:
        yield interrupts
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _run(arguments: list[str], interrupts: _Interrupts) -> int:
    try:
        # Not cimc.main(): it takes interrupts and closed pipes into its own hands.
        with cimc.make_context("cimc", arguments) as ctx:
            cimc.invoke(ctx)
        sys.stdout.flush()
        return ExitCode.OK
    except click.exceptions.Exit as left:
        return left.exit_code
    except click.ClickException as problem:
        error(_click_message(problem))
        return ExitCode.USAGE
    except CimError as problem:
        if interrupts.came:
            error("interrupted")
            return ExitCode.INTERRUPTED
        _print_error(problem)
        return problem.exit_code
    except (click.Abort, KeyboardInterrupt):
        error("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit; nobody reads it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except MemoryError as problem:
        error(f"this computer has too little memory: {problem or 'no more to be had'}; ask for less at once")
        return ExitCode.USAGE
    except OSError as problem:
        if problem.errno not in _ENVIRONMENT:
            return _internal(problem, arguments)
        error(f"{problem.filename or 'writing'}: {problem.strerror}")
        return ExitCode.USAGE
    except (
        Exception
    ) as problem:  # the last net: any fault of ours leaves with 70 and a reproducer, never a traceback
        if interrupts.came:
            error("interrupted")
            return ExitCode.INTERRUPTED
        return _internal(problem, arguments)


def _print_error(problem: CimError) -> None:
    for one in problem.errors if isinstance(problem, ErrorList) else (problem,):
        if isinstance(one, ErrorList):
            _print_error(one)
        else:
            error(str(one))


def _click_message(problem: click.ClickException) -> str:
    """One line in our format, with the command that was meant."""
    text = " ".join(problem.format_message().split()).rstrip(".!")
    ctx = problem.ctx if isinstance(problem, click.UsageError) else None
    path = ctx.command_path if ctx is not None else "cimc"
    joint = "" if text.endswith("?") else ";"
    return f"{path}: {text[:1].lower()}{text[1:]}{joint} see '{path} --help'"


def _internal(problem: Exception, arguments: list[str]) -> int:
    """A fault of ours: one line, and a folder that shows it again."""
    if os.environ.get("CIMC_TRACEBACK") == "1":
        raise problem
    first = (str(problem).strip().splitlines() or [""])[0]
    kind = type(problem)
    ours = kind.__module__.startswith("cimc.")  # says itself what failed, and where the last good IR is
    said = first if ours and first else f"{kind.__name__}: {first}" if first else kind.__name__
    folder = write_reproducer(problem, arguments)
    where = f"report it with the folder {folder}" if folder else "no folder could be written to reproduce it"
    error(f"internal error: {said}; {where} (CIMC_TRACEBACK=1 shows the traceback)")
    return ExitCode.INTERNAL


@contextmanager
def _warnings_on_stderr() -> Generator[None]:
    """Warnings of this package as ``warning: ...``; those that libraries address to programmers are dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("once", category=UserWarning)
        warnings.showwarning = print_warning
        yield
