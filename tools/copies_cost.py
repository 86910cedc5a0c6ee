"""What copies cost the tools: the default scheduler beside one copy of every stage, in CPU seconds.

    python -m tools.measure copies resnet-18 squeezenet mobilenet-v2 --machine isaac --runs 3

Like for like: the same code, model, machine and data; only ``--scheduler`` differs. Every run is a process of its
own, the two kinds in turn; of each figure the least of all runs counts, since other load only adds to it. Loading
compiled kernels is left out by one call before the measured one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.model_table import inputs_of, model_file

IMAGES = 8
FIGURES = {
    "compile": "compile",
    "stream": "stream, 1 image",
    "stream_8": f"stream, {IMAGES} images",
    "simulate": f"simulate, {IMAGES} images",
}

_SCRIPT = """
import json, sys, time
import numpy as np
import cimc
path, machine, data, scheduler, output = sys.argv[1:]
found, cpu = {}, time.process_time
def timed(name, act):
    began = cpu()
    result = act()
    found[name] = cpu() - began
    return result
artifact = timed('compile', lambda: cimc.compile(
    path, machine, calibration=data, scheduler=scheduler or None, output=output))
artifact = cimc.load(output)
x = {key: value for key, value in np.load(data).items()}
one = {key: value[:1] for key, value in x.items()}
artifact.run(one), artifact.simulate(images=1)
result = timed('stream', lambda: artifact.run(one))
timed('stream_8', lambda: artifact.run(x))
timing = timed('simulate', lambda: artifact.simulate(images=len(next(iter(x.values())))))
level = artifact.run(one, engine='quantised')
exact = all(np.array_equal(result.integer_outputs[k], v) for k, v in level.integer_outputs.items())
print(json.dumps({**found, 'exact': bool(exact), 'contexts': artifact.report['contexts'],
    'cycles': timing.cycles, 'executed_instructions': timing.executed_instructions}))
"""

Start = Callable[[str, Sequence[str]], dict[str, Any]]
"""Runs a script with arguments in a process of its own; the JSON it printed."""


def measure_copies(network: str, machine: str, folder: Path, runs: int, start: Start) -> list[dict[str, Any]]:
    """Least CPU seconds by figure for the default scheduler and for one copy each, in this order."""
    import numpy as np

    path, data = model_file(network, folder), folder / f"{network}.npz"
    np.savez(data, allow_pickle=False, **inputs_of(network, path, IMAGES, 1))
    kinds = ("", "none")
    found: list[list[dict[str, Any]]] = [[], []]
    for _ in range(runs):
        for results, scheduler in zip(found, kinds, strict=True):
            output = folder / f"{network}-{machine}-{scheduler or 'default'}"
            results.append(start(_SCRIPT, [str(path), machine, str(data), scheduler, str(output)]))
    return [{**results[0], **{name: min(r[name] for r in results) for name in FIGURES}} for results in found]


def markdown(network: str, default: dict[str, Any], single: dict[str, Any]) -> str:
    """Rows of docs/measurements.md: CPU seconds with copies, with one each, and their ratio."""
    rows = [
        f"| {network} | {title} | {default[name]:.2f} | {single[name]:.2f} | {default[name] / single[name]:.2f} |"
        for name, title in FIGURES.items()
    ]
    about = (
        f"{network}: contexts {default['contexts']} / {single['contexts']}, cycles {default['cycles']} / "
        f"{single['cycles']}, simulated instructions {default['executed_instructions']} / "
        f"{single['executed_instructions']}, exact {default['exact']} / {single['exact']}"
    )
    return "\n".join([*rows, about])
