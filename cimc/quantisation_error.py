"""How far every tensor of a quantised model is from the float model, on data the user gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cimc.verification.level_2 import is_float, real_values, tensor_error
from cimc.verification.report import TensorError

if TYPE_CHECKING:
    from cimc.api import Artifact

Array = npt.NDArray[Any]


def quantisation_error(artifact: Artifact, inputs: Mapping[str, Array]) -> tuple[TensorError, ...]:
    """Relative error and SQNR (dB) of level 2 against level 1, per tensor that both have, in the order of the program.

    ``inputs``: arrays by name with the batch first. Raises ``UsageError`` when the artifact does not hold these
    levels (a resumed compile), or inputs do not belong to the model.
    """
    known = [tap.name for tap in artifact.program.taps] + [
        io.name for io in artifact.program.io if io.direction == "out"
    ]
    module, _ = artifact.level("quantised")
    names = list(dict.fromkeys(known))
    graph = artifact.run(inputs, engine="graph", taps=[n for n in names if n in _tensors(artifact, "graph")])
    wanted = {**graph.outputs, **graph.taps}
    present = [n for n in names if n in wanted and n in _tensors(artifact, "quantised")]
    level_2 = artifact.run(inputs, engine="quantised", taps=present)
    found = real_values(module, {name: [array] for name, array in level_2.taps.items()})
    pairs = [
        (name, found[name], [wanted[name]])
        for name in present
        if is_float([np.asarray(wanted[name])]) and found[name][0].shape == wanted[name].shape
    ]
    return tuple(tensor_error(name, a, b) for name, a, b in pairs)


def _tensors(artifact: Artifact, level: str) -> set[str]:
    from cimc.verification.comparing import graph_places

    module, _ = artifact.level(level)
    return set(graph_places(module))
