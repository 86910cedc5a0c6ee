"""Damaged models, machine files, mapping files, artifacts, data and dumps: each ends well or in one clear error.

    python -m tools.fuzz --count 2000 --seed 0

Every case runs in a process of its own with 30 seconds and 4 GiB beyond what the tool itself holds. A traceback, a
crash, a hang or running out of memory is a failure; failing inputs are kept in ``--keep`` and the command exits 1.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from cimc.diagnostics import CimError
from tools.fuzz_cases import Cases

SECONDS, BYTES = 30, 4 << 30
"""What a case may take."""

OK, REFUSED, BROKEN = 0, 1, 99
"""Exit codes of a case's process; a signal's number, negated, when it was killed."""


@dataclass(frozen=True)
class End:
    """How a case ended, how long it ran and the most memory its process held."""

    code: int
    seconds: float
    peak_bytes: int


def run_case(case: Callable[[], object]) -> End:
    """Run a case in a process of its own and return how it ended."""
    started = time.monotonic()
    child = os.fork()
    if child:
        _, status, used = os.wait4(child, 0)
        peak = used.ru_maxrss * 1024  # kibibytes on Linux
        return End(os.waitstatus_to_exitcode(status), time.monotonic() - started, peak)
    code = BROKEN
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a handler in Python would wait for C code to end
        signal.alarm(SECONDS)
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + BYTES, held + BYTES))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case()
        code = OK
    except CimError as error:
        code = REFUSED if str(error).strip() and "Traceback" not in str(error) else BROKEN
    except BaseException:  # whatever else comes out is what this command looks for
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


@click.command()
@click.option("--count", default=2000, help="Cases in all.")
@click.option(
    "--first",
    default=0,
    help="Number of the first case: runs of 0 to 999 and of 1000 to 1999 are one of 2000.",
)
@click.option("--seed", default=0, help="Seed of the damage.")
@click.option("--kind", default=None, help="Only cases of this kind.")
@click.option(
    "--keep", type=click.Path(path_type=Path), default=Path("out/fuzz"), help="Folder of failing inputs."
)
def main(count: int, first: int, seed: int, kind: str | None, keep: Path) -> None:
    """Damage inputs and report how each case ended."""
    ends: Counter[tuple[str, str]] = Counter()
    longest: Counter[str] = Counter()
    largest: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cases = Cases.prepared(Path(folder))
        kinds = [made for made in cases.kinds() if kind in (None, made.__name__)]
        if not kinds:
            raise click.UsageError(
                f"no kind '{kind}'; there are {', '.join(k.__name__ for k in cases.kinds())}"
            )
        for number in range(first, first + count):
            make = kinds[number % len(kinds)]
            work = Path(folder) / "case"
            work.mkdir()
            end = run_case(make(work, np.random.default_rng((seed, number))))
            name = make.__name__
            word = {OK: "accepted", REFUSED: "refused"}.get(end.code, "failed")
            ends[name, word] += 1
            longest[name] = max(longest[name], round(end.seconds * 1000))
            largest[name] = max(largest[name], end.peak_bytes >> 20)
            if word == "failed":
                failures.append(f"case {number} ({name}): exit {end.code} after {end.seconds:.1f} s")
                print(failures[-1], file=sys.stderr, flush=True)
                shutil.copytree(work, keep / str(number), dirs_exist_ok=True)
            shutil.rmtree(work)
            if (number + 1 - first) % 100 == 0:
                print(f"{number + 1 - first} of {count} cases", file=sys.stderr, flush=True)
    print(f"{'kind':16} {'accepted':>8} {'refused':>8} {'failed':>8} {'longest s':>10} {'largest MiB':>12}")
    for name in sorted(longest):
        counts = " ".join(f"{ends[name, word]:8}" for word in ("accepted", "refused", "failed"))
        print(f"{name:16} {counts} {longest[name] / 1000:10.1f} {largest[name]:12}")
    print(f"{count} cases, {len(failures)} failed")
    for line in failures:
        print(f"  {line}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
