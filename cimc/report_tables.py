"""What a program's tables say about the machine's use: crossbars and cores filled, weights rewritten, silicon."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from cimc.backends.schema import Architecture
from cimc.runtime.crossbar.coding import Coding
from cimc.runtime.program import AGAIN, NONE, Program
from cimc.runtime.program.opcodes import IMAGE_WRITES

Ints = npt.NDArray[np.int64]


def utilisation(program: Program, arch: Architecture) -> dict[str, Any]:
    """Share of cells in use per array, and of crossbars in use per core, over the phases of the program.

    ``arrays``: mean, least and most share of cells in use, over arrays in use. ``cores``: for each core in use,
    the mean over the phases of crossbars in use over those it has.
    """
    sets = {name: column.astype(np.int64) for name, column in program["array_sets"].items()}
    owner = _owners(program)
    phases = int(program["contexts"]["phase"].max(initial=0)) + 1
    per_core = Counter(sets["core"][owner].tolist())
    cores = [
        {"core": core, "crossbars": count / phases, "utilisation": count / phases / arch.core.crossbars}
        for core, count in sorted(per_core.items())
    ]
    filled = _cells_in_use(program, owner) / _cells(program, arch)[owner] if len(owner) else np.zeros(1)
    return {
        "arrays": {
            "in_use": len(owner),
            "mean": float(filled.mean()),
            "least": float(filled.min()),
            "most": float(filled.max()),
        },
        "cores": cores,
        "phases": phases,
    }


def writes(program: Program, arch: Architecture) -> dict[str, Any]:
    """How often the most written cell is programmed, and how many inferences it survives.

    Weights that stay are programmed once, before the first inference. The others are programmed in every call of the
    model, which is ``frames`` inferences. Sets that hold activations are programmed in every inference.
    """
    sets = program["array_sets"]
    owner = _owners(program)
    again = _written_again(program)[owner]
    places = list(zip(sets["core"][owner].tolist(), program["tiles"]["xbar"].tolist(), strict=True))
    live = sets["tensor"][owner] == NONE
    weights = Counter(place for place, own in zip(places, live.tolist(), strict=True) if not own)
    rewritten = Counter(place for place, own in zip(places, (again & ~live).tolist(), strict=True) if own)
    activations = Counter(place for place, own in zip(places, live.tolist(), strict=True) if own)
    most = max(
        (weights[place] + program.frames * activations[place] for place in {*weights, *activations}),
        default=0,
    )
    per_inference = max(
        (activations[p] + rewritten[p] / program.frames for p in {*rewritten, *activations}), default=0.0
    )
    endurance = arch.crossbar.endurance_writes
    lifetime = endurance / per_inference if endurance is not None and per_inference else None
    return {
        "most_per_cell_and_call": most,
        "frames_per_call": program.frames,
        "crossbars_that_stay": int((~again & ~live).sum()),
        "per_cell_and_inference": per_inference,
        "endurance_writes": endurance,
        "inferences_until_worn": lifetime,
    }


def area(program: Program, arch: Architecture) -> dict[str, float]:
    """Square millimetres, of what the architecture states: the chip, the cores and the crossbars in use."""
    sets = program["array_sets"]
    owner = _owners(program)
    cores = np.unique(program["contexts"]["core"])
    arrays = {*zip(sets["core"][owner].tolist(), program["tiles"]["xbar"].tolist(), strict=True)}
    found = {
        "chip_mm2": (arch.chip.area_mm2, 1),
        "cores_in_use_mm2": (arch.core.area_mm2, int((cores >= 0).sum())),
        "crossbars_in_use_mm2": (arch.crossbar.area_mm2, len(arrays)),
    }
    return {name: each * count for name, (each, count) in found.items() if each is not None}


def physical_crossbars(program: Program, arch: Architecture) -> int:
    """Crossbars of cells behind those in use: as many as a weight has cells, where the machine counts weights."""
    owner = _owners(program)
    if not arch.crossbar.logical_cells:
        return len(owner)
    return int(_cells_per_weight(program)[owner].sum())


def _owners(program: Program) -> Ints:
    """Array set of every tile."""
    return program["tiles"]["set"].astype(np.int64)


def _written_again(program: Program) -> npt.NDArray[np.bool_]:
    """Whether an array set is programmed in every call: its context's body says so."""
    rows, bodies = program["instructions"], program["bodies"]
    marked = np.isin(rows["opcode"], sorted(IMAGE_WRITES)) & (rows["func"] == AGAIN)
    before = np.concatenate([[0], np.cumsum(marked)])
    of_body = before[bodies["first"] + bodies["count"]] > before[bodies["first"]]
    return of_body[program["contexts"]["body"][program["array_sets"]["context"]]]


def _cells_per_weight(program: Program) -> Ints:
    """Of every array set."""
    codings = [Coding.from_row(row).cells_per_weight for row in program["codings"]["fields"]]
    return np.array([*codings, 0], np.int64)[program["array_sets"]["coding"].astype(np.int64)]


def _cells(program: Program, arch: Architecture) -> Ints:
    """Cells of a crossbar, as every array set sees it."""
    one = arch.crossbar.rows * arch.crossbar.columns
    wide = _cells_per_weight(program) if arch.crossbar.logical_cells else np.ones(1, np.int64)
    return np.broadcast_to(one * wide, program["array_sets"]["coding"].shape)


def _cells_in_use(program: Program, owner: Ints) -> Ints:
    """Of every tile; the diagonal of a grouped convolution is all that its set asks for."""
    tiles = {name: column.astype(np.int64) for name, column in program["tiles"].items()}
    groups = program["array_sets"]["groups"].astype(np.int64)[owner]
    block = (tiles["k1"] - tiles["k0"]) * (tiles["n1"] - tiles["n0"])
    return block * _cells_per_weight(program)[owner] // groups
