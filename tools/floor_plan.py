"""What placement brings: bytes x links, network energy, latency and interval after first fit, floor plan and relief.

python -m tools.floor_plan resnet-18 isaac
python -m tools.floor_plan                  # ResNet-18 and ResNet-50 on isaac and puma
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import cimc
from cimc import models
from cimc.passes.place import place_contexts
from cimc.passes.place.floor_plan import Mesh
from cimc.passes.place.relief import relief
from cimc.passes.place.traffic import Flow
from cimc.runtime.cycle import Timing, simulate

PAIRS = tuple((network, machine) for network in ("resnet-18", "resnet-50") for machine in ("isaac", "puma"))
IMAGES = 8


def stay(_: Sequence[Flow], core_of: Mapping[int, int], __: Mesh) -> dict[int, int]:
    """The floor plan that leaves everything where first fit put it."""
    return {core: core for core in core_of.values()}


def timed(path: Path, machine: str) -> tuple[float, Timing]:
    """Bytes x links of an image and the times of a compiled network."""
    program = cimc.compile(path, machine).program
    timing = simulate(program, images=IMAGES, resident_weights=True)
    hop_pj = program.machine["network"]["energy_pj_per_byte_hop"]
    return timing.energy_pj["network"] / IMAGES / hop_pj, timing


def main(arguments: list[str]) -> int:
    """Print a row for one network and machine, or for all."""
    if len(arguments) not in (0, 2):
        print("usage: python -m tools.floor_plan [NETWORK MACHINE]", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # calibration on random images changes no time
    pairs = PAIRS if not arguments else ((arguments[0], arguments[1]),)
    print(
        f"{'network':12} {'machine':8} {'':10} {'MB x links':>10} {'network uJ':>10} {'latency':>9} {'interval':>9}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for network, machine in pairs:
            path = Path(folder, f"{network}.onnx")
            if not path.exists():
                models.export_onnx(network, path)
            idle = patch.object(place_contexts, "relief", partial(relief, work=0))
            with idle, patch.object(place_contexts, "plan", stay):
                first = timed(path, machine)
            with idle:
                planned = timed(path, machine)
            rows = (("first fit", first), ("planned", planned), ("relieved", timed(path, machine)))
            for name, (price, timing) in rows:
                print(
                    f"{network:12} {machine:8} {name:10} {price / 1e6:10.1f} "
                    f"{timing.energy_pj['network'] / IMAGES / 1e6:10.1f} {timing.latency_cycles:9} "
                    f"{timing.interval_cycles:9}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
