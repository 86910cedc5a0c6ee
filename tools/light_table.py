"""The light networks of the onnx wheel with drawn weights, compiled and run: one line each.

    python -m tools.light_table                          # all nine on isaac
    python -m tools.light_table squeezenet vgg19         # some of them
    python -m tools.light_table --machine puma squeezenet

Columns: seconds from model to program with calibration on 8 images, crossbars, phases, instruction rows, findings of
the program verifier, whether every output integer of the stream equals level 2, share of multiply-accumulates done by
reads of the arrays, seconds of the stream for an image, peak resident size. Each network is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

COLUMNS = ("seconds", "crossbars", "phases", "rows", "findings", "exact", "array share", "run s", "peak MiB")


def measure(name: str, machine: str) -> dict[str, Any]:
    """All figures of one network; one image through the stream."""
    import numpy as np

    import cimc
    from cimc import models
    from cimc.models.light import SHAPE, image_input, reseeded
    from cimc.runtime.verifier import verify_program

    model = reseeded(name)
    port = image_input(model)
    calibration = {port: models.images(8, SHAPE, seed=1)}
    start = time.perf_counter()
    made = cimc.compile(model, machine, calibration=calibration, require_arrays=True)
    seconds = time.perf_counter() - start
    x = {port: models.images(1, SHAPE, seed=2)}
    expected = made.run(x, engine="quantised").integer_outputs
    start = time.perf_counter()
    found = made.run(x)
    run = time.perf_counter() - start
    exact = expected.keys() == found.integer_outputs.keys() and all(
        np.array_equal(found.integer_outputs[key], codes) for key, codes in expected.items()
    )
    return {
        "seconds": round(seconds, 1),
        "crossbars": made.report["crossbars"]["used"],
        "phases": int(made.program["contexts"]["phase"].max()) + 1,
        "rows": made.report["instruction_rows"],
        "findings": len(verify_program(made.program)),
        "exact": exact,
        "array share": found.array_macs / found.total_macs,
        "run s": round(run, 1),
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> int:
    """Print the table; 1 if a network does not compile or is not exact."""
    from cimc.models.light import NAMES

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(NAMES), help=", ".join(NAMES))
    parser.add_argument("--machine", default="isaac")
    parser.add_argument("--one", action="store_true", help="measure the one network named and print JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.names[0], given.machine)))
        return 0
    print(f"| network | {' | '.join(COLUMNS)} |")
    print("|---" * (1 + len(COLUMNS)) + "|")
    failed = 0
    for name in given.names:
        command = [sys.executable, "-m", "tools.light_table", "--one", "--machine", given.machine, name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            failed += 1
            print(f"| {name} | {done.stderr.strip().splitlines()[-1]} |", flush=True)
            continue
        figures = json.loads(done.stdout.splitlines()[-1])
        failed += not figures["exact"] or figures["array share"] != 1 or figures["findings"] > 0
        print(f"| {name} | {' | '.join(str(figures[c]) for c in COLUMNS)} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
