"""Peak power with the arrays staggered, against the same program with every block of reads as early as its data allow.

    python -m tools.peak_power                       # ResNet-18 on puma and isaac, ResNet-101 on isaac
    python -m tools.peak_power resnet-50 puma

Copies, placement and network are the same: the staggered program is the compiled one with a limit on the power that
arrays draw at once (runtime/cycle/stagger.py). Peak: largest mean over a window of one array read. Figures are without
static power, which no schedule changes. For one image the run is its latency; for eight, their throughput.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import cimc
from cimc import models
from cimc.runtime.cycle.stagger import Staggered, stagger, static_mw
from cimc.runtime.verifier import verify_program

PAIRS = (("resnet-18", "puma"), ("resnet-18", "isaac"), ("resnet-101", "isaac"))
STREAM = 8
GOALS = {"puma": 0.75, "isaac": 0.85}
"""Reductions aimed at; or 90 % of what energy over time permits."""


def report(network: str, machine: str, images: int, found: Staggered) -> str:
    """A row of the table; powers in mW without static power."""
    static = static_mw(found.program)
    peak, lower = found.before.peak_power_mw - static, found.after.peak_power_mw - static
    mean = float(found.before.power_mw.mean()) - static
    reached, permitted = 1 - lower / peak, 1 - mean / peak
    goal = min(GOALS.get(machine, 1.0), 0.9 * permitted)
    longer = found.after.cycles / found.before.cycles - 1
    limit = "none" if found.limit_mw is None else f"{found.limit_mw:.0f}"
    return (
        f"{network:12} {machine:8} {images:6} {peak:10.0f} {lower:10.0f} {mean:8.0f} {limit:>8} {reached:8.1%} "
        f"{permitted:9.1%} {goal:7.1%} {'met' if reached >= goal else 'missed':7} {longer:+7.2%} "
        f"{static:8.0f}"
    )


def main(arguments: list[str]) -> int:
    """Print the rows of one network and machine, or of all; 1 where a staggered program breaks a rule."""
    if len(arguments) not in (0, 2):
        print("usage: python -m tools.peak_power [NETWORK MACHINE]", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # calibration on random images changes no time
    pairs = PAIRS if not arguments else ((arguments[0], arguments[1]),)
    print(
        f"{'network':12} {'machine':8} {'images':>6} {'peak mW':>10} {'staggered':>10} {'mean':>8} {'limit':>8} "
        f"{'lower by':>8} {'permitted':>9} {'goal':>7} {'':7} {'time':>7} {'static':>8}"
    )
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        for network, machine in pairs:
            path = Path(folder, f"{network}.onnx")
            if not path.exists():
                models.export_onnx(network, path)
            program = cimc.compile(path, machine).program
            for images in (1, STREAM):
                found = stagger(program, images=images)
                print(report(network, machine, images, found), flush=True)
                for finding in verify_program(found.program):
                    print(finding)
                    broken = 1
    return broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
