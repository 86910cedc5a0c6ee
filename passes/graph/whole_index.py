"""The index of a ``graph.index_map`` over its whole tensors, whether or not it is written for one frame."""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from cimc.dialects.graph import IndexMapOp
from cimc.dialects.graph_types import shape_of
from cimc.dialects.weights import WeightStore


def whole_index(op: IndexMapOp, store: WeightStore) -> npt.NDArray[np.int64]:
    """Numbers of the elements of whole operands, then of the constant, in the result's shape."""
    index = store.array(op.index.key.data)
    shape = shape_of(op.result)
    if op.per_frame is None or shape[0] == 1:
        return index.reshape(shape)
    sizes = [prod(shape_of(v)[1:]) for v in op.inputs]
    own, whole = np.cumsum([0, *sizes]), np.cumsum([0, *(shape[0] * s for s in sizes)])
    part = np.searchsorted(own, index, side="right") - 1
    steps = np.where(part < len(sizes), np.append(sizes, 0)[part], 0)
    first = index - own[part] + whole[part]
    return np.stack([first + frame * steps for frame in range(shape[0])])
