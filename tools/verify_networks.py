"""Networks verified at every level: after every pass, is what the compiler holds still the model?

    python -m tools.verify_networks                             # all convolutional networks, on isaac
    python -m tools.verify_networks --models light-vgg19 --machine jia

Each network is a process of one thread, bounded in memory and time: ``cimc verify`` (docs/verification.md) on one
image, with calibration on 8 others. Prints how many checks gave which verdict, the share of multiply-accumulates
that executed reads of the arrays did, operators on the host, CPU seconds and peak resident size; ends with 1 if one
network is not verified.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tools.model_table import MODELS, TRANSFORMERS, inputs_of, model_file

NETWORKS = tuple(name for name in MODELS if name not in TRANSFORMERS)


def verify_one(name: str, machine: str, folder: Path) -> dict[str, object]:
    """Verdicts and costs of one network, in this process."""
    from cimc.verification import verify

    path = model_file(name, folder)
    calibration, image = inputs_of(name, path, 8, 1), inputs_of(name, path, 1, 2)
    start = time.process_time()
    report = verify(path, machine, inputs=image, calibration=calibration)
    return {
        "ok": report.ok,
        "verdicts": dict(sorted(Counter(check.verdict for check in report.checks).items())),
        "array_share": report.array_macs / report.total_macs if report.total_macs else 0.0,
        "host_operators": len(report.host_operators),
        "seconds": time.process_time() - start,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "failure": str(report.first_failure) if report.first_failure else "",
    }


def _in_process(
    name: str, machine: str, folder: Path, memory_gib: float, minutes: float
) -> dict[str, object]:
    size = int(memory_gib * 2**30)
    command = [sys.executable, "-W", "ignore", "-m", "tools.verify_networks", "--one", name]
    try:
        done = subprocess.run(
            [*command, "--machine", machine, "--folder", str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60 * minutes,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size)),
        )
    except subprocess.TimeoutExpired:
        return {"ok": False, "failure": f"more than {minutes:g} minutes"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return {"ok": False, "failure": last}
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: list[str] | None = None) -> int:
    """Verify the networks asked for and print a line each; 1 if one is not verified."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify_networks", description="Verify networks.")
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), choices=MODELS, metavar="MODEL")
    parser.add_argument("--machine", default="isaac")
    parser.add_argument("--folder", type=Path, default=Path("out/table"), help="where the models are kept")
    parser.add_argument("--memory-gib", type=float, default=6.0, help="one network may allocate (default 6)")
    parser.add_argument("--minutes", type=float, default=30.0, help="one network may take (default 30)")
    parser.add_argument("--one", choices=MODELS, metavar="MODEL", help="verify this one in this process")
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(verify_one(given.one, given.machine, given.folder)))
        return 0
    wrong = 0
    for name in given.models:
        model_file(name, given.folder)
        found = _in_process(name, given.machine, given.folder, given.memory_gib, given.minutes)
        wrong += not found["ok"]
        values = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
        print(f"{name:20} {given.machine:8} {values}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
