"""The figures of docs/measurements.md: one command each, printed with what they stand for.

    python -m tools.measure compile resnet-50 isaac      # ONNX -> program, calibration on 8 images included
    python -m tools.measure stream resnet-18 isaac       # one image through the instruction stream, exact
    python -m tools.measure cycles resnet-18 isaac       # cycle engine: seconds, instructions a second
    python -m tools.measure copies resnet-18 squeezenet  # default scheduler beside one copy each, CPU seconds
    python -m tools.measure table                        # all of these for every model and machine
    python -m tools.measure table --models light-vgg19 --machines isaac puma --again

Each measurement is a process of its own, one thread, so that peak resident size is its own. ``table`` keeps what it
measured (``--file``) and measures what is missing only, so that it can be run in pieces; it prints the rows of
docs/models-and-machines.md, and fails if any cell is neither exact nor refused for a named resource.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools import copies_cost
from tools.copies_cost import measure_copies
from tools.model_table import MACHINES, MODELS, Limits, fill, inputs_of, markdown, model_file

IMAGES = 8


def measure_compile(network: str, machine: str, folder: Path) -> dict[str, Any]:
    """Wall seconds from ONNX file to written artifact, calibration on 8 images included; peak resident size."""
    import numpy as np

    path, data = model_file(network, folder), folder / f"{network}.npz"
    np.savez(data, allow_pickle=False, **inputs_of(network, path, IMAGES, 1))
    script = (
        "import time, resource, json, cimc, sys\n"
        "t = time.perf_counter()\n"
        f"a = cimc.compile({str(path)!r}, {machine!r}, calibration={str(data)!r}, "
        f"output={str(folder / (network + '-' + machine))!r})\n"
        "print(json.dumps({'seconds': time.perf_counter() - t, "
        "'peak_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "
        "'rows': a.report['instruction_rows'], 'contexts': a.report['contexts'], "
        "'crossbars': a.report['crossbars']['used'], "
        "'array_share': a.report['array_macs'] / a.report['total_macs']}))\n"
    )
    return _in_process(script)


def measure_stream(network: str, machine: str, folder: Path) -> dict[str, Any]:
    """Seconds of one image through the stream; whether every output integer equals level 2."""
    artifact = folder / f"{network}-{machine}"
    if not artifact.exists():
        measure_compile(network, machine, folder)
    script = (
        "import time, json, cimc, numpy as np\n"
        f"a = cimc.load({str(artifact)!r})\n"
        f"x = {{k: v[:1] for k, v in np.load({str(folder / (network + '.npz'))!r}).items()}}\n"
        "t = time.perf_counter(); r = a.run(x); s = time.perf_counter() - t\n"
        "q = a.run(x, engine='quantised')\n"
        "same = all(np.array_equal(r.integer_outputs[k], q.integer_outputs[k]) for k in q.integer_outputs)\n"
        "print(json.dumps({'seconds': s, 'exact': bool(same), 'array_macs': r.array_macs, "
        "'total_macs': r.total_macs, 'executed_instructions': r.executed_instructions}))\n"
    )
    return _in_process(script)


def measure_cycles(network: str, machine: str, folder: Path) -> dict[str, Any]:
    """The cycle engine on 8 images: run time without jit and load, executed instructions a second."""
    artifact = folder / f"{network}-{machine}"
    if not artifact.exists():
        measure_compile(network, machine, folder)
    script = (
        "import json, cimc\n"
        f"t = cimc.load({str(artifact)!r}).simulate(images={IMAGES})\n"
        "print(json.dumps({'run_seconds': t.run_seconds, 'jit_seconds': t.jit_seconds, "
        "'million_instructions_per_second': t.instructions_per_second / 1e6, "
        "'executed_instructions': t.executed_instructions, 'latency_ns': t.latency_ns, "
        "'interval_cycles': t.interval_cycles, 'peak_power_mw': t.peak_power_mw}))\n"
    )
    return _in_process(script)


def _in_process(script: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["process_seconds"] = time.perf_counter() - started
    return found


KINDS = {"compile": measure_compile, "stream": measure_stream, "cycles": measure_cycles}


def main(arguments: list[str] | None = None) -> int:
    """Run one measurement, or fill and print the table; 1 if a cell of the table is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.measure", description="Print measured figures.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in KINDS:
        one = kinds.add_parser(kind)
        one.add_argument("network", choices=MODELS)
        one.add_argument("machine")
    copies = kinds.add_parser("copies")
    copies.add_argument("networks", nargs="+", choices=MODELS, metavar="MODEL")
    copies.add_argument("--machine", default="isaac")
    copies.add_argument("--runs", type=int, default=3, help="processes of each kind (default 3)")
    table = kinds.add_parser("table")
    table.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, metavar="MODEL")
    table.add_argument("--machines", nargs="+", default=list(MACHINES))
    table.add_argument("--folder", type=Path, default=Path("out/table"), help="models and measured cells")
    table.add_argument("--again", action="store_true", help="measure cells that are there already, too")
    table.add_argument("--memory-gib", type=float, default=6.0, help="a cell may allocate (default 6)")
    table.add_argument("--minutes", type=float, default=15.0, help="a cell may take (default 15)")
    given = parser.parse_args(arguments)
    if given.kind == "table":
        limits = Limits(given.memory_gib, given.minutes)
        cells = fill(given.folder, given.models, given.machines, limits, again=given.again)
        print(markdown(cells))
        return 0 if all(cell.ok for cell in cells) else 1
    with tempfile.TemporaryDirectory() as temporary:
        if given.kind == "copies":
            for network in given.networks:
                pair = measure_copies(network, given.machine, Path(temporary), given.runs, _in_process)
                print(copies_cost.markdown(network, *pair), flush=True)
            return 0
        found = KINDS[given.kind](given.network, given.machine, Path(temporary))
    values = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
    print(f"{given.kind:8} {given.network:16} {given.machine:8} {values}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
