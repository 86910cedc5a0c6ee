"""Peak power with the arrays staggered, against the same program with every block of reads as early as its data allow.

    python -m tools.peak_power                       # ResNet-18 on puma and isaac, ResNet-101 on isaac
    python -m tools.peak_power resnet-50 puma        # one network on one machine
    python -m tools.peak_power resnet-18 puma 1 32   # for these numbers of images

Copies, placement and network are the same: the staggered program is the one that ``cimc compile --stagger`` makes
otherwise, with a limit on the power that arrays draw at once (runtime/cycle/power_blocks.py). Peak: largest mean over a
window of one array read. Figures are without static power, which no schedule changes. For one image the run is its
latency; for more, their throughput.

``permitted``: 1 - mean / peak. ``goal``: the smaller of 75 % (puma) or 85 % (isaac) and 90 % of that. ``bound``: a peak
that no order of the same work goes below in the time allowed, and the gain that leaves (runtime/cycle/power_bound.py);
``beyond`` where the goal is more than that, ``missed`` where it is not.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

from cimc import models
from cimc.backends.registry import resolve_backend
from cimc.compiler import CompileOptions, build
from cimc.mapping_options import MappingOptions
from cimc.runtime.cycle.power_bound import least_peak
from cimc.runtime.cycle.stagger import Staggered, static_mw
from cimc.runtime.verifier import verify_program

PAIRS = (("resnet-18", "puma"), ("resnet-18", "isaac"), ("resnet-101", "isaac"))
IMAGES = (1, 8)
SLACK = 0.02
GOALS = {"puma": 0.75, "isaac": 0.85}
"""Reductions aimed at; or 90 % of what energy over time permits."""


def staggered(path: Path, machine: str, images: int) -> Staggered:
    """The network as ``cimc compile --stagger`` compiles it, for so many images."""
    options = {"stagger": True, "stagger_slack": SLACK, "stagger_images": images}
    mapping = MappingOptions.model_validate(options)
    made = build(path, resolve_backend(machine).architecture(), None, CompileOptions(mapping=mapping))
    assert made.staggered is not None
    return made.staggered


def report(network: str, machine: str, images: int, found: Staggered) -> str:
    """A row of the table; powers in mW without static power."""
    program = found.given
    static = static_mw(program)
    peak, lower = found.before.peak_power_mw - static, found.after.peak_power_mw - static
    mean = float(found.before.power_mw.mean()) - static
    bound = least_peak(program, found.before, slack=SLACK).power_mw
    reached, permitted, possible = 1 - lower / peak, 1 - mean / peak, 1 - bound / peak
    goal = min(GOALS.get(machine, 1.0), 0.9 * permitted)
    longer = found.after.cycles / found.before.cycles - 1
    later = found.after.latency_cycles / found.before.latency_cycles - 1
    limit = "none" if found.limit_mw is None else f"{found.limit_mw:.0f}"
    said = "met" if reached >= goal else "missed" if possible >= goal else "beyond"
    return (
        f"{network:12} {machine:8} {images:6} {peak:8.0f} {lower:9.0f} {mean:7.0f} {limit:>7} {found.tilt:5.2f} "
        f"{reached:8.1%} {permitted:9.1%} {goal:7.1%} {bound:7.0f} {possible:8.1%} {said:7} "
        f"{longer:+7.2%} {later:+7.2%}"
    )


def main(arguments: list[str]) -> int:
    """Print the rows of one network and machine, or of all; 1 where a staggered program breaks a rule."""
    if len(arguments) == 1 or not all(a.isdecimal() and int(a) > 0 for a in arguments[2:]):
        print("usage: python -m tools.peak_power [NETWORK MACHINE [IMAGES ...]]", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # calibration on random images changes no time
    pairs = PAIRS if not arguments else ((arguments[0], arguments[1]),)
    counts = tuple(map(int, arguments[2:])) or IMAGES
    print(
        f"{'network':12} {'machine':8} {'images':>6} {'peak mW':>8} {'staggered':>9} {'mean':>7} {'limit':>7} "
        f"{'tilt':>5} {'lower by':>8} {'permitted':>9} {'goal':>7} {'bound':>7} {'possible':>8} {'':7} "
        f"{'time':>7} {'latency':>7}"
    )
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        for network, machine in pairs:
            path = Path(folder, f"{network}.onnx")
            if not path.exists():
                models.export_onnx(network, path)
            for images in counts:
                found = staggered(path, machine, images)
                print(report(network, machine, images, found), flush=True)
                for finding in verify_program(found.program):
                    print(finding)
                    broken = 1
    return broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
