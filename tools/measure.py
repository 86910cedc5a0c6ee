"""The figures of docs/measurements.md: one command each, printed with what they stand for.

    python -m tools.measure compile resnet-50 isaac      # ONNX -> program, calibration on 8 images included
    python -m tools.measure stream resnet-18 isaac       # one image through the instruction stream, exact
    python -m tools.measure cycles resnet-18 isaac       # cycle engine: seconds, instructions a second
    python -m tools.measure table                        # all of these for every network and machine

Each measurement is a process of its own, one thread, so that peak resident size is its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NETWORKS = ("digits", "resnet-cifar-20", "squeezenet", "resnet-18", "resnet-50")
MACHINES = ("isaac", "puma")
IMAGES = 8


def model_file(network: str, folder: Path) -> Path:
    """The network's ONNX file, exported once into ``folder``."""
    from cimc import models

    path = folder / f"{network}.onnx"
    if not path.exists():
        models.export_onnx(network, path)
    return path


def images(network: str) -> dict[str, Any]:
    """Calibration and test images by input name."""
    from cimc import models

    return {"x": models.images(IMAGES, models.network(network).shape, seed=1)}


def measure_compile(network: str, machine: str, folder: Path) -> dict[str, Any]:
    """Wall seconds from ONNX file to written artifact, calibration on 8 images included; peak resident size."""
    path, data = model_file(network, folder), folder / f"{network}.npz"
    import numpy as np

    np.savez(data, **images(network))
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
        f"x = {{'x': np.load({str(folder / (network + '.npz'))!r})['x'][:1]}}\n"
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


def _in_process(script: str) -> dict[str, Any]:
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
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


def main(arguments: list[str]) -> int:
    """Run one measurement, or all of them."""
    kinds = {"compile": measure_compile, "stream": measure_stream, "cycles": measure_cycles}
    usage = "usage: python -m tools.measure (compile | stream | cycles) NETWORK MACHINE, or: table"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments == ["table"]:
            for network in NETWORKS:
                for machine in MACHINES:
                    for kind, measure in kinds.items():
                        _print(kind, network, machine, measure(network, machine, folder))
            return 0
        if len(arguments) != 3 or arguments[0] not in kinds:
            print(usage, file=sys.stderr)
            return 2
        kind, network, machine = arguments
        _print(kind, network, machine, kinds[kind](network, machine, folder))
    return 0


def _print(kind: str, network: str, machine: str, found: dict[str, Any]) -> None:
    values = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
    print(f"{kind:8} {network:16} {machine:8} {values}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
