"""How far every tensor of a quantised model is from the float model, on data the user gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cimc.verification.comparing import graph_places
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
    module, _ = artifact.level("quantised")
    real, coded = set(graph_places(artifact.level("graph")[0])), set(graph_places(module))
    outputs = [io.name for io in artifact.program.io if io.direction == "out"]
    names = list(dict.fromkeys([*(tap.name for tap in artifact.program.taps), *outputs]))
    graph = artifact.run(inputs, engine="graph", taps=[name for name in names if name in real])
    wanted = {**graph.outputs, **graph.taps}
    present = [name for name in names if name in wanted and name in coded]
    level_2 = artifact.run(inputs, engine="quantised", taps=present)
    found = real_values(module, {name: [array] for name, array in level_2.taps.items()})
    pairs = [
        (name, found[name], [wanted[name]])
        for name in present
        if is_float([np.asarray(wanted[name])]) and found[name][0].shape == wanted[name].shape
    ]
    return tuple(tensor_error(name, a, b) for name, a, b in pairs)
